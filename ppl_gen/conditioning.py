"""Exact integration over linear-Gaussian local latents of a program, found by test and not by name.

Where the log joint is quadratic in the latents z of each row, whatever the params, z given the rest is Gaussian. Its
gradient g is then affine: g(0) and g(e_j) - g(0) give the mean and the precision without second derivatives, and the
integral over z is the Laplace approximation, which is exact here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.backends.protocol import Site, UnsupportedError
from ppl_gen.enumeration import Dims, Factor, common_scale

_LOG_2PI = math.log(2 * math.pi)
_ROUNDING = 64.0


@dataclass(frozen=True)
class Group:
    """Continuous latents of one plate that are integrated out together, as one vector z (q,) in each cell.

    Attributes:
        sites: name -> event shape.
        points: dimension, left of all others, along which several values of z are laid out.
        cells: shape of what z differs over: enumerated variables, then plates.
    """

    sites: Mapping[str, tuple[int, ...]]
    points: int
    cells: tuple[int, ...]
    ordinal: Dims

    @property
    def size(self) -> int:
        """q."""
        return sum(math.prod(event) for event in self.sites.values())

    def values(self, z: Any) -> dict[str, Any]:
        """z (points, *cells, q) -> value of each site."""
        found, start = {}, 0
        for name, event in self.sites.items():
            stop = start + math.prod(event)
            found[name] = z[..., start:stop].reshape((*z.shape[:-1], *event))
            start = stop
        return found

    def touches(self, f: Factor) -> bool:
        """Whether a factor depends on z, seen by its having the points dimension."""
        return self.points in f.variables


@dataclass(frozen=True, eq=False)
class Conditioned:
    """z given the rest: N(mean, root root^T) in each cell, and the factor that is left when it is integrated out."""

    mean: Any
    root: Any
    factor: Factor

    def points(self, xp: Any) -> Any:
        """2q symmetric points (2q, *cells, q) whose average is exact for every quadratic function of z."""
        q = self.mean.shape[-1]
        offsets = math.sqrt(q) * xp.moveaxis(self.root, -1, 0)
        return xp.concatenate([self.mean + offsets, self.mean - offsets], axis=0)


def of_sites(sites: Mapping[str, Site], points: int, num_plates: int) -> Group:
    """The group of the given latents, in cells of their plates alone.

    Raises:
        UnsupportedError: they stand in different plates, or in dimensions without a plate.
    """
    ordinals = {name: frozenset(p.dim for p in s.plates) for name, s in sites.items()}
    bare = any(size > 1 and d not in ordinals[n] for n, s in sites.items() for d, size in _dims(s.batch_shape))
    if len(set(ordinals.values())) > 1 or bare:
        shapes = ", ".join(f"{n!r} {tuple(s.batch_shape)}" for n, s in sites.items())
        raise UnsupportedError(
            f"latents are integrated out together where they stand in the same plates, with other dimensions in "
            f"to_event; batch shapes {shapes}: name those to integrate out by integrate=[...], or use engine='mcem', "
            "'svi' or 'nuts'"
        )
    plates = {p.dim: p.size for s in sites.values() for p in s.plates}
    cells = (1,) * (-points - 1 - num_plates) + tuple(plates.get(d, 1) for d in range(-num_plates, 0))
    events = {n: tuple(s.value.shape[len(s.value.shape) - s.event_dim :]) for n, s in sites.items()}
    return Group(events, points, cells, frozenset(plates))


def _dims(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(i - len(shape), size) for i, size in enumerate(shape)]


def total(xp: Any, group: Group, factors: list[Factor]) -> Any:
    """Sum of the factors that depend on z, (points, *cells)."""
    touched = [f for f in factors if group.touches(f)]
    summed = []
    for f in touched:
        extra = tuple(sorted(f.ordinal - group.ordinal))
        summed.append(xp.sum(f.tensor, axis=extra, keepdims=True) if extra else f.tensor)
    return sum(summed[1:], start=summed[0])


def condition(backend: Any, group: Group, factors_at: Callable[[Any], list[Factor]]) -> Conditioned:
    """Integrate z out of the factors that depend on it; ``factors_at`` takes z (points, *cells, q)."""
    xp, q = backend.xp, group.size

    def summed(z: Any) -> tuple[Any, Any]:
        values = total(xp, group, factors_at(z))
        return xp.sum(values), values

    basis = xp.concatenate([xp.zeros((1, q)), xp.eye(q)], axis=0)
    z = basis.reshape((q + 1, *(1 for _ in group.cells), q)) + xp.zeros((*group.cells, q))
    gradient = backend.value_and_grad(lambda z: summed(z)[0])(z)[1]
    precision = -xp.moveaxis(gradient[1:] - gradient[0], 0, -1)
    precision = 0.5 * (precision + xp.swapaxes(precision, -1, -2))
    factor = xp.linalg.cholesky(precision)
    root = xp.swapaxes(xp.linalg.solve_triangular(factor, xp.eye(q) + xp.zeros(precision.shape), lower=True), -1, -2)
    mean = xp.einsum("...ij,...kj,...k->...i", root, root, gradient[0])
    factors = factors_at(z)
    at_zero = total(xp, group, factors)[0]
    log_det = xp.sum(xp.log(xp.diagonal(factor, 0, -2, -1)), axis=-1)
    value = at_zero + 0.5 * xp.sum(gradient[0] * mean, axis=-1) + 0.5 * q * _LOG_2PI - log_det
    return Conditioned(mean, root, _factor(group, factors, value))


def _factor(group: Group, factors: list[Factor], value: Any) -> Factor:
    touched = [f for f in factors if group.touches(f)]
    names = tuple(name for f in touched for name in f.sites)
    variables = frozenset(d for d in range(group.points + 1, 0) if value.shape[d] > 1) - group.ordinal
    return Factor(value, group.ordinal, variables, names, common_scale([f.scale for f in touched], names))


def departure(backend: Any, group: Group, factors_at: Callable[[Any], list[Factor]], noise: Any, eps: float) -> Any:
    """How far the gradient is from an affine function of each cell's own z, relative to how far it moves; at the worst.

    Args:
        noise: places to look at, (2, *cells, q).
        eps: rounding error of the precision, of which so much is let pass.
    """
    xp, (a, b) = backend.xp, noise
    z, weights = xp.stack([xp.zeros(a.shape), a, b, a + b]), 1.0 + xp.abs(a[..., 0])

    def gradient(weights: Any) -> Any:
        return backend.value_and_grad(lambda z: xp.sum(weights * total(xp, group, factors_at(z))))(z)[1]

    g = gradient(1.0)
    apart = xp.abs(gradient(weights) / weights[..., None] - g)  # other cells' terms would weigh differently
    bent = xp.abs(g[3] - g[1] - g[2] + g[0])
    slack = _ROUNDING * eps * xp.max(xp.abs(g), axis=(0, -1))
    off = xp.maximum(xp.max(bent, axis=-1), xp.max(apart, axis=(0, -1))) - slack
    moved = xp.maximum(xp.max(xp.abs(g[1] - g[0]), axis=-1), xp.max(xp.abs(g[2] - g[0]), axis=-1))
    return xp.max(xp.where(off > 0, off / xp.where(moved > 0, moved, eps), 0.0 * off))
