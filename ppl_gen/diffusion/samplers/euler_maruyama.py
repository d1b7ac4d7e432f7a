"""The reverse stochastic equation by the method of Euler and Maruyama."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.samplers._reverse import reverse
from ppl_gen.diffusion.samplers._sampler import Sampler, Spec


@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    """dx = (f x - g^2 score) dt + g dw back in time, of weak order 1 (Song et al. 2021, equation 6)."""

    num_steps: int = 500
    grid: Any = "log_snr"

    off_start: ClassVar[bool] = True
    off_end: ClassVar[bool] = True

    def noise(self, shape: tuple[int, ...]) -> Spec:
        return {"z": ("normal", shape)}

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        (x,), h = state, row["s"] - row["t"]
        drift, diffusion = reverse(xp, field, x, row["t"])
        return (x + h * drift + diffusion * xp.sqrt(-h) * row["z"],)
