"""Annealed importance sampling, forth and back."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import logsumexp

from ppl_gen.evaluation.pareto_khat import pareto_khat
from ppl_gen.inference import tempered_moves
from ppl_gen.inference.annealed_walk import Schedule, State, advance, walk
from ppl_gen.inference.chees import ChEES
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, between, one_of, positive
from ppl_gen.inference.prior_draws import prior_draws, require_prior
from ppl_gen.inference.smc import SMC, combined, systematic
from ppl_gen.inference.starts import check_init
from ppl_gen.inference.trajectories import State as Kernel
from ppl_gen.target import Target

_KHAT = 0.7
_LEAST_ESS = 100.0
_PILOT = {"num_particles": 250, "num_chains": 2}


@dataclass(frozen=True, kw_only=True)
class Scheduled(Engine):
    """An engine whose particles go through temperatures that a small run of ``smc`` has fixed beforehand.

    Attributes:
        num_particles: in a population. num_chains: populations; each makes a chain of draws.
        num_temperatures: of the path.
        target_accept_prob, preconditioner, max_steps: of that run, as for ``smc``.
    """

    num_particles: int = 1000
    num_chains: int = 2
    num_temperatures: int = 200
    target_accept_prob: float = 0.9
    preconditioner: str = "dense"
    max_steps: int = 64

    def __post_init__(self) -> None:
        positive(self, "num_particles", "num_chains", "num_temperatures", "max_steps")
        between(self, 0, 1, "target_accept_prob")
        one_of(self, "preconditioner", tempered_moves.PRECONDITIONERS)
        if self.num_particles < 25:
            raise ValueError(f"num_particles must be at least 25, got {self.num_particles}")

    def schedule(self, target: Target, driver: Driver, seed: int) -> Schedule:
        """As many temperatures between each two of the pilot run's own; to each the kernel of the colder one."""
        pilot = SMC(
            target_accept_prob=self.target_accept_prob, preconditioner=self.preconditioner, max_steps=self.max_steps,
            **_PILOT,
        )  # fmt: skip
        _, report = pilot.anneal(target, driver, seed ^ 2**30)
        stages = len(report["beta"])
        at = np.linspace(0.0, stages, self.num_temperatures + 1)[1:]
        beta = np.interp(at, np.arange(stages + 1), np.append(0.0, report["beta"]))
        colder = np.minimum(np.ceil(at - 1e-9).astype(int), stages) - 1
        return Schedule(beta, report["step_size"][colder], report["scale"][colder])


