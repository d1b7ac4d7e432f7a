"""The prior, truncated to where a posterior network puts its mass: what rounds of simulation after the first draw from.

Deistler, Goncalves & Macke (2022), "Truncated proposals for scalable and hassle-free simulation-based inference".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.inference.posterior_network import Trained, in_blocks
from ppl_gen.inference.simulation import RUNS, Simulator
from ppl_gen.target import Target

_LEFT_OUT = 1e-4  # of the mass of a network's posterior, outside of its region (their epsilon)
_DRAWS = 10_000  # that a region is found from
_WIDER = 1.05  # times the farthest draw: the ellipsoid's radius
_PILOT = 2000  # draws of the prior, and of the ellipsoid, that tell how many of them lie inside
_MANY, _FEW = 0.02, 1e-4  # share inside from which the prior is drawn from; below which there is no drawing at all

Propose = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Region:
    """Where log q(u | y) is at least ``level``, within an ellipsoid about draws of q in its standardised coordinates.

    Attributes:
        trained, y: q. centre (dim,), root (dim, dim), radius: |root^-1 (z - centre)| <= radius.
    """

    trained: Trained
    y: np.ndarray
    level: float
    centre: np.ndarray
    root: np.ndarray
    radius: float

    @classmethod
    def of(cls, trained: Trained, target: Target, y: np.ndarray, seed: int) -> Region:
        """The region of highest density that holds all but 1e-4 of q's mass."""
        u, log_q = trained.draw(target, y, _DRAWS, seed)
        level = float(np.quantile(log_q, _LEFT_OUT))
        z = trained.u.forward(u[log_q >= level])
        root = np.linalg.cholesky(np.atleast_2d(np.cov(z.T)) + 1e-12 * np.eye(z.shape[1]))
        found = cls(trained, y, level, z.mean(0), root, 0.0)
        return cls(trained, y, level, z.mean(0), root, _WIDER * float(found._distance(z).max()))

    def contains(self, target: Target, u: np.ndarray) -> np.ndarray:
        """Of each of u (rows, dim)."""
        inside = self._distance(self.trained.u.forward(u)) <= self.radius
        if inside.any():
            inside[inside] = self.trained.log_prob(target, u[inside], self.y) >= self.level
        return inside

    def even(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """u (count, dim) drawn evenly in standardised coordinates from the ellipsoid; the log density of u, up to a
        constant."""
        dim = len(self.centre)
        way = rng.standard_normal((count, dim))
        far = rng.random(count) ** (1.0 / dim) * self.radius / np.linalg.norm(way, axis=1)
        u = self.trained.u.inverse(self.centre + (far[:, None] * way) @ self.root.T)
        return u, self.trained.u.log_slope(u)

    def _distance(self, z: np.ndarray) -> np.ndarray:
        return np.linalg.norm(np.linalg.solve(self.root, (z - self.centre).T), axis=0)


def inside(regions: Sequence[Region], target: Target, u: np.ndarray) -> np.ndarray:
    """Which of u (rows, dim) lie in all regions."""
    found = np.ones(len(u), bool)
    for region in reversed(regions):  # the last is the smallest
        found[found] = region.contains(target, u[found])
    return found


def truncated(simulator: Simulator, regions: Sequence[Region], density: bool, seed: int) -> Propose | None:
    """``(count, seed) -> (u, y)``: the runs among ``count`` of the prior, or of the last ellipsoid, inside all regions.

    From the prior where a fair share of it is inside, else, where the program's density is known, from the ellipsoid by
    rejection to the prior. None where hardly anything comes through.
    """
    target = simulator.target

    def of_prior(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        u, y = simulator.prior(count, seed)
        kept = inside(regions, target, u)
        return u[kept], y[kept]

    share = sum(len(of_prior(RUNS, seed + i)[0]) for i in range(_PILOT // RUNS)) / _PILOT
    if share >= _MANY:
        return of_prior
    if density and simulator.of_all_latents:
        found = _of_ellipsoid(simulator, regions, seed)
        if found is not None:
            return found
    return of_prior if share >= 10.0 / _PILOT else None


def _of_ellipsoid(simulator: Simulator, regions: Sequence[Region], seed: int) -> Propose | None:
    target, last = simulator.target, regions[-1]

    def weighed(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """Even draws inside all regions, and the log of prior over even density."""
        rng = np.random.default_rng(seed)
        u, log_even = last.even(count, rng)
        kept = inside(regions, target, u)
        return u[kept], log_prior(target, u[kept]) - log_even[kept], rng

    pilot, highest = 5 * _PILOT, -np.inf
    u, log_weight, _ = weighed(pilot, seed)
    if len(u):
        highest = float(log_weight.max())
    if not np.isfinite(highest) or np.exp(log_weight - highest).sum() / pilot < _FEW:
        return None

    def propose(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < count:
            u, log_weight, rng = weighed(pilot, seed + 7919 * len(parts))
            parts.append(u[np.log(rng.random(len(u))) < log_weight - highest])
        return simulator.given(np.concatenate(parts)[:count], seed)

    return propose


def log_prior(target: Target, u: np.ndarray) -> np.ndarray:
    """The log density of u (rows, dim) before any data are seen, (rows,)."""
    return _mapped(target, "log prior", lambda u, arrays: target.log_parts(u, arrays)[0], u)


def log_joint(target: Target, u: np.ndarray) -> np.ndarray:
    """log p(u, data) as a density of u (rows, dim), (rows,); -inf where it is not a number."""
    found = _mapped(target, "log joint", target.log_density, u)
    return np.where(np.isnan(found), -np.inf, found)


def _mapped(target: Target, name: str, f: Callable[[Any, Any], Any], u: np.ndarray) -> np.ndarray:
    backend = target.backend
    mapped = target.compiled(name, lambda: backend.map_draws(lambda u, key, arrays: f(u, arrays)))
    return in_blocks(lambda block: (backend.to_numpy(mapped(backend.asarray(block), 0, target.arrays)),), u)[0]
