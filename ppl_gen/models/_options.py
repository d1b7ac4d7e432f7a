"""Checks of what a model is made with."""

from __future__ import annotations

from typing import Any

import numpy as np


def count(name: str, value: Any) -> None:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def table(model: str, x: Any) -> tuple[int, int]:
    """The shape of x (num_data, num_features)."""
    if len(x.shape) != 2:
        remedy = "; a single feature goes in as x[:, None]" if len(x.shape) == 1 else ""
        raise ValueError(f"{model} expects x of shape (num_data, num_features), got {tuple(x.shape)}{remedy}")
    return x.shape[0], x.shape[1]


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
