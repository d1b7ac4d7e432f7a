"""MADE: the masked autoencoder for distribution estimation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models._checks import check_binary
from ppl_gen.models._one_by_one import Binary, GaussianMixture, Part, in_turn, one_by_one
from ppl_gen.models._options import count, one_of
from ppl_gen.nets.masked_mlp import MaskedMLP
from ppl_gen.primitives import module, plate, sample
from ppl_gen.program import DataError

_LIKELIHOODS = ("bernoulli", "gaussian_mixture")


@dataclass(frozen=True)
class MADE:
    """p(x) = prod_d p(x_d | x before d), all conditionals said by one masked network: log p(x) is exact.

    Germain, Gregor, Murray & Larochelle (2015), "MADE: masked autoencoder for distribution estimation". Sites: ``x``
    (N, D); params: the weights of ``net``. Train it by ``engine="svi"`` with a ``batch_size``. A density takes one pass
    of the network, a draw one for each feature.

    Attributes:
        num_features: D. hidden, activation: of the network.
        likelihood: "bernoulli" of zeros and ones; "gaussian_mixture" of real numbers, ``num_components`` Gaussians for
            each, which wants data of about mean 0 and standard deviation 1.
        order: place of each feature, a permutation of 0, 1, ...; as they come where None.
    """

    num_features: int
    likelihood: str = "bernoulli"
    hidden: tuple[int, ...] = (500, 500)
    activation: str = "relu"
    num_components: int = 10
    order: tuple[int, ...] | None = None

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)

    def __post_init__(self) -> None:
        count("num_features", self.num_features)
        count("num_components", self.num_components)
        one_of("likelihood", self.likelihood, _LIKELIHOODS)
        self._net()

    def __call__(self, x: Any = None, num_data: int | None = None) -> None:
        """The program; ``x`` has shape (N, D)."""
        n = (num_data or 1) if x is None else x.shape[0]
        part, says = self._part(), module("net", self._net())

        def draw(e: Any) -> Any:
            return in_turn(part, lambda x: says(x[..., 0]), e, self._first_to_last())[..., 0]

        with plate("data", n):
            sample("x", one_by_one(part, says, draw, n, (self.num_features,)), obs=x)

    def _first_to_last(self) -> tuple[int, ...]:
        places = range(self.num_features) if self.order is None else self.order
        return tuple(int(i) for i in np.argsort(places))

    def _part(self) -> Part:
        return Binary() if self.likelihood == "bernoulli" else GaussianMixture(self.num_components)

    def _net(self) -> MaskedMLP:
        return MaskedMLP(self.num_features, self._part().size, self.hidden, self.activation, self.order, gain=0.1)

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: another number of features, or other numbers than zeros and ones."""
        x = data.get("x")
        if x is None:
            return
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise DataError(f"MADE expects x of shape (N, {self.num_features}), got {x.shape}")
        if self.likelihood == "bernoulli":
            check_binary(x)

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n}
