"""Networks as flax.nnx modules; ``torch_home`` is the mirror."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ppl_gen.backends.numpyro import arrays as xp
from ppl_gen.backends.numpyro.compiling import on_host
from ppl_gen.nets import layers
from ppl_gen.nets.layers import Arrays

_UNROLLED = 4  # turns of a loop


class Network(nnx.Module):
    """A network of a description ``net``; its parts are its attributes."""

    def __init__(self, net: Any, arrays: Arrays, prefix: str = ""):
        self.net = net
        for name, part in net.parts().items():
            path = f"{prefix}{name}"
            made = (
                nnx.List(_part(x, arrays, f"{path}.{i}") for i, x in enumerate(part))
                if isinstance(part, tuple)
                else _part(part, arrays, path)
            )
            setattr(self, name, made)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.net.forward(Functions, self, *inputs, **options)


def build(net: Any, arrays: Arrays) -> Network:
    """The network with these weights."""
    return Network(net, arrays)


def weights(network: Network) -> Arrays:
    """By path."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.state(network, nnx.Param))
    return {_path(path): np.asarray(x) for path, x in leaves}


def load(network: Network, arrays: Mapping[str, np.ndarray]) -> None:
    """Weights into their places; all are there, in their shapes."""
    state = nnx.state(network, nnx.Param)
    put = jax.tree_util.tree_map_with_path(lambda path, x: jnp.asarray(arrays[_path(path)], x.dtype), state)
    nnx.update(network, put)


