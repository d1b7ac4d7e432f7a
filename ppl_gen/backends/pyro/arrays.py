"""The portable array namespace `xp` on PyTorch: NumPy's names, arguments and semantics.

The names are those of `ppl_gen.backends.names.ARRAY_FUNCTIONS`; `backends/numpyro/arrays.py` is the mirror.
Python scalars and NumPy arrays are accepted wherever NumPy accepts them. They are weakly typed, as in JAX:
they take the dtype of the tensors they meet, else torch's default. Nothing here looks at a value, so every
function may be used under `torch.func.vmap`, `torch.func.grad` and `make_fx`.
"""

import builtins
import functools
import math
import operator

import torch

from ppl_gen.backends import names
from ppl_gen.backends.pyro import inner_loops
from ppl_gen.backends.pyro import linalg as _linalg
from ppl_gen.backends.pyro.conversion import array as _array
from ppl_gen.backends.pyro.conversion import asarray, floating, together
from ppl_gen.backends.pyro.routines import jit, routine  # noqa: F401 (part of the name space)

array, linalg = _array, _linalg
pi, inf, nan = math.pi, math.inf, math.nan
float32, float64, int32, int64, bool_ = torch.float32, torch.float64, torch.int32, torch.int64, torch.bool


# ---- elementwise -----------------------------------------------------------------------------------------


def astype(x, dtype):
    return asarray(x).to(dtype)


def _unary(function, convert=asarray):
    @functools.wraps(function)
    def elementwise(x):
        return function(convert(x))

    return elementwise


def _binary(function, of_reals=False):
    @functools.wraps(function)
    def elementwise(x1, x2):
        x1, x2 = together(x1, x2)
        return function(floating(x1), floating(x2)) if of_reals else function(x1, x2)

    return elementwise


_UNARY = "abs square negative floor ceil round sign isnan isinf logical_not relu"
_UNARY_FLOATING = """
    exp exp2 log log1p expm1 log2 log10 sqrt reciprocal sin cos tan arcsin arccos arctan sinh cosh tanh
    arcsinh arccosh arctanh sigmoid logit erf erfc erfinv digamma
"""
_SPECIAL = "expit ndtr ndtri i0e i1e"

for _name in _UNARY.split():
    globals()[_name] = _unary(getattr(torch, _name))
for _name in _UNARY_FLOATING.split():
    globals()[_name] = _unary(getattr(torch, _name), floating)
for _name in _SPECIAL.split():
    globals()[_name] = _unary(getattr(torch.special, _name), floating)

gammaln = _unary(torch.lgamma, floating)
log_sigmoid = _unary(torch.nn.functional.logsigmoid, floating)
isfinite = _unary(lambda x: x - x == 0.0, floating)  # two operations; torch's own is four in a graph
power, mod = _binary(torch.pow), _binary(torch.remainder)
maximum, minimum = _binary(torch.maximum), _binary(torch.minimum)
logical_and, logical_or = _binary(torch.logical_and), _binary(torch.logical_or)
arctan2 = _binary(torch.arctan2, of_reals=True)
logaddexp = _binary(torch.logaddexp, of_reals=True)
xlogy = _binary(torch.xlogy, of_reals=True)


def softplus(x):
    """log(1 + e^x), exact for every x (torch's own switches to x above a threshold)."""
    return logaddexp(x, 0.0)


def log_ndtr(x):
    """log Phi(x) to full precision in both tails; `vmap` would run torch's own in a loop."""
    x = floating(x) * math.sqrt(0.5)
    left, right = torch.clamp(x, max=-0.5), torch.clamp(x, min=-0.5)
    tail = torch.log(torch.special.erfcx(-left) / 2) - left**2
    return torch.where(x < -0.5, tail, torch.log1p(-torch.erfc(right) / 2))


def betaln(a, b):
    a, b = map(floating, together(a, b))
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def where(condition, x, y):
    return torch.where(asarray(condition).bool(), *together(x, y))


def clip(a, min=None, max=None):
    a = asarray(a) if min is None else maximum(a, min)
    return a if max is None else minimum(a, max)


