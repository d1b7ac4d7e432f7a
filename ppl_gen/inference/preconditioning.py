"""Linear changes of coordinates x = S y that make a posterior rounder: diagonal, dense, diagonal and low rank."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ppl_gen.inference.adaptation import Moments

KINDS = ("auto", "diagonal", "dense", "low_rank", "identity")
_MOST_DENSE = 100  # dimensions of which a matrix costs less than it gains
_MOST_LEARNED = 2000  # dimensions of which the draws of a warm-up teach a matrix
_CUTOFF = 2.0  # eigenvalues that differ from 1 by less than this factor are left to the diagonal
_MOST_ROWS = 2000
_POWERS = 20


class LowRank(NamedTuple):
    """S = D (I + U diag(stretch) U^T): standard deviations (dim,), orthonormal columns (dim, rank), (rank,)."""

    deviations: Any
    vectors: Any
    stretch: Any


def chosen(kind: str, dim: int) -> str:
    """What "auto" stands for: "dense" in few dimensions, "diagonal" in many."""
    return ("dense" if dim <= _MOST_DENSE else "diagonal") if kind == "auto" else kind


def learnable(dim: int, draws: int) -> bool:
    """Whether so many draws teach a matrix in so many dimensions."""
    return dim <= _MOST_LEARNED and draws >= 2 * dim


def as_dense(backend: Any, scale: Any) -> Any:
    """The matrix of standard deviations (dim,)."""
    return backend.asarray(np.diag(backend.to_numpy(scale)))


def widest(rows: np.ndarray) -> float:
    """Standard deviation of rows (n, dim) along the direction in which it is greatest, by the power method."""
    rows = rows - rows.mean(0)
    along = rows[np.argmax((rows * rows).sum(1))]
    for _ in range(_POWERS):
        along = rows.T @ (rows @ along)
        along /= np.linalg.norm(along) + np.finfo(float).tiny
    return float(np.linalg.norm(rows @ along) / np.sqrt(len(rows)))


def start(xp: Any, kind: str, dim: int) -> Any:
    """The identity, in the form that ``kind`` has before anything is learned."""
    if kind == "low_rank":
        rank = _rank(dim)
        return LowRank(xp.ones((dim,)), xp.eye(dim)[:, :rank], xp.zeros((rank,)))
    return xp.eye(dim) if kind == "dense" else xp.ones((dim,))


def times(scale: Any, v: Any) -> Any:
    """S v for each row of v; a scale of three axes holds a matrix for each row, or a diagonal (rows, 1, dim)."""
    if isinstance(scale, LowRank):
        return (v + ((v @ scale.vectors) * scale.stretch) @ scale.vectors.T) * scale.deviations
    if scale.ndim == 3:
        return (scale @ v[..., None])[..., 0] if scale.shape[1] == scale.shape[2] else v * scale[:, 0]
    return v @ scale.T if scale.ndim == 2 else v * scale


def transposed(scale: Any, v: Any) -> Any:
    """S^T v for each row of v."""
    if isinstance(scale, LowRank):
        v = v * scale.deviations
        return v + ((v @ scale.vectors) * scale.stretch) @ scale.vectors.T
    if scale.ndim == 3:
        return (v[:, None] @ scale)[:, 0] if scale.shape[1] == scale.shape[2] else v * scale[:, 0]
    return v @ scale if scale.ndim == 2 else v * scale


def whitened(xp: Any, scale: Any, x: Any) -> Any:
    """S^-1 x for each row of x."""
    if isinstance(scale, LowRank):
        x = x / scale.deviations
        return x - ((x @ scale.vectors) * (scale.stretch / (1.0 + scale.stretch))) @ scale.vectors.T
    return xp.linalg.solve_triangular(scale, x.T, lower=True).T if scale.ndim == 2 else x / scale


def from_moments(draws: Moments, gradients: Moments) -> np.ndarray:
    """Standard deviations (dim,) or Cholesky factor (dim, dim) from draws and the gradients there, on the host.

    Of all covariances S S^T, that of least Fisher divergence between the target and a Gaussian: the geometric mean of
    the draws' covariance and of the inverse of the gradients' (Seyboldt, Carlson & Carpenter 2025, "Preconditioning
    Hamiltonian Monte Carlo by minimizing Fisher divergence"). On a Gaussian target that is exact for draws that are
    spread anyhow, those of chains that have not come far included.
    """
    spread, slope = (_covariance(m) for m in (draws, gradients))
    if spread.ndim == 1:
        return (spread / slope) ** 0.25
    return np.linalg.cholesky(_middle(spread, slope))


def from_spread(draws: Moments) -> np.ndarray:
    """Standard deviations (dim,) or Cholesky factor (dim, dim) of draws alone, on the host.

    Shrunk towards a small multiple of the identity, as Stan does.
    """
    count, m2 = float(draws.count), np.asarray(draws.m2, dtype=float)
    weight = count / (count + 5.0)
    covariance = weight * m2 / max(count - 1.0, 1.0)
    if m2.ndim == 2:
        return np.linalg.cholesky(covariance + 1e-3 * (1 - weight) * np.eye(len(m2)))
    return np.sqrt(covariance + 1e-3 * (1 - weight))


def from_draws(draws: np.ndarray, gradients: np.ndarray, deviations: np.ndarray) -> LowRank:
    """Diagonal and low rank, from draws (n, dim) and gradients there; the same paper's section 4.

    Within the span of the leading directions of both, in coordinates in which ``deviations`` are 1, as the dense one;
    the identity across it.
    """
    every = -(-len(draws) // _MOST_ROWS)
    x, g = draws[::every] / deviations, gradients[::every] * deviations
    x, g = x - x.mean(0), g - g.mean(0)
    rank = _rank(x.shape[1])
    span = np.linalg.qr(np.concatenate([_leading(v, rank) for v in (x, g)], axis=1))[0]
    inside = [(v @ span).T @ (v @ span) / len(v) + 1e-6 * np.eye(span.shape[1]) for v in (x, g)]
    values, vectors = np.linalg.eigh(_middle(*inside))
    wide = np.abs(np.log(values)) > np.log(_CUTOFF)
    order = np.argsort(np.where(wide, -np.abs(np.log(values)), 0.0))[:rank]
    stretch = np.where(wide[order], np.sqrt(values[order]) - 1.0, 0.0)
    missing = rank - len(order)  # of few draws
    columns = np.pad((span @ vectors)[:, order], ((0, 0), (0, missing)))
    return LowRank(deviations, columns, np.pad(stretch, (0, missing)))


def _rank(dim: int) -> int:
    return min(dim, max(10, min(100, dim // 10)))


def _leading(v: np.ndarray, count: int) -> np.ndarray:
    """Right singular vectors (dim, count) of the largest singular values, by the smaller of the two products."""
    if len(v) < v.shape[1]:
        values, left = np.linalg.eigh(v @ v.T)
        keep = values[-count:] > 1e-12 * values[-1]
        return v.T @ (left[:, -count:][:, keep] / np.sqrt(values[-count:][keep]))
    return np.linalg.eigh(v.T @ v)[1][:, -count:]


def _middle(spread: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The geometric mean of one matrix and the inverse of another."""
    values, vectors = np.linalg.eigh(slope)
    root, inverse = ((vectors * values**power) @ vectors.T for power in (0.5, -0.5))
    values, vectors = np.linalg.eigh(root @ spread @ root)
    middle = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return inverse @ middle @ inverse


def _covariance(m: Moments) -> np.ndarray:
    """Of pooled draws, variances or a matrix; shrunk a little towards its diagonal, and away from zero."""
    count, m2 = float(m.count), np.asarray(m.m2, dtype=float)
    covariance = m2 / max(count - 1.0, 1.0)
    tiny = np.finfo(float).tiny ** 0.5
    if m2.ndim == 1:
        return np.maximum(covariance, tiny)
    own = np.maximum(np.diag(covariance), tiny)
    shrunk = min(0.5, 1e-12 + 0.1 * (len(own) / count) ** 16)  # of nearly as many draws as dimensions it must be much
    return (1.0 - shrunk) * covariance + np.diag(shrunk * own)
