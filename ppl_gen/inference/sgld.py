"""Stochastic gradient Langevin dynamics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.inference.langevin import Info, State
from ppl_gen.inference.minibatches import MinibatchChains
from ppl_gen.inference.ula import ULA
from ppl_gen.target import Density


@dataclass(frozen=True, kw_only=True)
class SGLD(MinibatchChains):
    """Unadjusted Langevin on gradients from minibatches (Welling & Teh 2011) and control variates (Baker et al. 2019).

    Attributes:
        num_warmup, num_samples: steps per chain, left out and kept.
        num_chains: run together, batched, each with batches of its own.
        thinning: every how many-th sample is kept.
        batch_size: rows that a gradient is estimated from.
        control_variates: take the estimate's difference from that at the mode; best with many rows.
        bias: share by which variances may be too large; it sets the step size.
        step_size: sets it instead, in standard deviations.
        init: site -> value, constrained, from which the climb to the mode starts.
    """

    name: ClassVar[str] = "sgld"

    @staticmethod
    def step(xp: Any, target: Density, state: State, noise: Any) -> tuple[State, Info]:
        """As unadjusted Langevin's."""
        return ULA.step(xp, target, state, noise)

    @staticmethod
    def bias_of(step_size: float, noise: float) -> float:
        """x' = (1 - h^2 / 2) x + h (xi + h sqrt(V) / 2 eta) has variance (1 + h^2 V / 4) / (1 - h^2 / 4)."""
        quarter = 0.25 * step_size**2
        if quarter >= 1.0:
            return math.inf  # it does not settle
        return (1.0 + quarter * noise) / (1.0 - quarter) - 1.0

    @staticmethod
    def step_for(bias: float, noise: float) -> float:
        return float((4.0 * bias / (1.0 + bias + noise)) ** 0.5)
