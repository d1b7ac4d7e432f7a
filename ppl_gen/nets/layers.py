"""What networks are made of: layers, described by their sizes alone.

A layer says which arrays it holds, in one layout for both libraries, and how they start; the homes (``flax_home``,
``torch_home``) make of it a layer of their library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ppl_gen.options import count

Arrays = dict[str, np.ndarray]


class Layer(Protocol):
    """``start`` draws its arrays, name -> float32 array."""

    def start(self, rng: np.random.Generator) -> Arrays: ...


@dataclass(frozen=True)
class Linear:
    """y = x W + b on the last axis; ``kernel`` (in, out), ``bias`` (out,).

    Attributes:
        gain: of the standard deviation 1 / sqrt(in) that weights start with; 0 for a layer that starts at zero.
        degrees: of inputs and of outputs, where an output sees only inputs of a lower degree (``strict``) or of no
            higher one: masked autoencoder, Germain et al. (2015), equations 12 and 13.
    """

    in_features: int
    out_features: int
    bias: bool = True
    gain: float = 1.0
    degrees: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    strict: bool = False

    def start(self, rng: np.random.Generator) -> Arrays:
        mask = self.mask()
        fan_in = np.full(self.out_features, self.in_features) if mask is None else np.maximum(mask.sum(0), 1.0)
        kernel = rng.normal(size=(self.in_features, self.out_features)) * self.gain / np.sqrt(fan_in)
        return _float32(kernel, self.out_features if self.bias else 0)

    def mask(self) -> np.ndarray | None:
        """(in, out), 1 where an output sees an input; None where each sees all."""
        if self.degrees is None:
            return None
        inputs, outputs = map(np.asarray, self.degrees)
        return _as_float(inputs[:, None] < outputs if self.strict else inputs[:, None] <= outputs)


@dataclass(frozen=True)
class Conv:
    """Two-dimensional convolution of (..., height, width, in), zeros around it; ``kernel`` (h, w, in, out).

    Attributes:
        kernel_size: (h, w). stride: in both directions; (n // stride) rows come out, rounded up.
        causal: for a kernel whose last row is the pixel's own: "strict" where that sees what is left of the pixel,
            "upto" the pixel too (masks A and B of van den Oord et al. 2016), "whole" all of the row.
        gain: as of ``Linear``.
    """

    in_features: int
    out_features: int
    kernel_size: tuple[int, int] = (3, 3)
    stride: int = 1
    causal: str | None = None
    bias: bool = True
    gain: float = 1.0

    def start(self, rng: np.random.Generator) -> Arrays:
        mask = self.mask()
        seen = math.prod(self.kernel_size) if mask is None else max(int(mask.sum()), 1)
        shape = (*self.kernel_size, self.in_features, self.out_features)
        kernel = rng.normal(size=shape) * self.gain / math.sqrt(seen * self.in_features)
        return _float32(kernel, self.out_features if self.bias else 0)

    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros above and below, left and right."""
        h, w = self.kernel_size
        rows = (h - 1, 0) if self.causal else ((h - 1) // 2, h // 2)
        return rows, ((w - 1) // 2, w // 2)

    def mask(self) -> np.ndarray | None:
        """(h, w), 1 where the kernel sees; None where it sees all."""
        if self.causal in (None, "whole"):
            return None
        mask = np.ones(self.kernel_size)
        centre = (self.kernel_size[1] - 1) // 2
        mask[-1, centre + (self.causal == "upto") :] = 0.0
        return _as_float(mask)


@dataclass(frozen=True)
class Embedding:
    """A row of ``embedding`` (count, features) for each whole number."""

    count: int
    features: int
    gain: float = 1.0

    def start(self, rng: np.random.Generator) -> Arrays:
        return {"embedding": _as_float(self.gain * rng.normal(size=(self.count, self.features)))}


@dataclass(frozen=True)
class LayerNorm:
    """To mean 0 and variance 1 over the last axis, times ``scale``, plus ``bias`` (Ba, Kiros & Hinton 2016)."""

    features: int

    def start(self, rng: np.random.Generator) -> Arrays:
        return {"scale": np.ones(self.features, "f4"), "bias": np.zeros(self.features, "f4")}


@dataclass(frozen=True)
class GroupNorm:
    """The same over height, width and a group of channels of (rows, height, width, features) (Wu & He 2018)."""

    features: int
    num_groups: int = 8

    def start(self, rng: np.random.Generator) -> Arrays:
        return {"scale": np.ones(self.features, "f4"), "bias": np.zeros(self.features, "f4")}


@dataclass(frozen=True)
class Weight:
    """An array by itself: a call without arguments gives it. It starts with a standard deviation of ``gain``."""

    shape: tuple[int, ...]
    gain: float = 0.0

    def start(self, rng: np.random.Generator) -> Arrays:
        return {"array": _as_float(self.gain * rng.normal(size=self.shape))}


EPSILON = 1e-5  # added to variances in norms

ACTIVATIONS = ("relu", "silu", "gelu", "elu", "tanh", "sigmoid", "softplus", "leaky_relu", "identity")


def check_activation(name: str) -> None:
    """Raises ValueError: it is none of :data:`ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")


def check_counts(**counts: Any) -> None:
    """Raises ValueError: one is not a whole number of at least 1."""
    for name, given in counts.items():
        for value in given if isinstance(given, tuple) else (given,):
            count(name, value)


def check_features(layer: Any, features: int) -> None:
    """Raises ValueError: the last axis of what came has another length than the layer was made for."""
    if features != layer.in_features:
        hint = "; images have their channels last: (rows, height, width, channels)" if isinstance(layer, Conv) else ""
        raise ValueError(f"a {type(layer).__name__} layer of {layer.in_features} features got {features}{hint}")


def _float32(kernel: np.ndarray, bias: int) -> Arrays:
    return {"kernel": _as_float(kernel), **({"bias": np.zeros(bias, "f4")} if bias else {})}


def _as_float(x: Any) -> np.ndarray:
    return np.asarray(x, dtype=np.float32)
