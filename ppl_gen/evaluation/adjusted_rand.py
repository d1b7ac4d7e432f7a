"""Adjusted Rand index of two labelings."""

import numpy as np


def adjusted_rand(labels: np.ndarray, other_labels: np.ndarray) -> float:
    """Adjusted Rand index: 1 where two clusterings agree, about 0 where they agree by chance.

    Hubert, Arabie (1985), "Comparing partitions", Journal of Classification 2: of the pairs of data that
    a clustering puts together, how many do both put together, in excess of what chance would? The names of
    the labels do not matter, so the components of a mixture need no matching.

    Args:
        labels: (n,), integers, booleans or strings.
        other_labels: (n,), likewise.

    Returns:
        The index, at most 1; negative where they agree less than by chance. 1 where both put everything
        together, or both nothing.

    Raises:
        ValueError: not one axis, lengths differ, fewer than two data, or nan among the labels.
    """
    first, num_first = _coded(labels, "labels")
    second, num_second = _coded(other_labels, "other_labels")
    if len(first) != len(second):
        raise ValueError(
            f"both labelings must label the same data, got {len(first)} and {len(second)} labels; "
            "pass one label per datum in the same order"
        )
    in_both = _num_pairs(np.unique(first * num_second + second, return_counts=True)[1])
    in_first, in_second = _num_pairs(np.bincount(first)), _num_pairs(np.bincount(second))
    expected = in_first * in_second / (len(first) * (len(first) - 1) // 2)
    largest = (in_first + in_second) / 2
    if num_first == num_second and num_first in (1, len(first)):
        return 1.0  # 0 / 0: one cluster against one, or each datum alone against the same
    return float((in_both - expected) / (largest - expected))


def _coded(labels: np.ndarray, name: str) -> tuple[np.ndarray, int]:
    """Labels as 0, ..., k - 1, and k."""
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(
            f"{name} must have shape (n,), got {labels.shape}; of probabilities take .argmax(axis=-1) first"
        )
    if len(labels) < 2:
        raise ValueError(f"{name} must hold at least 2 labels, got {len(labels)}; pass one label per datum")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(f"{name} must not hold nan; give unlabelled data a label of their own, or drop them")
    values, codes = np.unique(labels, return_inverse=True)
    return codes.astype(np.int64), len(values)


def _num_pairs(counts: np.ndarray) -> int:
    """Pairs inside clusters of these sizes, as a Python integer: products of two of them pass 2^63."""
    return int((counts.astype(np.int64) * (counts - 1) // 2).sum())
