"""The reverse stochastic equation by Heun's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.samplers._reverse import reverse
from ppl_gen.diffusion.samplers._sampler import Sampler, Spec


@dataclass(frozen=True)
class StochasticHeun(Sampler):
    """dx = (f x - g^2 score) dt + g dw back in time; drift and diffusion are means over both ends of a step.

    Since g does not depend on x it is of weak order 2, for two evaluations (Kloeden & Platen 1992, section 15.1).
    """

    num_steps: int = 100
    grid: Any = "log_snr"

    evaluations: ClassVar[int] = 2
    off_start: ClassVar[bool] = True
    off_end: ClassVar[bool] = True

    def noise(self, shape: tuple[int, ...]) -> Spec:
        return {"z": ("normal", shape)}

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        (x,), h = state, row["s"] - row["t"]
        pushed = xp.sqrt(-h) * row["z"]
        drift, diffusion = reverse(xp, field, x, row["t"])
        there, spread = reverse(xp, field, x + h * drift + diffusion * pushed, row["s"])
        return (x + 0.5 * h * (drift + there) + 0.5 * (diffusion + spread) * pushed,)
