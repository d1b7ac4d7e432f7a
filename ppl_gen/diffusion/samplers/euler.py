"""The probability-flow equation by Euler's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.samplers._sampler import Sampler


@dataclass(frozen=True)
class Euler(Sampler):
    """dx / dt = velocity(x, t), of order 1 (Song et al. 2021, equation 13; Lipman et al. 2023)."""

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        (x,) = state
        return (x + (row["s"] - row["t"]) * field(xp, "velocity", x, row["t"]),)
