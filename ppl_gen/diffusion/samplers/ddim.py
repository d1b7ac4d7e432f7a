"""Denoising diffusion implicit models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.samplers._bridge import posterior_variance, towards
from ppl_gen.diffusion.samplers._sampler import Sampler, Spec
from ppl_gen.options import is_number


@dataclass(frozen=True)
class DDIM(Sampler):
    """The expected datum, noised again to the next time (Song, Meng & Ermon 2021, equation 12).

    Attributes:
        eta: share of the posterior's standard deviation that is drawn anew, from 0, which makes it the
            probability-flow equation in sigma / alpha by Euler's method, to 1, ancestral sampling.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.eta) or not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta must be a number from 0 to 1, got {self.eta!r}")

    def noise(self, shape: tuple[int, ...]) -> Spec:
        return {"z": ("normal", shape)} if self.eta else {}

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        (x,), to = state, field.at(xp, row["s"])
        datum, noise = field.both(xp, x, row["t"])
        if not self.eta:
            return (to.alpha * datum + to.sigma * noise,)
        drawn = self.eta**2 * posterior_variance(xp, field.at(xp, row["t"]), to)
        return (towards(xp, to, datum, noise, drawn) + xp.sqrt(drawn) * row["z"],)
