"""Expectation-maximisation on a declared program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.capabilities import ClosedFormEM
from ppl_gen.expectation import Expectation
from ppl_gen.inference.climbing import Climbing, check_rows, check_weights
from ppl_gen.inference.closed_steps import SHORT, ClosedSteps
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome, one_of, positive, require_processes
from ppl_gen.inference.maximum import OBJECTIVES
from ppl_gen.inference.program_steps import ProgramSteps
from ppl_gen.inference.starts import check_init, check_model_init
from ppl_gen.program import Program
from ppl_gen.target import Target


@dataclass(frozen=True, kw_only=True)
class EM(Climbing):
    """Expectation-maximisation: local latents summed or integrated out exactly (Dempster, Laird & Rubin 1977).

    Discrete latents are summed out; continuous ones with one value for each datum are integrated out where the
    program is linear-Gaussian in them, which is tested; the two may stand together, as in a mixture of factor
    analysers. The M-step is the model's own where it brings one; else parameters that feed an exponential-family site
    directly have a closed form, also found by test, and the others take some L-BFGS iterations on the expected log
    joint (generalised EM): the history never falls. The other continuous latents and the params are what is maximised.

    The history is named for what it holds: ``log_likelihood``; ``log_posterior`` with objective="posterior"; of a model
    whose steps climb a penalty too, ``log_penalised`` with ``log_likelihood`` beside it. It ends where the best start
    has settled, and its last entry is then that of the params that are returned.

    Attributes:
        num_steps: iterations at most.
        tolerance: a start has settled where it gains less than this, relatively, in one iteration.
        num_restarts: starts, run side by side, of which the best end is kept.
        objective: "likelihood" leaves the priors of what is maximised out; "posterior" is MAP-EM.
        m_steps: L-BFGS iterations of a gradient M-step; of no effect where all of the M-step is in closed form.
        init: site -> starting value, constrained.
        weights: how often each row counts, (rows,); None for once.
        integrate: continuous latents to integrate out; those with one value for each datum where None.
        block_rows: a model's own steps take so many rows at a time, which bounds the memory; those of an ``np.memmap``
            are read as they are needed. Of no effect on other programs, which take all rows at once.
        processes: the data are this process's part of the rows, and the others of ``jax.distributed`` or of
            ``torchrun`` hold the rest; all of them get the same params. Of a model's own steps only.
        starts: of a model's own steps: "model" for those that it brings, such as k-means++ partitions; "prior" for
            random draws from the program's prior.
    """

    name: ClassVar[str] = "em"
    needs: ClassVar[str] = "discrete or linear-Gaussian local latents, or a model's own steps"
    objective: str = "likelihood"
    m_steps: int = 5
    integrate: Sequence[str] | None = None
    block_rows: int = 65536
    processes: bool = False
    starts: str = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "m_steps", "block_rows")
        one_of(self, "objective", OBJECTIVES)
        one_of(self, "starts", ("model", "prior"))

    def check(self, target: Target) -> None:
        target.require_enumeration(self.name)
        target.require_full_data(self.name)
        weights = check_weights(self.weights)
        self._check_rows_apart(target)
        if self._closed(target):
            check_model_init(target, self.init)
            check_rows(target, weights)
            return
        expectation = Expectation(target, self.integrate, weights)
        if not target.discrete and expectation.group is None:
            raise UnsupportedError(
                f"em needs latents to sum or integrate out, and {target.program.name} has none, nor steps of its own: "
                "use engine='map' for a point, 'svi' or 'nuts' for a posterior"
            )
        if not expectation.layout.dim:
            raise UnsupportedError(f"em needs continuous latents or params to maximise, {target.program.name} has none")
        check_init(target, self.init, expectation.layout)
        expectation.require_gaussian(self.name)

    def _check_rows_apart(self, target: Target) -> None:
        """Refuse what only a model's own steps heed, where it would be left out of account.

        Raises:
            UnsupportedError: ``processes`` or ``starts="prior"`` without such steps.
            ValueError: ``processes`` in the only process there is.
        """
        if not self._closed(target):
            own = f"the steps that a model brings for objective='likelihood', and here {target.program.name} has none"
            if self.processes:
                raise UnsupportedError(f"processes=True needs {own}: fit all rows in one process")
            if self.starts == "prior":
                raise UnsupportedError(f"starts='prior' needs {own}: use num_restarts, or init={{site: value}}")
        if self.processes:
            require_processes(target)

    def _closed(self, target: Target) -> bool:
        return self._closed_model(target.program)

    def _closed_model(self, program: Program) -> bool:
        return isinstance(program.model, ClosedFormEM) and self.objective == "likelihood" and not self.integrate

    def _climbs(self, target: Target) -> str:
        if self.objective == "posterior":
            return "log_posterior"
        penalised = self._closed(target) and hasattr(target.program.model, "em_penalty")
        return "log_penalised" if penalised else "log_likelihood"

    def rows_at_once(self, program: Program) -> int | None:
        # the program itself runs on the first rows only; its steps go through all of them by ``block_rows``
        return min(self.block_rows, SHORT) if self._closed_model(program) else None

    def _shared(self, target: Target) -> bool:
        return self.processes and target.backend.num_processes() > 1

    def _steps(self, target: Target) -> Any:
        weights = check_weights(self.weights)
        if self._closed(target):
            from_prior = self.starts == "prior"
            return ClosedSteps(target, weights, self.block_rows, self._shared(target), from_prior)
        weights = None if weights is None else target.backend.asarray(weights)
        return ProgramSteps(Expectation(target, self.integrate, weights), self.objective, self.m_steps)

    def _agreed(self, target: Target) -> Target:
        """The target in the form that all processes take: with gaps where the rows of any have some."""
        if not self._shared(target) or not self._closed(target):
            return target
        gaps = target.backend.sum_over_processes({"gaps": target.backend.asarray(float(bool(target.bound.missing)))})
        return Target(target.bound.with_gaps()) if float(target.backend.to_numpy(gaps["gaps"])) else target

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        outcome = super().run(self._agreed(target), driver, seed)
        outcome.attrs["objective"] = self.objective
        return outcome
