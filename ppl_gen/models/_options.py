"""Checks of what a model is made with."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.options import count as count
from ppl_gen.options import is_number as is_number
from ppl_gen.options import one_of as one_of


def datum_shape(shape: Any, num_axes: int | None = None) -> None:
    """A tuple of lengths; of so many, where that is said."""
    if not isinstance(shape, tuple) or len(shape) != (num_axes or len(shape)):
        example = "(28, 28, 1)" if num_axes == 3 else "(2,)"
        raise ValueError(f"shape must be that of one datum as a tuple, e.g. {example}, got {shape!r}")
    for n in shape:
        count("shape", n)


def table(
    model: str,
    x: Any,
    rows: str = "num_data",
    columns: str = "num_features",
    alone: str = "a single feature goes in as x[:, None]",
) -> tuple[int, int]:
    """The shape (rows, columns) of x, which a model calls by these names; ``alone`` is the remedy for a vector."""
    if len(x.shape) != 2:
        remedy = f"; {alone}" if len(x.shape) == 1 else ""
        raise ValueError(f"{model} expects x of shape ({rows}, {columns}), got {tuple(x.shape)}{remedy}")
    return x.shape[0], x.shape[1]


def positive(name: str, value: Any) -> None:
    """A finite number above 0."""
    if not is_number(value) or not 0 < value < np.inf:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")


def nonnegative(name: str, value: Any) -> None:
    """A finite number of at least 0."""
    if not is_number(value) or not 0 <= value < np.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def numbers(name: str, value: Any) -> Any:
    """Finite numbers as nested tuples, which have a hash; None stays None."""
    if value is None:
        return None
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of numbers, got {value!r}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array.tolist()}")
    return _tuples(array.tolist())


def _tuples(nested: Any) -> Any:
    return tuple(_tuples(x) for x in nested) if isinstance(nested, list) else nested
