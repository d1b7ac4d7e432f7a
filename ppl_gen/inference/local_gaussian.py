"""Gaussian q of the local latents of a program: one for each datum, in unconstrained coordinates.

Expectations under q are sums over points z = mean + root e with fixed e, so that the bound is a plain function, climbed
without noise. The points are symmetric, of unit covariance: what is quadratic in z is integrated exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.expectation import Counted, chosen_latents
from ppl_gen.layout import Layout
from ppl_gen.target import Target

_LOG_2PI_E = math.log(2 * math.pi * math.e)
_SAME = 1e-6
COVARIANCES = ("full", "diagonal")


class Locals:
    """The local latents as one vector z (q,) in each cell of their plates.

    Args:
        names: continuous latents, all in the same plates.

    Attributes:
        layout: of the other latents and the params, which are maximised.
        cells: shape of the plates.
        size: q.

    Raises:
        UnsupportedError: the latents stand in different plates, or in dimensions without a plate.
    """

    def __init__(self, target: Target, names: Sequence[str]):
        self.target, self.names = target, tuple(names)
        sites = {n: target.sites[n] for n in names}
        self.plates = {p.dim: p.size for s in sites.values() for p in s.plates}
        if not self.plates:
            raise UnsupportedError(
                f"the latents {', '.join(map(repr, names))} of {target.program.name} stand in no plate, one value of "
                "them for all data: use engine='svi' or 'nuts', or 'em' where they are Gaussian"
            )
        self.cells = tuple(self.plates.get(d, 1) for d in range(min(self.plates), 0))
        if any(tuple(s.batch_shape) != self.cells for s in sites.values()):
            shapes = ", ".join(f"{n!r} {tuple(s.batch_shape)}" for n, s in sites.items())
            raise UnsupportedError(
                f"the local latents of {target.program.name} must stand in the same plates, with other dimensions in "
                f"to_event, and have batch shapes {shapes}: name those to integrate out by integrate=[...]"
            )
        unconstrained = {n: shape[len(self.cells) :] for n, shape, _ in target.layout.sites}
        self.events = {n: unconstrained[n] for n in names}
        self.size = sum(math.prod(event) for event in self.events.values())
        self.layout = Layout(tuple(entry for entry in target.everything.sites if entry[0] not in names))
        self._dims = frozenset(d for d, size in self.plates.items() if size > 1)

    @classmethod
    def chosen(cls, target: Target, names: Sequence[str] | None, purpose: str) -> Locals:
        """The latents of these names; those with one value for each datum where None.

        Raises:
            UnsupportedError: there are none; ``purpose`` says in the message what an engine has them for.
        """
        found = chosen_latents(target, names)
        if not found:
            raise UnsupportedError(
                f"{purpose}, and {target.program.name} has none in a plate that also holds an observation: use "
                "engine='svi' for a q of all latents, 'em' where the latents of single data are discrete, or 'map' for "
                "a point"
            )
        return cls(target, found)

    def split(self, z: Any) -> dict[str, Any]:
        """z (*cells, q) -> unconstrained value of each site."""
        found, start = {}, 0
        for name, event in self.events.items():
            stop = start + math.prod(event)
            found[name] = z[..., start:stop].reshape((*self.cells, *event))
            start = stop
        return found

    def unconstrained(self, values: Mapping[str, np.ndarray]) -> Any:
        """The vector u of what is maximised at constrained values of it."""
        backend = self.target.backend
        held = {n: backend.from_numpy(np.asarray(values[n])) for n in self.layout.names}
        return self.target.unconstrain(held, self.layout, self.target.arrays)

    def constrained(self, z: Any, u: Any) -> dict[str, np.ndarray]:
        """Values of all sites at draws z (draws, *cells, q) and one u, with a leading axis of draws."""
        target = self.target

        def constrain(z: Any, _: Any, u: Any, arrays: Any) -> dict[str, Any]:
            given = {**self.layout.split(u), **self.split(z)}
            sites = target.trace(arrays, unconstrained=given, enumerated=target.enumerated)
            return target.values_of(sites, target.everything.names)

        mapped = target.compiled(("constrained", self.names), lambda: target.backend.map_draws(constrain))
        return {n: np.asarray(v) for n, v in target.backend.to_numpy(mapped(z, 0, u, target.arrays)).items()}

    def log_joint(self, u: Any, z: Any, arrays: Any, counted: Counted) -> tuple[Any, Any]:
        """log p(data, z | u) + log |d latents / d z|: what stands in the cells (*cells), and the rest, a scalar.

        Discrete latents are summed out.
        """
        xp, target = self.target.backend.xp, self.target
        given = {**self.layout.split(u), **self.split(z)}
        sites = target.trace(arrays, unconstrained=given, enumerated=target.enumerated)
        tables = target.terms(sites, counted)
        log_dets: list[Any] = [sites[n].log_det for n in self.names]
        own = sum((x.reshape((*self.cells, -1)).sum(-1) for x in log_dets), start=xp.zeros(self.cells))
        own = sum((self._of_cells(f) for f in tables if f.ordinal >= self._dims), start=own)
        return own, sum((xp.sum(f.tensor) for f in tables if not f.ordinal >= self._dims), start=xp.zeros(()))

    def _of_cells(self, f: Any) -> Any:
        """A table summed over the plates that are not those of the cells."""
        rank = len(f.tensor.shape)
        extra = tuple(d for d in range(-rank, 0) if d not in self.plates)
        table = self.target.backend.xp.sum(f.tensor, axis=extra, keepdims=True) if extra else f.tensor
        return table.reshape(tuple(table.shape)[max(rank - len(self.cells), 0) :])

    def check_weights(self, weights: np.ndarray | None) -> None:
        """One weight for each cell.

        Raises:
            ValueError: not so.
        """
        if weights is not None and (len(self.plates) > 1 or len(weights) != math.prod(self.cells)):
            raise ValueError(
                f"{len(weights)} weights came, and the latents {', '.join(map(repr, self.names))} of "
                f"{self.target.program.name} stand in plates of {self.cells} rows: expected one weight for each row of "
                "one plate"
            )

    def require_apart(self, engine: str) -> None:
        """z of a cell touches what stands in that cell only; tested at a random point.

        Raises:
            UnsupportedError: it does not.
        """
        target, backend, xp, rng = self.target, self.target.backend, self.target.backend.xp, np.random.default_rng(0)
        u, z, c = (
            backend.asarray(rng.uniform(-1, 1, shape))
            for shape in ((self.layout.dim,), (*self.cells, self.size), self.cells)
        )

        def gradient(weights: Any, of_rest: float) -> Any:
            def total(z: Any) -> Any:
                own, rest = self.log_joint(u, z, target.arrays, lambda s: True)
                return xp.sum(weights * own) + of_rest * rest

            return backend.value_and_grad(total)(z)[1]

        alone, weighted = backend.to_numpy((gradient(1.0 + 0.0 * c, 0.0), gradient(c, 1.0)))
        off = np.abs(weighted - np.asarray(backend.to_numpy(c))[..., None] * alone).max()
        if off > _SAME * (1e-300 + np.abs(alone).max()):
            raise UnsupportedError(
                f"{engine} gives each cell of the plates of {', '.join(map(repr, self.names))} a q of its own, and in "
                f"{target.program.name} different cells meet in one term: use engine='svi' with "
                "guide='multivariate_normal', or 'nuts'"
            )


# Points -----------------------------------------------------------------------------------------------------------


def points(size: int, cells: tuple[int, ...], number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points e (P, *cells or ones, q) for about ``number`` evaluations, and their weights (P,).

    A Gauss-Hermite grid up to three dimensions, where it has three nodes or more in each; else random points, other
    ones in each cell, in pairs e and -e, and of unit covariance where ``number`` is at least 2q.
    """
    side = int(number ** (1.0 / size) + 1e-9)
    if size <= 3 and side >= 3:
        nodes, weights = np.polynomial.hermite_e.hermegauss(min(side, 40))
        grid = np.array(list(itertools.product(nodes, repeat=size)))
        product = np.prod(list(itertools.product(weights / weights.sum(), repeat=size)), axis=1)
        return grid.reshape((-1, *(1 for _ in cells), size)), product
    half = max(number // 2, 1)
    e = rng.standard_normal((*cells, half, size))
    if half >= size:
        e = np.linalg.qr(e)[0] * np.sqrt(half)
    e = np.moveaxis(np.concatenate([e, -e], axis=-2), -2, 0)
    return e, np.full(2 * half, 0.5 / half)


# The two kinds of root --------------------------------------------------------------------------------------------


class Full:
    """root (*cells, q, q), triangular."""

    @staticmethod
    def identity(size: int) -> np.ndarray:
        return np.eye(size)

    @staticmethod
    def times(root: Any, e: Any) -> Any:
        return (root @ e[..., None])[..., 0]

    @staticmethod
    def log_det(xp: Any, root: Any) -> Any:
        return xp.sum(xp.log(xp.abs(xp.diagonal(root, 0, -2, -1))), axis=-1)

    @staticmethod
    def curvature(xp: Any, root: Any, g: Any, e: Any, w: Any) -> tuple[Any, Any]:
        """Precision of q, and minus the mean Hessian, from gradients g (P, *cells, q) by Stein's identity."""
        inverse = xp.linalg.inv(root)
        cross = xp.sum(w[..., None] * g[..., :, None] * e[..., None, :], axis=0) @ inverse
        return xp.swapaxes(inverse, -1, -2) @ inverse, -0.5 * (cross + xp.swapaxes(cross, -1, -2))

    @staticmethod
    def root_of(xp: Any, precision: Any) -> Any:
        factor = xp.linalg.cholesky(precision)
        inverse = xp.linalg.solve_triangular(factor, xp.eye(factor.shape[-1]) + xp.zeros_like(factor), lower=True)
        return xp.swapaxes(inverse, -1, -2)

    @staticmethod
    def solve(xp: Any, root: Any, g: Any) -> Any:
        """Covariance times g."""
        return (root @ (xp.swapaxes(root, -1, -2) @ g[..., None]))[..., 0]


class Diagonal:
    """root (*cells, q): standard deviations."""

    @staticmethod
    def identity(size: int) -> np.ndarray:
        return np.ones(size)

    @staticmethod
    def times(root: Any, e: Any) -> Any:
        return root * e

    @staticmethod
    def log_det(xp: Any, root: Any) -> Any:
        return xp.sum(xp.log(root), axis=-1)

    @staticmethod
    def curvature(xp: Any, root: Any, g: Any, e: Any, w: Any) -> tuple[Any, Any]:
        return 1.0 / (root * root), -xp.sum(w * g * e, axis=0) / root

    @staticmethod
    def root_of(xp: Any, precision: Any) -> Any:
        return 1.0 / xp.sqrt(precision)

    @staticmethod
    def solve(xp: Any, root: Any, g: Any) -> Any:
        return root * root * g


def entropy(xp: Any, kind: Any, root: Any, size: int) -> Any:
    """Of q in each cell."""
    return kind.log_det(xp, root) + 0.5 * size * _LOG_2PI_E
