"""Data with entries that were not observed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Missing(NamedTuple):
    """An array of which some entries were not observed, as a model sees it that allows for that.

    A model names the arguments where NaN means "not observed" in its class variable ``missing``; where the data hold
    any, the argument arrives as this pair. Without any it is a plain array, so that nothing is paid for it.

    Attributes:
        values: the array, zero where nothing was observed.
        observed: same shape, 1.0 where an entry was observed, else 0.0.
    """

    values: Any
    observed: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)


def split(x: np.ndarray) -> Missing:
    """The pair of an array with NaN, on the host."""
    observed = ~np.isnan(x)
    return Missing(np.where(observed, x, 0.0), observed.astype(x.dtype))


def join(x: Any) -> Any:
    """The array with NaN again; anything else as it is."""
    return np.where(np.asarray(x.observed) > 0, np.asarray(x.values), np.nan) if isinstance(x, Missing) else x
