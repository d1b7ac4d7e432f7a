"""Portable distributions that Pyro lacks. Mirror: `numpyro/extra_distributions.py`."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as native
import torch
from pyro.distributions import TorchDistribution, constraints
from torch.special import ndtri

from ppl_gen.backends import names
from ppl_gen.backends.pyro.arrays import log_ndtr
from ppl_gen.backends.pyro.bijections import positive_ordered_vector


class ImproperUniform(native.ImproperUniform):
    """Density 1 on `support`; it cannot be sampled."""

    is_improper = True

    def __init__(self, support: Any, batch_shape: Any, event_shape: Any, validate_args=None):
        # As in NumPyro, every axis of a value belongs to the event; Pyro would leave them to the batch.
        missing = len(event_shape) - support.event_dim
        support = constraints.independent(support, missing) if missing else support
        super().__init__(support, torch.Size(batch_shape), torch.Size(event_shape))

    def expand(self, batch_shape, _instance=None):
        return ImproperUniform(self.support, batch_shape, self.event_shape)


class Flat(ImproperUniform):
    """Density 1 (not normalised) on a support given by name or as a constraint; it cannot be sampled.

    `shape` is that of one value: `Flat("simplex", (3,))`, `Flat("real", (5,))`, `Flat("positive")`.
    """

    def __init__(self, support: Any = "real", shape: tuple[int, ...] = (), validate_args=None):
        if isinstance(support, str):
            name = names.flat_support(support)
            own = {"positive_ordered_vector": positive_ordered_vector}
            support = own.get(name) or getattr(constraints, name)
        super().__init__(support, (), tuple(shape))


def expand(new: Any, old: TorchDistribution, batch_shape: Any, fields: dict[str, int]) -> Any:
    """Fill `new`, made by `_get_checked_instance`, with the expanded fields (name -> event dims) of `old`."""
    batch_shape = torch.Size(batch_shape)
    for name, event_dim in fields.items():
        x = getattr(old, name)
        x = x if x is None else x.expand(batch_shape + x.shape[x.dim() - event_dim :])
        setattr(new, name, x)
    TorchDistribution.__init__(new, batch_shape, old.event_shape, validate_args=False)
    new._validate_args = old._validate_args
    return new


class Ordered(TorchDistribution):
    """Order statistics of `size` independent draws of the univariate `base`.

    Density `size! prod_i base(x_i)` on `x_1 < ... < x_size`; event shape (size,). David & Nagaraja, Order
    Statistics (2003), section 2.2.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: TorchDistribution, size: int, validate_args=None):
        names.check_ordered(base, base.support is constraints.real or _is_positive(base.support))
        self.base, self.size = base, size
        super().__init__(base.batch_shape, torch.Size((size,)), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self):
        return positive_ordered_vector if _is_positive(self.base.support) else constraints.ordered_vector

    @property
    def has_rsample(self):
        return self.base.has_rsample

    def expand(self, batch_shape, _instance=None):
        return Ordered(self.base.expand(batch_shape), self.size, validate_args=self._validate_args)

    def log_prob(self, value):
        terms = self.base.log_prob(value.movedim(-1, 0))
        increasing = torch.all(value[..., 1:] > value[..., :-1], dim=-1)
        return torch.where(increasing, terms.sum(0) + math.lgamma(self.size + 1.0), -math.inf)

    def rsample(self, sample_shape=()):
        return self._sorted(self.base.rsample((self.size, *sample_shape)))

    def sample(self, sample_shape=()):
        return self._sorted(self.base.sample((self.size, *sample_shape)))

    def _sorted(self, draws):
        return torch.sort(draws.movedim(0, -1), dim=-1).values


def _is_positive(support: Any) -> bool:
    return isinstance(support, type(constraints.positive) | type(constraints.nonnegative)) and (
        isinstance(support.lower_bound, (int, float)) and support.lower_bound == 0
    )


