"""Checks of data: shapes of images, and what their numbers can be."""

from __future__ import annotations

import math

import numpy as np

from ppl_gen.program import DataError


def check_images(model: str, x: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises DataError: not of shape (N, *shape); says where channels come first."""
    if x.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        swapped = len(shape) == 3 and x.shape[1:] == (shape[2], *shape[:2])
        alike = math.prod(x.shape[1:]) == math.prod(shape)
        hint = f": x.reshape(-1, {wanted})" if alike else ""
        hint = ": channels come last, np.moveaxis(x, 1, -1)" if swapped else hint
        raise DataError(f"{model} expects x of shape (N, {wanted}), got {x.shape}{hint}")


def check_binary(x: np.ndarray) -> None:
    """Raises DataError: other numbers than zeros and ones."""
    if not np.isin(x, (0, 1)).all():
        raise DataError(
            f"a Bernoulli likelihood is of zeros and ones, and x has {float(x.min()):g} to {float(x.max()):g}: cut "
            "pixels, x > x.max() / 2, or draw them, rng.random(x.shape) < x / x.max()"
        )


def check_codes(name: str, x: np.ndarray, count: int, hint: str = "") -> None:
    """Raises DataError: other numbers than 0, 1, ..., count - 1."""
    if x.dtype.kind not in "biuf":
        raise DataError(f"{name} must hold whole numbers from 0 to {count - 1}, got an array of {x.dtype}")
    low, high, whole = float(x.min()), float(x.max()), x.dtype.kind != "f" or bool((x == np.round(x)).all())
    if not whole or low < 0 or high > count - 1:
        raise DataError(
            f"{name} must hold whole numbers from 0 to {count - 1}, and it has {low:g} to {high:g}"
            f"{'' if whole else ', some with fractions'}{hint}"
        )


def check_levels(x: np.ndarray, num_levels: int) -> None:
    """Raises DataError: other numbers than 0, 1, ..., num_levels - 1."""
    shares = 0 <= x.min() and x.max() <= 1
    check_codes("x", x, num_levels, f": pixels in [0, 1] go in as np.round({num_levels - 1} * x)" if shares else "")
