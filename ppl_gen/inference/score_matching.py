"""Score matching: networks that say what noise is in a row, and energies whose gradient does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.capabilities import EnergyBased
from ppl_gen.diffusion.objectives import WEIGHTINGS, Denoising, Explicit, Implicit, Objective, Sliced
from ppl_gen.diffusion.times import TIMES
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.energy_score import check_energy_score, match_energy
from ppl_gen.inference.engine import Outcome, between, one_of, positive
from ppl_gen.inference.regressing import Regressing
from ppl_gen.program import Program
from ppl_gen.target import Target

_OBJECTIVES: dict[str, type[Objective]] = {"denoising": Denoising, "implicit": Implicit, "sliced": Sliced}


@dataclass(frozen=True, kw_only=True)
class ScoreMatching(Regressing):
    """Learns a score from rows that noise was put on (Vincent 2011; Song & Ermon 2019; Ho et al. 2020).

    Attributes:
        objective: "denoising", the noise that a row was given; "implicit", which wants the derivatives of the score in
            its place (Hyvarinen 2005); "sliced", which wants one of them, in a random direction (Song et al. 2019);
            "explicit", the true ``score``. On average all differ by a number that no network changes. Of a model known
            by an energy the first three, at one level of noise ("denoising") or none.
        score: ``(x, t) -> like x`` of noisy rows x (rows, *shape) at times t (rows,), of "explicit".
        weighting: of the squared error over time, "simple", of what the network says; "noise" (Ho et al. 2020, equation
            14); "velocity"; "likelihood", whose minimum bounds -log p(x) (Song et al. 2021b).
        times: at which rows are looked at, "uniform", "log_snr", of the signal-to-noise ratio (Kingma et al. 2021),
            "log_normal" (Karras et al. 2022, of the path "edm"), "logit_normal" (Esser et al. 2024) or "ladder" (Song &
            Ermon 2019, of ScoreModel). Where None "log_snr" for the likelihood, else by the path.
        sigma: of the noise of "denoising", for an energy; a tenth of each feature's standard deviation where None.
        num_slices: directions for each row of "sliced", for an energy.

    It trains by minibatches as :class:`~ppl_gen.inference.training.Training` says; ``history`` holds the loss.
    """

    name: ClassVar[str] = "score_matching"
    needs: ClassVar[str] = "a model along a path from data to noise, such as Diffusion, or one known by an energy"
    takes_energies: ClassVar[bool] = True

    objective: str = "denoising"
    score: Callable[[Any, Any], Any] | None = None
    weighting: str = "simple"
    times: str | None = None
    sigma: float | None = None
    num_slices: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "objective", (*_OBJECTIVES, "explicit"))
        one_of(self, "weighting", tuple(WEIGHTINGS))
        one_of(self, "times", (None, *TIMES))
        positive(self, "num_slices")
        if self.sigma is not None:
            between(self, 0, math.inf, "sigma")
        if (self.score is None) == (self.objective == "explicit"):
            raise ValueError("score is the true one, of objective='explicit', which wants it: set both or none")

    def learns(self) -> Objective:
        if self.objective == "explicit":
            return Explicit(self.weighting, self.times, self.score)
        return _OBJECTIVES[self.objective](self.weighting, self.times)

    def stated(self, program: Program) -> Program:
        if isinstance(program.model, EnergyBased):
            return program
        if self.sigma is not None or self.num_slices != 1:
            option = "num_slices" if self.sigma is None else "sigma"
            raise ValueError(f"{option} goes with an energy, not with a network along a path: leave it out")
        return super().stated(program)

    def check(self, target: Target) -> None:
        super().check(target)
        if isinstance(target.program.model, EnergyBased):
            check_energy_score(self, target)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        if isinstance(target.program.model, EnergyBased):
            return match_energy(self, target, driver, seed)
        return super().run(target, driver, seed)
