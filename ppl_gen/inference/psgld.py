"""Preconditioned stochastic gradient Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ppl_gen.inference import langevin
from ppl_gen.inference.langevin import Info
from ppl_gen.inference.preconditioning import times, transposed
from ppl_gen.inference.sgld import SGLD
from ppl_gen.target import Density

_KEPT, _FLOOR = 0.99, 1e-5  # of the running mean of squares, and lambda (Li et al. 2016, section 5)


class State(NamedTuple):
    """As of any Langevin kernel, and the running mean of squared gradients (chains, dim) in whitened coordinates."""

    position: Any
    log_density: Any
    gradient: Any
    step_size: Any
    scale: Any
    square: Any


@dataclass(frozen=True, kw_only=True)
class PSGLD(SGLD):
    """SGLD with RMSprop's preconditioner, per chain (Li, Chen, Carlson & Carin 2016, algorithm 1).

    For posteriors whose scales differ from place to place. The term Gamma of the preconditioner's change is left out,
    as in the paper, which adds to the bias beyond ``variance_bias``, which is that of ``sgld``. Options as of it.
    """

    name: ClassVar[str] = "psgld"

    def make_state(self, xp: Any, density: Density, position: Any, scale: Any) -> State:
        start = super().make_state(xp, density, position, scale)
        return State(**start._asdict(), square=transposed(scale, start.gradient) ** 2)

    @staticmethod
    def step(xp: Any, target: Density, state: State, noise: Any) -> tuple[State, Info]:  # type: ignore[override]
        """x' = x + h^2 / 2 S G S^T g + h S G^(1/2) xi, with G = 1 / (lambda + sqrt(V)) over its mean."""
        h, slope = state.step_size, transposed(state.scale, state.gradient)
        square = _KEPT * state.square + (1.0 - _KEPT) * slope * slope
        g = 1.0 / (_FLOOR + xp.sqrt(square))
        g = g / xp.mean(g, axis=-1)[:, None]
        move = 0.5 * h * h * g * slope + h * xp.sqrt(g) * noise["normal"]
        position = state.position + times(state.scale, move)
        log_density, gradient = target.log_density_and_grad(position)
        fine, state = langevin.finite(xp, log_density, gradient), state._replace(square=square)
        moved = langevin.choose(xp, fine, state, position=position, log_density=log_density, gradient=gradient)
        return moved, langevin.info(xp, moved, xp.where(fine, 0.0, -xp.inf))  # type: ignore[arg-type]
