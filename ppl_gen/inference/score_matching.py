"""Score matching: networks that say what noise is in a row, and energies whose gradient does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.capabilities import EnergyBased
from ppl_gen.diffusion.objectives import TIMES, WEIGHTINGS, Denoising
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.energy_score import OBJECTIVES, check_energy_score, match_energy
from ppl_gen.inference.engine import Outcome, between, one_of, positive
from ppl_gen.inference.regressing import Regressing
from ppl_gen.program import Program
from ppl_gen.target import Target


@dataclass(frozen=True, kw_only=True)
class ScoreMatching(Regressing):
    """Learns a score from rows that noise was put on (Vincent 2011; Song & Ermon 2019; Ho et al. 2020).

    Attributes:
        objective: of a model known by an energy, at one level of noise or none: "denoising", the noise that a row was
            given; "implicit", the derivatives of the score in its place (Hyvarinen 2005); "sliced", some of them, in
            random directions (Song et al. 2019).
        sigma: of that noise, for an energy; a tenth of each feature's standard deviation where None.
        num_slices: directions for each row of "sliced".
        weighting: of the squared error over time, "simple", of what the network says; "noise" (Ho et al. 2020, equation
            14); "likelihood", whose minimum bounds -log p(x) (Song et al. 2021b).
        times: at which rows are looked at, "uniform", "log_normal" (Karras et al. 2022, of the path "edm") or
            "logit_normal" (Esser et al. 2024); by the path where None.

    It trains by minibatches as :class:`~ppl_gen.inference.training.Training` says; ``history`` holds the loss.
    """

    name: ClassVar[str] = "score_matching"
    needs: ClassVar[str] = "a model along a path from data to noise, such as Diffusion, or one known by an energy"
    takes_energies: ClassVar[bool] = True

    objective: str = "denoising"
    sigma: float | None = None
    num_slices: int = 1
    weighting: str = "simple"
    times: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "objective", OBJECTIVES)
        one_of(self, "weighting", tuple(WEIGHTINGS))
        one_of(self, "times", (None, *TIMES))
        positive(self, "num_slices")
        if self.sigma is not None:
            between(self, 0, math.inf, "sigma")

    def learns(self) -> Any:
        return Denoising(self.weighting, self.times)

    def stated(self, program: Program) -> Program:
        return program if isinstance(program.model, EnergyBased) else super().stated(program)

    def check(self, target: Target) -> None:
        super().check(target)
        if isinstance(target.program.model, EnergyBased):
            check_energy_score(self, target)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        if isinstance(target.program.model, EnergyBased):
            return match_energy(self, target, driver, seed)
        return super().run(target, driver, seed)
