"""The masked perceptron of MADE."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.nets.layers import Linear, check_activation, check_counts
from ppl_gen.nets.net import Net


@dataclass(frozen=True)
class MaskedMLP(Net):
    """(..., num_inputs) -> (..., num_inputs, out_features): entry i of the output depends on inputs before i alone.

    "Before" is in the ``order``. Hidden units have degrees in turn, an output sees hidden units of lower degrees
    (Germain, Gregor, Murray & Larochelle 2015, section 4), so that the Jacobian is strictly triangular.

    Attributes:
        hidden: widths of the layers between. out_features: numbers for each input, such as a mean and a scale.
        order: place of each input, a permutation of 0, 1, ...; that of the inputs where None.
        num_context: length of a context (..., num_context), given second, which every output depends on; 0 for none.
    """

    num_inputs: int
    out_features: int
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    order: tuple[int, ...] | None = None
    num_context: int = 0
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_counts(num_inputs=self.num_inputs, out_features=self.out_features, hidden=self.hidden)
        check_activation(self.activation)
        if self.order is not None and sorted(self.order) != list(range(self.num_inputs)):
            raise ValueError(f"order must be a permutation of 0 to {self.num_inputs - 1}, got {self.order}")

    def parts(self) -> Mapping[str, Any]:
        degrees = self._degrees()
        masked = tuple(Linear(len(a), len(b), degrees=(a, b)) for a, b in itertools.pairwise(degrees[:-1]))
        a, b = degrees[-2:]
        last = Linear(len(a), len(b), degrees=(a, b), strict=True, gain=self.gain)
        if not self.num_context:
            return {"hidden": masked, "out": last}
        contexts = tuple(Linear(self.num_context, len(d), bias=False) for d in degrees[1:])
        return {"hidden": masked, "out": last, "contexts": contexts}

    def _degrees(self) -> list[tuple[int, ...]]:
        """Of inputs (1 to their number), of every layer's units (0 sees none), of outputs."""
        order = range(self.num_inputs) if self.order is None else self.order
        inputs = tuple(place + 1 for place in order)
        least = 0 if self.num_context or self.num_inputs == 1 else 1  # a unit of degree 0 sees nothing but the context
        hidden = [tuple(least + i % (self.num_inputs - least) for i in range(width)) for width in self.hidden]
        outputs = tuple(degree for degree in inputs for _ in range(self.out_features))
        return [inputs, *hidden, outputs]

    def forward(self, f: Any, p: Any, x: Any, context: Any = None, entry: Any = None) -> Any:
        """All entries, or one alone (..., out_features), which is less work."""
        if (context is None) != (not self.num_context):
            raise ValueError(
                f"expected a context of {self.num_context} features, got {'none' if context is None else 'one'}"
            )
        of = () if entry is None else (entry * self.out_features, self.out_features)
        for i, layer in enumerate(p.hidden):
            x = f.activation(self.activation, layer(x) if context is None else layer(x) + p.contexts[i](context))
        y = p.out(x, *of) if context is None else p.out(x, *of) + p.contexts[len(self.hidden)](context, *of)
        return y if of else y.reshape((*y.shape[:-1], self.num_inputs, self.out_features))
