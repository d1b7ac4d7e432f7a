"""Starting partitions: k-means++ seeds and some Lloyd iterations, on the host."""

from __future__ import annotations

import numpy as np

_LLOYD = 20


def labels(x: np.ndarray, num_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """A label of each row (N,), every cluster with at least one row (Arthur & Vassilvitskii 2007)."""
    scaled = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1.0)
    centres = _seeds(scaled, num_clusters, rng)
    for _ in range(_LLOYD):
        distance = _distances(scaled, centres)
        label = _filled(distance.argmin(1), distance, num_clusters)
        centres = np.stack([scaled[label == k].mean(0) for k in range(num_clusters)])
    return label


def _seeds(x: np.ndarray, num_clusters: int, rng: np.random.Generator) -> np.ndarray:
    centres = [x[rng.integers(len(x))]]
    for _ in range(num_clusters - 1):
        weight = _distances(x, np.stack(centres)).min(1)
        total = weight.sum()
        chance = weight / total if total > 0 else None
        centres.append(x[rng.choice(len(x), p=chance)])
    return np.stack(centres)


def _distances(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    square = (x**2).sum(1)[:, None] - 2 * x @ centres.T + (centres**2).sum(1)
    return np.maximum(square, 0.0)


def _filled(label: np.ndarray, distance: np.ndarray, num_clusters: int) -> np.ndarray:
    """Empty clusters take the rows that are farthest from their centres."""
    label = label.copy()
    for k in np.flatnonzero(np.bincount(label, minlength=num_clusters) == 0):
        crowded = np.bincount(label, minlength=num_clusters)[label] > 1
        own = np.where(crowded, distance[np.arange(len(label)), label], -1.0)
        label[own.argmax()] = k
    return label
