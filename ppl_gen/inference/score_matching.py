"""Score matching: networks that say what noise is in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.diffusion.objectives import TIMES, WEIGHTINGS, Denoising
from ppl_gen.inference.engine import one_of
from ppl_gen.inference.regressing import Regressing


@dataclass(frozen=True, kw_only=True)
class ScoreMatching(Regressing):
    """Learns a score from rows that noise was put on (Vincent 2011; Song & Ermon 2019; Ho et al. 2020).

    Attributes:
        weighting: of the squared error over time, "simple", of what the network says; "noise" (Ho et al. 2020, equation
            14); "likelihood", whose minimum bounds -log p(x) (Song et al. 2021b).
        times: at which rows are looked at, "uniform", "log_normal" (Karras et al. 2022, of the path "edm") or
            "logit_normal" (Esser et al. 2024); by the path where None.

    It trains by minibatches as :class:`~ppl_gen.inference.training.Training` says; ``history`` holds the loss.
    """

    name: ClassVar[str] = "score_matching"
    needs: ClassVar[str] = "a model along a path from data to noise, such as Diffusion"

    weighting: str = "simple"
    times: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "weighting", tuple(WEIGHTINGS))
        one_of(self, "times", (None, *TIMES))

    def objective(self) -> Any:
        return Denoising(self.weighting, self.times)