class FromFunctions(TorchDistribution):
    """The distribution of `generate(e)`, `e` drawn from `noise`, whose log density `log_prob(value)` is given.

    For an exact marginal likelihood that no library has. Event shape `event_shape`, batch shape that of `noise`; both
    functions are of arrays with any leading axes: `generate` maps values of `noise` to values of shape (...,
    *event_shape), `log_prob` those to (...). `support` is that of one entry; the reals where it is None. `both(e)`
    gives `generate(e)` and the log density there, of what has just been drawn, where that is less work.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, noise, generate, log_prob, event_shape=(), support=None, both=None, validate_args=None):
        self.noise, self._generate, self._log_prob, self._both = noise, generate, log_prob, both
        self._drawn: tuple[Any, Any] = (None, None)  # the last value, and its log density
        self._entry = constraints.real if support is None else support
        super().__init__(noise.batch_shape, torch.Size(event_shape), validate_args=validate_args)

    @property
    def has_rsample(self):
        return self.noise.has_rsample

    def expand(self, batch_shape, _instance=None):
        noise = self.noise.expand(torch.Size(batch_shape))
        return FromFunctions(noise, self._generate, self._log_prob, self.event_shape, self._entry, self._both)

    @constraints.dependent_property
    def support(self):
        return constraints.independent(self._entry, len(self.event_shape)) if self.event_shape else self._entry

    def log_prob(self, value):
        found = self._drawn[1] if value is self._drawn[0] else self._log_prob(value)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    def rsample(self, sample_shape=()):
        return self._generated(self.noise.rsample(sample_shape))

    def sample(self, sample_shape=()):
        return self._generated(self.noise.sample(sample_shape))

    def _generated(self, noise):
        if self._both is None:
            return self._generate(noise)
        self._drawn = self._both(noise)
        return self._drawn[0]


class LogDensity(TorchDistribution):
    """What was observed has the log densities `log_density`, which have been computed beforehand from its value.

    `log_prob` says these, whatever the value; event shape `event_shape`, batch shape that of `log_density`. `support`
    is that of one entry; the reals where it is None. Without `normalised` they hold up to a constant, the logarithm of
    the normaliser, which may hang on params: engines that would take them for densities refuse them.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    is_improper = True

    def __init__(self, log_density, event_shape=(), support=None, normalised=False, validate_args=None):
        self.log_density, self.normalised = log_density, normalised
        self._entry = constraints.real if support is None else support
        super().__init__(log_density.shape, torch.Size(event_shape), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        wide = self.log_density.expand(torch.Size(batch_shape))
        return LogDensity(wide, self.event_shape, self._entry, self.normalised)

    @constraints.dependent_property
    def support(self):
        return constraints.independent(self._entry, len(self.event_shape)) if self.event_shape else self._entry

    def log_prob(self, value):
        return self.log_density

    def sample(self, sample_shape=()):
        raise NotImplementedError(names.no_draws())


class DiscreteUniform(TorchDistribution):
    """Uniform over the integers low, ..., high."""

    arg_constraints: ClassVar = {
        "low": constraints.dependent(is_discrete=True, event_dim=0),
        "high": constraints.dependent(is_discrete=True, event_dim=0),
    }
    has_enumerate_support = True

    def __init__(self, low=0, high=1, validate_args=None):
        self.low, self.high = torch.broadcast_tensors(low, high)
        super().__init__(self.low.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(DiscreteUniform, _instance)
        return expand(new, self, batch_shape, {"low": 0, "high": 0})

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self):
        return constraints.integer_interval(self.low, self.high)

    def log_prob(self, value):
        log_count = torch.log((self.high + 1 - self.low).to(torch.get_default_dtype()))
        return torch.where(self.support.check(value), -log_count, -math.inf)

    def sample(self, sample_shape=()):
        u = torch.rand(self._extended_shape(sample_shape), dtype=torch.float64)
        return self.low + torch.floor(u * (self.high + 1 - self.low)).to(self.low.dtype)

    def enumerate_support(self, expand=True):
        low, high = self.low.unique(), self.high.unique()
        if len(low) != 1 or len(high) != 1:
            raise NotImplementedError("DiscreteUniform: only equal bounds across the batch can be enumerated")
        values = torch.arange(int(low), int(high) + 1).reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values


class TruncatedNormal(TorchDistribution):
    """Normal(loc, scale) restricted to (low, high); a bound that is None is absent.

    Written with log Phi, so that it holds far in the tails; reflected where most of the interval lies above
    `loc`, because log Phi keeps its digits on the left. Sampled by the inverse cdf.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    has_rsample = True

    def __init__(self, loc=0.0, scale=1.0, low=None, high=None, validate_args=None):
        bounds = [b for b in (low, high) if b is not None]
        self.loc, self.scale, *bounds = torch.broadcast_tensors(loc, scale, *bounds)
        self.low = None if low is None else bounds[0]
        self.high = None if high is None else bounds[-1]
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(TruncatedNormal, _instance)
        return expand(new, self, batch_shape, {"loc": 0, "scale": 0, "low": 0, "high": 0})

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self):
        if self.low is None:
            return constraints.real if self.high is None else constraints.less_than(self.high)
        if self.high is None:
            return constraints.greater_than(self.low)
        return constraints.interval(self.low, self.high)

    def _left(self):
        """Standardised bounds (a, b) in the left tail, and the sign that put them there."""
        a, b = (None if x is None else (x - self.loc) / self.scale for x in (self.low, self.high))
        if b is None:
            return (None, None, 1.0) if a is None else (None, -a, -1.0)
        if a is None:
            return None, b, 1.0
        right = a + b > 0
        return torch.where(right, -b, a), torch.where(right, -a, b), torch.where(right, -1.0, 1.0)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        z = (value - self.loc) / self.scale
        a, b, _ = self._left()
        log_density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - self.scale.log() - _log_mass(a, b)
        inside = torch.ones_like(z, dtype=torch.bool)
        inside = inside if self.low is None else inside & (value >= self.low)
        inside = inside if self.high is None else inside & (value <= self.high)
        return torch.where(inside, log_density, -math.inf)

    def rsample(self, sample_shape=()):
        u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype)
        a, b, sign = self._left()
        x = self.loc + self.scale * sign * _inverse_cdf(u.clamp(min=torch.finfo(u.dtype).tiny), a, b)
        x = x if self.low is None else torch.maximum(x, self.low)
        return x if self.high is None else torch.minimum(x, self.high)


def _log_mass(a, b):
    """log(Phi(b) - Phi(a)); a missing bound is infinite."""
    if b is None:
        return 0.0
    if a is None:
        return log_ndtr(b)
    below, above = log_ndtr(a), log_ndtr(b)
    return above + torch.log(-torch.expm1(below - above))


def _inverse_cdf(u, a, b):
    """The standard normal quantile of `u` within (a, b)."""
    if b is None:
        return ndtri(u)
    log_p = torch.log(u) + _log_mass(a, b)
    return _ndtri_exp(log_p if a is None else torch.logaddexp(log_ndtr(a), log_p))


def _ndtri_exp(log_p):
    """The inverse of log Phi. Newton's steps, which climb to the root since log Phi is concave."""
    tail = log_p.clamp(max=-5.0)
    x = -torch.sqrt(-2 * tail)
    for _ in range(6):
        value = log_ndtr(x)
        x = x - (value - tail) * torch.exp(value + 0.5 * x**2 + 0.5 * math.log(2 * math.pi))
    body = ndtri(torch.exp(log_p.clamp(min=-5.0)))
    return torch.where(log_p < -5.0, x, body)
