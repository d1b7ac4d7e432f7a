"""Portable distributions that NumPyro lacks or defines otherwise. Mirror: `pyro/extra_distributions.py`."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as native
from jax.scipy.special import gammaln, log_ndtr, ndtri
from numpyro.distributions import constraints
from numpyro.distributions.util import promote_shapes

from ppl_gen.backends import names

_POSITIVE = (constraints.positive, constraints.nonnegative)


class ImproperUniform(native.ImproperUniform):
    """Density 1 on `support`; it cannot be sampled."""

    is_improper = True


class BetaBinomial(native.BetaBinomial):
    """NumPyro's, with log B(a, b) by log gamma: `betaln` of JAX is off by up to 1e-6; -inf above the count."""

    pytree_data_fields = ()

    def log_prob(self, value):
        inside = self.support(value)
        value = jnp.where(inside, value, 0)
        n, a, b = self.total_count, self.concentration1, self.concentration0
        chosen = gammaln(n + 1.0) - gammaln(value + 1.0) - gammaln(n - value + 1.0)
        won = gammaln(value + a) + gammaln(n - value + b) - gammaln(n + a + b)
        return jnp.where(inside, chosen + won - (gammaln(a) + gammaln(b) - gammaln(a + b)), -jnp.inf)


class Uniform(native.Uniform):
    """NumPyro's, with density 0 outside of its bounds, which may be latents."""

    pytree_data_fields = ()

    def log_prob(self, value):
        return jnp.where(self.support(value), super().log_prob(value), -jnp.inf)


class DiscreteUniform(native.DiscreteUniform):
    """NumPyro's, with probability 0 outside of its bounds, which may be latents."""

    pytree_data_fields = ()

    def log_prob(self, value):
        return jnp.where(self.support(value), super().log_prob(value), -jnp.inf)


class Pareto(native.Pareto):
    """NumPyro's, with density 0 below its scale, which may be a latent."""

    pytree_data_fields = ()

    def log_prob(self, value, intermediates=None):
        inside = self.support(value)
        held = jnp.where(inside, value, self.scale)
        return jnp.where(inside, super().log_prob(held, intermediates), -jnp.inf)


class _TracedCount(native.Distribution):
    """Draws where the total count is known to compiled code alone, for which NumPyro wants its maximum beforehand."""

    def sample(self, key, sample_shape=()):
        if not isinstance(self.total_count, jax.core.Tracer):
            return super().sample(key, sample_shape)
        probs = jnp.broadcast_to(self.probs, sample_shape + self.batch_shape + self.event_shape)
        return jax.random.multinomial(key, self.total_count, probs).astype(int)


class MultinomialProbs(_TracedCount, native.MultinomialProbs):
    pytree_data_fields = ()


class MultinomialLogits(_TracedCount, native.MultinomialLogits):
    pytree_data_fields = ()


def Multinomial(total_count=1, probs=None, logits=None, *, validate_args=None):
    """NumPyro's, by probabilities or by logits."""
    if probs is None:
        return MultinomialLogits(logits, total_count, validate_args=validate_args)
    return MultinomialProbs(probs, total_count, validate_args=validate_args)


class Flat(ImproperUniform):
    """Density 1 (not normalised) on a support given by name or as a constraint; it cannot be sampled.

    `shape` is that of one value: `Flat("simplex", (3,))`, `Flat("real", (5,))`, `Flat("positive")`.
    """

    pytree_data_fields = ()

    def __init__(self, support: Any = "real", shape: tuple[int, ...] = (), *, validate_args=None):
        if isinstance(support, str):
            support = getattr(constraints, names.flat_support(support))
        super().__init__(support, (), tuple(shape), validate_args=validate_args)


class OrderedLogistic(native.CategoricalLogits):
    """P(k) = sigma(c_k - x) - sigma(c_{k-1} - x), as sigma(b) sigma(-a) (1 - e^{a - b}): exact in both tails."""

    arg_constraints: ClassVar = {"predictor": constraints.real, "cutpoints": constraints.ordered_vector}

    def __init__(self, predictor, cutpoints, *, validate_args=None):
        x = jnp.asarray(cutpoints) - jnp.asarray(predictor)[..., None]
        self.predictor = jnp.broadcast_to(predictor, x.shape[:-1])
        self.cutpoints = jnp.broadcast_to(cutpoints, x.shape)
        a, b = x[..., :-1], x[..., 1:]
        middle = jax.nn.log_sigmoid(b) + jax.nn.log_sigmoid(-a) + jnp.log(-jnp.expm1(a - b))
        ends = jax.nn.log_sigmoid(x[..., :1]), jax.nn.log_sigmoid(-x[..., -1:])
        super().__init__(jnp.concatenate([ends[0], middle, ends[1]], axis=-1), validate_args=validate_args)


