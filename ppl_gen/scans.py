"""Running products of an associative operation, many at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Elements = tuple[Any, ...]

# Longer blocks are fewer levels, each of which a compiler goes through anew (JAX); shorter blocks are smaller graphs
# where loops are unrolled (PyTorch).
_LONGEST = 10


def associative_scan(
    xp: Any, combine: Callable[[Elements, Elements], Elements], elements: Elements, reverse: bool = False
) -> Elements:
    """a_1, a_1 * a_2, ..., a_1 * ... * a_T for an associative operation * on matrices, in order of log T steps.

    Blocks of a few elements are scanned one element at a time, all blocks at once; the products of whole blocks are
    then scanned in the same way, and blocks multiplied by what stands before them (Blelloch 1990): 2 T products in all.

    Args:
        combine: the operation on tuples of arrays (..., i, j), whatever their leading axes; its first argument stands
            before the second in the order of the scan.
        elements: arrays (..., T, i, j), in shapes that ``combine`` keeps.
        reverse: scan from the last to the first: a_T in the last place, a_T * a_{T-1} in the last but one, ...
    """
    if reverse:
        flipped = tuple(xp.flip(x, -3) for x in elements)
        return tuple(xp.flip(x, -3) for x in associative_scan(xp, combine, flipped))
    count = elements[0].shape[-3]
    if count <= _LONGEST:
        return _in_turn(xp, combine, elements, -3)
    length = math.ceil(count ** (1 / math.ceil(math.log10(count) / math.log10(_LONGEST))))
    within = _in_turn(xp, combine, tuple(_in_blocks(xp, x, length) for x in elements), -4)
    whole = associative_scan(xp, combine, tuple(x[..., -1, :, :, :] for x in within))
    before = tuple(x[..., None, :-1, :, :] for x in whole)
    later = combine(before, tuple(x[..., 1:, :, :] for x in within))
    joined = (xp.concatenate([x[..., :1, :, :], y], axis=-3) for x, y in zip(within, later, strict=True))
    return tuple(_in_line(xp, x)[..., :count, :, :] for x in joined)


def _in_turn(xp: Any, combine: Callable[[Elements, Elements], Elements], elements: Elements, axis: int) -> Elements:
    """The scan one element at a time along ``axis``."""
    if elements[0].shape[axis] < 2:
        return elements

    def step(before: Elements, x: Elements) -> tuple[Elements, Elements]:
        product = combine(before, x)
        return product, product

    front = tuple(xp.moveaxis(x, axis, 0) for x in elements)
    first = tuple(x[0] for x in front)
    _, later = xp.scan(step, first, tuple(x[1:] for x in front))
    both = (xp.concatenate([x[None], y], axis=0) for x, y in zip(first, later, strict=True))
    return tuple(xp.moveaxis(x, 0, axis) for x in both)


def _in_blocks(xp: Any, x: Any, length: int) -> Any:
    """(..., T, i, j) as (..., place in block, block, i, j); copies of the last entry, whose products nobody reads, fill
    the last block."""
    lead, count, event = x.shape[:-3], x.shape[-3], x.shape[-2:]
    fill = xp.broadcast_to(x[..., -1:, :, :], (*lead, -count % length, *event))
    filled = xp.concatenate([x, fill], axis=-3).reshape((*lead, -1, length, *event))
    return xp.swapaxes(filled, -3, -4)


def _in_line(xp: Any, x: Any) -> Any:
    """(..., place in block, block, i, j) as (..., T, i, j)."""
    x = xp.swapaxes(x, -3, -4)
    return x.reshape((*x.shape[:-4], -1, *x.shape[-2:]))
