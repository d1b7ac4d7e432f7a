"""The Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.inference import langevin
from ppl_gen.inference.chains import Chains
from ppl_gen.inference.langevin import Info, State
from ppl_gen.target import Density


@dataclass(frozen=True, kw_only=True)
class MALA(Chains):
    """Metropolis-adjusted Langevin: one gradient a step, exact (Besag 1994; Roberts & Tweedie 1996).

    The default acceptance of 0.574 is optimal in high dimension (Roberts & Rosenthal 1998).
    """

    name: ClassVar[str] = "mala"
    needs: ClassVar[str] = "continuous latents"

    @staticmethod
    def step(xp: Any, target: Density, state: State, noise: Any) -> tuple[State, Info]:
        """Propose, and accept where log u < log ratio."""
        proposed, log_ratio = langevin.propose(xp, target, state, noise["normal"])
        accept = xp.log(noise["uniform"]) < log_ratio
        position, log_density, gradient = proposed[:3]
        moved = langevin.choose(xp, accept, state, position=position, log_density=log_density, gradient=gradient)
        return moved, langevin.info(xp, moved, log_ratio)
