"""What a start looks at: some rows, without gaps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.models._options import table
from ppl_gen.program import DataError


def some_rows(x: Any, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most so many rows of x (N, D), in order; an array in a file is read at these rows only."""
    n, _ = table("the model", x)
    return np.asarray(x if n <= most else x[np.sort(rng.choice(n, most, replace=False))], dtype=float)


def filled(x: np.ndarray) -> np.ndarray:
    """x (N, D) with the mean of its column in the place of each NaN.

    Raises:
        DataError: a column without any entry.
    """
    observed = ~np.isnan(x)
    number = observed.sum(0)
    if not number.all():
        raise DataError(
            f"columns {np.flatnonzero(number == 0).tolist()} of x have no entry that was observed: leave them out"
        )
    return np.where(observed, x, np.where(observed, x, 0.0).sum(0) / number)