# ---- reductions ------------------------------------------------------------------------------------------


def _axes(x, axis):
    """`axis` (None, int or tuple) as a tuple of non-negative axes of `x`."""
    if axis is None:
        return tuple(range(x.ndim))
    return tuple(operator.index(a) % x.ndim for a in (axis if isinstance(axis, (tuple, list)) else (axis,)))


def _reduction(function, convert=asarray):
    """A torch reduction over a tuple of axes (torch reads the empty tuple as all axes, NumPy as none)."""

    @functools.wraps(function)
    def reduce(a, axis=None, keepdims=False):
        a = convert(a)
        axes = _axes(a, axis)
        return function(a, dim=axes, keepdim=keepdims) if axes else function(a[None], dim=(0,))

    return reduce


sum = _reduction(torch.sum)
mean = _reduction(torch.mean, floating)
max, min = _reduction(torch.amax), _reduction(torch.amin)
any, all = (_reduction(f, lambda a: asarray(a).bool()) for f in (torch.any, torch.all))
logsumexp = _reduction(torch.logsumexp, floating)


def prod(a, axis=None, keepdims=False):
    a = asarray(a)
    axes = _axes(a, axis)
    for one in axes:
        a = torch.prod(a, dim=one, keepdim=True)
    return a if keepdims else torch.squeeze(a, axes)


def var(a, axis=None, ddof=0, keepdims=False):
    a = floating(a)
    return torch.var(a, dim=_axes(a, axis), correction=ddof, keepdim=keepdims)


def std(a, axis=None, ddof=0, keepdims=False):
    return torch.sqrt(var(a, axis, ddof, keepdims))


def softmax(x, axis=-1):
    x = floating(x)
    if isinstance(axis, int):
        return torch.softmax(x, axis)
    return torch.exp(x - torch.logsumexp(x, _axes(x, axis), keepdim=True))


def log_softmax(x, axis=-1):
    x = floating(x)
    if isinstance(axis, int):
        return torch.log_softmax(x, axis)
    return x - torch.logsumexp(x, _axes(x, axis), keepdim=True)


def _along_axis(function):
    """A torch function along one axis; `axis=None` flattens first, as in NumPy."""

    @functools.wraps(function)
    def along(a, axis=None):
        a = asarray(a)
        return function(a.reshape(-1), 0) if axis is None else function(a, axis)

    return along


cumsum, cumprod = _along_axis(torch.cumsum), _along_axis(torch.cumprod)
argmax, argmin = _along_axis(torch.argmax), _along_axis(torch.argmin)


def sort(a, axis=-1):
    return torch.sort(asarray(a), dim=axis, stable=True).values


def argsort(a, axis=-1):
    return torch.argsort(asarray(a), dim=axis, stable=True)


# ---- creation --------------------------------------------------------------------------------------------


def _creator(function):
    @functools.wraps(function)
    def create(shape, dtype=None):
        return function(_size(shape), dtype=dtype)

    return create


def _like(function):
    @functools.wraps(function)
    def create(a, dtype=None):
        return function(asarray(a), dtype=dtype)

    return create


def _size(shape):
    return (shape,) if isinstance(shape, int) else tuple(shape)


zeros, ones = _creator(torch.zeros), _creator(torch.ones)
zeros_like, ones_like = _like(torch.zeros_like), _like(torch.ones_like)


def full(shape, fill_value, dtype=None):
    return asarray(fill_value, dtype).expand(_size(shape)).clone()


def full_like(a, fill_value, dtype=None):
    a = asarray(a)
    return full(a.shape, fill_value, dtype or a.dtype)


def arange(start, stop=None, step=1, dtype=None):
    start, stop = (0, start) if stop is None else (start, stop)
    return torch.arange(start, stop, step, dtype=dtype)


def linspace(start, stop, num=50):
    return torch.linspace(start, stop, num)


def eye(N, M=None, dtype=None):
    return torch.eye(N, N if M is None else M, dtype=dtype)


def one_hot(x, num_classes):
    """1.0 where the last, new axis equals `x`; zeros for `x` out of range."""
    x = asarray(x)
    return (x[..., None] == torch.arange(num_classes)).to(torch.get_default_dtype())


