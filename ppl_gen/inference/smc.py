"""Adaptive sequential Monte Carlo from the prior to the posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ppl_gen.checks import ProgramError
from ppl_gen.inference import tempered_moves
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, between, one_of, positive
from ppl_gen.inference.prior_draws import prior_draws, require_prior
from ppl_gen.inference.tempered_moves import Moving
from ppl_gen.inference.trajectories import State as Kernel
from ppl_gen.target import Target

_START_STEP = 0.5
_MOST_STAGES = 10_000
_LEAST_STEP = 1e-30  # of the inverse temperature
_HALVINGS = 100


class State(NamedTuple):
    """Carried from temperature to temperature; particles of all populations along one axis, population by population.

    Attributes:
        kernel: positions, log density at ``beta`` and the kernel's step size and preconditioner.
        log_likelihood: (particles,). beta: scalar.
        log_evidence: (populations,), of the path so far.
        variance: (populations,), of exp(log_evidence) relative to its square, were the particles independent.
    """

    kernel: Kernel
    log_likelihood: Any
    beta: Any
    log_evidence: Any
    variance: Any


@dataclass(frozen=True, kw_only=True)
class SMC(Engine):
    """Particles from the prior to the posterior through adaptive temperatures, with the log evidence.

    Tempered sequential Monte Carlo (Del Moral, Doucet & Jasra 2006; Chopin & Papaspiliopoulos 2020, chapter 17). Each
    temperature lowers the effective sample size to a share found by bisection (Zhou, Johansen & Aston 2016); particles
    are resampled systematically and moved by Hamiltonian trajectories, as many as take them as far as they go, with
    step size and preconditioner from the particles (Buchholz, Chopin & Jacob 2021). Several modes are no obstacle
    where the prior's draws find them. The program is prior and likelihood: ``pg.factor`` belongs to the latter.

    ``attrs["log_evidence"]`` is log p(data), of the mean over populations; ``attrs["log_evidence_se"]`` its standard
    error, the larger of that from the spread between populations and that from the weights within. The history has a
    row for each temperature. The error sees no bias of moves that mix slowly, as where scales have wide priors: compare
    with a larger ``target_accept_prob`` and ``ess_fraction``, or with ``ais`` and ``tempering``.

    Attributes:
        num_particles: in a population.
        num_chains: populations, which share temperatures and kernels and nothing else; each makes a chain of draws.
        ess_fraction: effective sample size that a temperature leaves of the particles, in the worst population.
        target_accept_prob: harmonic mean over particles that the step size is steered to.
        preconditioner: "dense" or "diagonal", from the particles; "identity" for none.
        max_moves: trajectories at a temperature at most. max_steps: leapfrog steps of a trajectory at most.
    """

    name: ClassVar[str] = "smc"
    needs: ClassVar[str] = "continuous latents with proper priors"
    resumes: ClassVar[bool] = True

    num_particles: int = 1000
    num_chains: int = 4
    ess_fraction: float = 0.5
    target_accept_prob: float = 0.9
    preconditioner: str = "dense"
    max_moves: int = 100
    max_steps: int = 64

    def __post_init__(self) -> None:
        positive(self, "num_particles", "num_chains", "max_moves", "max_steps")
        between(self, 0, 1, "ess_fraction", "target_accept_prob")
        one_of(self, "preconditioner", tempered_moves.PRECONDITIONERS)
        if self.num_particles < 20:
            raise ValueError(f"num_particles must be at least 20, got {self.num_particles}")

    def check(self, target: Target) -> None:
        require_prior(target, self.name)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        state, report = self.anneal(target, driver, seed)
        positions, lp = target.backend.to_numpy((state.kernel.position, state.kernel.log_density))
        log_evidence, error = combined(*target.backend.to_numpy((state.log_evidence, state.variance)))
        shape = self.num_chains, self.num_particles
        return Outcome(
            positions=positions.reshape(*shape, -1),
            stats={"lp": lp.reshape(shape)},
            history={n: report[n] for n in ("beta", "ess", "acceptance_rate", "num_moves", "log_evidence")},
            attrs={"log_evidence": log_evidence, "log_evidence_se": error},
            warnings=self._warnings(report),
        )

    def anneal(self, target: Target, driver: Driver, seed: int) -> tuple[State, Mapping[str, np.ndarray]]:
        """From the prior to the posterior; the report has a row for each temperature, its kernel's settings too."""

        def advance(state: State, stage: int, count: int) -> tuple[State, dict[str, Any]]:
            return self._stage(target, driver, seed, state, stage)

        state, report, _ = driver.run(
            advance, self._start(target, seed), _MOST_STAGES, label=self.name, chunk=1, stop=_at_posterior,
            describe=_describe,
        )  # fmt: skip
        return state, report

    def _start(self, target: Target, seed: int) -> State:
        """Particles from the prior."""
        backend, xp = target.backend, target.backend.xp
        position = backend.asarray(prior_draws(target, self.num_chains * self.num_particles, seed))
        likelihood = tempered_moves.log_likelihoods(target, position)
        if not np.isfinite(likelihood).reshape(self.num_chains, -1).any(1).all() or (likelihood == np.inf).any():
            raise ProgramError(
                f"the likelihood of {target.program.name} is 0, infinite or not a number at all of "
                f"{self.num_particles} draws of the prior: check the data and priors, or raise num_particles"
            )
        zero, none = xp.zeros(()), xp.zeros((self.num_chains,))
        dim = target.layout.dim
        scale = backend.asarray(np.eye(dim) if self.preconditioner == "dense" else np.ones(dim))
        of_each = xp.zeros((len(likelihood),))
        kernel = Kernel(position, of_each, xp.zeros_like(position), zero + _START_STEP, scale, zero)
        return State(kernel, backend.asarray(likelihood), zero, none, none)

    def _stage(self, target: Target, driver: Driver, seed: int, state: State, stage: int) -> tuple[State, Any]:
        """The next temperature: reweight, resample, move."""
        backend = target.backend
        likelihood, beta, log_evidence, variance = backend.to_numpy(state[1:])
        likelihood = likelihood.reshape(self.num_chains, self.num_particles)
        beta, weights, increment, ess = reweighted(likelihood, float(beta), self.ess_fraction)
        uniform = backend.noise(3 * seed, stage, {"u": ("uniform", (self.num_chains,))}, 1)["u"]
        kept = systematic(weights, backend.to_numpy(uniform)[0])
        position = backend.to_numpy(state.kernel.position)[kept]
        kernel, report = self._moved(target, driver, seed, stage, position, beta, state.kernel.step_size)
        moved = State(
            kernel,
            backend.asarray(tempered_moves.log_likelihoods(target, kernel.position)),
            backend.asarray(np.array(beta)),
            backend.asarray(log_evidence + increment),
            backend.asarray(variance + 1.0 / ess - 1.0 / self.num_particles),
        )
        row = {"beta": beta, "ess": ess.min(), "log_evidence": combined(log_evidence + increment, variance)[0]}
        step_size, scale = backend.to_numpy((kernel.step_size, kernel.scale))
        kept_settings = {"step_size": step_size, "scale": scale}
        return moved, {n: np.asarray(x)[None] for n, x in {**row, **report, **kept_settings}.items()}

    def _moved(
        self, target: Target, driver: Driver, seed: int, stage: int, position: np.ndarray, beta: float, step_size: Any
    ) -> tuple[Kernel, dict[str, Any]]:
        """Particles of equal weight, moved until they come no farther."""
        backend, spread = target.backend, position.var(0) + np.finfo(float).tiny
        scale = backend.asarray(tempered_moves.preconditioner(position, self.preconditioner))
        temperature = backend.asarray(np.array(beta))
        start = backend.asarray(position)
        kernel, _ = tempered_moves.begun(target)(start, temperature, step_size, scale, target.arrays)
        compiled = tempered_moves.moves(target, self.target_accept_prob, self.max_steps)

        def advance(moving: Moving, done: int, count: int) -> tuple[Moving, Any]:
            drawn = tempered_moves.noise(target, 3 * seed + 1, stage * self.max_moves + done, count, len(position))
            return compiled(moving, drawn, temperature, target.arrays)

        moving, report, reason = driver.unwritten().run(
            advance, Moving(kernel, start), self.max_moves, label=f"{self.name} moves", chunk=tempered_moves.ROUND,
            stop=tempered_moves.far_enough(spread),
        )  # fmt: skip
        rates = report["acceptance_rate"]
        return moving.state, {
            "acceptance_rate": rates[-(len(rates) + 1) // 2 :].mean(),
            "num_moves": len(rates),
            "settled": reason is not None,
        }

    def _warnings(self, report: Mapping[str, np.ndarray]) -> list[str]:
        found, short = [], ~report["settled"]
        if short.any():
            found.append(
                f"at {int(short.sum())} of {len(short)} temperatures the particles were still under way after "
                f"{self.max_moves} moves: draws and evidence may be off. Raise max_moves, or reparameterise"
            )
        if report["acceptance_rate"][-1] < 0.2:
            found.append(
                f"only {report['acceptance_rate'][-1]:.0%} of the moves at the posterior were accepted: the particles "
                "hardly moved. Raise max_moves, or reparameterise"
            )
        return found


def reweighted(
    log_likelihood: np.ndarray, beta: float, ess_fraction: float
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """The next inverse temperature by bisection, and what it makes of the particles.

    Args:
        log_likelihood: (populations, particles), -inf where impossible.
        ess_fraction: of the possible particles, that the effective sample size of the worst population is lowered to.

    Returns:
        the temperature; normalised weights (populations, particles); log of their mean before (populations,), which
        adds to the log evidence; effective sample sizes (populations,) (Zhou, Johansen & Aston 2016, section 3.3.2).
    """
    possible = np.isfinite(log_likelihood).sum(1)
    top = log_likelihood.max(1, keepdims=True)
    if not possible.all():
        raise ProgramError("every particle of a population has a likelihood of 0: raise num_particles")

    def at(step: float) -> tuple[np.ndarray, np.ndarray]:
        weights = np.exp(step * (log_likelihood - top))
        return weights, weights.sum(1) ** 2 / (weights**2).sum(1)

    def enough(step: float) -> bool:
        return bool((at(step)[1] >= ess_fraction * possible).all())

    low, high = math.log(_LEAST_STEP), math.log(1.0 - beta)
    if enough(1.0 - beta):
        low = high
    for _ in range(_HALVINGS if low < high else 0):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if enough(math.exp(middle)) else (low, middle)
    step = 1.0 - beta if low == math.log(1.0 - beta) else math.exp(low)
    weights, ess = at(step)
    total = weights.sum(1, keepdims=True)
    increment = step * top[:, 0] + np.log(total[:, 0] / log_likelihood.shape[1])
    return (1.0 if step == 1.0 - beta else beta + step), weights / total, increment, ess


def systematic(weights: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Systematic resampling (Kitagawa 1996): indices (populations * particles,) into the particles of all populations.

    Args:
        weights: (populations, particles), normalised. uniform: (populations,).
    """
    size = weights.shape[1]
    points = (np.arange(size) + uniform[:, None]) / size
    edges = np.cumsum(weights, axis=1)
    edges /= edges[:, -1:]
    chosen = [np.searchsorted(e, p, side="right") + i * size for i, (e, p) in enumerate(zip(edges, points))]
    return np.concatenate(chosen)


def combined(log_evidence: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """Log of the mean evidence of populations, and its standard error by the delta method.

    Args:
        log_evidence: (populations,). variance: (populations,), relative, as the weights within tell.
    """
    top, count = log_evidence.max(), len(log_evidence)
    relative = np.exp(log_evidence - top)
    mean = relative.mean()
    between = relative.var(ddof=1) / mean**2 if count > 1 else 0.0
    return float(top + np.log(mean)), float(np.sqrt(max(between, variance.mean()) / count))


def _at_posterior(before: State, after: State, report: Mapping[str, np.ndarray]) -> str | None:
    return "at the posterior" if report["beta"][-1] == 1.0 else None


def _describe(report: Mapping[str, np.ndarray]) -> str:
    return f"beta {report['beta'][-1]:.3g}, acceptance {report['acceptance_rate'][-1]:.2f}"
