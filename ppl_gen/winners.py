"""Maxima whose derivatives name one winner."""

from __future__ import annotations

import math
from typing import Any


def highest(xp: Any, x: Any, axis: int | tuple[int, ...], keepdims: bool = False) -> Any:
    """The maximum over some axes. Its derivative is 1 at the first of equal entries alone.

    Of a maximum taken in several steps the derivatives are then one consistent choice, where a derivative that is
    shared among equal entries says of each of two things only that it may be chosen, and not that both may be.
    """
    rank = len(x.shape)
    gone = sorted(a % rank for a in ((axis,) if isinstance(axis, int) else axis))
    left = [i for i in range(rank) if i not in gone]
    flat = xp.transpose(x, [*left, *gone]).reshape((*(x.shape[i] for i in left), math.prod(x.shape[i] for i in gone)))
    found = xp.take_along_axis(flat, xp.argmax(flat, axis=-1)[..., None], axis=-1)
    return found.reshape(tuple(1 if i in gone else x.shape[i] for i in range(rank) if keepdims or i in left))