class TruncatedPolyaGamma(native.TruncatedPolyaGamma):
    """NumPyro's, with the sample axes first (it puts them last)."""

    def sample(self, key, sample_shape=()):
        return super().sample(key, sample_shape).reshape((*sample_shape, *self.batch_shape))


class Ordered(native.Distribution):
    """Order statistics of `size` independent draws of the univariate `base`.

    Density `size! prod_i base(x_i)` on `x_1 < ... < x_size`; event shape (size,). David & Nagaraja, Order
    Statistics (2003), section 2.2.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("base",)
    pytree_aux_fields = ("size",)

    def __init__(self, base: native.Distribution, size: int, *, validate_args=None):
        names.check_ordered(base, base.support in (constraints.real, *_POSITIVE))
        self.base, self.size = base, size
        super().__init__(base.batch_shape, (size,), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self):
        if self.base.support in _POSITIVE:
            return constraints.positive_ordered_vector
        return constraints.ordered_vector

    def log_prob(self, value):
        terms = self.base.log_prob(jnp.moveaxis(value, -1, 0))
        increasing = jnp.all(value[..., 1:] > value[..., :-1], axis=-1)
        return jnp.where(increasing, terms.sum(0) + gammaln(self.size + 1.0), -jnp.inf)

    def sample(self, key, sample_shape=()):
        draws = self.base.sample(key, (self.size, *sample_shape))
        return jnp.sort(jnp.moveaxis(draws, 0, -1), axis=-1)


class FromFunctions(native.Distribution):
    """The distribution of `generate(e)`, `e` drawn from `noise`, whose log density `log_prob(value)` is given.

    For an exact marginal likelihood that no library has. Event shape `event_shape`, batch shape that of `noise`; both
    functions are of arrays with any leading axes: `generate` maps values of `noise` to values of shape (...,
    *event_shape), `log_prob` those to (...). `support` is that of one entry; the reals where it is None. `both(e)`
    gives `generate(e)` and the log density there, of what has just been drawn, where that is less work.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("noise",)
    pytree_aux_fields = ("_generate", "_log_prob", "_entry", "_both")

    def __init__(self, noise, generate, log_prob, event_shape=(), support=None, both=None, *, validate_args=None):
        self.noise, self._generate, self._log_prob, self._both = noise, generate, log_prob, both
        self._entry = constraints.real if support is None else support
        super().__init__(noise.batch_shape, tuple(event_shape), validate_args=validate_args)

    def expand(self, batch_shape):
        noise = self.noise.expand(tuple(batch_shape))
        return FromFunctions(noise, self._generate, self._log_prob, self.event_shape, self._entry, self._both)

    @constraints.dependent_property
    def support(self):
        return constraints.independent(self._entry, len(self.event_shape)) if self.event_shape else self._entry

    def log_prob(self, value, intermediates=None):
        found = intermediates[0] if intermediates else self._log_prob(value)
        return jnp.broadcast_to(found, jnp.broadcast_shapes(jnp.shape(found), self.batch_shape))

    def sample(self, key, sample_shape=()):
        return self._generate(self.noise.sample(key, sample_shape))

    def sample_with_intermediates(self, key, sample_shape=()):
        if self._both is None:
            return self.sample(key, sample_shape), []
        value, log_prob = self._both(self.noise.sample(key, sample_shape))
        return value, [log_prob]


