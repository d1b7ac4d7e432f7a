"""Hamiltonian Monte Carlo of many chains, whose trajectories all have one adapted, jittered length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.inference import trajectories
from ppl_gen.inference.preconditioning import times, transposed
from ppl_gen.inference.trajectories import Info, Path, State, Trajectories
from ppl_gen.target import Density


@dataclass(frozen=True, kw_only=True)
class ChEES(Trajectories):
    """Hamiltonian Monte Carlo of many chains, all trajectories of one adapted length (Hoffman, Radul & Sountsov 2021).

    All chains take the same number of leapfrog steps, so that they run side by side without waiting for each other,
    where the trees of NUTS differ. The length is drawn anew for each transition, evenly up to a greatest one, which
    climbs the expected change of the squared distance from the mean; step size, length and preconditioner are learned
    from all chains together. Exact; made for tens to thousands of chains.

    Attributes:
        num_warmup, num_samples: transitions per chain, adapting and kept.
        num_chains: run together, batched.
        thinning: every how many-th sample is kept.
        target_accept_prob: harmonic mean over chains that dual averaging steers the step size to.
        preconditioner: "diagonal", "dense" or "low_rank", from the pooled warm-up draws and their gradients;
            "identity" for none; "auto" for dense in up to 100 dimensions and diagonal in more.
        step_size: fixes the step size and turns its adaptation off.
        max_steps: leapfrog steps of a transition at most.
        init, start: where chains start, as of every sampler.
    """

    name: ClassVar[str] = "chees"
    needs: ClassVar[str] = "continuous latents"

    @staticmethod
    def begin(xp: Any, state: State, noise: Mapping[str, Any], most: int) -> tuple[Path, Any]:
        """A new momentum; as many steps as the jittered length takes."""
        return trajectories.begin(xp, state, noise["normal"], noise["jitter"], most)

    @staticmethod
    def leap(xp: Any, density: Density, path: Path) -> Path:
        """One step of the leapfrog scheme in whitened coordinates (Neal 2011, equations 5.18 to 5.20)."""
        now, h = path.now, path.now.step_size
        half = path.momentum + 0.5 * h * transposed(now.scale, now.gradient)
        position = now.position + h * times(now.scale, half)
        log_density, gradient = density.log_density_and_grad(position)
        momentum = half + 0.5 * h * transposed(now.scale, gradient)
        moved = now._replace(position=position, log_density=log_density, gradient=gradient)
        return path._replace(now=moved, momentum=momentum)

    @staticmethod
    def end(xp: Any, path: Path, noise: Mapping[str, Any]) -> tuple[State, Info]:
        """Accept where log u < minus the energy error."""
        first, last = (0.5 * xp.sum(p**2, axis=-1) for p in (noise["normal"], path.momentum))
        return trajectories.end(xp, path._replace(kinetic=last - first), first, noise["uniform"])
