"""Gaussians whose covariance is a diagonal and a low rank, many side by side: what an L-BFGS path knows of curvature.

Zhang, Carpenter, Gelman & Vehtari (2022), "Pathfinder: parallel quasi-Newton variational inference", JMLR 23(306);
Byrd, Nocedal & Schnabel (1994) for the compact form. On the host, in NumPy: a few small products for each point, that
would take longer to compile than to do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SLOPED = 1e-12  # least y's / y'y of a pair of moves that tells something of the curvature


class Pairs(NamedTuple):
    """The last moves of paths, and how gradients changed on them; the newest comes last.

    Attributes:
        moves, changes: s and y (paths, history, dim); zeros where ``held`` (paths, history) is False.
        diagonal: of the first estimate of the inverse Hessian, alpha (paths, dim).
    """

    moves: np.ndarray
    changes: np.ndarray
    held: np.ndarray
    diagonal: np.ndarray


class Gaussians(NamedTuple):
    """N(mean, D (I + V diag(values - 1) V') D) with D^2 the ``diagonal`` and orthonormal V; one for each path.

    Attributes:
        mean, diagonal: (paths, dim).
        vectors: V, (paths, dim, rank); values: (paths, rank), all positive where the Gaussian exists.
    """

    mean: np.ndarray
    diagonal: np.ndarray
    vectors: np.ndarray
    values: np.ndarray

    def exist(self) -> np.ndarray:
        """Which of them are Gaussians (paths,): finite, with a positive covariance."""
        with np.errstate(invalid="ignore"):
            positive = (self.values > 0).all(1) & (self.diagonal > 0).all(1)
        finite = [np.isfinite(x.reshape(len(x), -1)).all(1) for x in self]
        return positive & np.logical_and.reduce(finite)

    def rows(self, which: np.ndarray) -> Gaussians:
        """Those of the given paths."""
        return Gaussians(*(x[which] for x in self))

    def draw(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws (paths, draw, dim) from standard normals of that shape, and their log densities (paths, draw).

        Algorithm 4, with the symmetric root of the low rank in place of a Cholesky factor.
        """
        inner = (noise @ self.vectors) * (np.sqrt(self.values) - 1.0)[:, None]
        white = noise + inner @ np.swapaxes(self.vectors, 1, 2)
        draws = self.mean[:, None] + np.sqrt(self.diagonal)[:, None] * white
        return draws, self._normalised((noise * noise).sum(-1))

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """log density (paths, points) of the same points (points, dim) under each of them."""
        return np.stack([self._one_log_density(i, x) for i in range(len(self.mean))])

    def _one_log_density(self, i: int, x: np.ndarray) -> np.ndarray:
        white = (x - self.mean[i]) / np.sqrt(self.diagonal[i])
        inner = white @ self.vectors[i]
        square = (white * white).sum(-1) + (inner * inner) @ (1.0 / self.values[i] - 1.0)
        return self.rows(np.array([i]))._normalised(square[None])[0]

    def _normalised(self, square: np.ndarray) -> np.ndarray:
        log_det = np.log(self.diagonal).sum(1) + np.log(self.values).sum(1)
        return -0.5 * (square + log_det[:, None] + self.mean.shape[1] * np.log(2 * np.pi))

    def covariances(self) -> np.ndarray:
        """(paths, dim, dim)."""
        root = np.sqrt(self.diagonal)
        inner = (self.vectors * (self.values - 1.0)[:, None]) @ np.swapaxes(self.vectors, 1, 2)
        return root[:, :, None] * (np.eye(root.shape[1]) + inner) * root[:, None]

    def variances(self) -> np.ndarray:
        """The covariances' diagonals (paths, dim)."""
        return self.diagonal * (1.0 + (self.vectors**2 * (self.values - 1.0)[:, None]).sum(-1))


def no_pairs(num_paths: int, dim: int, history_size: int) -> Pairs:
    """Of paths that have not moved."""
    none = np.zeros((num_paths, history_size, dim))
    return Pairs(none, none, np.zeros((num_paths, history_size), bool), np.ones((num_paths, dim)))


def add(pairs: Pairs, move: np.ndarray, change: np.ndarray, moved: np.ndarray) -> Pairs:
    """Pairs with one more move (paths, dim) of the paths that have ``moved``, and where it curves downwards.

    The diagonal follows algorithm 3, line 8 (the update of Gilbert & Lemarechal 1989, equation 4.9).
    """
    slope, square = (move * change).sum(1), (change * change).sum(1)
    new = moved & np.isfinite(square) & (slope > _SLOPED * square)
    alpha, b = pairs.diagonal, np.where(new, slope, 1.0)[:, None]
    move, change = (np.where(new[:, None], v, 0.0) for v in (move, change))
    a = (change * change * alpha).sum(1, keepdims=True)
    c = np.where(new[:, None], (move * move / alpha).sum(1, keepdims=True), 1.0)
    inverse = a / (b * alpha) + change**2 / b - a * move**2 / (b * c * alpha**2)
    new = new & np.isfinite(inverse).all(1) & (inverse > 0).all(1)
    chosen = new[:, None, None]
    return Pairs(
        np.where(chosen, np.concatenate([pairs.moves[:, 1:], move[:, None]], 1), pairs.moves),
        np.where(chosen, np.concatenate([pairs.changes[:, 1:], change[:, None]], 1), pairs.changes),
        np.where(new[:, None], np.concatenate([pairs.held[:, 1:], new[:, None]], 1), pairs.held),
        np.where(new[:, None], 1.0 / np.where(new[:, None], inverse, 1.0), alpha),
    )


def times_inverse_hessian(pairs: Pairs, v: np.ndarray) -> np.ndarray:
    """The inverse-Hessian estimate times v (paths, dim), in two loops (Nocedal & Wright 2006, algorithm 7.4)."""
    product = (pairs.moves * pairs.changes).sum(2)
    rho = np.where(pairs.held, 1.0 / np.where(pairs.held, product, 1.0), 0.0)
    size, shares = pairs.held.shape[1], np.zeros(rho.shape)
    for j in reversed(range(size)):
        shares[:, j] = rho[:, j] * (pairs.moves[:, j] * v).sum(1)
        v = v - shares[:, j, None] * pairs.changes[:, j]
    v = pairs.diagonal * v
    for j in range(size):
        back = rho[:, j] * (pairs.changes[:, j] * v).sum(1)
        v = v + (shares[:, j] - back)[:, None] * pairs.moves[:, j]
    return v


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def gaussians(pairs: Pairs, position: np.ndarray, gradient: np.ndarray) -> Gaussians:
    """At points of paths: the covariance is the inverse-Hessian estimate there, the mean a Newton step away.

    Args:
        position: (paths, dim); ``gradient`` of minus the log density there.

    The estimate is diag(alpha) + B G B' with B = [diag(alpha) Y, S], R the upper triangle of S'Y and E its diagonal,
    G = [[0, -R^-1], [-R^-T, R^-T (E + Y' diag(alpha) Y) R^-1]] (equation 9 and algorithm 4).
    """
    num_paths, size, _ = pairs.moves.shape
    root = np.sqrt(pairs.diagonal)[:, None]
    moves, changes = pairs.moves / root, pairs.changes * root
    inner = np.triu(moves @ np.swapaxes(changes, 1, 2))
    one = np.where(pairs.held, 0.0, 1.0)[:, :, None] * np.eye(size)  # pairs that are not there stand apart
    inverse = np.linalg.inv(inner + one)
    middle = inner * np.eye(size) + one + changes @ np.swapaxes(changes, 1, 2)
    turned = np.swapaxes(inverse, 1, 2)
    lower = np.concatenate([-turned, turned @ middle @ inverse], 2)
    outer = np.concatenate([np.concatenate([np.zeros((num_paths, size, size)), -inverse], 2), lower], 1)
    basis = np.swapaxes(np.concatenate([changes, moves], 1), 1, 2)
    q, r = np.linalg.qr(basis)
    small = np.eye(r.shape[1]) + r @ outer @ np.swapaxes(r, 1, 2)
    small = np.where(np.isfinite(small).all((1, 2))[:, None, None], small, 0.0)  # no Gaussian: values of zero
    values, vectors = np.linalg.eigh(0.5 * (small + np.swapaxes(small, 1, 2)))
    mean = position - times_inverse_hessian(pairs, gradient)
    return Gaussians(mean, pairs.diagonal, q @ vectors, values)
