"""The probability-flow equation by Heun's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.samplers._sampler import Sampler


@dataclass(frozen=True)
class Heun(Sampler):
    """dx / dt = velocity(x, t) by the mean of the slopes at both ends of a step: of order 2, two evaluations."""

    grid: Any = "log_snr"

    evaluations: ClassVar[int] = 2
    off_start: ClassVar[bool] = True

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        (x,), t, s = state, row["t"], row["s"]
        slope = field(xp, "velocity", x, t)
        there = field(xp, "velocity", x + (s - t) * slope, s)
        return (x + 0.5 * (s - t) * (slope + there),)
