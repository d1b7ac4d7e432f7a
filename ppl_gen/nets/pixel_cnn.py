"""The gated PixelCNN: two stacks of convolutions that see what is above, and what is to the left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.nets.convolutional import check_image
from ppl_gen.nets.layers import Conv, Embedding, check_counts
from ppl_gen.nets.net import Net


@dataclass(frozen=True)
class _Vertical(Net):
    """A layer of the stack that sees all rows down to a pixel's own (van den Oord et al. 2016, figure 2, left).

    Beside its features it says what the horizontal stack is told: of the rows above a pixel, so moved down by one.
    """

    in_features: int
    width: int
    kernel: int
    num_classes: int

    def parts(self) -> Mapping[str, Any]:
        b = 2 * self.width
        found: dict[str, Any] = {
            "conv": Conv(self.in_features, b, (self.kernel // 2 + 1, self.kernel), causal="whole"),
            "across": Conv(b, b, (1, 1)),
        }
        return found | ({"label": Embedding(self.num_classes, 2 * b)} if self.num_classes else {})

    def forward(self, f: Any, p: Any, x: Any, label: Any = None) -> tuple[Any, Any]:
        down = p.conv(x)
        told = p.across(_shifted(f.xp, down))
        if label is not None:
            added = p.label(label)[..., None, None, :]
            down, told = down + added[..., : 2 * self.width], told + added[..., 2 * self.width :]
        return _gated(f, down), told


@dataclass(frozen=True)
class _Horizontal(Net):
    """A layer of the stack that sees what is left of a pixel; the first does not see the pixel's own value (right)."""

    in_features: int
    width: int
    kernel: int
    first: bool

    def parts(self) -> Mapping[str, Any]:
        seen = "strict" if self.first else "upto"
        return {
            "conv": Conv(self.in_features, 2 * self.width, (1, self.kernel), causal=seen),
            "out": Conv(self.width, self.width, (1, 1)),
        }

    def forward(self, f: Any, p: Any, x: Any, told: Any) -> Any:
        out = p.out(_gated(f, p.conv(x) + told))
        return out if self.first else x + out


@dataclass(frozen=True)
class PixelCNN(Net):
    """(..., height, width, channels) -> (..., height, width, out_features), which a pixel's own value does not reach.

    A pixel's output depends on the pixels above and to the left (van den Oord et al. 2016, "Conditional image
    generation with PixelCNN decoders"), and on the class where there are several.
    """

    shape: tuple[int, int, int]
    out_features: int
    width: int = 64
    num_layers: int = 6
    kernel_size: int = 5
    num_classes: int = 0

    def __post_init__(self) -> None:
        check_counts(
            shape=self.shape, out_features=self.out_features, width=self.width, num_layers=self.num_layers,
            kernel_size=self.kernel_size,
        )  # fmt: skip
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")

    def parts(self) -> Mapping[str, Any]:
        features = (self.shape[2], *(self.width for _ in range(self.num_layers - 1)))
        return {
            "vertical": tuple(_Vertical(a, self.width, self.kernel_size, self.num_classes) for a in features),
            "horizontal": tuple(_Horizontal(a, self.width, self.kernel_size, i == 0) for i, a in enumerate(features)),
            "between": Conv(self.width, self.width, (1, 1)),
            "out": Conv(self.width, self.out_features, (1, 1)),
        }

    def forward(self, f: Any, p: Any, x: Any, label: Any = None, above: Any = None, only_above: bool = False) -> Any:
        """All pixels of x; or, to make images row by row, what a row is told by those above, and then its pixels.

        Args:
            only_above: what every layer is told of the rows above, (..., height, width, features) each.
            above: that of some rows, where x is these rows alone.
        """
        if (label is None) != (not self.num_classes):
            raise ValueError(f"expected {'labels' if self.num_classes else 'no labels'}, as num_classes says")
        if above is None:
            check_image(x, self.shape)
            above, v = [], x
            for layer in p.vertical:
                v, told = layer(v, label)
                above.append(told)
        if only_above:
            return above
        h = x
        for layer, told in zip(p.horizontal, above, strict=True):
            h = layer(h, told)
        return p.out(f.activation("relu", p.between(f.activation("relu", h))))


def _gated(f: Any, x: Any) -> Any:
    """tanh of one half of the features times sigmoid of the other (equation 2)."""
    half = x.shape[-1] // 2
    return f.xp.tanh(x[..., :half]) * f.xp.sigmoid(x[..., half:])


def _shifted(xp: Any, x: Any) -> Any:
    """Every row moved down by one, zeros above."""
    return xp.concatenate([xp.zeros_like(x[..., :1, :, :]), x[..., :-1, :, :]], axis=-3)
