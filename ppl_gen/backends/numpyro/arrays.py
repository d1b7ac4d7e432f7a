"""The portable array namespace `xp` on JAX: NumPy's names, arguments and semantics.

The names are those of `ppl_gen.backends.names.ARRAY_FUNCTIONS`; `backends/pyro/arrays.py` mirrors this file.
No dtype is fixed at import: `jax.enable_x64` decides at call time.
"""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.scipy.special as jss

from ppl_gen.backends import names
from ppl_gen.backends.numpyro.routines import jit, routine  # noqa: F401 (part of the name space)
from ppl_gen.backends.numpyro.scanning import scan  # noqa: F401 (part of the name space)

pi, inf, nan = math.pi, math.inf, math.nan

_NUMPY = """
    float32 float64 int32 int64 bool_
    abs exp exp2 log log1p expm1 log2 log10 sqrt square reciprocal negative
    sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh
    floor ceil round sign isnan isfinite isinf logical_not
    arctan2 power maximum minimum mod logaddexp logical_and logical_or
    sum prod mean var std max min any all argmax argmin cumsum cumprod sort argsort
    where clip take take_along_axis searchsorted
    array asarray astype zeros ones full zeros_like ones_like full_like arange linspace eye
    shape ndim reshape ravel transpose swapaxes moveaxis expand_dims squeeze broadcast_to broadcast_shapes
    broadcast_arrays stack concatenate flip roll tile repeat diag diagonal tril triu
    matmul dot outer tensordot einsum
"""
_NN = "sigmoid softplus relu log_sigmoid softmax log_softmax one_hot"
_SPECIAL = "expit logit logsumexp gammaln digamma erf erfc erfinv xlogy ndtr ndtri log_ndtr i0e i1e"

for _module, _names in ((jnp, _NUMPY), (jax.nn, _NN), (jss, _SPECIAL)):
    globals().update({name: getattr(_module, name) for name in _names.split()})


def betaln(a, b):
    """log B(a, b) by log gamma: JAX's own is off by up to 1e-6 where an argument is 8 or more."""
    return jss.gammaln(a) + jss.gammaln(b) - jss.gammaln(jnp.add(a, b))


def _as_matrix(solver):
    """NumPy 2's rule: the right-hand side `b` is a vector exactly when it has one axis; batches broadcast."""

    def solve(a, b, **options):
        a, b = jnp.asarray(a), jnp.asarray(b)
        vector = b.ndim == 1
        b = b[:, None] if vector else b
        batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (jnp.broadcast_to(m, batch + m.shape[-2:]) for m in (a, b))
        x = solver(a, b, **options)
        return x[..., 0] if vector else x

    return solve


@_as_matrix
def _solve_triangular(a, b, lower=True):
    return jsl.solve_triangular(a, b, lower=lower)


def solve_triangular(a, b, lower=True):
    """Solve `a x = b` for triangular `a` (..., n, n) and `b` (n,) or (..., n, k)."""
    return _solve_triangular(a, b, lower=lower)


@_as_matrix
def _cholesky_solve(factor, b):
    return jsl.cho_solve((factor, True), b)


def cholesky_solve(factor, b):
    """Solve `(L L^T) x = b` given the lower factor `L` (..., n, n) and `b` (n,) or (..., n, k)."""
    return _cholesky_solve(factor, b)


_LINALG = "cholesky solve inv det slogdet eigh svd qr norm"
linalg = SimpleNamespace(
    **{name: getattr(jnp.linalg, name) for name in _LINALG.split()},
    solve_triangular=solve_triangular,
    cholesky_solve=cholesky_solve,
)


def __getattr__(name):
    raise names.missing(name, "xp")
