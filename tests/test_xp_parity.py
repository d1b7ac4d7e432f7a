"""Both backends' `xp` are one namespace: the same names, and the same values in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from ppl_gen.backends import names
from ppl_gen.backends.numpyro import arrays as nx
from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.backends.pyro import arrays as px


@pytest.fixture(autouse=True)
def _double():
    """Both libraries in double precision; restored afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with jax.enable_x64(True):
            yield
    finally:
        torch.set_default_dtype(before)


X = np.random.default_rng(0).normal(size=(2, 3, 4))
Y = np.random.default_rng(1).normal(size=(3, 4))
T = np.random.default_rng(2).normal(size=(3, 4))
U = np.random.default_rng(3).uniform(0.1, 0.9, size=(3, 4))
P = U * 5
I = np.array([[2, 0, 1], [0, 1, 1]])
A = Y @ Y.T + np.eye(3)
L = np.linalg.cholesky(A)
AA, BB = np.stack([A, 2 * A + np.eye(3)]), np.random.default_rng(4).normal(size=(2, 3, 2))


def _routine(flow, xp, factor, y, tree):
    """Loops and branches on values; leading axes are those of the arguments."""
    total, ys = flow.scan(lambda c, x: (c + factor * x, {"c": c}), y, xp.stack([y, y + tree["t"]]), reverse=True)
    root = flow.while_loop(  # Newton's method, which stays where it has arrived
        lambda r: xp.max(xp.abs(r * r - 2.0)) > 1e-14, lambda r: 0.5 * (r + 2.0 / r), xp.ones_like(y)
    )
    return flow.cond(xp.max(y) < 1e9, lambda s: s * root, lambda s: -s, total), xp.moveaxis(ys["c"], 0, -1)


def _with_gradients(flow, xp, y, t):
    return xp.sum(y * t**2, axis=-1), (t**2 + 0 * y, 2 * t * y)


# Each function: what is called with the namespace and arrays made by its `asarray`.
UNARY = """
    abs exp exp2 expm1 square negative sin cos tan arctan sinh cosh tanh arcsinh floor ceil round sign isnan
    isfinite isinf sigmoid softplus relu log_sigmoid expit erf erfc ndtr log_ndtr i0e i1e softmax log_softmax
""".split()
ON_UNIT = """
    log log1p log2 log10 sqrt reciprocal arcsin arccos arctanh logit erfinv ndtri gammaln digamma
""".split()
BINARY = "arctan2 maximum minimum mod logaddexp".split()
REDUCTIONS = "sum prod mean var std max min logsumexp".split()
AXES = [None, 0, -1, (0, 2), (1,)]

