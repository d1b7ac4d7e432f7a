"""Annealed importance sampling of an energy: its normaliser with an error, and draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from ppl_gen import evaluation
from ppl_gen.inference import annealed_walk
from ppl_gen.inference.annealed_walk import Schedule
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.energies import Energies
from ppl_gen.inference.energy_paths import BinaryPath, GaussianPath
from ppl_gen.inference.engine import positive
from ppl_gen.inference.journal import Report
from ppl_gen.inference.smc import systematic
from ppl_gen.target import Target

_UNEVEN, _APART = 0.3, 0.05  # a standard error that few chains make, and nats that are too small to matter


class ChainError(ArithmeticError):
    """Chains that run off, since what they are to draw from has no normaliser."""


class LogNormalizer(NamedTuple):
    """log Z of an energy.

    Attributes:
        value: log of a mean weight, which is low on average; ``standard_error`` by the delta method.
        reverse: from the way back, high on average were its starts exact draws: they are the resampled ends of the way
            forth. Where the two are farther apart than their errors, the path is too short.
        exact: a sum over all states, or known, and no estimate.
    """

    value: float
    standard_error: float = 0.0
    reverse: float = float("nan")
    reverse_standard_error: float = float("nan")
    exact: bool = False

    @property
    def doubt(self) -> str:
        """What there is to be careful about, in words; empty where nothing is."""
        off = abs(self.reverse - self.value)
        apart = off > 4.0 * np.hypot(self.standard_error, self.reverse_standard_error) + _APART
        if not apart and self.standard_error < _UNEVEN:
            return ""
        back = f", {self.reverse:.6g} on the way back" if apart else ""
        return (
            f"log Z is uncertain: {self.value:.6g} with standard error {self.standard_error:.2g}{back}. Raise "
            "num_temperatures or num_chains of run.log_normalizer; if that does not help, the energy may fall without "
            "bound somewhere, so that it has no normaliser: give it a base_scale"
        )


@dataclass(frozen=True)
class EnergyAnnealing:
    """Chains through a path of temperatures, weighted for the way (Neal 2001; Salakhutdinov & Murray 2008).

    Noise comes in chunks, so that memory does not grow with the number of temperatures.

    Attributes:
        num_chains: weights whose mean is Z, up to the normaliser of what the path starts from.
        num_temperatures: of the path.
    """

    num_chains: int = 100
    num_temperatures: int = 1000
    progress: bool = True

    def __post_init__(self) -> None:
        positive(self, "num_chains", "num_temperatures")
        if self.num_chains < 2:
            raise ValueError("num_chains must be at least 2: the error is told from their spread")

    def log_normalizer(
        self, target: Target, params: Mapping[str, np.ndarray], seed: int, reverse: bool = True
    ) -> LogNormalizer:
        """log Z at params.

        Raises:
            ChainError: a chain ran off.
        """
        path = self._path(target, params)
        schedule = path.schedule(self.num_temperatures, self._driver(target), 5 * seed)
        start = path.start(self.num_chains, seed)
        position, log_weight = self._walk(path, schedule, start, 5 * seed + 1, True)
        value, error = _mean(log_weight)
        if not reverse:
            return LogNormalizer(path.log_base + value, error)
        ends = target.backend.asarray(_resampled(position, log_weight, seed))
        position, back = self._walk(path, schedule, ends, 5 * seed + 2, False)
        last = path.gained(target.backend.asarray(position), float(schedule.beta[0]))
        inverse, inverse_error = _mean(-(back + np.asarray(target.backend.to_numpy(last))))
        return LogNormalizer(path.log_base + value, error, path.log_base - inverse, inverse_error)

    def draws(
        self, target: Target, params: Mapping[str, np.ndarray], seed: int, num_moves: int
    ) -> np.ndarray:
        """As many draws as chains, (chains, *shape): resampled by their weights, then moved at the last temperature.

        Raises:
            ChainError: a chain ran off.
        """
        path = self._path(target, params)
        schedule = path.schedule(self.num_temperatures, self._driver(target), 5 * seed + 3)
        start = path.start(self.num_chains, seed)
        position, log_weight = self._walk(path, schedule, start, 5 * seed + 4, True)
        position = _resampled(position, log_weight, seed)
        if num_moves:
            ends = (np.broadcast_to(x[-1], (num_moves, *x.shape[1:])) for x in schedule)
            start = target.backend.asarray(position)
            position, _ = self._walk(path, Schedule(*ends), start, 5 * seed + 5, True)
        return path.rows(position)

    def _path(self, target: Target, params: Mapping[str, np.ndarray]) -> BinaryPath | GaussianPath:
        energies = Energies(target)
        return BinaryPath(energies, params) if energies.is_binary else GaussianPath(energies, params)

    def _driver(self, target: Target) -> Driver:
        return Driver(target.backend.to_numpy, self.progress)

    def _walk(
        self, path: Any, schedule: Schedule, start: Any, stream: int, forth: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions and log weights of all chains at the end."""
        backend, count = path.backend, len(start)
        state, _ = annealed_walk.walk(
            self._driver(path.energies.target), backend, path.compiled(forth),
            lambda done, moves: path.noise(stream, done, moves, count), start, schedule, path.constants,
            f"annealing by {path.label}, {'forth' if forth else 'back'}", forth, path.chunk(count),
            _Lost(schedule.beta if forth else schedule.beta[::-1]),
        )  # fmt: skip
        position, log_weight = backend.to_numpy(tuple(state))
        return position, np.asarray(log_weight, dtype=float)


class _Lost:
    """Ends a walk as soon as a chain runs off."""

    def __init__(self, beta: np.ndarray):
        self.beta, self.done = beta, 0

    def __call__(self, before: Any, after: Any, report: Report) -> None:
        lost = np.asarray(report["lost"])
        if lost.any():
            at = int(np.argmax(lost > 0))
            k = self.done + at
            raise ChainError(
                f"chain {int(lost[at]) - 1} diverged at temperature {k + 1} of {len(self.beta)} (inverse temperature "
                f"{self.beta[k]:.3g}): the energy falls without bound there, so that exp(-E) has no normaliser. Give "
                "the model a base_scale or a potential that rises, or train it longer"
            )
        self.done += len(lost)


def _mean(log_weight: np.ndarray) -> tuple[float, float]:
    """Log of the mean weight, and its standard error."""
    if not np.isfinite(log_weight).all():
        lost = int((~np.isfinite(log_weight)).sum())
        raise ChainError(f"{lost} chains have no finite weight: the energy is not finite at some of their positions")
    found = evaluation.importance_bound(log_weight[:, None])
    return float(found.value[0]), float(found.standard_error[0])


def _resampled(position: np.ndarray, log_weight: np.ndarray, seed: int) -> np.ndarray:
    weights = np.exp(log_weight - logsumexp(log_weight))[None]
    return np.asarray(position)[systematic(weights, np.random.default_rng([seed, 2]).random(1))]
