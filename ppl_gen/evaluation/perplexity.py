"""Perplexity."""

import numpy as np


def perplexity(log_prob: np.ndarray, num_tokens: int | np.ndarray = 1) -> float:
    """exp of minus the mean log probability of a token: among so many equal ones a model seems to choose.

    Args:
        log_prob: (rows,) in nats, of tokens or of whole texts. num_tokens: in each row, one number or (rows,).

    Raises:
        ValueError: log_prob not one-dimensional or with nan, or a row without tokens.
    """
    log_prob = np.asarray(log_prob, dtype=np.float64)
    counts = np.broadcast_to(np.asarray(num_tokens), log_prob.shape)
    if log_prob.ndim != 1 or not len(log_prob) or np.isnan(log_prob).any():
        raise ValueError(f"log_prob must be one number for each row without nan, got shape {log_prob.shape}")
    if (counts < 1).any():
        raise ValueError("num_tokens must be at least 1 in each row")
    return float(np.exp(-log_prob.sum() / counts.sum()))
