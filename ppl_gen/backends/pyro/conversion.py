"""Numbers, lists and NumPy arrays as tensors, weakly typed as in JAX: they take the dtype that they meet."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch.utils import _pytree as pytree


def array(object, dtype=None):
    """A new tensor from numbers, nested lists (that may hold tensors), NumPy arrays or tensors."""
    x = asarray(object, dtype)
    return x.clone() if isinstance(object, torch.Tensor) else x


def asarray(a, dtype=None):
    """`a` as a tensor; floating numbers that are not yet tensors take torch's default dtype."""
    if isinstance(a, torch.Tensor):
        return a if dtype is None else a.to(dtype)
    if isinstance(a, (list, tuple)) and any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(a)):
        return torch.stack(together(*(asarray(item, dtype) for item in a)))
    values = np.array(a)  # a copy: the tensor never shares memory with the caller's array
    if dtype is None and values.dtype.kind == "f":
        dtype = torch.get_default_dtype()
    return torch.as_tensor(values, dtype=dtype)


def together(*xs):
    """The arguments as tensors of one dtype; what was not a tensor is weakly typed."""
    if all(isinstance(x, torch.Tensor) and x.dtype == xs[0].dtype for x in xs):
        return xs
    tensors = [x for x in xs if isinstance(x, torch.Tensor)]
    others = [asarray(x) for x in xs if not isinstance(x, torch.Tensor)]
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in tensors or others))
    for x in others:
        if _kind(x.dtype) > _kind(dtype):
            dtype = x.dtype
    return tuple(asarray(x, dtype) for x in xs)


def _kind(dtype):
    return 2 if dtype.is_floating_point else int(dtype != torch.bool)


def floating(x):
    """`x` as a tensor of a floating dtype: NumPy's functions of reals turn integers into floats."""
    x = asarray(x)
    return x if x.dtype.is_floating_point else x.to(torch.get_default_dtype())
