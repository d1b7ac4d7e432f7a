"""Pyro's distributions where they differ from NumPyro's, lose digits, or look at numbers when traced.

Each class says what it mends. Under `vmap` and `make_fx` a parameter has no value that Python may branch on.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as native
import torch
from pyro.distributions import TorchDistribution, constraints
from torch.nn.functional import logsigmoid
from torch.special import i0e

from ppl_gen.backends.pyro.extra_distributions import expand
from ppl_gen.backends.pyro.linalg import cholesky

circular = constraints.interval(-math.pi, math.pi)
torus = constraints.independent(circular, 1)


class Bernoulli(native.Bernoulli):
    """Takes integers as well as floats."""

    def log_prob(self, value):
        return super().log_prob(value.to(self._param.dtype))


class Binomial(native.Binomial):
    """Lists its values when traced, too, where the total count is a number (torch reads it off a tensor)."""

    def __init__(self, total_count=1, probs=None, logits=None, validate_args=None):
        self._number = total_count if isinstance(total_count, int) else None
        super().__init__(total_count, probs, logits, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = super().expand(batch_shape, self.__new__(Binomial) if _instance is None else _instance)
        new._number = self._number
        return new

    def enumerate_support(self, expand=True):
        if self._number is None:
            return super().enumerate_support(expand)
        values = torch.arange(1 + self._number, dtype=self._param.dtype)
        values = values.reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values


class BetaBinomial(native.BetaBinomial):
    """Has -inf above the count, also two and more above, where differences of infinities are not numbers."""

    def log_prob(self, value):
        inside = self.support.check(value)
        return torch.where(inside, super().log_prob(torch.where(inside, value, 0)), -math.inf)


class Pareto(native.Pareto):
    """Has density 0 below its scale, which may be a latent."""

    def log_prob(self, value):
        inside = self.support.check(value)
        return torch.where(inside, super().log_prob(torch.where(inside, value, self.scale)), -math.inf)


class LKJ(native.LKJ):
    """Can be expanded (Pyro's raises)."""

    def expand(self, batch_shape, _instance=None):
        return LKJ(self.dim, self.concentration.expand(batch_shape), validate_args=self._validate_args)


class _Votes(constraints.Constraint):
    """Whole numbers with a given sum, where torch's may have a smaller one."""

    is_discrete = True
    event_dim = 1

    def __init__(self, total):
        self.total = total

    def check(self, x):
        return (x >= 0).all(-1) & (x.sum(-1) == self.total)


class Multinomial(native.Multinomial):
    """The density without torch's boolean indexing; an array of total counts too, where torch's takes one."""

    def __init__(self, total_count, probs=None, logits=None, validate_args=None):
        if np.ndim(total_count) == 0:
            super().__init__(int(total_count), probs, logits, validate_args=validate_args)
            return
        total_count = torch.as_tensor(total_count)
        batch = torch.broadcast_shapes(total_count.shape, (logits if probs is None else probs).shape[:-1])
        probs, logits = (p if p is None else p.expand((*batch, -1)) for p in (probs, logits))
        super().__init__(1, probs, logits, validate_args=validate_args)
        self.total_count = total_count.expand(batch)

    def expand(self, batch_shape, _instance=None):
        probs, count = self.probs.expand((*batch_shape, -1)), self.total_count
        count = count if isinstance(count, int) else count.expand(batch_shape)
        return Multinomial(count, probs, validate_args=self._validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self):
        return _Votes(self.total_count)

    def sample(self, sample_shape=()):
        if isinstance(self.total_count, int):
            return super().sample(torch.Size(sample_shape))
        most = max(int(self.total_count.max()), 1)
        one_by_one = self._categorical.sample((most, *sample_shape)).movedim(0, -1)
        counted = torch.arange(most) < self.total_count[..., None]
        counts = torch.zeros(self._extended_shape(torch.Size(sample_shape)), dtype=self.probs.dtype)
        return counts.scatter_add(-1, one_by_one, counted.expand(one_by_one.shape).to(counts.dtype))

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        powers = torch.where(value == 0, 0.0, self.logits * value).sum(-1)
        return torch.lgamma(value.sum(-1) + 1.0) - torch.lgamma(value + 1.0).sum(-1) + powers


class OrderedLogistic(native.OrderedLogistic):
    """P(k) = sigma(c_k - x) - sigma(c_{k-1} - x), as sigma(b) sigma(-a) (1 - e^{a - b}): exact in both tails.

    Pyro's writes in place, and is cut off at 1e-16.
    """

    def __init__(self, predictor, cutpoints, validate_args=None):
        x = cutpoints - predictor[..., None]
        self.predictor, self.cutpoints = predictor.expand(x.shape[:-1]), cutpoints.expand(x.shape)
        a, b = x[..., :-1], x[..., 1:]
        middle = logsigmoid(b) + logsigmoid(-a) + torch.log(-torch.expm1(a - b))
        logits = torch.cat([logsigmoid(x[..., :1]), middle, logsigmoid(-x[..., -1:])], dim=-1)
        native.Categorical.__init__(self, logits=logits, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(OrderedLogistic, _instance)
        new.predictor = self.predictor.expand(batch_shape)
        new.cutpoints = self.cutpoints.expand((*batch_shape, -1))
        return native.Categorical.expand(self, batch_shape, new)


class TruncatedPolyaGamma(native.TruncatedPolyaGamma):
    """Takes a batch shape as in NumPyro, and puts the sample axes first (Pyro puts them last)."""

    def __init__(self, batch_shape=(), validate_args=None):
        super().__init__(torch.zeros(()), validate_args=validate_args)
        TorchDistribution.__init__(self, torch.Size(batch_shape), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return TruncatedPolyaGamma(batch_shape, validate_args=self._validate_args)

    def sample(self, sample_shape=()):
        return super().sample(torch.Size(sample_shape)).reshape(self._extended_shape(sample_shape))


class VonMises(native.VonMises):
    """On the circle (-pi, pi), and with I_0 to full precision (torch's polynomial has seven digits)."""

    support = circular

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        log_i0e = i0e(self.concentration).log()
        return self.concentration * (torch.cos(value - self.loc) - 1) - math.log(2 * math.pi) - log_i0e


class SineSkewed(native.SineSkewed):
    """On the torus (-pi, pi)^n, built without looking at the skewness."""

    support = torus

    def __init__(self, base_dist, skewness, validate_args=None):
        if base_dist.event_shape != skewness.shape[-1:]:
            raise ValueError(f"SineSkewed: {skewness.shape[-1:]} skews for the event {base_dist.event_shape}")
        batch_shape = torch.broadcast_shapes(base_dist.batch_shape, skewness.shape[:-1])
        self.base_dist = base_dist.expand(batch_shape)
        self.skewness = skewness.expand(batch_shape + skewness.shape[-1:])
        TorchDistribution.__init__(self, batch_shape, skewness.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        skewness = self.skewness.expand((*batch_shape, -1))
        return SineSkewed(self.base_dist.expand(batch_shape), skewness, validate_args=self._validate_args)


class SineBivariateVonMises(native.SineBivariateVonMises):
    """On the torus (-pi, pi)^2, built without looking at its parameters.

    The normaliser 2 pi int exp(k_1 cos t) I_0(sqrt(k_2^2 + l^2 sin^2 t)) dt is summed over a grid: for smooth
    periodic functions this converges geometrically (here to rounding, for concentrations up to 10,000).
    """

    support = torus
    _num_nodes = 2048
    _fields: ClassVar = dict.fromkeys(
        ("phi_loc", "psi_loc", "phi_concentration", "psi_concentration", "correlation"), 0
    )

    def __init__(
        self,
        phi_loc,
        psi_loc,
        phi_concentration,
        psi_concentration,
        correlation=None,
        weighted_correlation=None,
        validate_args=None,
    ):
        if (correlation is None) == (weighted_correlation is None):
            raise ValueError("SineBivariateVonMises: give the correlation or the weighted correlation")
        if correlation is None:
            correlation = weighted_correlation * torch.sqrt(phi_concentration * psi_concentration)
        values = torch.broadcast_tensors(phi_loc, psi_loc, phi_concentration, psi_concentration, correlation)
        for name, value in zip(self._fields, values, strict=True):
            setattr(self, name, value)
        TorchDistribution.__init__(self, values[0].shape, torch.Size((2,)), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(SineBivariateVonMises, _instance)
        return expand(new, self, batch_shape, self._fields)

    @property
    def norm_const(self):
        t = torch.arange(self._num_nodes, dtype=self.phi_loc.dtype) * (2 * math.pi / self._num_nodes)
        k1, k2 = self.phi_concentration[..., None], self.psi_concentration[..., None]
        lam = self.correlation[..., None]
        radius = torch.sqrt(k2**2 + (lam * torch.sin(t)) ** 2)
        terms = k1 * torch.cos(t) + radius + i0e(radius).log()
        return torch.logsumexp(terms, -1) + 2 * math.log(2 * math.pi) - math.log(self._num_nodes)


def factor_of(covariance: Any = None, precision: Any = None, factor: Any = None) -> torch.Tensor:
    """The lower Cholesky factor of a covariance, from whichever one of the three is given."""
    if sum(m is not None for m in (covariance, precision, factor)) != 1:
        raise ValueError("exactly one of the matrix, its inverse and its Cholesky factor must be given")
    if factor is not None:
        return factor
    if covariance is not None:
        return cholesky(covariance)
    # precision = R^T R with R lower triangular, the flipped factor of the flipped matrix; so L = R^-1.
    root = cholesky(precision.flip((-2, -1))).flip((-2, -1)).mT
    identity = torch.eye(precision.shape[-1], dtype=precision.dtype)
    return torch.linalg.solve_triangular(root, identity, upper=False)


def _log_diagonal(factor: torch.Tensor) -> torch.Tensor:
    """log det of a triangular matrix."""
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class Wishart(TorchDistribution):
    """The Wishart law in NumPyro's parameters, without the checks of values that torch's makes when built."""

    arg_constraints: ClassVar = {
        "concentration": constraints.positive,
        "scale_tril": constraints.lower_cholesky,
    }
    support = constraints.positive_definite
    has_rsample = True

    def __init__(
        self, concentration, scale_matrix=None, rate_matrix=None, scale_tril=None, validate_args=None
    ):
        factor = factor_of(scale_matrix, rate_matrix, scale_tril)
        batch_shape = torch.broadcast_shapes(concentration.shape, factor.shape[:-2])
        self.concentration = concentration.expand(batch_shape)
        self.scale_tril = factor.expand(batch_shape + factor.shape[-2:])
        super().__init__(batch_shape, factor.shape[-2:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(Wishart, _instance)
        return expand(new, self, batch_shape, {"concentration": 0, "scale_tril": 2})

    @property
    def mean(self):
        return self.concentration[..., None, None] * (self.scale_tril @ self.scale_tril.mT)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        n, nu, root = self.event_shape[-1], self.concentration, cholesky(value)
        white = torch.linalg.solve_triangular(self.scale_tril, root, upper=False)
        log_norm = nu * (0.5 * n * math.log(2) + _log_diagonal(self.scale_tril)) + torch.mvlgamma(nu / 2, n)
        return (nu - n - 1) * _log_diagonal(root) - 0.5 * white.square().sum((-2, -1)) - log_norm

    def rsample(self, sample_shape=()):
        """Bartlett's decomposition L A A^T L^T: A lower, with chi on and normals below its diagonal."""
        shape = self._extended_shape(sample_shape)
        df = self.concentration[..., None] - torch.arange(shape[-1])
        chi = native.Chi2(df).rsample(torch.Size(sample_shape)).sqrt()
        factor = self.scale_tril @ (torch.randn(shape, dtype=chi.dtype).tril(-1) + torch.diag_embed(chi))
        return factor @ factor.mT


def multivariate_normal(
    loc, covariance_matrix=None, precision_matrix=None, scale_tril=None, validate_args=None
):
    """Factored by `factor_of`: torch's raises, inside a sampler too, where a covariance is not definite."""
    factor = factor_of(covariance_matrix, precision_matrix, scale_tril)
    return native.MultivariateNormal(_vectors(loc, factor), scale_tril=factor, validate_args=validate_args)


def multivariate_student_t(df, loc, scale_tril, validate_args=None):
    loc = _vectors(loc, scale_tril)
    return native.MultivariateStudentT(df, loc, scale_tril, validate_args=validate_args)


def _vectors(loc: torch.Tensor, scale_tril: torch.Tensor) -> torch.Tensor:
    """A location as vectors: a scalar is NumPyro's shorthand for equal entries."""
    return loc.expand((*loc.shape[:-1], scale_tril.shape[-1]))


def zero_inflated_poisson(gate, rate, validate_args=None):
    return native.ZeroInflatedPoisson(rate, gate=gate, validate_args=validate_args)
