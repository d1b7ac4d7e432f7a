"""Annealed Langevin: unadjusted steps down a ladder of temperatures of a program's own posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.checks import ProgramError
from ppl_gen.inference import langevin
from ppl_gen.inference.ais import Scheduled
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome, between, positive
from ppl_gen.inference.langevin import State
from ppl_gen.inference.prior_draws import prior_draws, require_prior
from ppl_gen.target import Target

_LEAST_RATE = 0.95  # at which a Metropolis test would accept: below it unadjusted steps are far too long


@dataclass(frozen=True, kw_only=True)
class Annealed(Scheduled):
    """Annealed Langevin dynamics of the posterior: particles from the prior, cooled by steps that are never refused.

    Song & Ermon (2019), "Generative modeling by estimating gradients of the data distribution", algorithm 1, on the
    scores of p(latents) p(data | latents)^beta in the place of a network's: ``num_steps`` steps at each temperature,
    x + h^2 / 2 S S^T score + h S noise, where S S^T, the covariance at that temperature, stands for their sigma_i^2. A
    small run of ``smc`` finds temperatures, covariances, and how long a leapfrog step may be there, which h is a share
    of. Draws are where the particles end, biased by the step size: where that step is a standard deviation, a
    Gaussian's variance is too large by the factor 1 / (1 - h^2 / 4).

    Attributes:
        num_particles, num_chains, num_temperatures, target_accept_prob, preconditioner, max_steps: as of
            :class:`~ppl_gen.inference.ais.Scheduled`.
        num_steps: at each temperature. step_size: h, as a share of the leapfrog step.
    """

    name: ClassVar[str] = "annealed"
    needs: ClassVar[str] = "continuous latents with proper priors"
    resumes: ClassVar[bool] = True

    num_temperatures: int = 30
    num_steps: int = 50
    step_size: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_steps")
        between(self, 0, 2, "step_size")

    def check(self, target: Target) -> None:
        require_prior(target, self.name)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        backend, size = target.backend, self.num_chains * self.num_particles
        schedule = self.schedule(target, driver, seed)
        spec = langevin.noise(size, target.layout.dim, tested=False)
        begun, advance = self._compiled(target)

        def chunk(state: State, done: int, count: int) -> tuple[State, Any]:
            at = done // self.num_steps
            beta, length, scale = (backend.asarray(x[at]) for x in schedule)
            if done % self.num_steps == 0:
                state = begun(state.position, beta, length, scale, target.arrays)
            return advance(state, backend.noise(4 * seed + 1, done, spec, count), beta, target.arrays)

        start = backend.asarray(prior_draws(target, size, seed))
        first = begun(start, *(backend.asarray(x[0]) for x in schedule), target.arrays)
        state, report, _ = driver.run(
            chunk, first, self.num_temperatures * self.num_steps, label=self.name, chunk=self.num_steps,
            stop=self._diverged(schedule.beta), describe=lambda r: f"acceptance {r['acceptance_rate'].mean():.2f}",
        )  # fmt: skip
        lp, draws = backend.to_numpy((state.log_density, state.position))
        rates = np.asarray(report["acceptance_rate"]).reshape(self.num_temperatures, -1).mean(1)
        return Outcome(
            positions=np.asarray(draws).reshape(self.num_chains, self.num_particles, -1),
            stats={"lp": np.asarray(lp).reshape(self.num_chains, -1)},
            history={"beta": schedule.beta, "acceptance_rate": rates},
            warnings=self._doubts(rates, schedule.beta),
            exact=False,
        )

    def _compiled(self, target: Target) -> tuple[Callable[..., State], Callable[..., tuple[State, Any]]]:
        """The state at a temperature, and steps at it."""
        backend, xp, h = target.backend, target.backend.xp, self.step_size

        def begin(position: Any, beta: Any, length: Any, scale: Any, arrays: Any) -> State:
            return langevin.init(target.tempered(arrays, beta), position, h * length, scale)

        def step(state: State, noise: Any, beta: Any, arrays: Any) -> tuple[State, dict[str, Any]]:
            moved, log_ratio = langevin.propose(xp, target.tempered(arrays, beta), state, noise["normal"])
            fine = langevin.finite(xp, moved.log_density, moved.gradient)
            return moved, {"acceptance_rate": xp.mean(xp.exp(xp.minimum(log_ratio, 0.0))), "finite": fine}

        def build() -> tuple[Any, Any]:
            return backend.compile(begin), backend.scan(step, calls=self.num_temperatures * self.num_steps)

        return target.compiled(("annealed", h, self.num_temperatures * self.num_steps), build)

    def _diverged(self, betas: np.ndarray) -> Callable[[Any, Any, Mapping[str, np.ndarray]], None]:
        """Ends a run with an error where a particle is not finite."""
        at = iter(betas)

        def stop(before: Any, after: Any, report: Mapping[str, np.ndarray]) -> None:
            beta, bad = next(at), np.argwhere(~report["finite"])
            if len(bad):
                step, particle = bad[0]
                chain, place = divmod(int(particle), self.num_particles)
                raise ProgramError(
                    f"{self.name} diverged at inverse temperature {beta:.3g}: particle {place} of chain {chain} is not "
                    f"finite after step {step + 1}, and {len(set(bad[:, 1]))} in all. Lower step_size, or use more "
                    "num_temperatures"
                )

        stop.remembers = True  # type: ignore[attr-defined]
        return stop

    def _doubts(self, rates: np.ndarray, betas: np.ndarray) -> list[str]:
        worst = int(np.argmin(rates))
        if rates[worst] >= _LEAST_RATE:
            return []
        return [
            f"steps of {self.step_size} leapfrog steps are too long: at inverse temperature {betas[worst]:.3g} a "
            f"Metropolis test would accept {rates[worst]:.0%} of them, expected at least {_LEAST_RATE:.0%}. None is "
            "refused, so that the draws are biased: lower step_size, and raise num_steps as much"
        ]