CASES = {name: [lambda xp, x, f=name: getattr(xp, f)(x(X * 3))] for name in UNARY}
CASES |= {name: [lambda xp, x, f=name: getattr(xp, f)(x(U))] for name in ON_UNIT}
CASES |= {
    name: [
        lambda xp, x, f=name: getattr(xp, f)(x(X), x(Y)),
        lambda xp, x, f=name: getattr(xp, f)(x(Y), 0.3),
        lambda xp, x, f=name: getattr(xp, f)(2, x(Y)),
    ]
    for name in BINARY
}
CASES |= {
    name: [
        lambda xp, x, f=name, axis=axis, keep=keep: getattr(xp, f)(x(X), axis=axis, keepdims=keep)
        for axis in AXES
        for keep in (False, True)
    ]
    for name in REDUCTIONS
}
CASES |= {
    name: [lambda xp, x, f=name, axis=axis: getattr(xp, f)(x(X) > 0, axis=axis) for axis in AXES]
    for name in ("any", "all")
}
CASES |= {
    name: [lambda xp, x, f=name, axis=axis: getattr(xp, f)(x(X), axis=axis) for axis in (None, 0, -1)]
    for name in ("argmax", "argmin", "cumsum", "cumprod")
}
CASES |= {
    name: [lambda xp, x, f=name, axis=axis: getattr(xp, f)(x(X), axis=axis) for axis in (0, -1)]
    for name in ("sort", "argsort")
}
CASES |= {
    name: [
        lambda xp, x, f=name: getattr(xp, f)((2, 3)),
        lambda xp, x, f=name: getattr(xp, f)(2, dtype=xp.int32),
    ]
    for name in ("zeros", "ones")
}
CASES |= {name: [lambda xp, x, f=name: getattr(xp, f)(x(X))] for name in ("zeros_like", "ones_like", "ravel")}
CASES |= {
    name: [lambda xp, x, f=name: getattr(xp, f)(x(X)), lambda xp, x, f=name: getattr(xp, f)(x(Y), k=1)]
    for name in ("tril", "triu")
}
CASES |= {
    "pi": [lambda xp, x: x(xp.pi)],
    "inf": [lambda xp, x: x(xp.inf)],
    "nan": [lambda xp, x: xp.isnan(x(xp.nan))],
    "float32": [lambda xp, x: xp.astype(x(X), xp.float32)],
    "float64": [lambda xp, x: xp.astype(x(I), xp.float64)],
    "int32": [lambda xp, x: xp.astype(x(P), xp.int32)],
    "int64": [lambda xp, x: xp.astype(x(P), xp.int64)],
    "bool_": [lambda xp, x: xp.astype(x(I), xp.bool_)],
    "astype": [lambda xp, x: xp.astype(x(P), xp.int64)],
    "arccosh": [lambda xp, x: xp.arccosh(x(U + 1))],
    "power": [
        lambda xp, x: xp.power(x(P), x(Y)),
        lambda xp, x: xp.power(x(P), 2),
        lambda xp, x: xp.power(2.0, x(Y)),
    ],
    "betaln": [lambda xp, x: xp.betaln(x(P), x(U)), lambda xp, x: xp.betaln(2.0, 3)],
    "xlogy": [lambda xp, x: xp.xlogy(x(U), x(P)), lambda xp, x: xp.xlogy(0.0, x(U) * 0)],
    "logical_not": [lambda xp, x: xp.logical_not(x(X) > 0)],
    "logical_and": [lambda xp, x: xp.logical_and(x(X) > 0, x(Y) > 0)],
    "logical_or": [lambda xp, x: xp.logical_or(x(X) > 0, x(Y) > 0)],
    "where": [
        lambda xp, x: xp.where(x(X) > 0, 0.0, x(X)),
        lambda xp, x: xp.where(x(X) > 0, x(Y), 1),
        lambda xp, x: xp.where(x(X) > 0, 1.0, 0.0),
    ],
    "clip": [lambda xp, x: xp.clip(x(X), -0.5, 0.5), lambda xp, x: xp.clip(x(X), min=0.1)],
    "take": [
        lambda xp, x: xp.take(x(X), x(I), axis=1),
        lambda xp, x: xp.take(x(X), x(I)),
        lambda xp, x: xp.take(x(X), 1, axis=-1),
    ],
    "take_along_axis": [lambda xp, x: xp.take_along_axis(x(Y), xp.argsort(x(Y), axis=0), axis=0)],
    "searchsorted": [
        lambda xp, x: xp.searchsorted(x(np.sort(Y[0])), x(X)),
        lambda xp, x: xp.searchsorted(x([0.0, 1.0, 1.0, 2.0]), x([1.0]), side="right"),
    ],
    "array": [
        lambda xp, x: xp.array([1.0, 2.5]),
        lambda xp, x: xp.array([x(X)[0, 0, 0], 2.0]),
        lambda xp, x: xp.array([[1, 2]]),
    ],
    "asarray": [
        lambda xp, x: xp.asarray(0.1),
        lambda xp, x: xp.asarray(Y),
        lambda xp, x: xp.asarray([True, False]),
    ],
    "full": [lambda xp, x: xp.full((2, 3), 1.5), lambda xp, x: xp.full(4, 2)],
    "full_like": [lambda xp, x: xp.full_like(x(X), 2)],
    "arange": [
        lambda xp, x: xp.arange(5),
        lambda xp, x: xp.arange(2, 9, 3),
        lambda xp, x: xp.arange(0.0, 1.0, 0.25),
    ],
    "linspace": [lambda xp, x: xp.linspace(-1.0, 2.0, 7)],
    "eye": [lambda xp, x: xp.eye(3), lambda xp, x: xp.eye(2, 4)],
    "shape": [lambda xp, x: x(xp.shape(x(X)))],
    "ndim": [lambda xp, x: x(xp.ndim(x(X)))],
    "reshape": [lambda xp, x: xp.reshape(x(X), (4, -1)), lambda xp, x: xp.reshape(x(X), 24)],
    "transpose": [lambda xp, x: xp.transpose(x(X)), lambda xp, x: xp.transpose(x(X), (1, 0, 2))],
    "swapaxes": [lambda xp, x: xp.swapaxes(x(X), 0, -1)],
    "moveaxis": [lambda xp, x: xp.moveaxis(x(X), 0, -1)],
    "expand_dims": [lambda xp, x: xp.expand_dims(x(X), 1), lambda xp, x: xp.expand_dims(x(X), (0, -1))],
    "squeeze": [
        lambda xp, x: xp.squeeze(x(X)[:1, :1]),
        lambda xp, x: xp.squeeze(x(X)[:1, :1], axis=1),
    ],
    "broadcast_to": [lambda xp, x: xp.broadcast_to(x(Y), (2, 3, 4))],
    "broadcast_shapes": [lambda xp, x: x(xp.broadcast_shapes((2, 1), (3,)))],
    "broadcast_arrays": [lambda xp, x: list(xp.broadcast_arrays(x(X), x(Y), 1.0))],
    "stack": [lambda xp, x: xp.stack([x(Y), x(T)], axis=-1), lambda xp, x: xp.stack([x(Y)[0, 0], 1.0])],
    "concatenate": [lambda xp, x: xp.concatenate([x(Y), x(T)], axis=1)],
    "flip": [lambda xp, x: xp.flip(x(X)), lambda xp, x: xp.flip(x(X), axis=1)],
    "roll": [lambda xp, x: xp.roll(x(X), 2), lambda xp, x: xp.roll(x(X), -1, axis=1)],
    "tile": [lambda xp, x: xp.tile(x(Y), 2), lambda xp, x: xp.tile(x(Y), (2, 1, 3))],
    "repeat": [lambda xp, x: xp.repeat(x(Y), 2), lambda xp, x: xp.repeat(x(Y), 3, axis=0)],
    "diag": [lambda xp, x: xp.diag(x(A)), lambda xp, x: xp.diag(x(Y)[0], k=1)],
    "diagonal": [lambda xp, x: xp.diagonal(x(X), axis1=-2, axis2=-1)],
    "matmul": [lambda xp, x: xp.matmul(x(X), x(Y).T), lambda xp, x: xp.matmul(x(X), x(Y)[0])],
    "dot": [
        lambda xp, x: xp.dot(x(Y)[0], x(T)[0]),
        lambda xp, x: xp.dot(x(X), x(np.swapaxes(X, 1, 2))),
        lambda xp, x: xp.dot(x(X), x(Y)[0]),
        lambda xp, x: xp.dot(2.0, x(X)),
    ],
    "outer": [lambda xp, x: xp.outer(x(Y)[0], x(T)[1])],
    "tensordot": [
        lambda xp, x: xp.tensordot(x(X), x(Y)),
        lambda xp, x: xp.tensordot(x(X), x(Y), axes=([1, 2], [0, 1])),
        lambda xp, x: xp.tensordot(x(Y), x(T), axes=(0, 0)),
    ],
    "einsum": [lambda xp, x: xp.einsum("bij,ij->b", x(X), x(Y))],
    "one_hot": [lambda xp, x: xp.one_hot(x(I), num_classes=3), lambda xp, x: xp.one_hot(x([5, -1]), 3)],
    "scan": [
        lambda xp, x: xp.scan(lambda c, y: (c * 0.9 + y.sum(), {"y": y + c}), x(0.0), x(Y)),
        lambda xp, x: xp.scan(
            lambda c, y: ((c[0] + y[0], c[1]), c[1] * y[1]), (x(0.5), x(2.0)), (x(Y)[0], x(T)[0])
        ),
    ],
    "jit": [lambda xp, x: xp.jit(_with_gradients, (None, xp))(x(Y), x(T))],
    "routine": [
        lambda xp, x: xp.routine(_routine, (xp, 0.5))(x(Y), {"t": x(T)}),
        lambda xp, x: xp.routine(_with_gradients, (xp,), True)(x(Y), x(T)),
    ],
    "linalg": [lambda xp, x: xp.linalg.det(x(A))],
}
LINALG = {
    "cholesky": [lambda la, x: la.cholesky(x(AA)), lambda la, x: la.cholesky(x(-A))],
    "solve": [lambda la, x: la.solve(x(A), x(Y)), lambda la, x: la.solve(x(AA), x(Y)[:, 0])],
    "inv": [lambda la, x: la.inv(x(AA))],
    "det": [lambda la, x: la.det(x(AA))],
    "slogdet": [lambda la, x: tuple(la.slogdet(x(AA)))],
    "eigh": [lambda la, x: la.eigh(x(A))[0], lambda la, x: _rebuilt(*la.eigh(x(AA)))],
    "svd": [
        lambda la, x: la.svd(x(Y))[1],
        lambda la, x: _product(*la.svd(x(Y), full_matrices=False)),
    ],
    "qr": [lambda la, x: (lambda q, r: q @ r)(*la.qr(x(Y.T)))],
    "norm": [
        lambda la, x: la.norm(x(X)),
        lambda la, x: la.norm(x(X), axis=-1, keepdims=True),
        lambda la, x: la.norm(x(X), ord=1, axis=0),
    ],
    "solve_triangular": [
        lambda la, x: la.solve_triangular(x(L), x(Y)),
        lambda la, x: la.solve_triangular(x(L.T), x(Y)[:, 0], lower=False),
        lambda la, x: la.solve_triangular(x(L), x(BB)),
    ],
    "cholesky_solve": [
        lambda la, x: la.cholesky_solve(x(L), x(Y)),
        lambda la, x: la.cholesky_solve(x(L), x(Y)[:, 0]),
        lambda la, x: la.cholesky_solve(x(L), x(BB)),
    ],
}


