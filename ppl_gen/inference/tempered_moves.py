"""Hamiltonian moves of many particles at one temperature, which end when the particles have moved as far as they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.inference import langevin, preconditioning, trajectory
from ppl_gen.inference.adaptation import Moments
from ppl_gen.inference.chees import ChEES
from ppl_gen.inference.trajectories import State
from ppl_gen.target import Target

PRECONDITIONERS = ("dense", "diagonal", "identity")
LENGTH = np.pi  # of trajectories at most, in standard deviations: half of a Gaussian's period
ROUND = 4  # moves between two looks at how far the particles have come
_GAIN = 1.0  # of the log step size, by the acceptance rate of all particles
_LEAST_RATE = 0.1  # of a particle in the harmonic mean, or one that is stuck would set the step of all
_FAR = 1.8  # mean squared distance in variances; 2 of independent draws
_GROWTH = 1.1  # of that distance while the number of moves doubles; 2 of a slow diffusion


class Moving(NamedTuple):
    """Particles under way, and where they set out from (particles, dim)."""

    state: State
    anchor: Any


def noise(target: Target, stream: int, start: int, count: int, num_particles: int) -> dict[str, Any]:
    """What ``count`` moves take: momenta, uniforms, and fractions of the trajectory's length."""
    drawn = target.backend.noise(stream, start, langevin.noise(num_particles, target.layout.dim), count)
    return {**drawn, "jitter": target.backend.asarray(trajectory.halton(start % 2**20, count))}


def begun(target: Target) -> Callable[..., tuple[State, Any]]:
    """Compiled ``(position, beta, step_size, scale, arrays) -> (state at beta, log likelihood)``."""
    backend = target.backend

    def build(position: Any, beta: Any, step_size: Any, scale: Any, arrays: Any) -> tuple[State, Any]:
        value, gradient, likelihood = target.tempered(arrays, beta).evaluate(position)
        length = backend.xp.zeros(()) + LENGTH
        return State(position, value, gradient, step_size, scale, length), likelihood

    return target.compiled("tempered state", lambda: backend.compile(build))


def log_likelihoods(target: Target, positions: Any) -> np.ndarray:
    """log p(data | latents) of positions (particles, dim), on the host; nan counts as -inf."""
    backend = target.backend

    def build(position: Any, arrays: Any) -> Any:
        return backend.vmap(lambda u, arrays: target.log_parts(u, arrays)[1], in_axes=(0, None))(position, arrays)

    compiled = target.compiled("log likelihoods", lambda: backend.compile(build))
    found = np.array(backend.to_numpy(compiled(positions, target.arrays)))
    found[np.isnan(found)] = -np.inf
    return found


def moves(target: Target, goal: float, most: int) -> Callable[..., tuple[Moving, dict[str, Any]]]:
    """Compiled ``(moving, noise, beta, arrays) -> (moving, report)``; noise has a leading axis of moves.

    Each move is a trajectory of :mod:`chees` that leaves the density at beta as it is. The step size of the next one
    follows the acceptance rate, to which a particle contributes one part in thousands: its harmonic mean, since at high
    temperatures scales often differ from place to place, and those of the narrow places must move as well.

    Args:
        goal: acceptance rate; most: leapfrog steps of a move.
    """
    xp = target.backend.xp

    def begin(moving: Moving, noise: Any, beta: Any, arrays: Any) -> tuple[Any, Any]:
        path, count = ChEES.begin(xp, moving.state, noise, most)
        return (path, moving.anchor), count

    def repeat(both: Any, beta: Any, arrays: Any) -> Any:
        return ChEES.leap(xp, target.tempered(arrays, beta), both[0]), both[1]

    def finish(both: Any, noise: Any, beta: Any, arrays: Any) -> tuple[Moving, dict[str, Any]]:
        path, anchor = both
        state, info = ChEES.end(xp, path, noise)
        rate = harmonic(xp, info.acceptance_rate)
        away = state.position - anchor
        report = {"acceptance_rate": rate, "distance": xp.mean(away * away, axis=0), "num_steps": info.n_steps}
        step_size = xp.minimum(state.step_size * xp.exp(_GAIN * (rate - goal)), LENGTH)
        return Moving(state._replace(step_size=step_size), anchor), report

    key = ("tempered moves", goal, most)
    return target.compiled(key, lambda: target.backend.scan_loops(begin, repeat, finish, calls=1000))


def harmonic(xp: Any, rate: Any) -> Any:
    """Harmonic mean of acceptance rates along the last axis (Hoffman, Radul & Sountsov 2021, section 3.3)."""
    return 1.0 / xp.mean(1.0 / xp.maximum(rate, _LEAST_RATE), axis=-1)


def far_enough(variance: np.ndarray) -> Callable[[Any, Any, Mapping[str, np.ndarray]], str | None]:
    """A rule for the driver: stop where no coordinate gains from more moves.

    Each has come as far as independent draws of these variances (dim,) are apart, or hardly farther than it was after
    half as many moves: the particles have spread over all that they can reach, such as the modes that they are in.
    """
    seen: list[np.ndarray] = []

    def stop(before: Any, after: Any, report: Mapping[str, np.ndarray]) -> str | None:
        now = report["distance"][-1] / variance
        seen.append(now)
        half = seen[len(seen) // 2 - 1] if len(seen) % 2 == 0 else np.zeros_like(now)
        return "far enough" if ((now > _FAR) | (now < _GROWTH * half)).all() else None

    return stop


def preconditioner(positions: np.ndarray, kind: str) -> np.ndarray:
    """Scale of particles (particles, dim) of equal weight: "dense", "diagonal" or "identity"."""
    dim = positions.shape[1]
    if kind == "identity":
        return np.ones(dim)
    away = positions - positions.mean(0)
    m2 = away.T @ away if kind == "dense" else (away**2).sum(0)
    return preconditioning.from_spread(Moments(np.array(len(positions)), away.mean(0), m2))
