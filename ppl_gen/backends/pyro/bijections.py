"""Unconstrained coordinates of every constraint on PyTorch, the same as NumPyro's.

torch's `biject_to` is used where it agrees. Where torch has no bijection (lower_cholesky, positive_definite),
or builds it by boolean masks that `vmap` refuses (corr_cholesky), the one written here stands in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.distributions import constraints
from pyro.distributions import transforms as T
from torch.distributions.mixture_same_family import MixtureSameFamilyConstraint
from torch.nn.functional import pad


class PositiveOrderedVector(type(constraints.positive_ordered_vector)):  # type: ignore[misc]
    """Pyro's, which forgets that its values are vectors."""

    event_dim = 1

    def check(self, value):
        return torch.all(torch.diff(value, dim=-1) > 0, dim=-1) & torch.all(value > 0, dim=-1)


positive_ordered_vector = PositiveOrderedVector()


def _triangle(vector: torch.Tensor, n: int, offset: int) -> torch.Tensor:
    """A vector laid out row by row on and below diagonal `offset` of an (n, n) matrix of zeros."""
    index = np.full((n, n), vector.shape[-1])  # of the zero that is appended
    index[np.tril_indices(n, offset)] = np.arange(vector.shape[-1])
    flat = pad(vector, (0, 1)).index_select(-1, torch.as_tensor(index.ravel(), device=vector.device))
    return flat.reshape((*vector.shape[:-1], n, n))


def _below(matrix: torch.Tensor, offset: int) -> torch.Tensor:
    """The inverse of `_triangle`: entries on and below diagonal `offset` as a vector."""
    n = matrix.shape[-1]
    index = torch.as_tensor(np.ravel_multi_index(np.tril_indices(n, offset), (n, n)), device=matrix.device)
    return matrix.flatten(-2).index_select(-1, index)


def _diagonal(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


class _VectorToMatrix(T.Transform):
    """A map from vectors to (n, n) matrices that have `length(n)` free entries, n (n + 2 k + 1) / 2."""

    domain = constraints.real_vector
    bijective = True
    offset: int  # the diagonal of the matrix where the free entries begin

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def _side(self, length: int) -> int:
        return (math.isqrt(8 * length + 1) - 1) // 2 - self.offset

    def forward_shape(self, shape):
        n = self._side(shape[-1])
        if n * (n + 1 + 2 * self.offset) // 2 != shape[-1]:
            raise ValueError(f"{shape[-1]} numbers do not fill the triangle of a square matrix")
        return (*shape[:-1], n, n)

    def inverse_shape(self, shape):
        n = shape[-1]
        return (*shape[:-2], n * (n + 1 + 2 * self.offset) // 2)


class LowerCholesky(_VectorToMatrix):
    """R^{n(n+1)/2} -> lower triangular with positive diagonal: first what is below, then the log diagonal."""

    codomain = constraints.lower_cholesky
    offset = 0

    def _call(self, x):
        n = self._side(x.shape[-1])
        return _triangle(x[..., :-n], n, -1) + torch.diag_embed(x[..., -n:].exp())

    def _inverse(self, y):
        return torch.cat([_below(y, -1), _diagonal(y).log()], dim=-1)

    def log_abs_det_jacobian(self, x, y):
        return x[..., -y.shape[-1] :].sum(-1)


class CorrCholesky(_VectorToMatrix):
    """R^{n(n-1)/2} -> Cholesky factors of correlation matrices, by tanh and stick breaking of each row.

    Stan Reference Manual, "Cholesky factors of correlation matrices"; torch's formulas without its masks.
    """

    codomain = constraints.corr_cholesky
    offset = -1

    def _call(self, x):
        eps = torch.finfo(x.dtype).eps
        n = self._side(x.shape[-1])
        r = _triangle(x.tanh().clamp(-1 + eps, 1 - eps), n, -1)
        rest = (1 - r**2).sqrt().cumprod(-1)
        return (r + torch.eye(n, dtype=x.dtype)) * pad(rest[..., :-1], (1, 0), value=1.0)

    def _inverse(self, y):
        rest = pad((1 - (y * y).cumsum(-1))[..., :-1], (1, 0), value=1.0)
        return (_below(y, -1) / _below(rest, -1).sqrt()).atanh()

    def log_abs_det_jacobian(self, x, y):
        rest = _below(1 - (y * y).cumsum(-1), -2)
        log_sech = x + torch.logaddexp(-2 * x, torch.zeros_like(x)) - math.log(2.0)
        return 0.5 * rest.log().sum(-1) - 2 * log_sech.sum(-1)


_OWN = {
    type(constraints.lower_cholesky): lambda c: LowerCholesky(),
    type(constraints.positive_definite): lambda c: T.ComposeTransform(
        [LowerCholesky(), T.CholeskyTransform().inv]
    ),
    type(constraints.corr_cholesky): lambda c: CorrCholesky(),
    type(constraints.corr_matrix): lambda c: T.ComposeTransform(
        [CorrCholesky(), T.CorrMatrixCholeskyTransform().inv]
    ),
    PositiveOrderedVector: lambda c: T.ComposeTransform([T.OrderedTransform(), T.ExpTransform()]),
    MixtureSameFamilyConstraint: lambda c: transform(c.base_constraint),
    constraints.independent: lambda c: T.IndependentTransform(
        transform(c.base_constraint), c.reinterpreted_batch_ndims
    ),
}


# Pyro's own autoguides and NUTS ask torch's registries: fill their gaps, and change nothing that they have.
for _registry in (T.biject_to, T.transform_to):
    for _type in _OWN.keys() - _registry._registry.keys():
        _registry.register(_type, _OWN[_type])


def transform(constraint: Any) -> Any:
    """The transform from the reals onto `constraint`."""
    own = _OWN.get(type(constraint))
    return own(constraint) if own else T.biject_to(constraint)


@dataclass(frozen=True)
class Bijection:
    """Unconstrained coordinates `u` of a constrained `x`; `log_abs_det` sums over the event: batch shape."""

    transform: Any

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.transform(u)

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        return self.transform.inv(x)

    def log_abs_det(self, u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.transform.log_abs_det_jacobian(u, x)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.transform.forward_shape(tuple(shape)))

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.transform.inverse_shape(tuple(shape)))


def bijection(constraint: Any) -> Bijection:
    """The map from the reals onto `constraint`, in NumPyro's coordinates."""
    return Bijection(transform(constraint))
