"""Multilayer perceptrons, plain and residual."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.nets.layers import LayerNorm, Linear, check_activation, check_counts
from ppl_gen.nets.net import Net


@dataclass(frozen=True)
class MLP(Net):
    """Linear layers with an activation between: (..., in_features) -> (..., out_features).

    Attributes:
        hidden: widths of the layers between. gain: of the last layer's starting weights, 0 for an output of zero.
    """

    in_features: int
    out_features: int
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_counts(in_features=self.in_features, out_features=self.out_features, hidden=self.hidden)
        check_activation(self.activation)

    def parts(self) -> Mapping[str, Any]:
        widths = (self.in_features, *self.hidden)
        between = tuple(Linear(a, b) for a, b in itertools.pairwise(widths))
        return {"hidden": between, "out": Linear(widths[-1], self.out_features, gain=self.gain)}

    def forward(self, f: Any, p: Any, x: Any) -> Any:
        for layer in p.hidden:
            x = f.activation(self.activation, layer(x))
        return p.out(x)


@dataclass(frozen=True)
class _Block(Net):
    """x + linear(activation(linear(norm(x)))), the last linear layer starting at zero."""

    width: int
    activation: str

    def parts(self) -> Mapping[str, Any]:
        return {
            "norm": LayerNorm(self.width),
            "first": Linear(self.width, self.width),
            "second": Linear(self.width, self.width, gain=0.0),
        }

    def forward(self, f: Any, p: Any, x: Any) -> Any:
        return x + p.second(f.activation(self.activation, p.first(p.norm(x))))


@dataclass(frozen=True)
class ResidualMLP(Net):
    """Residual blocks between two linear layers (He et al. 2016): (..., in_features) -> (..., out_features)."""

    in_features: int
    out_features: int
    width: int = 256
    num_blocks: int = 2
    activation: str = "silu"
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_counts(
            in_features=self.in_features, out_features=self.out_features, width=self.width, num_blocks=self.num_blocks
        )
        check_activation(self.activation)

    def parts(self) -> Mapping[str, Any]:
        return {
            "into": Linear(self.in_features, self.width),
            "blocks": (_Block(self.width, self.activation),) * self.num_blocks,
            "norm": LayerNorm(self.width),
            "out": Linear(self.width, self.out_features, gain=self.gain),
        }

    def forward(self, f: Any, p: Any, x: Any) -> Any:
        x = p.into(x)
        for block in p.blocks:
            x = block(x)
        return p.out(f.activation(self.activation, p.norm(x)))
