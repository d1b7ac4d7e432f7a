"""What a flow over all latents of a program is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppl_gen.flows.bijector import Bijector, Inverse
from ppl_gen.flows.kinds import QUICK_TO_DRAW, flow
from ppl_gen.nets.layers import check_counts


@dataclass(frozen=True)
class FlowGuide:
    """A guide of ``engine="svi"`` for any program: a flow over its continuous latents together, unconstrained.

    Rezende & Mohamed (2015), "Variational inference with normalizing flows". ``guide="flow"`` is one with these
    defaults. A kind that is slow to draw from is taken the other way round. It wants a falling learning rate,
    ``schedule="cosine"``, and some particles, ``num_particles=8``; gradients are shortened to 10, or ``clip_norm``.

    Attributes:
        kind: of :data:`ppl_gen.flows.KINDS`; couplings ("realnvp", "glow", "nsf_coupling") want two latent numbers.
        num_layers, hidden, activation, num_bins, bound: as of :class:`ppl_gen.models.Flow`.
    """

    kind: str = "nsf"
    num_layers: int = 2
    hidden: tuple[int, ...] = (32, 32)
    activation: str = "relu"
    num_bins: int | None = None
    bound: float | None = None

    def __post_init__(self) -> None:
        check_counts(num_layers=self.num_layers)
        self.bijector(2)

    def bijector(self, features: int) -> Bijector:
        """From noise to latents."""
        spline: dict[str, Any] = {"num_bins": self.num_bins, "bound": self.bound}
        given = {n: x for n, x in spline.items() if x is not None}
        found = flow(self.kind, features, self.num_layers, self.hidden, self.activation, **given)
        return found if self.kind in QUICK_TO_DRAW else Inverse(found)
