"""Normalizing flows: the density of data as that of noise, carried over by an invertible map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.flows.bijector import Chain
from ppl_gen.flows.distribution import pushed
from ppl_gen.flows.kinds import flow
from ppl_gen.primitives import dist, module, plate, sample
from ppl_gen.program import DataError

_OWN = ("num_bins", "bound", "num_steps", "trace")


@dataclass(frozen=True)
class Flow:
    """x = T(e), e ~ N(0, I), T invertible and learned: log p(x) is exact (Papamakarios et al. 2021).

    Sites: ``x`` (N, D); params: the weights of ``flow``. Train it by ``engine="svi"`` with a ``batch_size``, on data of
    about mean 0 and standard deviation 1. In a program of yours it is :meth:`distribution`.

    Attributes:
        kind: "realnvp", "glow", "nsf", "nsf_coupling", "maf", "iaf", "planar", "radial", or "ffjord", the
            continuous one.
        features: D. num_layers: maps in a row, 5 where None, of "ffjord" 1.
        hidden, activation: of the networks; "relu" where None, of "ffjord" "tanh".
        num_context: length of ``context`` (N, num_context), which the density is conditional on; 0 for none.
        num_bins, bound: of splines, and half the side of the box that they are in.
        num_steps, trace: of "ffjord": in how many steps its differential equation is solved, and "exact", or
            "hutchinson" for an estimate in the place of D derivatives while it is trained; densities are exact then.
        base: ``() -> distribution`` of the noise, event shape (D,), in the place of N(0, I).
    """

    kind: str
    features: int
    num_layers: int | None = None
    hidden: tuple[int, ...] = (64, 64)
    activation: str | None = None
    num_context: int = 0
    num_bins: int | None = None
    bound: float | None = None
    num_steps: int | None = None
    trace: str | None = None
    base: Callable[[], Any] | None = None

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x", "context")

    def __post_init__(self) -> None:
        self.bijector()

    def bijector(self) -> Chain:
        """The map from noise to data."""
        own = {n: getattr(self, n) for n in _OWN}
        return flow(self.kind, self.features, self.num_layers, self.hidden, self.activation, self.num_context, **own)

    def __call__(self, x: Any = None, context: Any = None, num_data: int | None = None) -> None:
        """The program; ``x`` has shape (N, D)."""
        n = next((len(rows) for rows in (x, context) if rows is not None), num_data or 1)
        density = self.distribution("flow", context)
        with plate("data", n):
            sample("x", density, obs=x)

    def distribution(self, name: str, context: Any = None) -> Any:
        """What a program of yours can draw from or observe, event shape (features,): a prior, a likelihood, a guide.

        Call it outside of plates, once for each set of weights, which are params ``{name}.{path}``.

        Args:
            context: (..., num_context), of a conditional flow, one for each draw or observation.
        """
        return pushed(self._base(), module(name, self.bijector()), self.features, context)

    def _base(self) -> Any:
        if self.base is not None:
            return self.base()
        return dist.Normal(0.0, 1.0).expand([self.features]).to_event(1)

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: another number of features, or of numbers of the context; no context, or one too many."""
        x, context = data.get("x"), data.get("context")
        if x is not None and (x.ndim != 2 or x.shape[1] != self.features):
            raise DataError(f"Flow expects x of shape (N, {self.features}), got {x.shape}")
        if (context is None) == bool(self.num_context):
            hint = ": run.predict({'context': ...}) draws new rows" if x is None and context is None else ""
            number = "a" if context is None else "no"
            raise DataError(f"Flow with num_context={self.num_context} takes {number} context{hint}")
        if context is not None and (context.ndim != 2 or context.shape[1] != self.num_context):
            raise DataError(f"Flow expects context of shape (N, {self.num_context}), got {context.shape}")

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows, where there is no context."""
        return {"num_data": n}
