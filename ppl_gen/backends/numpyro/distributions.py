"""The portable namespace `dist` on NumPyro: one signature for both backends, and unconstrained coordinates.

`DISTRIBUTIONS` in `ppl_gen.backends.names` is the contract, `backends/pyro/distributions.py` the mirror.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as native
import numpyro.distributions.transforms as native_transforms
from numpyro.distributions import constraints as native_constraints

from ppl_gen.backends import names
from ppl_gen.backends.numpyro import extra_distributions as extra
from ppl_gen.backends.numpyro import markov_chain

constraints = SimpleNamespace(**{name: getattr(native_constraints, name) for name in names.CONSTRAINTS})
transforms = SimpleNamespace(**{name: getattr(native_transforms, name) for name in names.TRANSFORMS})

# NumPyro's constructors that return one of several classes.
_TYPES = {
    "Bernoulli": (native.BernoulliProbs, native.BernoulliLogits),
    "Binomial": (native.BinomialProbs, native.BinomialLogits),
    "Categorical": (native.CategoricalProbs, native.CategoricalLogits),
    "Geometric": (native.GeometricProbs, native.GeometricLogits),
    "Multinomial": (native.MultinomialProbs, native.MultinomialLogits),
    "NegativeBinomial": (native.NegativeBinomialProbs, native.NegativeBinomialLogits),
    "RelaxedBernoulli": native.RelaxedBernoulliLogits,
    "ZeroInflatedDistribution": (native.ZeroInflatedProbs, native.ZeroInflatedLogits),
}


# Pyro normalises these probabilities, NumPyro takes them as they are: here both normalise.
_NORMALISED = ("Categorical", "Multinomial", "OneHotCategorical")


def _constructor(name: str) -> names.Constructor:
    """The portable constructor: NumPyro's own, once lists have become arrays."""
    library = next(getattr(m, name) for m in (extra, markov_chain, native) if hasattr(m, name))

    def make(**arguments: Any) -> Any:
        lists = {k: v for k, v in arguments.items() if isinstance(v, (list, tuple)) and k not in names.STATIC}
        arguments |= {k: jnp.asarray(v) for k, v in lists.items()}
        if name in _NORMALISED and arguments["probs"] is not None:
            arguments["probs"] = arguments["probs"] / arguments["probs"].sum(-1, keepdims=True)
        return library(**arguments)

    make.__doc__ = library.__doc__
    return names.Constructor(name, make, _TYPES.get(name, library))


globals().update({name: _constructor(name) for name in names.DISTRIBUTIONS})


@dataclass(frozen=True)
class Bijection:
    """Unconstrained coordinates `u` of a constrained `x`; `log_abs_det` sums over the event: batch shape."""

    transform: Any

    def forward(self, u: Any) -> Any:
        return self.transform(u)

    def inverse(self, x: Any) -> Any:
        return self.transform.inv(x)

    def log_abs_det(self, u: Any, x: Any) -> Any:
        return self.transform.log_abs_det_jacobian(u, x)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.transform.forward_shape(tuple(shape)))

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.transform.inverse_shape(tuple(shape)))


def divergence(q: Any, p: Any) -> Any:
    """Kullback-Leibler divergence of q from p, of their batch shape; None where they have no closed form."""
    try:
        return native.kl_divergence(q, p)
    except NotImplementedError:
        return None


def bijection(constraint: Any) -> Bijection:
    """The map from the reals onto `constraint`; NumPyro's coordinates are the norm for both backends."""
    return Bijection(native.biject_to(constraint))


def is_unbounded(constraint: Any) -> bool:
    """Whether every real number, or vector of them, is in it."""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint is constraints.real


def __getattr__(name: str) -> Any:
    raise names.missing(name)


def __dir__() -> list[str]:
    return [*names.DISTRIBUTIONS, "bijection", "constraints", "transforms"]
