"""Convolutional encoders and decoders of images, channels last."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.nets.layers import Conv, Linear, check_activation, check_counts
from ppl_gen.nets.net import Net


@dataclass(frozen=True)
class ConvEncoder(Net):
    """(..., height, width, channels) -> (..., out_features): convolutions that halve the image, then a linear layer.

    Attributes:
        shape: height, width and channels of an image. channels: of each halving.
    """

    shape: tuple[int, int, int]
    out_features: int
    channels: tuple[int, ...] = (32, 64)
    activation: str = "relu"
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_counts(shape=self.shape, out_features=self.out_features, channels=self.channels)
        check_activation(self.activation)

    def parts(self) -> Mapping[str, Any]:
        widths = (self.shape[2], *self.channels)
        convs = tuple(Conv(a, b, stride=2) for a, b in itertools.pairwise(widths))
        height, width = halved(self.shape, len(self.channels))
        return {"convs": convs, "out": Linear(height * width * widths[-1], self.out_features, gain=self.gain)}

    def forward(self, f: Any, p: Any, x: Any) -> Any:
        check_image(x, self.shape)
        for conv in p.convs:
            x = f.activation(self.activation, conv(x))
        return p.out(x.reshape((*x.shape[:-3], -1)))


@dataclass(frozen=True)
class ConvDecoder(Net):
    """(..., in_features) -> (..., height, width, out channels): the way back, by doubling and convolution.

    Doubled pixels and then a convolution leave no checkerboard, as transposed convolutions do (Odena, Dumoulin & Olah
    2016).

    Attributes:
        shape: height, width and channels of what comes out. channels: before each doubling.
    """

    in_features: int
    shape: tuple[int, int, int]
    channels: tuple[int, ...] = (64, 32)
    activation: str = "relu"
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_counts(in_features=self.in_features, shape=self.shape, channels=self.channels)
        check_activation(self.activation)

    def parts(self) -> Mapping[str, Any]:
        widths = (*self.channels, self.channels[-1])
        convs = tuple(Conv(a, b) for a, b in itertools.pairwise(widths))
        height, width = halved(self.shape, len(self.channels))
        return {
            "into": Linear(self.in_features, height * width * self.channels[0]),
            "convs": convs,
            "out": Conv(self.channels[-1], self.shape[2], gain=self.gain),
        }

    def forward(self, f: Any, p: Any, z: Any) -> Any:
        x = f.activation(self.activation, p.into(z))
        x = x.reshape((*x.shape[:-1], *halved(self.shape, len(self.channels)), self.channels[0]))
        for left, conv in zip(reversed(range(len(self.channels))), p.convs, strict=True):
            height, width = halved(self.shape, left)
            x = f.activation(self.activation, conv(f.upsample(x)[..., :height, :width, :]))
        return p.out(x)


def halved(shape: tuple[int, ...], times: int) -> tuple[int, int]:
    """Height and width after so many halvings, rounded up."""
    height, width = shape[0], shape[1]
    for _ in range(times):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def check_image(x: Any, shape: tuple[int, int, int]) -> None:
    """Raises ValueError: the last axes are not height, width and channels."""
    came = tuple(int(n) for n in x.shape[-3:])
    if came != shape:
        swapped = len(came) == 3 and (came[1], came[2], came[0]) == shape
        hint = ": channels come last, so move axis -3 to the end" if swapped else ""
        raise ValueError(f"expected images (..., {', '.join(map(str, shape))}), got {tuple(x.shape)}{hint}")