# ---- shape -----------------------------------------------------------------------------------------------


def shape(a):
    return tuple(asarray(a).shape)


def ndim(a):
    return asarray(a).ndim


def reshape(a, shape):
    return asarray(a).reshape(_size(shape))


def ravel(a):
    return asarray(a).reshape(-1)


def transpose(a, axes=None):
    a = asarray(a)
    return a.permute(tuple(reversed(range(a.ndim))) if axes is None else tuple(axes))


def swapaxes(a, axis1, axis2):
    return asarray(a).transpose(axis1, axis2)


def moveaxis(a, source, destination):
    return torch.movedim(asarray(a), source, destination)


def expand_dims(a, axis):
    a = asarray(a)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    for one in sorted(operator.index(i) % (a.ndim + len(axes)) for i in axes):
        a = a.unsqueeze(one)
    return a


def squeeze(a, axis=None):
    a = asarray(a)
    return a.squeeze() if axis is None else a.squeeze(_axes(a, axis))


def broadcast_to(array, shape):
    return asarray(array).broadcast_to(_size(shape))


def broadcast_shapes(*shapes):
    return tuple(torch.broadcast_shapes(*shapes))


def broadcast_arrays(*args):
    return list(torch.broadcast_tensors(*map(asarray, args)))


def stack(arrays, axis=0):
    return torch.stack(together(*arrays), dim=axis)


def concatenate(arrays, axis=0):
    return torch.cat(together(*arrays), dim=axis)


def flip(m, axis=None):
    m = asarray(m)
    return torch.flip(m, _axes(m, axis))


def roll(a, shift, axis=None):
    return torch.roll(asarray(a), shift, axis)


def tile(A, reps):
    return torch.tile(asarray(A), _size(reps))


def repeat(a, repeats, axis=None):
    return torch.repeat_interleave(asarray(a), repeats, dim=axis)


def diag(v, k=0):
    return torch.diag(asarray(v), k)


def diagonal(a, offset=0, axis1=0, axis2=1):
    return torch.diagonal(asarray(a), offset, axis1, axis2)


def tril(m, k=0):
    return torch.tril(asarray(m), k)


def triu(m, k=0):
    return torch.triu(asarray(m), k)


def take(a, indices, axis=None):
    a, indices = asarray(a), asarray(indices)
    if axis is None:
        a, axis = a.reshape(-1), 0
    axis = axis % a.ndim
    taken = torch.index_select(a, axis, indices.reshape(-1))
    return taken.reshape(a.shape[:axis] + indices.shape + a.shape[axis + 1 :])


def take_along_axis(arr, indices, axis):
    return torch.take_along_dim(asarray(arr), asarray(indices), dim=axis)


def searchsorted(a, v, side="left"):
    a, v = together(a, v)
    return torch.searchsorted(a, v.contiguous(), side=side)


# ---- products and folds ---------------------------------------------------------------------------------


def matmul(a, b):
    return torch.matmul(*together(a, b))


def outer(a, b):
    a, b = together(a, b)
    return torch.outer(a.reshape(-1), b.reshape(-1))


def dot(a, b):
    """NumPy's: the last axis of `a` against the last but one of `b`, unlike matmul for three axes and up."""
    a, b = together(a, b)
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    return torch.tensordot(a, b, dims=([a.ndim - 1], [builtins.max(b.ndim - 2, 0)]))


def tensordot(a, b, axes=2):
    a, b = together(a, b)
    if not isinstance(axes, int):
        axes = tuple([i] if isinstance(i, int) else list(i) for i in axes)
    return torch.tensordot(a, b, dims=axes)


def einsum(subscripts, *operands):
    return torch.einsum(subscripts, *together(*operands))


def scan(f, init, xs):
    """Fold `f(carry, x) -> (carry, y)` over the leading axis of the pytree `xs`; `(carry, stacked ys)`."""
    return inner_loops.scan(f, init, xs, lambda *leaves: torch.stack(together(*leaves)))


def __getattr__(name):
    raise names.missing(name, "xp")
