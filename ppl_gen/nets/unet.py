"""The U-Net of diffusion models, told the time and the class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.nets.convolutional import check_image, halved
from ppl_gen.nets.layers import Conv, Embedding, GroupNorm, Linear, check_counts
from ppl_gen.nets.net import Net

_LONGEST = 10_000.0  # of the wavelengths of times


@dataclass(frozen=True)
class _Residual(Net):
    """x + conv(silu(norm(conv(silu(norm(x))) scaled and moved by the condition))) (Ho et al. 2020, appendix B)."""

    in_features: int
    out_features: int
    condition: int
    num_groups: int

    def parts(self) -> Mapping[str, Any]:
        a, b = self.in_features, self.out_features
        found = {
            "first_norm": GroupNorm(a, groups(a, self.num_groups)),
            "first": Conv(a, b),
            "told": Linear(self.condition, 2 * b),
            "second_norm": GroupNorm(b, groups(b, self.num_groups)),
            "second": Conv(b, b, gain=0.0),
        }
        return found if a == b else {**found, "skip": Conv(a, b, (1, 1))}

    def forward(self, f: Any, p: Any, x: Any, condition: Any) -> Any:
        y = p.first(f.activation("silu", p.first_norm(x)))
        told = p.told(condition)[..., None, None, :]
        y = p.second_norm(y) * (1.0 + told[..., : self.out_features]) + told[..., self.out_features :]
        y = p.second(f.activation("silu", y))
        return y + (x if self.in_features == self.out_features else p.skip(x))


@dataclass(frozen=True)
class _Attention(Net):
    """x + attention among the pixels of norm(x)."""

    features: int
    num_heads: int
    num_groups: int

    def parts(self) -> Mapping[str, Any]:
        return {
            "norm": GroupNorm(self.features, groups(self.features, self.num_groups)),
            "qkv": Linear(self.features, 3 * self.features),
            "attended": Linear(self.features, self.features, gain=0.0),
        }

    def forward(self, f: Any, p: Any, x: Any) -> Any:
        pixels = x.shape[-3] * x.shape[-2]
        split = p.qkv(p.norm(x)).reshape((*x.shape[:-3], pixels, 3, self.num_heads, self.features // self.num_heads))
        mask = f.xp.ones((pixels, pixels), dtype=f.xp.bool_)
        found = f.attention(*(split[..., i, :, :] for i in range(3)), mask)
        return x + p.attended(found.reshape(x.shape))


@dataclass(frozen=True)
class UNet(Net):
    """Images (rows, height, width, channels) at times (rows,) -> (rows, height, width, out_features).

    Residual blocks at ever smaller sizes and back, with what was there on the way down laid beside (Ronneberger et al.
    2015; Ho et al. 2020). It starts as the function 0.

    Attributes:
        shape: height, width and channels. channels: features at each size, each half of the one before.
        num_blocks: residual blocks at a size. attention: among pixels of the smallest size.
        time_scale: what times are multiplied by before they are embedded, 1,000 for times in [0, 1].
        num_classes: of labels (rows,), given third; label ``num_classes`` stands for none. 0 for no labels.
    """

    shape: tuple[int, int, int]
    out_features: int
    channels: tuple[int, ...] = (32, 64, 64)
    num_blocks: int = 1
    attention: bool = True
    num_heads: int = 4
    num_groups: int = 8
    time_scale: float = 1000.0
    num_classes: int = 0

    one_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(
            shape=self.shape, out_features=self.out_features, channels=self.channels, num_blocks=self.num_blocks,
            num_heads=self.num_heads, num_groups=self.num_groups,
        )  # fmt: skip
        if self.attention and self.channels[-1] % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide the last of channels {self.channels}")

    @property
    def _condition(self) -> int:
        return 4 * self.channels[0]

    def parts(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {
            "time": (Linear(self.channels[0], self._condition), Linear(self._condition, self._condition)),
            "into": Conv(self.shape[2], self.channels[0]),
            "middle": (self._residual(self.channels[-1], self.channels[-1]),) * 2,
        }
        if self.num_classes:
            found["label"] = Embedding(self.num_classes + 1, self._condition)
        if self.attention:
            found["attention"] = _Attention(self.channels[-1], self.num_heads, self.num_groups)
        down, up, halvings, doublings = self._sides()
        found |= {"down": down, "halvings": halvings, "up": up, "doublings": doublings}
        last = self.channels[0]
        norm = GroupNorm(last, groups(last, self.num_groups))
        return {**found, "norm": norm, "out": Conv(last, self.out_features, gain=0.0)}

    def _residual(self, a: int, b: int) -> _Residual:
        return _Residual(a, b, self._condition, self.num_groups)

    def _sides(self) -> tuple[tuple[Any, ...], ...]:
        """Blocks on the way down and up, in their order, and what halves and doubles between sizes."""
        down, up, width = [], [], self.channels[0]
        for c in self.channels:
            down += [self._residual(width if i == 0 else c, c) for i in range(self.num_blocks)]
            width = c
        for c in reversed(self.channels):
            up += [self._residual((width if i == 0 else c) + c, c) for i in range(self.num_blocks)]
            width = c
        halvings = tuple(Conv(c, c, stride=2) for c in self.channels[:-1])
        doublings = tuple(Conv(c, c) for c in reversed(self.channels[1:]))
        return tuple(down), tuple(up), halvings, doublings

    def forward(self, f: Any, p: Any, x: Any, time: Any, label: Any = None) -> Any:
        check_image(x, self.shape)
        if label is not None and not self.num_classes:
            raise ValueError("labels came for a network without classes: set num_classes")
        condition = self._told(f, p, time, label)
        x, kept, sizes = p.into(x), [], len(self.channels)
        for size in range(sizes):
            for block in p.down[size * self.num_blocks : (size + 1) * self.num_blocks]:
                x = block(x, condition)
                kept.append(x)
            x = p.halvings[size](x) if size + 1 < sizes else x
        x = p.middle[0](x, condition)
        x = p.middle[1](p.attention(x) if self.attention else x, condition)
        for size in range(sizes):
            for block in p.up[size * self.num_blocks : (size + 1) * self.num_blocks]:
                x = block(f.xp.concatenate([x, kept.pop()], axis=-1), condition)
            if size + 1 < sizes:
                height, width = halved(self.shape, sizes - 2 - size)
                x = p.doublings[size](f.upsample(x)[..., :height, :width, :])
        return p.out(f.activation("silu", p.norm(x)))

    def _told(self, f: Any, p: Any, time: Any, label: Any) -> Any:
        """Time and class (rows, features); none of the classes where labels are left out."""
        told = p.time[1](f.activation("silu", p.time[0](waves(f.xp, self.time_scale * time, self.channels[0]))))
        if self.num_classes:
            label = f.xp.full(tuple(time.shape), self.num_classes) if label is None else label
            told = told + p.label(label)
        return f.activation("silu", told)


def waves(xp: Any, at: Any, features: int) -> Any:
    """Sines and cosines of ``at`` (...,) in wavelengths from 2 pi upwards, (..., features) (Vaswani et al. 2017)."""
    rates = xp.asarray(_LONGEST ** (-np.arange(features // 2) / (features // 2)))
    angle = at[..., None] * xp.astype(rates, at.dtype)
    return xp.concatenate([xp.sin(angle), xp.cos(angle)], axis=-1)


def groups(features: int, most: int) -> int:
    """The largest number of groups up to ``most`` that divides the features."""
    return max(n for n in range(1, most + 1) if features % n == 0)
