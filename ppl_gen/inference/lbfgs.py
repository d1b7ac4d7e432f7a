"""L-BFGS of many paths side by side, none of which waits for another's line search.

Each tick asks for one gradient of all paths at once: a path whose trial point is good enough moves there, one whose
trial point is not narrows its bracket. On the host, in NumPy, but for the density, which is the compiled one that
samplers ask at their starts: nothing else is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ppl_gen.inference import low_rank
from ppl_gen.inference.low_rank import Pairs

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_LEAST_GAIN, _LEAST_TURN = 1e-4, 0.9  # of Wolfe's two conditions (Nocedal & Wright 2006, equation 3.6)
_MOST_TRIALS = 25  # halvings or doublings of one step
_SETTLED = 1e4  # times the rounding: two gains in a row of less end a path


class State(NamedTuple):
    """Paths along the leading axis; they climb the log density, and ``value`` and ``gradient`` are of minus it.

    Attributes:
        position, gradient, direction: (paths, dim).
        value, step, low, high: (paths,); the step to be tried, and between which it lies.
        pairs: what is known of the curvature.
        num_trials, num_small: of the step under way; gains in a row that were next to nothing (paths,).
        moved, done: whether the last tick moved the path; whether it has ended.
    """

    position: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    direction: np.ndarray
    step: np.ndarray
    low: np.ndarray
    high: np.ndarray
    pairs: Pairs
    num_trials: np.ndarray
    num_small: np.ndarray
    moved: np.ndarray
    done: np.ndarray


@np.errstate(over="ignore", invalid="ignore")
def begin(evaluate: Evaluate, position: np.ndarray, history_size: int) -> State:
    """Paths that start at ``position`` (paths, dim); one without a finite density there has ended.

    Args:
        evaluate: positions (paths, dim) -> log density (paths,) and its gradient.
    """
    count, dim = position.shape
    value, gradient = _negative(evaluate(position))
    fine = np.isfinite(value) & np.isfinite(gradient).all(1)
    gradient = np.where(fine[:, None], gradient, 0.0)
    length = np.linalg.norm(gradient, axis=1)
    none, zero = np.zeros(count), np.zeros(count, int)
    step = np.minimum(1.0, 1.0 / np.maximum(length, 1e-300))
    pairs = low_rank.no_pairs(count, dim, history_size)
    return State(
        position, value, gradient, -gradient, step, none, none + np.inf, pairs, zero, zero, fine, ~fine | (length == 0)
    )


@np.errstate(over="ignore", invalid="ignore")  # far from any mode numbers may overflow: such moves are left out
def tick(evaluate: Evaluate, state: State) -> State:
    """One trial of every path: by Wolfe's weak conditions it moves there, halves or doubles its step.

    The bracket is that of Lewis & Overton (2013), "Nonsmooth optimization via quasi-Newton methods", algorithm 2.6.
    """
    s = state
    trial = np.where(s.done[:, None], s.position, s.position + s.step[:, None] * s.direction)
    value, gradient = _negative(evaluate(trial))
    fine = np.isfinite(value) & np.isfinite(gradient).all(1)
    eps = np.finfo(value.dtype).eps
    scale = np.maximum(np.abs(s.value), 1.0)
    gradient = np.where(fine[:, None], gradient, 0.0)
    slope, after = (s.gradient * s.direction).sum(1), (gradient * s.direction).sum(1)
    gains = fine & (np.where(fine, value, np.inf) <= s.value + _LEAST_GAIN * s.step * slope + 4 * eps * scale)
    turns = after >= _LEAST_TURN * slope
    moved = gains & turns & ~s.done
    low, high = np.where(gains, s.step, s.low), np.where(gains, s.high, s.step)
    small = np.where(moved, np.where(s.value - value <= _SETTLED * eps * scale, s.num_small + 1, 0), s.num_small)
    trials = np.where(moved, 0, s.num_trials + 1)
    pairs = low_rank.add(s.pairs, trial - s.position, gradient - s.gradient, moved)
    chosen = moved[:, None]
    gradient = np.where(chosen, gradient, s.gradient)
    direction = np.where(chosen, _downhill(pairs, gradient), s.direction)
    step = np.where(moved, 1.0, np.where(np.isfinite(high), 0.5 * (low + high), 2.0 * low))
    return State(
        np.where(chosen, trial, s.position),
        np.where(moved, value, s.value),
        gradient,
        direction,
        step,
        np.where(moved, 0.0, low),
        np.where(moved, np.inf, high),
        pairs,
        trials,
        small,
        moved,
        s.done | (small >= 2) | (trials >= _MOST_TRIALS) | (moved & (gradient == 0).all(1)),
    )


def _downhill(pairs: Pairs, gradient: np.ndarray) -> np.ndarray:
    """Newton's direction by the estimate; that of steepest descent where rounding has made it lead uphill."""
    direction = -low_rank.times_inverse_hessian(pairs, gradient)
    good = np.isfinite(direction).all(1) & ((direction * gradient).sum(1) < 0)
    return np.where(good[:, None], direction, -gradient)


def _negative(both: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return -both[0], -both[1]