def _path(path: Any) -> str:
    parts = (str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", "")))) for k in path)
    return ".".join(p for p in parts if p and p != "value")


def _part(part: Any, arrays: Arrays, path: str) -> Any:
    if hasattr(part, "parts"):
        return Network(part, arrays, f"{path}.")
    held = {n.rpartition(".")[2]: x for n, x in arrays.items() if n.rpartition(".")[0] == path}
    return LAYERS[type(part)](part, held)


class _Layer(nnx.Module):
    """A layer of a description ``layer``, with its arrays as params."""

    def __init__(self, layer: Any, arrays: Arrays):
        self.layer = layer
        for name, x in arrays.items():
            setattr(self, name, nnx.Param(jnp.asarray(x)))


class Linear(_Layer):
    def __call__(self, x: Any, start: Any = 0, size: int | None = None) -> Any:
        """The outputs from ``start`` on, ``size`` of them; all where None."""
        layers.check_features(self.layer, x.shape[-1])
        mask = self.layer.mask()
        kernel = self.kernel[...] if mask is None else self.kernel[...] * jnp.asarray(mask, self.kernel.dtype)
        bias = self.bias[...] if self.layer.bias else None
        if size is not None:
            kernel = jax.lax.dynamic_slice_in_dim(kernel, start, size, axis=1)
            bias = None if bias is None else jax.lax.dynamic_slice_in_dim(bias, start, size)
        y = x @ kernel
        return y if bias is None else y + bias


class Conv(_Layer):
    def __call__(self, x: Any) -> Any:
        layers.check_features(self.layer, x.shape[-1])
        mask = self.layer.mask()
        kernel = self.kernel[...]
        if mask is not None:
            kernel = kernel * jnp.asarray(mask, kernel.dtype)[:, :, None, None]
        rows = x.reshape((-1, *x.shape[-3:])).astype(kernel.dtype)
        convolve = _by_patches if on_host() else _by_library
        y = convolve(rows, kernel, self.layer.stride, self.layer.padding())
        y = y + self.bias[...] if self.layer.bias else y
        return y.reshape((*x.shape[:-3], *y.shape[1:]))


def _by_library(x: Any, kernel: Any, stride: int, padding: Any) -> Any:
    """Convolution of (rows, height, width, in)."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.checkpoint, static_argnums=(2, 3))
def _by_patches(x: Any, kernel: Any, stride: int, padding: Any) -> Any:
    """The same as one matrix product, of the patches, which are laid out again on the way back and not kept.

    Inside of loops XLA's own convolution takes tens of times as long on a CPU.
    """
    h, w = kernel.shape[:2]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = ((x.shape[1] - h) // stride + 1, (x.shape[2] - w) // stride + 1)
    ends = (height - 1) * stride + 1, (width - 1) * stride + 1
    corners = ((i, j) for i in range(h) for j in range(w))
    patches = [x[:, i : i + ends[0] : stride, j : j + ends[1] : stride] for i, j in corners]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape((-1, kernel.shape[-1]))


class Embedding(_Layer):
    def __call__(self, index: Any) -> Any:
        return jnp.take(self.embedding[...], jnp.asarray(index, int), axis=0)


class LayerNorm(_Layer):
    def __call__(self, x: Any) -> Any:
        return _normalised(x, -1) * self.scale[...] + self.bias[...]


class GroupNorm(_Layer):
    def __call__(self, x: Any) -> Any:
        groups = self.layer.num_groups
        split = x.reshape((*x.shape[:-1], groups, x.shape[-1] // groups))
        return _normalised(split, (-4, -3, -1)).reshape(x.shape) * self.scale[...] + self.bias[...]


class Weight(_Layer):
    def __call__(self) -> Any:
        return self.array[...]


LAYERS = {
    layers.Linear: Linear,
    layers.Conv: Conv,
    layers.Embedding: Embedding,
    layers.LayerNorm: LayerNorm,
    layers.GroupNorm: GroupNorm,
    layers.Weight: Weight,
}


def _normalised(x: Any, axis: Any) -> Any:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - wide.mean(axis, keepdims=True)
    return (centred * jax.lax.rsqrt((centred**2).mean(axis, keepdims=True) + layers.EPSILON)).astype(x.dtype)


class Functions:
    """What a forward pass is given."""

    xp = xp
    stopped = staticmethod(jax.lax.stop_gradient)

    @staticmethod
    def activation(name: str, x: Any) -> Any:
        """One of :data:`layers.ACTIVATIONS`."""
        return x if name == "identity" else getattr(jax.nn if name != "tanh" else jnp, name)(x)

    @staticmethod
    def jvp(f: Any, x: Any, along: Any) -> tuple[Any, Any]:
        """f(x) and its derivative along a direction."""
        return jax.jvp(f, (x,), (along,))

    @staticmethod
    def trace(f: Any, x: Any) -> tuple[Any, Any]:
        """f(x) and the trace (...) of its Jacobian, of f that maps each row of (..., features) by itself."""
        y, push = jax.linearize(f, x)
        columns = jax.vmap(lambda unit: push(jnp.broadcast_to(unit, x.shape)))(jnp.eye(x.shape[-1], dtype=x.dtype))
        return y, jnp.einsum("i...i->...", columns)

    @staticmethod
    def in_turn(numbers: Sequence[int], step: Any, state: Any) -> Any:
        """``step(number, state) -> state`` for one number after the other; the last state."""
        if len(numbers) > _UNROLLED:  # a program that grows with their count would take long to compile
            return jax.lax.scan(lambda s, i: (step(i, s), None), state, jnp.asarray(numbers))[0]
        return functools.reduce(lambda s, i: step(i, s), numbers, state)

    @staticmethod
    def attention(query: Any, key: Any, value: Any, mask: Any) -> Any:
        """softmax(q k^T / sqrt(features)) v of (..., time, heads, features), where ``mask`` (..., time, key) holds."""
        scores = jnp.einsum("...tnh,...snh->...nts", query, key) * query.shape[-1] ** -0.5
        scores = jnp.where(mask[..., None, :, :], scores, -jnp.inf).astype(jnp.promote_types(scores.dtype, jnp.float32))
        return jnp.einsum("...nts,...snh->...tnh", jax.nn.softmax(scores, axis=-1).astype(value.dtype), value)

    @staticmethod
    def upsample(x: Any) -> Any:
        """Every pixel of (..., height, width, features) twice in both directions."""
        return jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)
