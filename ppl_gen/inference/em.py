"""Expectation-maximisation on a declared program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.capabilities import ClosedFormEM
from ppl_gen.checks import ProgramError
from ppl_gen.expectation import Expectation
from ppl_gen.inference.closed_steps import ClosedSteps
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, between, one_of, positive
from ppl_gen.inference.gradient_steps import GradientSteps
from ppl_gen.inference.maximum import OBJECTIVES
from ppl_gen.inference.starts import check_init
from ppl_gen.program import Program
from ppl_gen.target import Target

_CHUNK = 20


@dataclass(frozen=True, kw_only=True)
class EM(Engine):
    """Expectation-maximisation: local latents summed or integrated out exactly (Dempster, Laird & Rubin 1977).

    Discrete latents are summed out; continuous ones with one value for each datum are integrated out where the
    program is linear-Gaussian in them, which is tested; the two may stand together, as in a mixture of factor
    analysers. The M-step is the model's own where it brings one, otherwise some L-BFGS iterations on the expected log
    joint from the current point (generalised EM): the history never falls. The other continuous latents and the params
    are what is maximised.

    Attributes:
        num_steps: iterations at most.
        tolerance: stop where the log likelihood gains less than this, relatively, in one iteration.
        num_restarts: starts, run side by side, of which the best end is kept.
        objective: "likelihood" leaves the priors of what is maximised out; "posterior" is MAP-EM.
        m_steps: L-BFGS iterations of a gradient M-step.
        init: site -> starting value, constrained.
        weights: how often each row counts, (rows,); None for once.
        integrate: continuous latents to integrate out; those with one value for each datum where None.
        block_rows: a model's own steps take so many rows at a time, which bounds the memory; those of an ``np.memmap``
            are read as they are needed.
        processes: the data are this process's part of the rows, and the others of ``jax.distributed`` or of
            ``torchrun`` hold the rest; all of them get the same params.
    """

    name: ClassVar[str] = "em"
    needs: ClassVar[str] = "discrete or linear-Gaussian local latents, or a model's own steps"
    climbs: ClassVar[str] = "log_likelihood"  # what the history holds

    num_steps: int = 1000
    tolerance: float = 1e-9
    num_restarts: int = 8
    objective: str = "likelihood"
    m_steps: int = 5
    init: Mapping[str, Any] | None = None
    weights: Any = None
    integrate: Sequence[str] | None = None
    block_rows: int = 16384
    processes: bool = False

    def __post_init__(self) -> None:
        positive(self, "num_steps", "num_restarts", "m_steps", "block_rows")
        one_of(self, "objective", OBJECTIVES)
        if self.tolerance != 0 or isinstance(self.tolerance, bool):
            between(self, 0, 1, "tolerance")
        check_weights(self.weights)

    def check(self, target: Target) -> None:
        target.require_enumeration(self.name)
        target.require_full_data(self.name)
        weights = check_weights(self.weights)
        if self._closed(target):
            check_init(target, self.init, target.everything)
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

    def _closed(self, target: Target) -> bool:
        return self._closed_model(target.program)

    def _closed_model(self, program: Program) -> bool:
        return isinstance(program.model, ClosedFormEM) and self.objective == "likelihood" and not self.integrate

    def rows_at_once(self, program: Program) -> int | None:
        return self.block_rows if self._closed_model(program) else None

    def _shared(self, target: Target) -> bool:
        return self.processes and target.backend.num_processes() > 1

    def _steps(self, target: Target) -> Any:
        weights = check_weights(self.weights)
        if self._closed(target):
            return ClosedSteps(target, weights, self.block_rows, self._shared(target))
        weights = None if weights is None else target.backend.asarray(weights)
        return GradientSteps(Expectation(target, self.integrate, weights), self.objective, self.m_steps)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        steps = self._steps(target)
        state, report, reason = driver.run(
            lambda s, first, count: steps.advance(s, count),
            steps.start(self.num_restarts, seed, self.init),
            self.num_steps,
            label=self.name,
            chunk=_CHUNK,
            stop=self._stop,
            describe=lambda r: f"{self.climbs.replace('_', ' ')} {np.nanmax(r[self.climbs][-1]):.4f}",
        )
        history = np.asarray(report[self.climbs])
        best = self._best(target, history)
        outcome = steps.finish(state, best)
        outcome.history[self.climbs] = history[:, best]
        outcome.attrs.update(objective=self.objective, num_restarts=self.num_restarts)
        if reason is None and not self._settled(history)[best]:
            outcome.warnings.append(
                f"{self.name} stopped at num_steps={self.num_steps} before it had converged: raise num_steps"
            )
        outcome.warnings.extend(falls(history[:, best], self.climbs))
        return outcome

    def _best(self, target: Target, history: np.ndarray) -> int:
        """The restart that ends highest."""
        ends = np.where(np.isfinite(history[-1]), history[-1], -np.inf)
        best = int(np.argmax(ends))
        if not np.isfinite(ends[best]):
            what = self.climbs.replace("_", " ")
            raise ProgramError(
                f"{self.name} reached no finite {what} for {target.program.name} from any of {self.num_restarts} "
                "starts: scale the data, use fewer components or a simpler covariance, or pass init={site: value}"
            )
        return best

    def _stop(self, before: Any, after: Any, report: Any) -> str | None:
        values = np.asarray(report[self.climbs])
        if not np.isfinite(values[-1]).any():
            return "not finite"
        return "converged" if self._settled(values).all() else None

    def _settled(self, values: np.ndarray) -> np.ndarray:
        """Whether each restart has stopped gaining, or has broken down; ``values`` (iterations, restarts)."""
        if len(values) < 2:
            return np.zeros(values.shape[1:], bool)
        gain = values[-1] - values[-2]
        return ~np.isfinite(values[-1]) | (gain <= self.tolerance * np.maximum(np.abs(values[-1]), 1.0))


def check_weights(weights: Any) -> np.ndarray | None:
    """Row weights as an array (rows,).

    Raises:
        ValueError: not one finite number of at least 0 for each row, or none above 0.
    """
    if weights is None:
        return None
    try:
        array = np.asarray(weights, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"weights must be one number for each row, got {type(weights).__name__}") from None
    if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any() or not (array > 0).any():
        raise ValueError(
            f"weights must be a one-dimensional array of finite numbers of at least 0, some above 0; got shape "
            f"{array.shape}, from {np.min(array, initial=np.inf)} to {np.max(array, initial=-np.inf)}"
        )
    return array


def check_rows(target: Target, weights: np.ndarray | None) -> None:
    """One weight for each row of a model that names its rows.

    Raises:
        ValueError: another number of them.
    """
    rows = [len(target.bound.host[n]) for n in getattr(target.program.model, "em_rows", ()) if n in target.bound.host]
    if weights is not None and rows and len(weights) != rows[0]:
        raise ValueError(f"{len(weights)} weights came for {rows[0]} rows: expected one weight for each row")


def falls(history: np.ndarray, name: str = "log_likelihood") -> list[str]:
    """A warning where a history that theory keeps from falling does fall, by more than rounding."""
    falls = np.flatnonzero(np.diff(history) < -1e-6 * np.maximum(np.abs(history[1:]), 1.0))
    if not falls.size:
        return []
    at = int(falls[0])
    return [
        f"the {name.replace('_', ' ')} fell at iteration {at + 1}, from {history[at]:.8g} to {history[at + 1]:.8g}, "
        "which exact EM never does: the steps have lost precision; use precision='float64' or rescale the data"
    ]
