"""Predictor and corrector."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.samplers._sampler import Plan, Sampler, Spec
from ppl_gen.diffusion.samplers.adaptive import Adaptive
from ppl_gen.diffusion.samplers.euler_maruyama import EulerMaruyama
from ppl_gen.options import count, not_below


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """A step of any other sampler, then Langevin steps where it leads to (Song et al. 2021, algorithms 1, 4 and 5).

    x <- x + e score + sqrt(2 e) z with e = 2 a (snr |z| / |score|)^2, lengths being means over the rows and
    a = alpha_t^2 / alpha_s^2, 1 - beta of the papers' discrete time. Langevin steps make the variance of a Gaussian too
    large by a share of up to snr^2, which is what these draws are biased by.

    Attributes:
        predictor: the sampler; steps and grid are this one's.
        num_corrections: Langevin steps after each of its steps. snr: their signal-to-noise ratio.
    """

    num_steps: int = 500
    grid: Any = "log_snr"
    predictor: Sampler = field(default_factory=EulerMaruyama)
    num_corrections: int = 1
    snr: float = 0.16

    off_start: ClassVar[bool] = True
    off_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        count("num_corrections", self.num_corrections)
        not_below("snr", self.snr, 0.0)
        if not isinstance(self.predictor, Sampler) or isinstance(self.predictor, PredictorCorrector | Adaptive):
            raise TypeError(
                f"predictor must be a sampler whose steps are those of a grid, got {type(self.predictor).__name__}"
            )

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Of the network, in a step."""
        return self.predictor.evaluations + self.num_corrections

    def plan(self, path: Path, kind: str) -> Plan:
        return replace(self.predictor, grid=tuple(self.times(path, kind))).plan(path, kind)

    def noise(self, shape: tuple[int, ...]) -> Spec:
        return {**self.predictor.noise(shape), "corrections": ("normal", (self.num_corrections, *shape))}

    def begin(self, xp: Any, x: Any) -> Any:
        return self.predictor.begin(xp, x)

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        x, *rest = self.predictor.step(xp, field, state, row)
        left = xp.square(field.at(xp, row["t"]).alpha / field.at(xp, row["s"]).alpha)
        length = lambda z: xp.mean(xp.sqrt(xp.sum(xp.square(z).reshape((len(x), -1)), axis=-1)))
        for i in range(self.num_corrections):
            z, score = row["corrections"][i], field(xp, "score", x, row["s"])
            e = 2.0 * left * xp.square(self.snr * length(z) / length(score))
            x = x + e * score + xp.sqrt(2.0 * e) * z
        return (x, *rest)
