"""What engines share that climb a likelihood, or a bound on one, by turns, from several starts side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.checks import ProgramError
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, between, positive
from ppl_gen.inference.settling import begin, slack
from ppl_gen.target import Target

_CHUNK = 20


@dataclass(frozen=True, kw_only=True)
class Climbing(Engine):
    """The loop of such an engine, which brings ``_steps``, a :class:`~ppl_gen.inference.settling.Steps`.

    Attributes:
        num_steps: iterations at most.
        tolerance: stop where an iteration gains less than this, relatively, or less than rounding can tell.
        num_restarts: starts, run side by side, of which the best end is kept.
        init: site -> starting value, constrained.
        weights: how often each row counts, (rows,); None for once.
    """

    resumes: ClassVar[bool] = True

    num_steps: int = 1000
    tolerance: float = 1e-9
    num_restarts: int = 8
    init: Mapping[str, Any] | None = None
    weights: Any = None

    def __post_init__(self) -> None:
        positive(self, "num_steps", "num_restarts")
        if self.tolerance != 0 or isinstance(self.tolerance, bool):
            between(self, 0, 1, "tolerance")
        check_weights(self.weights)

    def _steps(self, target: Target) -> Any:
        raise TypeError(f"{type(self).__name__} defines no steps")

    def _climbs(self, target: Target) -> str:
        """What the history holds."""
        raise TypeError(f"{type(self).__name__} does not say what it climbs")

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        steps, name = self._steps(target), self._climbs(target)
        state = steps.start(self.num_restarts, seed, self.init)
        length = [1]

        def advance(held: Any, first: int, count: int) -> tuple[Any, Any]:
            length[0] = count
            return steps.advance(held, count)

        held, report, _ = driver.run(
            advance,
            begin(target.backend, state, self.num_restarts, self.tolerance),
            self.num_steps,
            label=self.name,
            chunk=_CHUNK if steps.at_once else 1,
            stop=self._stop,
            describe=lambda r: f"{_words(name)} {np.fmax.reduce(r['value'][-1]):.4f}",
        )
        settled = report.pop("settled")
        good = np.isfinite(report["value"][-1])
        if not settled[-1].all():  # what the last step led to has not been looked at yet
            good &= np.isfinite(target.backend.to_numpy(steps.value(held, length[0])))
        best = self._best(target, _words(name), np.where(good, report["value"][-1], -np.inf))
        outcome = steps.finish(held["state"], best)
        taken = np.argmax(settled[:, best]) + 1 if settled[-1, best] else len(settled)
        outcome.history.update({name if n == "value" else n: v[:taken, best] for n, v in report.items()})
        outcome.attrs["num_restarts"] = self.num_restarts
        option = getattr(target.program.model, "em_regularised", None)
        fell = falls(outcome.history[name], name, option)
        outcome.warnings.extend(self._doubts(good, bool(settled[-1, best]), fell))
        return outcome

    def _best(self, target: Target, what: str, ends: np.ndarray) -> int:
        """The restart that ends highest."""
        best = int(np.argmax(ends))
        if not np.isfinite(ends[best]):
            raise ProgramError(
                f"{self.name} reached no finite {what} for {target.program.name} from any of {self.num_restarts} "
                "starts: scale the data, use fewer components or a simpler covariance, or pass init={site: value}"
            )
        return best

    def _doubts(self, good: np.ndarray, settled: bool, fell: list[str]) -> list[str]:
        """Warnings of a run whose restarts have ended well or not."""
        early = f"{self.name} stopped at num_steps={self.num_steps} before it had converged: raise num_steps"
        broken = (
            f"{np.sum(~good)} of {len(good)} restarts broke down, as where a scale goes to zero and the likelihood has "
            "no upper bound; the best of the others was kept. Bound the scale below (of a param, constraint="
            "dist.constraints.greater_than(0.01); of a model, its regularization), or give it a prior and use "
            "objective='posterior'"
        )
        return [broken] * (not good.all()) + [early] * (not settled) + fell

    @staticmethod
    def _stop(before: Any, after: Any, report: Any) -> str | None:
        if not np.isfinite(report["value"][-1]).any():
            return "not finite"
        return "settled" if report["settled"][-1].all() else None


def _words(name: str) -> str:
    return name.replace("_", " ")


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
    rows = target.bound.num_rows
    if weights is not None and rows and len(weights) != rows:
        raise ValueError(f"{len(weights)} weights came for {rows} rows: expected one weight for each row")


def falls(history: np.ndarray, name: str = "log_likelihood", option: str | None = None) -> list[str]:
    """A warning where a history that theory keeps from falling does fall, by more than rounding.

    Args:
        option: of the model, by which its steps add to variances, so that they are not exact.
    """
    rounding = slack(np.finfo(history.dtype).eps)
    at = np.flatnonzero(np.diff(history) < -rounding * np.maximum(np.abs(history[1:]), 1.0))[:1]
    lost = "the steps have lost precision; use precision='float64' or rescale the data"
    why = lost if option is None else f"{option} adds to variances in each step, which may do that; else {lost}"
    return [
        f"the {_words(name)} fell at iteration {i + 1}, from {history[i]:.8g} to {history[i + 1]:.8g}, "
        f"which exact EM never does: {why}"
        for i in at
    ]
