"""Checks of options, by name and value: what was expected, and what came."""

from __future__ import annotations

from typing import Any

import numpy as np


def count(name: str, value: Any, least: int = 1) -> None:
    """A whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def is_number(value: Any) -> bool:
    """Whether it is a single real number."""
    return not isinstance(value, bool) and isinstance(value, int | float | np.integer | np.floating)


def not_below(name: str, value: Any, least: float) -> None:
    """A number of at least ``least``."""
    if not is_number(value) or not value >= least:
        raise ValueError(f"{name} must be a number of at least {least:g}, got {value!r}")


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """One of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def checked_seed(seed: Any) -> int:
    """A whole number that both libraries take."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed.__index__() < 2**31:
        raise ValueError(f"seed must be a whole number from 0 to 2**31 - 1, got {seed!r}")
    return seed.__index__()
