"""What users hand in as data: turned into arrays, copied, and looked at for what no program can use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

_PART = 2**22  # entries that are looked at together


class DataError(ValueError):
    """Data that a program cannot be bound to."""


def as_array(name: str, value: Any) -> np.ndarray | None:
    """``value`` as a NumPy array of numbers, or None where it is not array-like (scalars, text, functions).

    Raises:
        DataError: empty, ragged, not numbers; a number alone that is not finite.
    """
    is_array = hasattr(value, "__array__") and not np.isscalar(value)
    if not is_array and not (isinstance(value, list | tuple) and not isinstance(value, str)):
        if isinstance(value, float | np.floating) and not np.isfinite(value):
            raise DataError(f"{name!r} is {value}: expected a finite number")
        return None
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(
            f"{name!r} is a masked array, whose mask no program sees: pass .filled(np.nan) to a model that takes "
            "missing entries, or leave rows out; a program of your own may leave entries out by pg.mask"
        )
    try:
        held = value.detach().cpu() if hasattr(value, "detach") else value
        array = np.asanyarray(held) if isinstance(held, np.memmap) else np.asarray(held)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{name!r} is not a rectangular array of numbers: {error} Give all rows the same length, or pad and "
            "pg.mask them"
        ) from None
    if array.dtype.kind not in "bifu":
        raise DataError(
            f"{name!r} has dtype {array.dtype}: expected numbers; encode text and categories as integers, and leave "
            "out columns that are neither"
        )
    if array.size == 0:
        raise DataError(f"{name!r} is empty (shape {array.shape}): expected at least one entry")
    return array


def copied(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """A copy of x, and whether all of its numbers are finite; of much data by all cores, part by part."""
    if x.size <= _PART or not x.ndim:
        return np.array(x), is_finite(x)
    copy = np.empty_like(x)

    def take(part: slice) -> bool:
        copy[part] = x[part]
        return is_finite(copy[part])

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return copy, all(list(pool.map(take, _parts(x))))


def is_finite(x: np.ndarray) -> bool:
    """Whether all numbers are finite; their sums tell, and each number where a sum is not finite."""
    if x.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return not _any(lambda part: ~np.isfinite(part.sum()), x) or not _any(lambda part: ~np.isfinite(part), x)


def check_finite(name: str, array: np.ndarray, missing: bool) -> None:
    """Nothing but finite numbers, and NaN where entries may be missing.

    Raises:
        DataError: something else; says where.
    """
    test = np.isinf if missing else lambda x: ~np.isfinite(x)
    if _any(test, array):
        bad = test(array)
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{name!r} has {int(bad.sum())} entries that are NaN or infinite, the first at index {where}: expected "
            "finite numbers; drop or impute these rows. A program of your own may also leave them out by pg.mask"
        )


def check_range(name: str, array: np.ndarray) -> None:
    """Nothing that single precision has no number for.

    Raises:
        DataError: a number too large.
    """
    most = float(np.finfo(np.float32).max)
    if array.dtype.kind == "f" and array.dtype.itemsize > 4 and _any(lambda part: np.abs(part) > most, array):
        raise DataError(f"{name!r} has numbers above {most:.1e}: use precision='float64', or scale the data")


def _any(test: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> bool:
    """Whether ``test`` holds anywhere, without an array as large as a file."""
    return any(bool(test(x[part]).any()) for part in _parts(x)) if x.ndim else bool(test(x))


def _parts(x: np.ndarray) -> Iterator[slice]:
    """Spans of the leading axis."""
    step = max(1, _PART * len(x) // max(x.size, 1))
    return (slice(i, i + step) for i in range(0, len(x), step))
