"""`xp.linalg` on PyTorch, with the names, arguments and broadcasting of NumPy 2."""

from __future__ import annotations

import functools
import math

import torch

from ppl_gen.backends.pyro.conversion import floating, together


def _as_matrix(solver):
    """NumPy 2's rule: the right-hand side `b` is a vector exactly when it has one axis; batches broadcast."""

    @functools.wraps(solver)
    def solve(a, b, **options):
        a, b = map(floating, together(a, b))
        return solver(a, b[:, None], **options)[..., 0] if b.ndim == 1 else solver(a, b, **options)

    return solve


@_as_matrix
def _solve_triangular(a, b, lower):
    return torch.linalg.solve_triangular(a, b, upper=not lower)


def solve_triangular(a, b, lower=True):
    """Solve `a x = b` for triangular `a` (..., n, n) and `b` (n,) or (..., n, k)."""
    return _solve_triangular(a, b, lower=lower)


@_as_matrix
def cholesky_solve(factor, b):
    """Solve `(L L^T) x = b` given the lower factor `L` (..., n, n) and `b` (n,) or (..., n, k)."""
    return torch.cholesky_solve(b, factor)


def cholesky(a):
    """The lower Cholesky factor; NaN, as in JAX, where the matrix is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(floating(a))
    return torch.where((info == 0)[..., None, None], factor, math.nan).tril()


@_as_matrix
def solve(a, b):
    """Solve `a x = b` for `a` (..., n, n) and `b` (n,) or (..., n, k)."""
    return torch.linalg.solve(a, b)


def inv(a):
    return torch.linalg.inv(floating(a))


def det(a):
    return torch.linalg.det(floating(a))


def slogdet(a):
    return torch.linalg.slogdet(floating(a))


def eigh(a):
    return torch.linalg.eigh(floating(a))


def qr(a):
    return torch.linalg.qr(floating(a))


def svd(a, full_matrices=True):
    return torch.linalg.svd(floating(a), full_matrices=full_matrices)


def norm(x, ord=None, axis=None, keepdims=False):
    return torch.linalg.norm(floating(x), ord, axis, keepdims)
