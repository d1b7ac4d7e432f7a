"""Multilayer perceptrons that are told the time, and labels or a context."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.nets.layers import Embedding, Linear, check_activation, check_counts
from ppl_gen.nets.net import Net
from ppl_gen.nets.unet import waves
from ppl_gen.options import count, is_number


@dataclass(frozen=True)
class TimeMLP(Net):
    """Rows (..., features) at times (...) -> (..., features): a perceptron of the row beside what it is told.

    Attributes:
        hidden: widths of the layers between. gain: of the last layer's starting weights, 0 for an output of zero.
        num_waves: sines and cosines of the time that it sees beside the time itself; 0 for the time alone.
        time_scale: what times are multiplied by before.
        num_classes: of labels (...), given third; label ``num_classes`` stands for none. num_context: length of a
            context (..., num_context), given fourth.
    """

    features: int
    hidden: tuple[int, ...] = (128, 128, 128)
    activation: str = "silu"
    gain: float = 1.0
    num_waves: int = 16
    time_scale: float = 30.0
    num_classes: int = 0
    num_context: int = 0

    one_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(features=self.features, hidden=self.hidden)
        check_activation(self.activation)
        check_told(self)

    @property
    def _embedded(self) -> int:
        """Features of a label."""
        return self.hidden[0] // 4 + 1 if self.num_classes else 0

    def parts(self) -> Mapping[str, Any]:
        widths = (self.features + 1 + self.num_waves + self._embedded + self.num_context, *self.hidden)
        between = tuple(Linear(a, b) for a, b in itertools.pairwise(widths))
        found: dict[str, Any] = {"hidden": between, "out": Linear(widths[-1], self.features, gain=self.gain)}
        if self.num_classes:
            found["label"] = Embedding(self.num_classes + 1, self._embedded)
        return found

    def forward(self, f: Any, p: Any, x: Any, time: Any, label: Any = None, context: Any = None) -> Any:
        seen = [x, *times(f.xp, self, time)]
        if self.num_classes:
            seen.append(p.label(f.xp.full(tuple(time.shape), self.num_classes) if label is None else label))
        seen += contexts(self, context)
        y = f.xp.concatenate([f.xp.broadcast_to(z, (*x.shape[:-1], z.shape[-1])) for z in seen], axis=-1)
        for layer in p.hidden:
            y = f.activation(self.activation, layer(y))
        return p.out(y)


def check_told(net: Any) -> None:
    """Raises ValueError: ``num_waves``, ``time_scale``, ``num_classes`` or ``num_context`` are not what they may be."""
    for name in ("num_waves", "num_classes", "num_context"):
        count(name, getattr(net, name), least=0)
    if net.num_waves % 2:
        raise ValueError(f"num_waves are sines and cosines: expected an even number, got {net.num_waves}")
    if not is_number(net.time_scale):
        raise ValueError(f"time_scale must be a number, got {net.time_scale!r}")


def times(xp: Any, net: Any, time: Any) -> list[Any]:
    """What a network sees of times (...): themselves, and ``num_waves`` sines and cosines, each (..., n)."""
    own = [time[..., None]]
    return [*own, waves(xp, net.time_scale * time, net.num_waves)] if net.num_waves else own


def contexts(net: Any, context: Any) -> list[Any]:
    """The context (..., num_context), of a network that takes one.

    Raises:
        ValueError: it is missing.
    """
    if net.num_context and context is None:
        raise ValueError(f"{type(net).__name__} of num_context={net.num_context} was given no context")
    return [context] if net.num_context else []
