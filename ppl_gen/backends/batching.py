"""Batches of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def sparing(vmap: Callable[..., Any], leaves: Callable[..., list[Any]], tree_map: Callable[..., Any]) -> Any:
    """A ``vmap(f, in_axes)`` along leading axes that hands a batch of one to ``f`` as it is.

    Products of single matrices are the faster ones, and a run with one restart or chain is the usual one.

    Args:
        vmap, leaves, tree_map: of the backend.
    """

    def spared(f: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        mapped = vmap(f, in_axes)

        def batched(*args: Any) -> Any:
            axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
            along = [arg for arg, axis in zip(args, axes, strict=True) if axis is not None]
            if {x.shape[0] for x in leaves(along)} != {1}:
                return mapped(*args)
            one = (arg if axis is None else tree_map(_first, arg) for arg, axis in zip(args, axes, strict=True))
            return tree_map(lambda x: x[None], f(*one))

        return batched

    return spared


def _first(x: Any) -> Any:
    return x[0]
