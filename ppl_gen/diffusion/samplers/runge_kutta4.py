"""The probability-flow equation by the classical Runge-Kutta method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.samplers._sampler import Sampler
from ppl_gen.flows.continuous import runge_kutta


@dataclass(frozen=True)
class RungeKutta4(Sampler):
    """dx / dt = velocity(x, t), of order 4, four evaluations."""

    num_steps: int = 25
    grid: Any = "log_snr"

    evaluations: ClassVar[int] = 4
    off_start: ClassVar[bool] = True

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        change = lambda now, t: (field(xp, "velocity", now[0], t),)
        return runge_kutta(change, state, row["t"], row["s"] - row["t"])
