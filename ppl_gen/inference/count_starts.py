"""Where chains with discrete values start: values that the density allows, found by annealed draws over a wide grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_gen.checks import ProgramError
from ppl_gen.inference.count_blocks import Blocks, Evaluated
from ppl_gen.inference.starts import search
from ppl_gen.target import Target

_POOL = 8  # draws of the prior that values are taken from
_GRID = np.unique(np.round(np.concatenate([np.arange(4), np.geomspace(4, 1e6, 40)])))
_TEMPERATURES = (10.0, 3.0, 1.0, 1.0, 1.0)  # of the sweeps
_IMPOSSIBLE = -1e5  # in the place of -inf: fewer such entries are better, and then the rest counts
_MOST_JOINT = 200  # values that depend on each other which a sweep visits


def prior_points(target: Target, seed: int) -> np.ndarray:
    """Places with counts of the prior and whatever else, (points, dim + counts)."""
    rng = np.random.default_rng([seed, 5])
    host = target.backend.to_numpy
    rows = []
    for i in range(_POOL):
        sites = target.draw((seed + i) % 2**31)
        drawn = [np.ravel(host(sites[n].value)) for n in target.counts.names]
        rows.append(np.concatenate([rng.uniform(-1.0, 1.0, target.layout.dim), *drawn]))
    return np.stack(rows)


def check_counts(target: Target, init: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A user's starting values of discrete sites.

    Raises:
        ValueError: not whole numbers, wrong shape, outside of the support.
    """
    found = {}
    for name, shape in ((n, shape) for n, _, shape in target.counts.sites if n in init):
        value = np.asarray(init[name])
        if value.dtype.kind not in "iuf" or not np.isfinite(value).all() or (value != np.round(value)).any():
            raise ValueError(f"init of {name!r} is {init[name]!r}: expected whole numbers")
        try:
            found[name] = np.array(np.broadcast_to(value.astype(float), shape))
        except ValueError:
            raise ValueError(f"init of {name!r} has shape {value.shape}: expected {shape}") from None
        constraint = target.sites[name].constraint
        inside = np.all(target.backend.to_numpy(constraint.check(target.backend.asarray(found[name]))))
        if not inside and (found[name] < 0).any():  # what bounds it above may be another latent
            raise ValueError(f"init of {name!r}, {value.tolist()}, is outside of its support {constraint}")
    return found


class Seeking(Target):
    """The target as a search for starts sees it: at any place of the continuous latents, the counts that it allows."""

    def __init__(self, target: Target, blocks: Blocks, pool: np.ndarray, density: Any, init: Mapping[str, Any]):
        vars(self).update(vars(target))
        self._evaluated, self._blocks, self._density = Evaluated(target), blocks, density
        self._pool, self._init = pool[:, target.layout.dim :], check_counts(target, init)

    def value_and_grad(self, *, calls: int = 1) -> Callable[..., tuple[Any, Any]]:
        def evaluate(position: Any, arrays: Any) -> tuple[Any, Any]:
            u = np.asarray(self.backend.to_numpy(position))
            return self._density(position, self.backend.asarray(self.counts_at(u)), arrays)

        return evaluate

    def constrain(self, u: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        counts = self.counts_at(np.asarray(self.backend.to_numpy(u))[None])[0]
        return super().constrain(self.backend.xp.concatenate([u, self.backend.asarray(counts)]), arrays)

    def counts_at(self, u: np.ndarray) -> np.ndarray:
        """Counts (chains, counts) for each of the rows (chains, dim); the same ones for the same rows."""
        rng = np.random.default_rng(6)
        z = np.resize(self._pool, (len(u), self._pool.shape[1])).astype(float)
        free = np.ones(z.shape[1], dtype=bool)
        for name, part in self.counts.parts.items():
            if name in self._init:
                z[:, part], free[part] = self._init[name].ravel(), False
        for temperature in _TEMPERATURES:
            for rows in self._blocks.rows:
                if free[rows.start]:
                    self._draw_rows(u, z, rows, temperature, rng)
            joint = self._blocks.joint[free[self._blocks.joint]]
            for at in rng.permutation(joint)[:_MOST_JOINT]:
                self._draw_one(u, z, int(at), temperature, rng)
        return z

    def _candidates(self, z: np.ndarray, part: slice) -> list[np.ndarray]:
        """Values (chains, size) to choose among; as they are first."""
        now = z[:, part]
        grid = [np.full_like(now, v) for v in _GRID]
        return [now, now + 1, now - 1, *grid, *(np.broadcast_to(p[part], now.shape) for p in self._pool)]

    def _draw_rows(self, u: np.ndarray, z: np.ndarray, rows: Any, temperature: float, rng: Any) -> None:
        """Each row to one of the candidates, in proportion to the density; in place."""
        part = slice(rows.start, rows.stop)

        def scores(entries: np.ndarray) -> np.ndarray:
            padded = np.concatenate([entries, np.zeros((len(entries), 1))], axis=1)
            return padded[:, rows.own].sum(-1)

        z[:, part] = self._chosen(u, z, part, scores, temperature, rng)

    def _draw_one(self, u: np.ndarray, z: np.ndarray, at: int, temperature: float, rng: Any) -> None:
        part = slice(at, at + 1)
        z[:, part] = self._chosen(u, z, part, lambda e: e.sum(-1, keepdims=True), temperature, rng)

    def _chosen(self, u: Any, z: Any, part: slice, scores: Any, temperature: float, rng: Any) -> np.ndarray:
        """By the largest of scores with Gumbel noise, a candidate after the other."""
        best = np.full(z[:, part].shape, -np.inf)
        chosen = z[:, part].copy()
        for values in self._candidates(z, part):
            proposed = z.copy()
            proposed[:, part] = values
            ok = self._evaluated.inside(u, z, proposed)[:, part]
            proposed[:, part] = np.where(ok, values, z[:, part])
            found = np.maximum(self._evaluated.entries(u, proposed), _IMPOSSIBLE)
            score = scores(found) / temperature + rng.gumbel(size=best.shape)
            score = np.where(ok, score, -np.inf)
            chosen, best = np.where(score > best, proposed[:, part], chosen), np.maximum(score, best)
        return chosen


def begin(seeking: Seeking, num_chains: int, seed: int, init: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Starts (chains, dim + counts) with finite log density and gradient, and what to be careful about.

    Raises:
        ProgramError: no such point was found; names the sites at fault.
    """
    if not seeking.layout.dim:
        return _counts_alone(seeking, num_chains), []
    continuous = {n: v for n, v in init.items() if n not in seeking.counts.names}
    position, warnings = search(seeking, num_chains, seed, continuous)
    return np.concatenate([position, seeking.counts_at(position)], axis=1), warnings


def _counts_alone(seeking: Seeking, num_chains: int) -> np.ndarray:
    """Starts of a program without continuous latents."""
    counts, backend = seeking.counts_at(np.zeros((num_chains, 0))), seeking.backend
    value, _ = seeking.value_and_grad()(backend.asarray(np.zeros((num_chains, 0))), seeking.arrays)
    good = np.isfinite(np.asarray(backend.to_numpy(value)))
    if not good.any():
        raise ProgramError(
            f"{seeking.program.name} has no finite log density at any of {num_chains} values of "
            f"{', '.join(map(repr, seeking.counts.names))} that were tried, e.g. {counts[0].tolist()}: check the data "
            "and priors, or pass init={site: value} with a point where the density is finite"
        )
    return np.resize(counts[good], counts.shape)