@dataclass(frozen=True, kw_only=True)
class AIS(Scheduled):
    """Annealed importance sampling: weighted draws of the posterior, and its evidence from below and from above.

    Particles go from the prior through fixed temperatures, one Hamiltonian trajectory at each, and are weighted for the
    way (Neal 2001). A small run of ``smc`` sets temperatures and kernels beforehand, so that the mean weight is p(data)
    without bias: its log, ``attrs["log_evidence"]``, is low on average. Then particles go back from the posterior to
    the prior: minus the log of their mean inverse weight, ``attrs["log_evidence_reverse"]``, is high on average
    where they start at exact draws (Grosse, Ghahramani & Adams 2015): ``log_evidence_reverse_kind`` is then "upper
    bound", and otherwise, from the resampled ends of the way forth, "estimate". Standard errors stand beside, with _se.

    The draws are resampled by their weights, population by population; ``attrs["pareto_k"]`` and ``attrs["ess"]``
    say what the weights are worth.

    Attributes:
        num_particles, num_chains, num_temperatures, target_accept_prob, preconditioner, max_steps: as of
            :class:`Scheduled`; the last three are of the kernels, too.
        reverse: go back too, at the same cost.
        posterior_draws: site -> exact draws of the posterior (draws, ...) to go back from, e.g. the latents that the
            data were simulated with (one draw).
    """

    name: ClassVar[str] = "ais"
    needs: ClassVar[str] = "continuous latents with proper priors"
    resumes: ClassVar[bool] = True

    reverse: bool = True
    posterior_draws: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "reverse", (True, False))
        if self.posterior_draws is not None and not self.reverse:
            raise ValueError("posterior_draws are where the way back starts: set reverse=True, or leave them out")

    def check(self, target: Target) -> None:
        require_prior(target, self.name)
        self._given(target)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        backend, size = target.backend, self.num_chains * self.num_particles
        exact, schedule = self._given(target), self.schedule(target, driver, seed)
        start = backend.asarray(prior_draws(target, size, seed))
        end, report = self._walk(target, driver, 4 * seed + 2, start, schedule, forth=True)
        log_weight = end.log_weight.reshape(self.num_chains, -1)
        weights = np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True))
        uniform = backend.noise(4 * seed, 0, {"u": ("uniform", (self.num_chains,))}, 1)["u"]
        draws = end.position[systematic(weights, backend.to_numpy(uniform)[0])]
        log_evidence, error = _mean(log_weight)
        attrs: dict[str, Any] = {"log_evidence": log_evidence, "log_evidence_se": error}
        attrs["ess"] = float(1.0 / (_normalised(end.log_weight) ** 2).sum())
        attrs["pareto_k"] = pareto_khat(end.log_weight)
        if self.reverse:
            attrs |= self._back(target, driver, seed, draws if exact is None else exact, schedule)
            attrs["log_evidence_reverse_kind"] = "estimate" if exact is None else "upper bound"
        lp, _ = backend.to_numpy(target.value_and_grad()(backend.asarray(draws), target.arrays))
        return Outcome(
            positions=draws.reshape(self.num_chains, self.num_particles, -1),
            stats={"lp": np.asarray(lp).reshape(self.num_chains, -1)},
            history={"beta": schedule.beta, "acceptance_rate": report["acceptance_rate"]},
            attrs=attrs,
            warnings=_warnings(attrs),
        )

    def _given(self, target: Target) -> np.ndarray | None:
        """Exact draws as unconstrained positions (draws, dim).

        Raises:
            ValueError: a site is missing, unknown, of a wrong shape, or not finite.
        """
        if self.posterior_draws is None:
            return None
        missing = [n for n in target.layout.names if n not in self.posterior_draws]
        lengths = {n: np.shape(x)[:1] for n, x in self.posterior_draws.items()}
        if missing or len(set(lengths.values())) != 1 or () in lengths.values() or (0,) in lengths.values():
            raise ValueError(
                f"posterior_draws must hold all of {list(target.layout.names)}, each with the same leading axis of "
                f"draws; got {lengths}"
            )
        count = min(next(iter(lengths.values()))[0], self.num_chains * self.num_particles)
        rows = [{n: np.asarray(x)[i] for n, x in self.posterior_draws.items()} for i in range(count)]
        held = [check_init(target, row, target.layout) for row in rows]
        backend = target.backend
        found = [
            target.unconstrain({n: backend.asarray(x) for n, x in row.items()}, target.layout, target.arrays)
            for row in held
        ]
        positions = np.stack([np.asarray(backend.to_numpy(u)) for u in found])
        if not np.isfinite(positions).all():
            raise ValueError("posterior_draws lie outside or on the edge of their supports: expected draws inside")
        return positions

    def _walk(
        self, target: Target, driver: Driver, stream: int, start: Any, schedule: Schedule, forth: bool
    ) -> tuple[State, Mapping[str, np.ndarray]]:
        """To the posterior, or back to the prior; the last state on the host."""
        backend = target.backend
        noise = lambda done, count: tempered_moves.noise(target, stream, done, count, len(start))
        state, report = walk(
            driver, backend, self._advance(target), noise, start, schedule, target.arrays,
            f"{self.name} {'forth' if forth else 'back'}", forth,
        )  # fmt: skip
        position, log_weight = backend.to_numpy(tuple(state))
        if not forth:
            log_weight = log_weight + schedule.steps[0] * tempered_moves.log_likelihoods(target, state.position)
        return State(position, np.where(np.isnan(log_weight), -np.inf, log_weight)), report

    def _advance(self, target: Target) -> Any:
        """Compiled: trajectories of one jittered length."""
        xp, most = target.backend.xp, self.max_steps

        def begin(kernel: Kernel, row: Any) -> tuple[Any, Any]:
            return ChEES.begin(xp, kernel._replace(length=xp.zeros(()) + tempered_moves.LENGTH), row, most)

        report = lambda moved, info: {"acceptance_rate": xp.mean(info.acceptance_rate)}
        build = functools.partial(
            advance, target.backend, target.tempered, begin, report, calls=self.num_temperatures
        )  # fmt: skip
        return target.compiled(("ais", "advance", most), build)

    def _back(
        self, target: Target, driver: Driver, seed: int, draws: np.ndarray, schedule: Schedule
    ) -> dict[str, float]:
        """The estimate of the way back, from draws that are repeated where they are fewer than the particles."""
        size = self.num_chains * self.num_particles
        start = target.backend.asarray(np.resize(draws, (size, draws.shape[1])))
        state, _ = self._walk(target, driver, 4 * seed + 3, start, schedule, forth=False)
        inverse, error = _mean(-state.log_weight.reshape(self.num_chains, -1))
        return {"log_evidence_reverse": -inverse, "log_evidence_reverse_se": error}


def _normalised(log_weight: np.ndarray) -> np.ndarray:
    return np.exp(log_weight - logsumexp(log_weight))


def _mean(log_weight: np.ndarray) -> tuple[float, float]:
    """Log of the mean weight (populations, particles), and its standard error."""
    size = log_weight.shape[1]
    total = logsumexp(log_weight, axis=1)
    squares = np.exp(logsumexp(2.0 * log_weight, axis=1) - 2.0 * total)
    return combined(total - np.log(size), squares - 1.0 / size)


def _warnings(attrs: Mapping[str, Any]) -> list[str]:
    found, more = [], "Raise num_temperatures or num_particles, or use engine='smc'"
    if attrs["pareto_k"] > _KHAT or attrs["ess"] < _LEAST_ESS:
        found.append(
            f"the weights are uneven (effective sample size {attrs['ess']:.0f}, Pareto k-hat "
            f"{attrs['pareto_k']:.2f}; expected at least {_LEAST_ESS:.0f} and at most {_KHAT}): the draws repeat a "
            f"few particles, and the evidence is likely too low. {more}"
        )
    if "log_evidence_reverse" in attrs:
        gap = attrs["log_evidence_reverse"] - attrs["log_evidence"]
        error = float(np.hypot(attrs["log_evidence_se"], attrs["log_evidence_reverse_se"]))
        if abs(gap) > 4.0 * error + 0.05:
            found.append(
                f"the log evidence is {attrs['log_evidence']:.4g} on the way forth and "
                f"{attrs['log_evidence_reverse']:.4g} on the way back, {abs(gap) / error:.1f} standard errors apart: "
                f"the path is too short. {more}"
            )
    return found
