"""Networks of sets, which heed no order of what they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.nets.layers import check_activation, check_counts
from ppl_gen.nets.mlp import MLP
from ppl_gen.nets.net import Net


@dataclass(frozen=True)
class DeepSet(Net):
    """g(mean over the set of h(x)) with perceptrons g and h: (..., n, in_features) -> (..., out_features).

    Given width enough, any function of the distribution that the members show has this form (Zaheer et al. 2017, "Deep
    sets", of sums). It is the embedding for data whose rows are draws of one distribution: of 1,000 numbers it learns a
    handful of summaries, and the order tells nothing; nor does their number, which is the same in all data here.

    Attributes:
        in_features: of each member of the set; None where members are numbers, (..., n).
        hidden: widths of the layers of h, and backwards of g. width: of what is averaged.
    """

    in_features: int | None
    out_features: int
    hidden: tuple[int, ...] = (64,)
    width: int = 64
    activation: str = "silu"

    def __post_init__(self) -> None:
        features = 1 if self.in_features is None else self.in_features
        check_counts(in_features=features, out_features=self.out_features, hidden=self.hidden, width=self.width)
        check_activation(self.activation)

    def parts(self) -> Mapping[str, Any]:
        return {
            "each": MLP(self.in_features or 1, self.width, self.hidden, self.activation),
            "whole": MLP(self.width, self.out_features, self.hidden[::-1], self.activation),
        }

    def forward(self, f: Any, p: Any, x: Any) -> Any:
        members = x[..., None] if self.in_features is None else x
        return p.whole(f.xp.mean(p.each(members), axis=-2))
