"""What a flow over all latents of a program is made of."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_gen.flows.bijector import Bijector, Inverse
from ppl_gen.flows.kinds import KINDS, flow
from ppl_gen.nets.layers import check_counts


@dataclass(frozen=True)
class FlowGuide:
    """A guide of ``engine="svi"`` for any program: a flow over its continuous latents together, unconstrained.

    Rezende & Mohamed (2015), "Variational inference with normalizing flows". ``guide="flow"`` is one with these
    defaults. A kind that is slow to draw from is taken the other way round. The flow starts as the best Gaussian on a
    quasi-Newton path to a mode. Its learning rate falls to 0 along a cosine, whatever ``schedule`` says, and gradients
    longer than 10 are shortened to that.

    Attributes:
        kind: of :data:`ppl_gen.flows.KINDS`; couplings ("realnvp", "glow", "nsf_coupling") want two latent numbers.
            Where it is None: "iaf", and "nsf" of one latent number, which "iaf" would only shift and scale.
        num_layers, hidden, activation, num_bins, bound, num_steps: as of :class:`ppl_gen.models.Flow`.
        num_draws: estimates of the bound, each of ``num_particles`` draws, whose mean a step goes by.
    """

    kind: str | None = None
    num_layers: int = 2
    hidden: tuple[int, ...] = (32, 32)
    activation: str | None = None
    num_bins: int | None = None
    bound: float | None = None
    num_steps: int | None = None
    num_draws: int = 16

    def __post_init__(self) -> None:
        if isinstance(self.hidden, list):
            object.__setattr__(self, "hidden", tuple(self.hidden))  # what is compiled for it is found by its hash
        check_counts(num_layers=self.num_layers, num_draws=self.num_draws)
        self.bijector(2)

    def kind_of(self, features: int) -> str:
        """The kind of a flow over so many numbers."""
        if self.kind is not None:
            return self.kind
        return "iaf" if features > 1 else "nsf"

    def bijector(self, features: int) -> Bijector:
        """From noise to latents.

        Raises:
            ValueError: an unknown kind, options that it has not, or a coupling of one number.
        """
        kind = self.kind_of(features)
        own = {n: getattr(self, n) for n in ("num_bins", "bound", "num_steps")}
        found = flow(kind, features, self.num_layers, self.hidden, self.activation, **own)
        return found if KINDS[kind].quick_to_draw else Inverse(found)
