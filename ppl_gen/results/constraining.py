"""Constrained values of draws: by the program, but for sites of the reals, whose values are the draws themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_gen.layout import Layout
from ppl_gen.target import Target

_ROWS = 4096  # draws at once
_MANY = 2_000_000  # numbers of which a copy takes longer than to find out that none is needed
_TRIALS = 3


def constrain(target: Target, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Unconstrained positions (chain, draw, dim) -> latents and deterministics, name -> (chain, draw, ...)."""
    real = target.compiled("real sites", lambda: _real(target)) if positions.size > _MANY else ()
    rest = Layout(tuple(entry for entry in target.valued.sites if entry[0] not in real))
    parts = target.valued.parts
    kept = [positions[..., parts[n]] for n in rest.names]
    found = _by_program(target, np.concatenate(kept, axis=-1) if real else positions, rest) if kept else {}
    for name, shape in ((n, shape) for n, shape, _ in target.valued.sites if n in real):
        found[name] = positions[..., parts[name]].reshape(*positions.shape[:2], *shape)
    order = [*(n for n in parts if n in found), *(n for n in found if n not in parts)]
    return {n: found[n].astype(np.int64) if n in target.counts.names else found[n] for n in order}


def _by_program(target: Target, positions: np.ndarray, sites: Layout) -> dict[str, np.ndarray]:
    """Values at positions in ``sites``; others are 0, and what is here does not depend on them."""
    xp = target.backend.xp

    def values(u: Any, key: Any, arrays: Any) -> dict[str, Any]:
        held = sites.split(u)
        full = {n: held[n] if n in held else xp.zeros(shape) for n, shape, _ in target.valued.sites}
        found = target.constrain(target.valued.join(xp, full), arrays)
        return {n: x for n, x in found.items() if n in held or n not in full}

    mapped = target.compiled(("constrain", sites), lambda: target.backend.map_draws(values, batch_size=_ROWS))
    flat = target.backend.from_numpy(positions.reshape(-1, positions.shape[-1]))
    found = target.backend.to_numpy(mapped(flat, 0, target.arrays))
    return {n: np.asarray(x).reshape(*positions.shape[:2], *x.shape[1:]) for n, x in found.items()}


def _real(target: Target) -> tuple[str, ...]:
    """Sites whose values are their coordinates and on which no other value depends; found by trying it out."""
    if target.counts.names or any(s.kind == "deterministic" for s in target.sites.values()):
        return ()
    layout, backend, rng = target.everything, target.backend, np.random.default_rng(0)
    names = tuple(n for n in layout.names if _is_real(target, target.sites[n].constraint))
    moves = np.concatenate([np.full(part.stop - part.start, n in names) for n, part in layout.parts.items()])
    evaluate: Callable[..., Any] = backend.compile(target.constrain)
    for _ in range(_TRIALS if names else 0):
        u = rng.normal(size=layout.dim)
        ends = (u, u + moves * rng.normal(size=layout.dim))
        one, other = (backend.to_numpy(evaluate(backend.asarray(x), target.arrays)) for x in ends)
        if any(not np.array_equal(one[n], other[n], equal_nan=True) for n in one if n not in names):
            return ()
    return names


def _is_real(target: Target, constraint: Any) -> bool:
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint is target.backend.dist.constraints.real
