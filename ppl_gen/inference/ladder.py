"""Where chains start: from an approximation where one is asked for and can be had, else from random points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppl_gen.inference import importance, lbfgs, pathfinder
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.laplace import at_modes
from ppl_gen.inference.lbfgs import Evaluate
from ppl_gen.inference.low_rank import Gaussians
from ppl_gen.inference.starts import evaluator, search
from ppl_gen.target import Target

STARTS = ("uniform", "pathfinder", "laplace")

_FEWEST_PATHS, _MOST_PATHS, _MOST_COORDINATES = 8, 16, 10_000  # the last of all paths together
_ELBO_DRAWS, _WEIGHED_DRAWS, _HISTORY = 8, 512, 6
_MANY, _MAX_STEPS, _FEW_STEPS = 100, 300, 100  # steps of a climb at most, in so many dimensions and in more
_SPREAD = 1.5  # times an approximation's standard deviations: R-hat tells chains that have forgotten wide starts
_DROP, _DROPPED = 2.0, 3.0  # times what a Gaussian's log density falls by, and more, that a start may lie below
_TRIES = 10
_SAME_MODE = 2  # decimals to which ends of climbs to one mode agree


@dataclass(frozen=True)
class Begun:
    """Where chains start.

    Attributes:
        position: (chains, dim) with finite log density and gradient, on the host.
        warnings: what did not work, why, and where the chains start instead.
        mixture, weights: the approximation that they were drawn from, and what each Gaussian stands for (paths,).
    """

    position: np.ndarray
    warnings: list[str] = field(default_factory=list)
    mixture: Gaussians | None = None
    weights: np.ndarray | None = None

    def scaled(self, target: Target, state: Any, preconditioner: str) -> Any:
        """A sampler's ``state`` with a first preconditioner in its ``scale``, where there is an approximation.

        Standard deviations (dim,) or a Cholesky factor (dim, dim), of a Gaussian that is one mode's, on average.
        """
        if self.mixture is None or self.weights is None or preconditioner == "identity":
            return state
        if preconditioner == "dense":
            held = (w * self.mixture.rows(np.array([i])).covariances()[0] for i, w in enumerate(self.weights) if w > 0)
            return state._replace(scale=target.backend.asarray(np.linalg.cholesky(sum(held))))
        deviations = target.backend.asarray(np.sqrt(self.weights @ self.mixture.variances()))
        low_rank = preconditioner == "low_rank"
        return state._replace(scale=state.scale._replace(deviations=deviations) if low_rank else deviations)


def begin(
    target: Target, driver: Driver, seed: int, start: str, num_chains: int, init: Mapping[str, Any] | None = None
) -> Begun:
    """Starting points of chains.

    "uniform": random points, ``init`` where it is given. "pathfinder", "laplace": from an even mixture of the Gaussians
    that climbs from such points find, each weighed by importance, so that a mode has chains in proportion to its mass;
    wider than they are. What fails falls back: to the uniform starts, these ever nearer to zero, and then an error.

    Raises:
        ProgramError: no point with a finite log density was found; names the sites at fault.
    """
    if start == "uniform":
        return Begun(*search(target, num_chains, seed, init))
    most = min(_MOST_PATHS, _MOST_COORDINATES // target.layout.dim)
    num_paths = max(min(num_chains, most), _FEWEST_PATHS)
    evaluate, rng = evaluator(target, max(num_paths, num_chains)), np.random.default_rng([seed, 3])
    position, warnings = search(target, num_paths, seed, init, jitter=1.0, evaluate=evaluate)
    draws = _ELBO_DRAWS if start == "pathfinder" else 0
    noise = rng.standard_normal((num_paths, draws, target.layout.dim))
    max_steps = _MAX_STEPS if target.layout.dim <= _MANY else _FEW_STEPS
    state, found, _ = pathfinder.climb(
        driver.unwritten(), evaluate, position, noise, history_size=_HISTORY, max_steps=max_steps, early=draws > 0
    )
    mixture, why = _found(target, found) if start == "pathfinder" else _modes(target, state)
    weights = _weights(evaluate, mixture, rng) if len(mixture.mean) else np.zeros(0)
    if not weights.any():
        rest = search(target, num_chains, seed, init, evaluate=evaluate)
        return Begun(rest[0], [*warnings, f"start={start!r} failed, chains start at random points: {why}", *rest[1]])
    points, lost = _wide(evaluate, mixture.rows(importance.resample(weights, num_chains, rng)), rng)
    if lost.any():
        rest = search(target, int(lost.sum()), seed, init, evaluate=evaluate)
        points[lost] = rest[0]
        warnings = [*warnings, f"{lost.sum()} of {num_chains} chains start at random points: the log density is not "
                    f"finite where start={start!r} would have them", *rest[1]]  # fmt: skip
    return Begun(points, warnings, mixture, weights)


def _found(target: Target, found: pathfinder.Found) -> tuple[Gaussians, str]:
    """The Gaussians of paths that have one."""
    good = found.gaussians.rows(np.isfinite(found.elbo))
    return good, "" if len(good.mean) else str(pathfinder.failure(target, found))


def _modes(target: Target, state: lbfgs.State) -> tuple[Gaussians, str]:
    """The Gaussians at the ends of climbs, once for each."""
    _, which = np.unique(np.round(state.position, _SAME_MODE), axis=0, return_index=True)
    held = at_modes(target, state.position[which], state.gradient[which])
    why = f"the log density of {target.program.name} is flat or curves upwards where each climb has ended"
    return held.rows(held.exist()), why


def _weights(evaluate: Evaluate, mixture: Gaussians, rng: np.random.Generator) -> np.ndarray:
    """What each Gaussian of a mixture stands for (paths,), by the smoothed weights of its draws; zeros if none has."""
    num_paths, dim = mixture.mean.shape
    noise = rng.standard_normal((num_paths, -(-_WEIGHED_DRAWS // num_paths), dim))
    _, log_weights = pathfinder.weigh(evaluate, mixture, noise)
    if not np.isfinite(log_weights.max()):
        return np.zeros(num_paths)
    return importance.smoothed(log_weights).reshape(num_paths, -1).sum(1)


def _wide(evaluate: Evaluate, each: Gaussians, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A draw (chains, dim) of each Gaussian, made wider, and which were not to be had.

    It is nearer to the mean where the density falls much faster than the Gaussian's, as where it is not finite: from
    far out in a thin tail no chain comes back.
    """
    noise = rng.standard_normal((len(each.mean), 1, each.mean.shape[1]))
    square, top = (noise[:, 0] ** 2).sum(1), evaluate(each.mean)[0]
    points, spread, left = each.mean.copy(), _SPREAD, np.arange(len(each.mean))
    for _ in range(_TRIES):
        tried = each.rows(left)
        draws = (tried.draw(noise[left])[0][:, 0] - tried.mean) * spread + tried.mean
        value, gradient = evaluate(draws)
        near = ~(top[left] - value > _DROP * (0.5 * spread**2 * square[left]) + _DROPPED)
        good = np.isfinite(value) & np.isfinite(gradient).all(1) & near
        points[left[good]], left, spread = draws[good], left[~good], 0.7 * spread
        if not len(left):
            break
    return points, np.isin(np.arange(len(points)), left)
