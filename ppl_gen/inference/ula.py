"""The unadjusted Langevin algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.inference import langevin
from ppl_gen.inference.chains import Chains
from ppl_gen.inference.langevin import Info, State
from ppl_gen.target import Density


@dataclass(frozen=True, kw_only=True)
class ULA(Chains):
    """Unadjusted Langevin: every proposal is taken, biased by the step size (Roberts & Tweedie 1996).

    The step size is adapted so that a Metropolis test would accept ``target_accept_prob``: near 1, so that the bias is
    small. For a Gaussian the stationary variance is too large by the factor 1 / (1 - h^2 / 4), h in standard
    deviations.
    """

    name: ClassVar[str] = "ula"
    needs: ClassVar[str] = "continuous latents"
    exact: ClassVar[bool] = False
    target_accept_prob: float = 0.95

    @staticmethod
    def step(xp: Any, target: Density, state: State, noise: Any) -> tuple[State, Info]:
        """Propose and take it; where the density is not finite there, stay."""
        proposed, log_ratio = langevin.propose(xp, target, state, noise["normal"])
        position, log_density, gradient = proposed[:3]
        fine = langevin.finite(xp, log_density, gradient)
        moved = langevin.choose(xp, fine, state, position=position, log_density=log_density, gradient=gradient)
        return moved, langevin.info(xp, moved, log_ratio)
