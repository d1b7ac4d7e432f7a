"""Annealed Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.samplers._sampler import Sampler, Spec
from ppl_gen.options import count


@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    """Langevin steps at each rung of a ladder of noises, down to the last (Song & Ermon 2019, algorithm 1).

    x <- x + a score / 2 + sqrt(a) z with a = step_size sigma^2; between rungs x / alpha stays. The draws are of the
    last rung's distribution, up to the bias of Langevin steps: of a Gaussian, the variance v there becomes
    v / (1 - a / (4 v)).

    Attributes:
        num_steps: rungs less one. steps_per_level: Langevin steps at each.
        step_size: of the variance of the noise; epsilon / sigma_L^2 in the paper, where it is 0.2.
    """

    num_steps: int = 20
    grid: Any = "log_snr"
    steps_per_level: int = 100
    step_size: float = 0.2

    off_start: ClassVar[bool] = True
    off_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        count("steps_per_level", self.steps_per_level)
        if not 0.0 < self.step_size < 4.0:
            raise ValueError(f"step_size must be above 0 and below 4, where steps diverge, got {self.step_size!r}")

    def times(self, path: Path, kind: str = "velocity") -> np.ndarray:
        """(num_levels steps_per_level + 1,): each rung as often as it is stepped at, and the first once more."""
        rungs = super().times(path, kind)
        return np.append(rungs[0], np.repeat(rungs, self.steps_per_level))

    def noise(self, shape: tuple[int, ...]) -> Spec:
        return {"z": ("normal", shape)}

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        (x,), to = state, field.at(xp, row["s"])
        x = to.alpha / field.at(xp, row["t"]).alpha * x
        a = self.step_size * to.sigma * to.sigma
        return (x + 0.5 * a * field(xp, "score", x, row["s"]) + xp.sqrt(a) * row["z"],)
