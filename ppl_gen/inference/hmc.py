"""HMC and NUTS: the backend's own kernels, on our compiled density."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome, between, positive
from ppl_gen.inference.journal import Report
from ppl_gen.inference.progress import Watched
from ppl_gen.inference.sampler import Sampler
from ppl_gen.target import Target

# Gradients that a transition is expected to take, to decide whether compiling repays.
_GRADIENTS_PER_STEP = 10
_CHUNK = 250


@dataclass(frozen=True, kw_only=True)
class HMC(Sampler):
    """Hamiltonian Monte Carlo with a fixed trajectory length (Duane et al. 1987; Neal 2011).

    Attributes:
        num_warmup, num_samples: transitions per chain, adapting and kept.
        num_chains: run together on NumPyro, in turn on Pyro.
        thinning: every how many-th sample is kept.
        target_accept_prob: that dual averaging steers the step size to.
        dense_mass: adapt a full mass matrix rather than a diagonal.
        trajectory_length: in unconstrained units.
        step_size: the first one.
        init, start: where chains start, as of every sampler.
    """

    name: ClassVar[str] = "hmc"
    needs: ClassVar[str] = "continuous latents"
    algorithm: ClassVar[str] = "HMC"

    dense_mass: bool = False
    trajectory_length: float = math.pi / 2  # a quarter of a whitened Gaussian period: draws nearly independent
    step_size: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        between(self, 0, math.inf, "step_size", "trajectory_length")

    def _options(self) -> dict[str, Any]:
        return {"trajectory_length": self.trajectory_length}

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        begun = self.starting(target, driver, seed)
        if driver.spread:
            _, report = driver.spread(self, target, begun.position)
        else:
            _, report = self.group(target, driver, seed, begun.position, slice(None))
        return replace(outcome(report), warnings=begun.warnings)

    def undivided(self, target: Target) -> str:
        independent = target.backend.hmc.independent
        return "" if independent else "draws all chains from one generator, as it does not with backend='numpyro'"

    def group(self, target: Target, driver: Driver, seed: int, held: np.ndarray, rows: slice) -> tuple[None, Report]:
        """Warm-up and draws: chains learn from themselves alone. ``held``: where all of them start, (chains, dim)."""
        chains = self._chains(target)
        with driver.alone():
            state = chains.init(target.backend.asarray(held), seed, target.arrays, rows)

        def advance(state: Any, start: int, count: int) -> tuple[Any, Any]:
            return chains.advance(state, count, target.arrays)

        chunk = min(_CHUNK, math.gcd(self.num_warmup, self.num_samples) or _CHUNK)
        chunk = chunk if chunk >= 25 else _CHUNK
        state, _, _ = driver.run(
            advance, state, self.num_warmup, label=f"{self.name} warm-up", chunk=chunk, keep=False
        )
        _, report, _ = driver.run(
            advance,
            state,
            self.num_samples,
            label=self.name,
            chunk=chunk,
            thinning=self.thinning,
            describe=Watched(_describe),
        )
        return None, report

    def _chains(self, target: Target) -> Any:
        calls = (self.num_warmup + self.num_samples) * self.num_chains * _GRADIENTS_PER_STEP
        options = {
            "algorithm": self.algorithm,
            "num_warmup": self.num_warmup,
            "calls": 10 ** math.ceil(math.log10(calls)),  # coarse: runs of like length share what is compiled
            "step_size": self.step_size,
            "target_accept_prob": self.target_accept_prob,
            "dense_mass": self.dense_mass,
            **self._options(),
        }

        def potential(u: Any, arrays: Any) -> Any:
            return -target.log_density(u, arrays)

        key = (self.name, tuple(sorted(options.items())))
        return target.compiled(key, lambda: target.backend.hmc(potential, **options))


@dataclass(frozen=True, kw_only=True)
class NUTS(HMC):
    """The no-U-turn sampler, which finds its trajectory length (Hoffman & Gelman 2014; Betancourt 2017).

    Attributes:
        max_tree_depth: trajectories have at most 2 ** max_tree_depth - 1 steps.
    """

    name: ClassVar[str] = "nuts"
    algorithm: ClassVar[str] = "NUTS"
    max_tree_depth: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "max_tree_depth")

    def _options(self) -> dict[str, Any]:
        return {"max_tree_depth": self.max_tree_depth}

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        result = super().run(target, driver, seed)
        depth = np.ceil(np.log2(result.stats["n_steps"] + 1)).astype(np.int64)
        result.stats["tree_depth"] = depth
        result.stats["reached_max_treedepth"] = depth >= self.max_tree_depth
        return result


def outcome(report: Mapping[str, np.ndarray]) -> Outcome:
    """Reports (draw, chain, ...) as an outcome (chain, draw, ...)."""
    stats = {name: np.swapaxes(x, 0, 1) for name, x in report.items()}
    positions = stats.pop("position")
    return Outcome(positions=positions, stats=stats)


def _describe(report: Mapping[str, np.ndarray]) -> str:
    return f"acceptance {report['acceptance_rate'].mean():.2f}"
