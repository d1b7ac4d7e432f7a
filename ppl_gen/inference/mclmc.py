"""Microcanonical Hamiltonian Monte Carlo: motion at constant speed, turned by the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.inference import trajectories
from ppl_gen.inference.preconditioning import times, transposed
from ppl_gen.inference.trajectories import Info, Path, State, Trajectories
from ppl_gen.target import Density, Target


def turn(xp: Any, u: Any, gradient: Any, size: Any) -> tuple[Any, Any]:
    """The exact flow of the direction u (chains, dim) in a constant force, for a time ``size``.

    Returns:
        the new direction, and the gain in kinetic energy (d - 1) log(cosh delta + e.u sinh delta), with
        delta = size |g| / (d - 1) and e = g / |g| (Ver Steeg & Galstyan 2021; Robnik et al. 2023, equation 16).
    """
    dim = u.shape[-1]
    norm = xp.sqrt(xp.sum(gradient * gradient, axis=-1))
    e = gradient / xp.where(norm > 0, norm, 1.0)[:, None]
    delta, along = size * norm / (dim - 1), xp.sum(e * u, axis=-1)
    zeta = xp.exp(-delta)  # cosh and sinh would overflow
    grown = (1.0 - zeta) * (1.0 + zeta + along * (1.0 - zeta))
    turned = e * grown[:, None] + 2.0 * zeta[:, None] * u
    gain = (dim - 1) * (delta - math.log(2.0) + xp.log(1.0 + along + (1.0 - along) * zeta * zeta))
    return unit(xp, turned), gain


def unit(xp: Any, v: Any) -> Any:
    """Each row of v at length 1."""
    return v / xp.sqrt(xp.sum(v * v, axis=-1))[:, None]


def require_directions(target: Target, engine: str) -> None:
    """Two dimensions at least.

    Raises:
        UnsupportedError: a single number.
    """
    if target.layout.dim < 2:
        raise UnsupportedError(
            f"{engine} turns a direction, of which {target.program.name} with its one number has none: use "
            "engine='chees' or 'mala'"
        )


@dataclass(frozen=True, kw_only=True)
class MCLMC(Trajectories):
    """Microcanonical paths of many chains, each at constant speed (Robnik, De Luca, Silverstein & Seljak 2023).

    A direction on the sphere takes the place of the momentum, so that the energy error grows slower with dimension
    than that of Hamiltonian Monte Carlo. Paths start with a fresh direction and are accepted or not, which makes it
    exact (Robnik, Cohn-Gordon & Seljak 2025); their length is adapted as in ``chees``. ``umclmc`` has no such test.

    Attributes:
        num_warmup, num_samples: transitions per chain, adapting and kept.
        num_chains: run together, batched.
        thinning: every how many-th sample is kept.
        target_accept_prob: harmonic mean over chains that dual averaging steers the step size to.
        preconditioner: "diagonal", "dense" or "low_rank", from the pooled warm-up draws and their gradients;
            "identity" for none; "auto" for dense in up to 100 dimensions and diagonal in more.
        step_size: fixes the step size and turns its adaptation off.
        max_steps: of a transition at most.
        init, start: where chains start, as of every sampler.
    """

    name: ClassVar[str] = "mclmc"
    needs: ClassVar[str] = "two or more continuous latents"

    num_warmup: int = 300
    num_samples: int = 1000
    target_accept_prob: float = 0.9

    def check(self, target: Target) -> None:
        super().check(target)
        require_directions(target, self.name)

    def unit_time(self, dim: int) -> float:
        """The one unit of speed is shared by all coordinates."""
        return math.sqrt(dim)

    @staticmethod
    def begin(xp: Any, state: State, noise: Mapping[str, Any], most: int) -> tuple[Path, Any]:
        """A new direction; as many steps as the jittered length takes."""
        return trajectories.begin(xp, state, unit(xp, noise["normal"]), noise["jitter"], most)

    @staticmethod
    def leap(xp: Any, density: Density, path: Path) -> Path:
        """Half a turn, a step along, half a turn (the leapfrog scheme in whitened coordinates)."""
        now, h = path.now, path.now.step_size
        u, first = turn(xp, path.momentum, transposed(now.scale, now.gradient), 0.5 * h)
        position = now.position + h * times(now.scale, u)
        log_density, gradient = density.log_density_and_grad(position)
        u, second = turn(xp, u, transposed(now.scale, gradient), 0.5 * h)
        moved = now._replace(position=position, log_density=log_density, gradient=gradient)
        return path._replace(now=moved, momentum=u, kinetic=path.kinetic + first + second)

    @staticmethod
    def end(xp: Any, path: Path, noise: Mapping[str, Any]) -> tuple[State, Info]:
        """Accept where log u < minus the energy error. All kinetic energies are alike at the start of a path."""
        moved, info = trajectories.end(xp, path, xp.zeros(path.kinetic.shape), noise["uniform"])
        return moved, info._replace(energy=-moved.log_density)
