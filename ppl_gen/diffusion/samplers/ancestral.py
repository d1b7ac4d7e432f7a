"""Ancestral sampling of the discrete diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.samplers._bridge import added, posterior_variance, towards
from ppl_gen.diffusion.samplers._sampler import Sampler, Spec
from ppl_gen.options import one_of


@dataclass(frozen=True)
class Ancestral(Sampler):
    """x_s from its posterior given x_t and the expected datum (Ho, Jain & Abbeel 2020, algorithm 2).

    Attributes:
        variance: "small", that of the posterior, or "large", that of x_t given x_s: least and most that the reverse
            step may have (section 3.2 there).
    """

    num_steps: int = 1000
    variance: str = "small"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("variance", self.variance, ("small", "large"))

    def noise(self, shape: tuple[int, ...]) -> Spec:
        return {"z": ("normal", shape)}

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        (x,), at, to = state, field.at(xp, row["t"]), field.at(xp, row["s"])
        small = posterior_variance(xp, at, to)
        drawn = small if self.variance == "small" else xp.where(to.sigma > 0.0, added(xp, at, to), small)
        return (towards(xp, to, *field.both(xp, x, row["t"]), small) + xp.sqrt(drawn) * row["z"],)
