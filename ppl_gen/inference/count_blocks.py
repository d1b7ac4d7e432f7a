"""Which terms of a density depend on which discrete value: rows that may move at once, found by test and not by name.

The log density is a sum of entries, those of the tables of all factors. Where each entry depends on at most one row of
a site, the rows are independent given the rest, and the change of a row's own entries is all there is to its Metropolis
ratio. Rows are told apart by the bits of their number: the entries that change where the rows with a bit of 1 move,
against those that change where the rows with a bit of 0 do. Two rows differ in some bit, so that an entry which depends
on both is seen in log2(rows) pairs of evaluations.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.target import Target

_DISPLACEMENTS = (1, 1, 2, 3, 7, 20, 100, 1000)
_GROWTH = (0, 0, 0, 10, 30, 100, 1000, 10_000)


@dataclass(frozen=True)
class Rows:
    """Discrete values of one site that move at once, each accepted or rejected by itself.

    Attributes:
        start, stop: which coordinates of the vector of counts, (rows,) of them.
        own: of each row its entries (rows, most), filled up with the number of entries.
        owner: of each entry its row, or the number of rows where it depends on none (entries,).
    """

    start: int
    stop: int
    own: np.ndarray
    owner: np.ndarray


@dataclass(frozen=True)
class Blocks:
    """How the vector of counts is moved.

    Attributes:
        rows: blocks of values that move at once.
        joint: coordinates that depend on each other, which move one or two at a time.
        dim: of the vector of counts.
    """

    rows: tuple[Rows, ...]
    joint: np.ndarray
    dim: int

    @property
    def digest(self) -> str:
        """What tells these blocks from others: they are constants of what is compiled."""
        parts = [self.joint, *(x for r in self.rows for x in (np.array([r.start, r.stop]), r.own, r.owner))]
        return hashlib.sha256(b"".join(repr(x.shape).encode() + x.tobytes() for x in parts)).hexdigest()


# The density in parts ---------------------------------------------------------------------------------------------


def entries(target: Target, u: Any, arrays: Mapping[str, Any]) -> Any:
    """The log density at a vector u, counts behind it, as the (entries,) that it is the sum of.

    Values outside of a support have an entry of -inf, whatever the distribution says there.
    """
    xp = target.backend.xp
    sites = target.trace(arrays, enumerated=target.enumerated, check=True, **target.assigned(u))
    tables = [f.tensor for f in target.terms(sites, lambda s: True)]
    tables += [sites[n].log_det for n in target.layout.names]
    seen = [s.in_support for s in sites.values() if s.kind == "observed" and (s.discrete or not s.event_dim)]
    seen += [sites[n].constraint.check(sites[n].value) for n in target.counts.names]
    tables += [xp.where(_somewhere(target, x), xp.zeros(()), -xp.inf) for x in seen if x is not None]
    flat = xp.concatenate([(t + xp.zeros(())).reshape((-1,)) for t in tables])
    return xp.where(xp.isnan(flat), -xp.inf, flat)


def _somewhere(target: Target, ok: Any) -> Any:
    """Whether something holds at any of the values that are laid out left of the plates for a sum."""
    while len(ok.shape) > target.num_plates:
        ok = target.backend.xp.any(ok, axis=0)
    return ok


def inside(target: Target, u: Any, proposed: Any, arrays: Mapping[str, Any]) -> Any:
    """Which of the ``proposed`` counts are in the supports that those at the vector u leave them, (counts,)."""
    xp = target.backend.xp
    sites = target.trace(arrays, enumerated=target.enumerated, **target.assigned(u))
    found = []
    for name, value in target.counts.split(proposed).items():
        site = sites[name]
        ok = _somewhere(target, site.constraint.check(xp.astype(value, target.sites[name].value.dtype)))
        ok = ok.reshape((*ok.shape, *(1 for _ in range(site.event_dim))))
        found.append(xp.broadcast_to(ok, value.shape).reshape((-1,)))
    return xp.concatenate(found)


def change(xp: Any, new: Any, old: Any) -> Any:
    """What entries gain; equal ones nothing, infinite ones too."""
    return xp.where(new == old, xp.zeros(()), new - xp.where(new == old, xp.zeros(()), old))


class Evaluated:
    """Entries and supports at many positions (points, dim + counts), compiled, on the host."""

    def __init__(self, target: Target):
        self.target, backend = target, target.backend
        one = functools.partial(entries, target), (0, None)
        other = functools.partial(inside, target), (0, 0, None)

        def compiled(f: Any, axes: tuple[Any, ...]) -> Any:
            return target.compiled(("counts", f.func.__name__), lambda: backend.compile(backend.vmap(f, in_axes=axes)))

        self._entries, self._inside = compiled(*one), compiled(*other)

    def entries(self, u: np.ndarray, z: np.ndarray) -> np.ndarray:
        """(points, entries)."""
        return self._call(self._entries, np.concatenate([u, z], axis=1))

    def inside(self, u: np.ndarray, z: np.ndarray, proposed: np.ndarray) -> np.ndarray:
        """(points, counts)."""
        return self._call(self._inside, np.concatenate([u, z], axis=1), proposed)

    def _call(self, compiled: Any, *args: np.ndarray) -> np.ndarray:
        backend = self.target.backend
        given = (backend.asarray(x.astype(float)) for x in args)
        return np.asarray(backend.to_numpy(compiled(*given, self.target.arrays)))


# Dependence -------------------------------------------------------------------------------------------------------


@dataclass
class _Seen:
    """Which entries changed where rows with a bit of 0, and with a bit of 1, moved: (bits, 2, entries)."""

    changed: np.ndarray

    @property
    def depends(self) -> np.ndarray:
        return np.asarray(self.changed.any((0, 1)))

    def owners(self) -> np.ndarray | None:
        """The row of each entry, the number of rows where it has none; None where an entry depends on several rows."""
        one = (self.changed[:, 0] != self.changed[:, 1]).all(0)
        if (self.depends & ~one).any():
            return None
        found = (self.changed[:, 1] * (1 << np.arange(len(self.changed)))[:, None]).sum(0)
        return np.where(self.depends, found, -1)


def grown(target: Target, evaluated: Evaluated, points: np.ndarray) -> np.ndarray:
    """The points with larger counts, a site after the other, as far as those before it allow.

    Where counts bound each other and the data, draws of the prior may all be impossible, and nothing seen to change.
    """
    u, z = points[:, : target.layout.dim], points[:, target.layout.dim :].copy()
    for part in target.counts.parts.values():
        step = np.zeros_like(z)
        step[:, part] = np.resize(_GROWTH, len(points))[:, None]
        z += step * evaluated.inside(u, z, z + step)
    return np.concatenate([u, z], axis=1)


def dependence(target: Target, points: np.ndarray, seed: int, grow: bool = False) -> list[np.ndarray]:
    """Of each site of counts what changes where its rows move, looked for at ``points`` (points, dim + counts).

    Args:
        grow: look at larger counts too.

    Returns:
        for each site (bits, 2, entries + 1) of booleans; those found at other points may be added by "or". The last
        says that each row could be moved somewhere, without which nothing is known of it.
    """
    evaluated, rng, found = Evaluated(target), np.random.default_rng([seed, 4]), []
    points = grown(target, evaluated, points) if grow else points
    points = np.repeat(points, len(_DISPLACEMENTS), axis=0)
    sizes = np.resize(_DISPLACEMENTS, len(points))[:, None]
    u, z = points[:, : target.layout.dim], points[:, target.layout.dim :]
    base = evaluated.entries(u, z)
    for part in target.counts.parts.values():
        rows, step = np.arange(part.stop - part.start), np.zeros_like(z)
        step[:, part] = sizes * rng.choice([-1, 1], (len(points), len(rows)))
        step *= np.where(evaluated.inside(u, z, z + step), 1, -1)
        step *= evaluated.inside(u, z, z + step)
        bits = max(int(len(rows) - 1).bit_length(), 1)
        changed = np.zeros((bits, 2, base.shape[1] + 1), dtype=bool)
        changed[..., -1] = (step[:, part] != 0).any(0).all()
        for bit in range(bits):
            for value in (0, 1):
                mask = np.zeros(z.shape[1])
                mask[part] = ((rows >> bit) & 1) == value
                if mask.any():
                    changed[bit, value, :-1] = (evaluated.entries(u, z + step * mask) != base).any(0)
        found.append(changed)
    return found


def blocks(target: Target, changed: list[np.ndarray], vectorised: bool = True) -> Blocks:
    """How counts are moved, by what :func:`dependence` found; one or two at a time where not ``vectorised``."""
    if not vectorised:
        return Blocks((), np.arange(target.counts.dim), target.counts.dim)
    rows: list[Rows] = []
    joint: list[int] = []
    single: list[tuple[int, np.ndarray]] = []
    for (name, part), held in zip(target.counts.parts.items(), changed, strict=True):
        size, seen = part.stop - part.start, _Seen(held[..., :-1])
        apart = held[..., -1].all() and not target.sites[name].event_dim  # the support of a vector binds its entries
        owner = seen.owners() if apart else None
        if owner is None:
            joint += range(part.start, part.stop)
        else:
            rows.append(Rows(part.start, part.stop, _own(owner, size), np.where(owner < 0, size, owner)))
        if size == 1:
            single.append((part.start, seen.depends))
    # single values of several sites that share an entry, their sum perhaps, move against each other too
    shared = sum((held.astype(int) for _, held in single), start=np.zeros(changed[0].shape[-1] - 1, dtype=int)) > 1
    joint += [at for at, held in single if (held & shared).any()]
    return Blocks(tuple(rows), np.array(sorted(set(joint)), dtype=int), target.counts.dim)


def _own(owner: np.ndarray, size: int) -> np.ndarray:
    """The entries of each row (rows, most), filled up with their number."""
    order = np.argsort(owner, kind="stable")
    order = order[owner[order] >= 0]
    counts = np.bincount(owner[order], minlength=size)
    found = np.full((size, max(int(counts.max(initial=0)), 1)), len(owner))
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    found[owner[order], place] = order
    return found
