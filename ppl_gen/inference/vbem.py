"""Variational Bayes expectation-maximisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ppl_gen.capabilities import ClosedFormVB
from ppl_gen.inference.climbing import Climbing, check_rows, check_weights
from ppl_gen.inference.conjugate_steps import ConjugateSteps
from ppl_gen.inference.engine import one_of, positive
from ppl_gen.inference.guide_gaussian import Guide
from ppl_gen.inference.local_gaussian import COVARIANCES, Locals
from ppl_gen.inference.maximum import OBJECTIVES
from ppl_gen.inference.starts import check_init
from ppl_gen.inference.variational_steps import AmortisedSteps, VariationalSteps
from ppl_gen.target import Target


@dataclass(frozen=True, kw_only=True)
class VBEM(Climbing):
    """Climbs a bound on the log evidence by turns: q of the latents, then the rest (Attias 1999; Neal & Hinton 1998).

    A model that brings variational Bayes in closed form has a q of all of its latents, and the bound is one of the log
    evidence. On any other program the continuous latents with one value for each datum get a Gaussian q in
    unconstrained coordinates: one for each datum, or, where the program has a guide, that of the guide (amortised, as
    in a variational autoencoder); discrete latents are summed out exactly, and the other latents and the params are
    maximised. The history holds the bound, which never falls.

    Attributes:
        num_steps: iterations at most.
        tolerance: stop where the bound gains less than this, relatively, in one iteration.
        num_restarts: starts, run side by side, of which the best end is kept.
        weights: how often each row counts, (rows,); None for once.
        num_samples: draws from q.
        objective: "likelihood" leaves out the priors of what is maximised, "posterior" takes them in.
        m_steps: L-BFGS iterations of an M-step.
        covariance: of a datum's Gaussian q, "full" or "diagonal".
        num_points: points at which expectations under a datum's q are taken; 32, or 2q if that is more, where None.
        e_steps: steps on q in an iteration; of a guide, L-BFGS iterations on its params.
        init: site -> starting value, constrained; in closed form, part of q -> starting value.
        integrate: continuous latents that have a q; those with one value for each datum where None.
    """

    name: ClassVar[str] = "vbem"
    needs: ClassVar[str] = "a model's own variational Bayes, or continuous latents of each datum"

    num_samples: int = 1000
    objective: str = "likelihood"
    m_steps: int = 5
    covariance: str = "full"
    num_points: int | None = None
    e_steps: int = 3
    integrate: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_samples", "e_steps", "m_steps")
        one_of(self, "objective", OBJECTIVES)
        one_of(self, "covariance", COVARIANCES)
        if self.num_points is not None:
            positive(self, "num_points")

    def _closed(self, target: Target) -> bool:
        return isinstance(target.program.model, ClosedFormVB) and not self.integrate

    def check(self, target: Target) -> None:
        target.require_enumeration(self.name)
        target.require_full_data(self.name)
        if self._closed(target):
            check_rows(target, check_weights(self.weights))
            return
        locals_ = self._locals(target)
        locals_.check_weights(check_weights(self.weights))
        check_init(target, self.init, locals_.layout)
        locals_.require_apart(self.name)
        if callable(target.program.guide):
            Guide(target, locals_).require_gaussian(self.name)

    def _climbs(self, target: Target) -> str:
        return "elbo"

    def of_rows(
        self, target: Target, names: Sequence[str], params: Mapping[str, np.ndarray], seed: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What is known of the latents ``names`` of new rows at a run's params: values at points of q, and masses.

        q is that of the guide, or of each datum, climbed to with the params held.
        """
        made = AmortisedSteps if callable(target.program.guide) else VariationalSteps
        return made(target, Locals(target, names), replace(self, weights=None, init=None), None).of_rows(params)

    def _locals(self, target: Target) -> Locals:
        return Locals.chosen(target, self.integrate, "vbem has a q for each datum's own continuous latents")

    def _steps(self, target: Target) -> Any:
        weights = None if self.weights is None else target.backend.asarray(check_weights(self.weights))
        if self._closed(target):
            return ConjugateSteps(target, weights, self.num_samples)
        made = AmortisedSteps if callable(target.program.guide) else VariationalSteps
        return made(target, self._locals(target), self, weights)
