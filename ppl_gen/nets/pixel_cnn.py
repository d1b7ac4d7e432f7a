"""The gated PixelCNN: two stacks of convolutions that see what is above, and what is to the left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.nets.convolutional import check_image
from ppl_gen.nets.layers import Conv, Embedding, check_counts
from ppl_gen.nets.net import Net


@dataclass(frozen=True)
class _Gated(Net):
    """One layer of both stacks (van den Oord et al. 2016, figure 2); the first sees no pixel's own value.

    The vertical stack sees all rows above and the pixel's own row moved down by one into the horizontal stack, which
    sees the pixels to the left.
    """

    in_features: int
    width: int
    kernel: int
    first: bool
    num_classes: int

    def parts(self) -> Mapping[str, Any]:
        a, b, own = self.in_features, 2 * self.width, "strict" if self.first else "upto"
        found: dict[str, Any] = {
            "vertical": Conv(a, b, (self.kernel // 2 + 1, self.kernel), causal="whole"),
            "across": Conv(b, b, (1, 1)),
            "horizontal": Conv(a, b, (1, self.kernel), causal=own),
            "out": Conv(self.width, self.width, (1, 1)),
        }
        if self.num_classes:
            found["label"] = Embedding(self.num_classes, 2 * b)
        return found

    def forward(self, f: Any, p: Any, v: Any, h: Any, label: Any = None) -> Any:
        down = p.vertical(v)
        right = p.horizontal(h) + p.across(_shifted(f.xp, down))
        if label is not None:
            down, right = (x + more for x, more in zip((down, right), self._of_label(p, label), strict=True))
        out = p.out(self._gate(f, right))
        return self._gate(f, down), out if self.first else h + out

    def _gate(self, f: Any, x: Any) -> Any:
        """tanh of one half times sigmoid of the other (equation 2)."""
        return f.xp.tanh(x[..., : self.width]) * f.xp.sigmoid(x[..., self.width :])

    def _of_label(self, p: Any, label: Any) -> tuple[Any, Any]:
        added = p.label(label)[..., None, None, :]
        return added[..., : 2 * self.width], added[..., 2 * self.width :]


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
        kernel, classes = self.kernel_size, self.num_classes
        first = _Gated(self.shape[2], self.width, kernel, True, classes)
        rest = (_Gated(self.width, self.width, kernel, False, classes),) * (self.num_layers - 1)
        return {
            "gated": (first, *rest),
            "between": Conv(self.width, self.width, (1, 1)),
            "out": Conv(self.width, self.out_features, (1, 1)),
        }

    def forward(self, f: Any, p: Any, x: Any, label: Any = None) -> Any:
        check_image(x, self.shape)
        if (label is None) != (not self.num_classes):
            raise ValueError(f"expected {'labels' if self.num_classes else 'no labels'}, as num_classes says")
        v = h = x
        for layer in p.gated:
            v, h = layer(v, h, label)
        return p.out(f.activation("relu", p.between(f.activation("relu", h))))


def _shifted(xp: Any, x: Any) -> Any:
    """Every row moved down by one, zeros above."""
    return xp.concatenate([xp.zeros_like(x[..., :1, :, :]), x[..., :-1, :, :]], axis=-3)
