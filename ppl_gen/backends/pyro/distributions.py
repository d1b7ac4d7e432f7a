"""The portable namespace `dist` on Pyro: one signature for both backends, and unconstrained coordinates.

`DISTRIBUTIONS` in `ppl_gen.backends.names` is the contract, `backends/numpyro/distributions.py` the mirror.
Where Pyro's own distribution differs from NumPyro's, `mended_distributions.py` has another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyro.distributions as native
import pyro.distributions.transforms as native_transforms
import torch
from pyro.distributions import constraints as native_constraints

from ppl_gen.backends import names
from ppl_gen.backends.pyro import arrays, bijections, markov_chain
from ppl_gen.backends.pyro import extra_distributions as extra
from ppl_gen.backends.pyro import mended_distributions as mended

constraints = SimpleNamespace(**{name: getattr(native_constraints, name) for name in names.CONSTRAINTS})
constraints.positive_ordered_vector = bijections.positive_ordered_vector
transforms = SimpleNamespace(**{name: getattr(native_transforms, name) for name in names.TRANSFORMS})
Bijection, bijection = bijections.Bijection, bijections.bijection

# Array parameters that keep an integer dtype; all others become floats.
_KEEPS_DTYPE = {("Delta", "v"), ("DiscreteUniform", "low"), ("DiscreteUniform", "high")}

# Portable parameter -> Pyro's name for it.
_RENAMED = {
    "LKJ": {"dimension": "dim"},
    "LKJCholesky": {"dimension": "dim"},
    "MixtureSameFamily": {"mixing_distribution": "mixture_distribution"},
    "Independent": {"base_dist": "base_distribution"},
}

# Portable names that Pyro builds otherwise.
_ADAPTED: dict[str, Callable[..., Any]] = {
    "MultivariateNormal": mended.multivariate_normal,
    "MultivariateStudentT": mended.multivariate_student_t,
    "ZeroInflatedPoisson": mended.zero_inflated_poisson,
}


def _constructor(name: str) -> names.Constructor:
    """The portable constructor: numbers become tensors of one floating dtype, then Pyro's own is called."""
    library = next(getattr(m, name) for m in (mended, extra, markov_chain, native) if hasattr(m, name))
    build = _ADAPTED.get(name, library)
    renamed = _RENAMED.get(name, {})

    def make(validate_args: bool | None = None, **arguments: Any) -> Any:
        arguments = _as_tensors(name, arguments)
        arguments = {renamed.get(k, k): v for k, v in arguments.items()}
        return build(**arguments, validate_args=validate_args)

    make.__doc__ = library.__doc__
    return names.Constructor(name, make, library)


def _as_tensors(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Array parameters as tensors: one floating dtype for all of them, wherever NumPyro would promote."""
    given = {k: v for k, v in arguments.items() if v is not None and k not in names.STATIC}
    if name == "Multinomial":  # torch wants one count, known to Python
        given.pop("total_count")
    if name == "Binomial" and isinstance(given["total_count"], int):  # its values can then be listed when traced
        given.pop("total_count")
    kept = {k for k in given if (name, k) in _KEEPS_DTYPE}
    floats = [v.dtype for v in given.values() if isinstance(v, torch.Tensor) and v.dtype.is_floating_point]
    dtype = functools.reduce(torch.promote_types, floats) if floats else torch.get_default_dtype()
    return arguments | {k: arrays.asarray(v, None if k in kept else dtype) for k, v in given.items()}


globals().update({name: _constructor(name) for name in names.DISTRIBUTIONS})


def divergence(q: Any, p: Any) -> Any:
    """Kullback-Leibler divergence of q from p, of their batch shape; None where they have no closed form."""
    try:
        return torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return None


def is_unbounded(constraint: Any) -> bool:
    """Whether every real number, or vector of them, is in it."""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint is constraints.real


def __getattr__(name: str) -> Any:
    raise names.missing(name)


def __dir__() -> list[str]:
    return [*names.DISTRIBUTIONS, "bijection", "constraints", "transforms"]
