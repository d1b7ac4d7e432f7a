"""Bits per dimension."""

import numpy as np


def bits_per_dim(log_prob: np.ndarray, num_dims: int, levels: int | None = None) -> float:
    """Mean of -log2 p(x) over data, for each of their numbers; of pixels that were dequantised, of the integers.

    A density of x / 256, x + u with u uniform in [0, 1), is 256 times that of x + u for each number: that is the offset
    log2(levels) which brings it back to the scale of the integers, whose log probability it then bounds from below
    (Theis, van den Oord & Bethge 2016, "A note on the evaluation of generative models", section 3.1). Without
    it a density has no absolute zero: scaled data have other bits.

    Args:
        log_prob: (rows,) in nats. num_dims: numbers in a datum, 784 of 28 x 28 pixels.
        levels: 256 where ``log_prob`` is of dequantised pixels in [0, 1]; None where it is of the data themselves.

    Raises:
        ValueError: log_prob not one-dimensional or with nan, or counts below 1.
    """
    log_prob = np.asarray(log_prob, dtype=np.float64)
    if log_prob.ndim != 1 or not len(log_prob) or np.isnan(log_prob).any():
        raise ValueError(f"log_prob must be one number for each datum without nan, got shape {log_prob.shape}")
    if num_dims < 1 or (levels is not None and levels < 2):
        raise ValueError(f"num_dims must be at least 1 and levels at least 2, got {num_dims} and {levels}")
    offset = 0.0 if levels is None else np.log2(levels)
    return float(offset - log_prob.mean() / (num_dims * np.log(2.0)))
