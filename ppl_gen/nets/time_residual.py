"""Residual perceptrons of rows that are told the time, and labels or a context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.nets.layers import Embedding, LayerNorm, Linear, check_activation, check_counts
from ppl_gen.nets.net import Net
from ppl_gen.nets.time_mlp import check_told, contexts, times


@dataclass(frozen=True)
class _Block(Net):
    """h + second(act(first(norm(h) scaled and moved by what it is told))), which starts as h (Peebles & Xie 2023)."""

    width: int
    activation: str

    def parts(self) -> Mapping[str, Any]:
        w = self.width
        return {
            "norm": LayerNorm(w),
            "told": Linear(w, 2 * w),
            "first": Linear(w, w),
            "second": Linear(w, w, gain=0.0),
        }

    def forward(self, f: Any, p: Any, h: Any, told: Any) -> Any:
        how = p.told(told)
        y = p.norm(h) * (1.0 + how[..., : self.width]) + how[..., self.width :]
        return h + p.second(f.activation(self.activation, p.first(y)))


@dataclass(frozen=True)
class TimeResidual(Net):
    """Rows (..., features) at times (...) -> (..., features): blocks that each see what they are told.

    It learns thin and crooked densities in far fewer steps than a plain perceptron, :class:`TimeMLP`. Far from the data
    it is linear, each feature times what the time says, and the rest bounded: Langevin steps that come there come back.

    Attributes:
        width: of the blocks. num_blocks: of two layers each.
        num_waves: sines and cosines of the time beside the time itself. time_scale: what times are multiplied by.
        num_classes: of labels (...), given third; label ``num_classes`` stands for none. num_context: length of a
            context (..., num_context), given fourth.
    """

    features: int
    width: int = 64
    num_blocks: int = 3
    activation: str = "gelu"
    num_waves: int = 16
    time_scale: float = 30.0
    num_classes: int = 0
    num_context: int = 0

    one_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(features=self.features, width=self.width, num_blocks=self.num_blocks)
        check_activation(self.activation)
        check_told(self)

    def parts(self) -> Mapping[str, Any]:
        w = self.width
        found: dict[str, Any] = {
            "into": Linear(self.features + self.num_context, w),
            "told": Linear(1 + self.num_waves + self.num_context, w),
            "blocks": (_Block(w, self.activation),) * self.num_blocks,
            "norm": LayerNorm(w),
            "out": Linear(w, self.features),
            "along": Linear(w, self.features, gain=0.0),
        }
        if self.num_classes:
            found["label"] = Embedding(self.num_classes + 1, w)
        return found

    def forward(self, f: Any, p: Any, x: Any, time: Any, label: Any = None, context: Any = None) -> Any:
        beside = contexts(self, context)
        clock = times(f.xp, self, time)
        if beside:
            clock = [f.xp.broadcast_to(z, (*x.shape[:-1], z.shape[-1])) for z in clock]
        told = p.told(f.xp.concatenate([*clock, *beside], axis=-1))
        if self.num_classes:
            label = f.xp.full(tuple(time.shape), self.num_classes) if label is None else label
            told = told + p.label(label)
        told = f.activation(self.activation, told)
        h = p.into(f.xp.concatenate([x, *beside], axis=-1))
        for block in p.blocks:
            h = block(h, told)
        return p.along(told) * x + p.out(f.activation(self.activation, p.norm(h)))
