"""What engines share that climb a likelihood, or a bound on one, by turns, from several starts side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.checks import ProgramError
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, between, positive
from ppl_gen.target import Target

_CHUNK = 20


@dataclass(frozen=True, kw_only=True)
class Climbing(Engine):
    """The loop of such an engine, which brings ``_steps``: an object with ``start``, ``advance`` and ``finish``.

    Attributes:
        num_steps: iterations at most.
        tolerance: stop where an iteration gains less than this, relatively, or less than rounding can tell.
        num_restarts: starts, run side by side, of which the best end is kept.
        init: site -> starting value, constrained.
        weights: how often each row counts, (rows,); None for once.
    """

    climbs: ClassVar[str] = ""  # what the history holds

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
        outcome.attrs["num_restarts"] = self.num_restarts
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
        gain, least = values[-1] - values[-2], max(self.tolerance, 4 * np.finfo(values.dtype).eps)
        return ~np.isfinite(values[-1]) | (gain <= least * np.maximum(np.abs(values[-1]), 1.0))


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


def falls(history: np.ndarray, name: str = "log_likelihood") -> list[str]:
    """A warning where a history that theory keeps from falling does fall, by more than rounding."""
    rounding = max(1e-8, 64 * np.finfo(history.dtype).eps)
    at = np.flatnonzero(np.diff(history) < -rounding * np.maximum(np.abs(history[1:]), 1.0))[:1]
    return [
        f"the {name.replace('_', ' ')} fell at iteration {i + 1}, from {history[i]:.8g} to {history[i + 1]:.8g}, "
        "which exact EM never does: the steps have lost precision; use precision='float64' or rescale the data"
        for i in at
    ]
