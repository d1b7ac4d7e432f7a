"""Networks as torch.nn modules; ``flax_home`` is the mirror."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ppl_gen.backends.pyro import arrays as xp
from ppl_gen.nets import layers
from ppl_gen.nets.layers import Arrays

_TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}  # axes of kernels in torch's order
_FROM_TORCH = {2: (1, 0), 4: (2, 3, 1, 0)}
_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias", "array": "array"}


class Network(torch.nn.Module):
    """A network of a description ``net``; its parts are its attributes."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = net
        for name, part in net.parts().items():
            made = torch.nn.ModuleList(map(_part, part)) if isinstance(part, tuple) else _part(part)
            setattr(self, name, made)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.net.forward(Functions, self, *inputs, **options)


def build(net: Any, arrays: Arrays) -> Network:
    """The network with these weights."""
    made = Network(net)
    load(made, arrays)
    return made


def weights(network: torch.nn.Module) -> Arrays:
    """By path."""
    return {name: np.transpose(x.detach().cpu().numpy(), axes) for name, x, axes in _places(network, _FROM_TORCH)}


def load(network: torch.nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Weights into their places; all are there, in their shapes."""
    with torch.no_grad():
        for name, x, axes in _places(network, _TO_TORCH):
            x.copy_(torch.from_numpy(np.array(np.transpose(arrays[name], axes))))


def _places(network: torch.nn.Module, orders: Mapping[int, tuple[int, ...]]) -> Any:
    """Path, parameter and the order of axes that leads from or to it."""
    for path, module in network.named_modules():
        for name, torch_name in _NAMES.items():
            if name in getattr(module, "holds", ()):
                x = getattr(module, torch_name)
                turned = name == "kernel"
                yield f"{path}.{name}", x, orders[x.ndim] if turned else tuple(range(x.ndim))


def _part(part: Any) -> torch.nn.Module:
    return Network(part) if hasattr(part, "parts") else LAYERS[type(part)](part)


class Linear(torch.nn.Linear):
    def __init__(self, layer: layers.Linear):
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias)
        self.layer, self.holds = layer, ("kernel", "bias") if layer.bias else ("kernel",)
        mask = layer.mask()
        self.register_buffer("seen", None if mask is None else torch.from_numpy(mask.T.copy()))

    def forward(self, x: torch.Tensor, start: int = 0, size: int | None = None) -> torch.Tensor:
        """The outputs from ``start`` on, ``size`` of them; all where None."""
        layers.check_features(self.layer, x.shape[-1])
        weight, seen, bias = self.weight, self.seen, self.bias
        if size is not None:
            weight, seen, bias = (None if w is None else w.narrow(0, start, size) for w in (weight, seen, bias))
        return F.linear(x, weight if seen is None else weight * seen, bias)


class Conv(torch.nn.Conv2d):
    def __init__(self, layer: layers.Conv):
        super().__init__(layer.in_features, layer.out_features, layer.kernel_size, stride=layer.stride, bias=layer.bias)
        self.layer, self.holds = layer, ("kernel", "bias") if layer.bias else ("kernel",)
        (top, bottom), (left, right) = layer.padding()
        self.around = (left, right, top, bottom)
        mask = layer.mask()
        self.register_buffer("seen", None if mask is None else torch.from_numpy(mask))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers.check_features(self.layer, x.shape[-1])
        weight = self.weight if self.seen is None else self.weight * self.seen
        rows = x.reshape((-1, *x.shape[-3:])).permute(0, 3, 1, 2)  # in memory still with its channels last
        left, right, top, bottom = self.around
        if left == right and top == bottom:
            y = F.conv2d(rows, weight, self.bias, self.stride, (top, left))
        else:
            y = F.conv2d(F.pad(rows, self.around), weight, self.bias, self.stride)
        y = y.permute(0, 2, 3, 1)
        return y.reshape((*x.shape[:-3], *y.shape[1:]))


class Embedding(torch.nn.Embedding):
    def __init__(self, layer: layers.Embedding):
        super().__init__(layer.count, layer.features)
        self.holds = ("embedding",)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return super().forward(index.long())


class LayerNorm(torch.nn.LayerNorm):
    def __init__(self, layer: layers.LayerNorm):
        super().__init__(layer.features, eps=layers.EPSILON)
        self.holds = ("scale", "bias")


class GroupNorm(torch.nn.GroupNorm):
    def __init__(self, layer: layers.GroupNorm):
        super().__init__(layer.num_groups, layer.features, eps=layers.EPSILON)
        self.holds = ("scale", "bias")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape((-1, *x.shape[-3:])).permute(0, 3, 1, 2)
        rows = rows.contiguous()  # PyTorch's derivative along a direction views it as if it were
        return super().forward(rows).permute(0, 2, 3, 1).reshape(x.shape)


class Weight(torch.nn.Module):
    def __init__(self, layer: layers.Weight):
        super().__init__()
        self.holds, self.array = ("array",), torch.nn.Parameter(torch.zeros(layer.shape))

    def forward(self) -> torch.Tensor:
        return self.array


LAYERS: dict[type, Any] = {
    layers.Linear: Linear,
    layers.Conv: Conv,
    layers.Embedding: Embedding,
    layers.LayerNorm: LayerNorm,
    layers.GroupNorm: GroupNorm,
    layers.Weight: Weight,
}


class Functions:
    """What a forward pass is given."""

    xp = xp
    stopped = staticmethod(torch.Tensor.detach)

    @staticmethod
    def activation(name: str, x: torch.Tensor) -> torch.Tensor:
        """One of :data:`layers.ACTIVATIONS`."""
        if name == "identity":
            return x
        return F.gelu(x, approximate="tanh") if name == "gelu" else getattr(F, name)(x)

    @staticmethod
    def jvp(f: Any, x: torch.Tensor, along: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """f(x) and its derivative along a direction."""
        return torch.func.jvp(f, (x,), (along,))

    @staticmethod
    def trace(f: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """f(x) and the trace (...) of its Jacobian, of f that maps each row of (..., features) by itself."""
        along = lambda unit: torch.func.jvp(f, (x,), (unit.expand(x.shape),))
        y, columns = torch.func.vmap(along)(torch.eye(x.shape[-1], dtype=x.dtype))
        return y[0], torch.einsum("i...i->...", columns)

    @staticmethod
    def in_turn(numbers: Sequence[int], step: Any, state: Any) -> Any:
        """``step(number, state) -> state`` for one number after the other; the last state."""
        return functools.reduce(lambda s, i: step(i, s), numbers, state)

    @staticmethod
    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """softmax(q k^T / sqrt(features)) v of (..., time, heads, features), where ``mask`` (..., time, key) holds."""
        q, k, v = (x.transpose(-3, -2) for x in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[..., None, :, :]).transpose(-3, -2)

    @staticmethod
    def upsample(x: torch.Tensor) -> torch.Tensor:
        """Every pixel of (..., height, width, features) twice in both directions."""
        return x.repeat_interleave(2, dim=-3).repeat_interleave(2, dim=-2)