class LogDensity(native.Distribution):
    """What was observed has the log densities `log_density`, which have been computed beforehand from its value.

    `log_prob` says these, whatever the value; event shape `event_shape`, batch shape that of `log_density`. `support`
    is that of one entry; the reals where it is None. Without `normalised` they hold up to a constant, the logarithm of
    the normaliser, which may hang on params: engines that would take them for densities refuse them.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("log_density",)
    pytree_aux_fields = ("_entry", "normalised")
    is_improper = True

    def __init__(self, log_density, event_shape=(), support=None, normalised=False, *, validate_args=None):
        self.log_density, self.normalised = jnp.asarray(log_density), normalised
        self._entry = constraints.real if support is None else support
        super().__init__(jnp.shape(self.log_density), tuple(event_shape), validate_args=validate_args)

    def expand(self, batch_shape):
        wide = jnp.broadcast_to(self.log_density, tuple(batch_shape))
        return LogDensity(wide, self.event_shape, self._entry, self.normalised)

    @constraints.dependent_property
    def support(self):
        return constraints.independent(self._entry, len(self.event_shape)) if self.event_shape else self._entry

    def log_prob(self, value):
        return self.log_density

    def sample(self, key, sample_shape=()):
        raise NotImplementedError(names.no_draws())


class OneHotCategorical(native.Distribution):
    """One of n unit vectors: the categorical distribution as indicators. Event shape (n,)."""

    arg_constraints: ClassVar = {"probs": constraints.simplex, "logits": constraints.real_vector}
    pytree_data_fields = ("probs", "logits", "_categorical")
    has_enumerate_support = True

    def __init__(self, probs=None, logits=None, *, validate_args=None):
        self._categorical = native.Categorical(probs=probs, logits=logits)
        self.probs, self.logits = self._categorical.probs, self._categorical.logits
        shape = jnp.shape(self.probs)
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape):  # NumPyro's expanded distribution lists values as if they were scalars
        shape = (*batch_shape, *self.event_shape)
        if isinstance(self._categorical, native.CategoricalProbs):
            return OneHotCategorical(probs=jnp.broadcast_to(self.probs, shape))
        return OneHotCategorical(logits=jnp.broadcast_to(self.logits, shape))

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self):
        return one_hot

    def log_prob(self, value):
        return self._categorical.log_prob(jnp.argmax(value, axis=-1))

    def sample(self, key, sample_shape=()):
        return jax.nn.one_hot(self._categorical.sample(key, sample_shape), self.event_shape[-1])

    def enumerate_support(self, expand=True):
        n = self.event_shape[-1]
        values = jnp.eye(n).reshape((n,) + (1,) * len(self.batch_shape) + (n,))
        return jnp.broadcast_to(values, (n, *self.batch_shape, n)) if expand else values

    @property
    def mean(self):
        return self.probs

    @property
    def variance(self):
        return self.probs * (1 - self.probs)


class _OneHot(constraints.ParameterFreeConstraint):
    is_discrete = True
    event_dim = 1

    def __call__(self, x):
        return jnp.all((x == 0) | (x == 1), axis=-1) & (x.sum(-1) == 1)

    def feasible_like(self, prototype):
        return jax.nn.one_hot(jnp.zeros(prototype.shape[:-1], int), prototype.shape[-1])


one_hot = _OneHot()


class TruncatedNormal(native.Distribution):
    """Normal(loc, scale) restricted to (low, high); a bound that is None is absent.

    Written with log Phi, so that it holds far in the tails; reflected where most of the interval lies above
    `loc`, because log Phi keeps its digits on the left. Sampled by the inverse cdf.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    pytree_data_fields = ("loc", "scale", "low", "high")
    reparametrized_params: ClassVar = ["loc", "scale", "low", "high"]

    def __init__(self, loc=0.0, scale=1.0, low=None, high=None, *, validate_args=None):
        bounds = [b for b in (low, high) if b is not None]
        shape = jnp.broadcast_shapes(*map(jnp.shape, (loc, scale, *bounds)))
        self.loc, self.scale, *bounds = promote_shapes(loc, scale, *bounds, shape=shape)
        self.low = None if low is None else bounds[0]
        self.high = None if high is None else bounds[-1]
        super().__init__(shape, (), validate_args=validate_args)

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
        return jnp.where(right, -b, a), jnp.where(right, -a, b), jnp.where(right, -1.0, 1.0)

    def log_prob(self, value):
        z = (value - self.loc) / self.scale
        a, b, _ = self._left()
        log_density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - jnp.log(self.scale) - _log_mass(a, b)
        inside = jnp.ones(jnp.shape(z), bool)
        inside = inside if self.low is None else inside & (value >= self.low)
        inside = inside if self.high is None else inside & (value <= self.high)
        return jnp.where(inside, log_density, -jnp.inf)

    def sample(self, key, sample_shape=()):
        shape = (*sample_shape, *self.batch_shape)
        dtype = jnp.result_type(float)
        u = jax.random.uniform(key, shape, dtype, minval=jnp.finfo(dtype).tiny)
        a, b, sign = self._left()
        x = self.loc + self.scale * sign * _inverse_cdf(u, a, b)
        x = x if self.low is None else jnp.maximum(x, self.low)
        return x if self.high is None else jnp.minimum(x, self.high)


def _log_mass(a, b):
    """log(Phi(b) - Phi(a)); a missing bound is infinite."""
    if b is None:
        return 0.0
    if a is None:
        return log_ndtr(b)
    below, above = log_ndtr(a), log_ndtr(b)
    return above + jnp.log(-jnp.expm1(below - above))


def _inverse_cdf(u, a, b):
    """The standard normal quantile of `u` within (a, b)."""
    if b is None:
        return ndtri(u)
    log_p = jnp.log(u) + _log_mass(a, b)
    return _ndtri_exp(log_p if a is None else jnp.logaddexp(log_ndtr(a), log_p))


def _ndtri_exp(log_p):
    """The inverse of log Phi. Newton's steps, which climb to the root since log Phi is concave."""
    tail = jnp.minimum(log_p, -5.0)
    x = -jnp.sqrt(-2 * tail)
    for _ in range(6):
        value = log_ndtr(x)
        x = x - (value - tail) * jnp.exp(value + 0.5 * x**2 + 0.5 * math.log(2 * math.pi))
    body = ndtri(jnp.exp(jnp.maximum(log_p, -5.0)))
    return jnp.where(log_p < -5.0, x, body)
