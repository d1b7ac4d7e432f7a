"""Progress bars, and what that of a sampler says beside its speed: divergences, how many independent draws so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_gen.inference.journal import Report

_SCALARS, _CHAINS = 8, 64  # that are watched
_MOST, _FEWEST = 64, 8  # batches of a chain; batches in all from which there is an estimate


def progress_bar(*args: Any, **options: Any) -> Any:
    """tqdm's, of what takes more than two seconds; it goes when its work is done.

    Imported when the first one is made: that takes as long as a tenth of ``import ppl_gen``.
    """
    from tqdm.auto import tqdm

    return tqdm(*args, delay=2.0, leave=False, **options)


class Watched:
    """``describe`` for a driver: divergences and effective sample size of all chunks so far, and what was said before.

    The size is the least one of the log density and some coordinates, by batch means (Flegal & Jones 2010): what
    independent draws of their variance would have to be many, for the mean of a batch to spread as it does. Batches are
    joined in pairs as they get many, so that they grow with the run and little is kept of it. Of many chains the first
    64 stand for all.
    """

    def __init__(self, describe: Callable[[Report], str] = lambda report: ""):
        self._describe = describe
        self.divergences, self._seen = 0, 0.0
        self._batches: list[np.ndarray] = []  # each (chains, scalars), means over ``_length`` chunks
        self._pending: list[np.ndarray] = []
        self._length, self._steps, self._share = 1, 0, 1.0
        self._mean: np.ndarray | None = None
        self._m2: np.ndarray | None = None

    def __call__(self, report: Report) -> str:
        self.add(report)
        parts = []
        if "diverging" in report:
            parts.append(f"divergences {self.divergences}")
        size = self.effective_size()
        parts += [f"ESS {size:.0f}"] if size is not None else []
        return ", ".join([*parts, *filter(None, [self._describe(report)])])

    def add(self, report: Mapping[str, np.ndarray]) -> None:
        """Take in a chunk: ``lp`` (steps, chains), ``position`` (steps, chains, dim), ``diverging`` (steps, chains)."""
        self.divergences += int(np.sum(report.get("diverging", 0)))
        if "lp" not in report:
            return
        x = _scalars(report)
        self._share = np.asarray(report["lp"]).shape[1] / x.shape[1]
        count = float(x.shape[0] * x.shape[1])
        mean, m2 = x.mean((0, 1)), x.var((0, 1)) * count
        if self._mean is None or self._m2 is None:
            self._mean, self._m2, self._steps = mean, m2, x.shape[0]
        else:
            delta, total = mean - self._mean, self._seen + count
            self._m2 = self._m2 + m2 + delta**2 * (self._seen * count / total)
            self._mean = self._mean + delta * (count / total)
        self._seen += count
        if x.shape[0] == self._steps:  # the last chunk may be shorter
            self._append(x.mean(0))

    def _append(self, means: np.ndarray) -> None:
        self._pending.append(means)
        if len(self._pending) < self._length:
            return
        self._batches.append(np.mean(self._pending, axis=0))
        self._pending = []
        if len(self._batches) == _MOST:
            pairs = np.array(self._batches).reshape(_MOST // 2, 2, *means.shape)
            self._batches, self._length = list(pairs.mean(1)), 2 * self._length

    def effective_size(self) -> float | None:
        """The least over the scalars; None while there are too few batches."""
        batches = np.array(self._batches)
        if batches.ndim < 3 or batches.shape[0] * batches.shape[1] < _FEWEST or self._m2 is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            of_mean = batches.var((0, 1), ddof=1) * (self._length * self._steps)
            size = self._seen * np.minimum((self._m2 / self._seen) / of_mean, 1.0)
        size = size[np.isfinite(size)]
        return float(size.min() * self._share) if size.size else None


def _scalars(report: Mapping[str, np.ndarray]) -> np.ndarray:
    """The log density and coordinates spread over the position, (steps, chains, some); not finite ones are left out."""
    lp = np.asarray(report["lp"])[:, :_CHAINS, None]
    position = np.asarray(report.get("position", lp[..., :0]))[:, :_CHAINS]
    some = np.unique(np.linspace(0, max(position.shape[-1] - 1, 0), _SCALARS - 1).astype(int))
    found = np.concatenate([lp, position[..., some[: position.shape[-1]]]], axis=-1).astype(float)
    return np.where(np.isfinite(found), found, 0.0)