def _rebuilt(values, vectors):
    return (vectors * values[..., None, :]) @ vectors.mT


def _product(u, s, vt):
    return (u * s[..., None, :]) @ vt


def _leaves(tree):
    return [np.asarray(leaf) for leaf in pytree.tree_leaves(tree)]


def _tensor(x):
    return torch.as_tensor(np.array(x))


def _compare(ours, theirs):
    ours, theirs = _leaves(ours), _leaves(theirs)
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    for x, y in zip(ours, theirs, strict=True):
        assert x.dtype.kind == y.dtype.kind
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


def _compare_all(cases, ours, theirs):
    """All calls compiled at once, without the optimisations that take their time."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    compiled = jax.jit(lambda: [call(ours, jnp.asarray) for call in cases], compiler_options=options)
    for x, call in zip(compiled(), cases, strict=True):
        _compare(x, call(theirs, _tensor))


def test_the_namespaces_are_the_table():
    assert set(CASES) == set(names.ARRAY_FUNCTIONS)
    assert set(LINALG) == set(names.LINALG_FUNCTIONS)
    for xp in (nx, px):
        assert all(hasattr(xp, name) for name in names.ARRAY_FUNCTIONS)
        assert all(hasattr(xp.linalg, name) for name in names.LINALG_FUNCTIONS)


@pytest.mark.parametrize("name", CASES)
def test_values(name):
    _compare_all(CASES[name], nx, px)


@pytest.mark.parametrize("name", LINALG)
def test_linear_algebra(name):
    _compare_all(LINALG[name], nx.linalg, px.linalg)


TRACED = [pytest.param(px, cases, id=name) for name, cases in CASES.items()]
TRACED += [pytest.param(px.linalg, cases, id=f"linalg.{name}") for name, cases in LINALG.items()]


@pytest.mark.parametrize("module, cases", TRACED)
def test_torch_functions_are_traceable_under_vmap_and_make_fx(module, cases):
    """The arrays are traced and mapped over: no Python may look at a number."""
    for call in cases:
        of_ones = _traced(module, call)
        graph = make_fx(torch.func.vmap(of_ones))(torch.ones(2))
        _compare([leaf[1] for leaf in graph(torch.ones(2))], of_ones(torch.ones(())))


def _traced(module, call):
    """`call` as a function of the number 1, by which all its arrays and results are multiplied."""

    def of_one(one):
        def array(x):
            x = _tensor(x)
            return x * one if x.dtype.is_floating_point else x

        return [leaf * one for leaf in pytree.tree_leaves(call(module, array))]

    return of_one


def test_gradients_agree():
    def f(xp, x):
        y = xp.where(x > 0, x, 0.0) + xp.softplus(x) + xp.maximum(x, 0.3)
        return xp.logsumexp(y, axis=(0, 1)) + xp.max(y) + xp.sum(xp.log_ndtr(x)) + xp.std(y)

    ours = jax.grad(lambda x: f(nx, x))(jnp.asarray(Y))
    theirs = torch.func.grad(lambda x: f(px, x))(_tensor(Y))
    _compare(ours, theirs)


def test_routines_that_bring_their_gradients():
    """One value for each leading index, and what it is mapped over: as autodiff of the formula itself."""

    def own(xp):
        return lambda y, t: (xp.routine(_with_gradients, (xp,), True)(y, t) ** 2).sum()

    def plain(y, t):
        return ((y * t**2).sum(-1) ** 2).sum()

    for argnum in (0, 1):
        expected = jax.grad(plain, argnum)(Y, T)
        _compare(jax.grad(own(nx), argnum)(Y, T), expected)
        _compare(torch.func.grad(own(px), argnum)(_tensor(Y), _tensor(T)), expected)
        mapped = jax.vmap(jax.grad(own(nx), argnum), (0, None))(X, T)
        _compare(mapped, jax.vmap(jax.grad(plain, argnum), (0, None))(X, T))
        _compare(torch.func.vmap(torch.func.grad(own(px), argnum), (0, None))(_tensor(X), _tensor(T)), mapped)
    _compare(jax.hessian(own(nx), 1)(Y, T), jax.hessian(plain, 1)(Y, T))
    with pytest.raises(NotImplementedError):
        torch.func.hessian(own(px), 1)(_tensor(Y), _tensor(T))
    with pytest.raises(UnsupportedError, match="first derivatives"):
        torch.func.jacrev(torch.func.grad(own(px), 1), 1)(_tensor(Y), _tensor(T))


def test_numbers_take_the_dtype_they_meet():
    single = torch.ones(3, dtype=torch.float32)
    assert px.maximum(single, 0.1).dtype == px.where(single > 0, single, 0.1).dtype == torch.float32
    assert px.maximum(single.double(), 0.1)[0] == 1 and px.asarray([0.1]).dtype == torch.float64
    torch.set_default_dtype(torch.float32)
    assert px.asarray([0.1]).dtype == px.asarray(Y).dtype == px.zeros(2).dtype == torch.float32
    assert px.minimum(single.double(), 0.1)[0] == 0.1  # not rounded through the default dtype
    assert px.arange(3).dtype == torch.int64
