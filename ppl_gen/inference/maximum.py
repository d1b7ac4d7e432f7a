"""Maximum a posteriori and maximum likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.checks import ProgramError, name_bad_sites
from ppl_gen.expectation import Counted
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, between, one_of, positive
from ppl_gen.inference.starts import check_init, positions
from ppl_gen.target import Target

_CHUNK = 25
OBJECTIVES = ("posterior", "likelihood")


def counted(objective: str, latents: Collection[str] = ()) -> Counted:
    """The terms of the log joint that an objective takes in, with those of the ``latents`` that have a posterior.

    "likelihood" leaves out the priors of what is maximised.
    """
    if objective == "posterior":
        return lambda site: True
    return lambda site: site.kind in ("observed", "factor") or site.discrete or site.name in latents


@dataclass(frozen=True, kw_only=True)
class MAP(Engine):
    """The most probable values of continuous latents and params, discrete latents summed out.

    The density that is maximised is that of the constrained values, without a Jacobian, so that the optimum does not
    depend on coordinates of ours.

    Attributes:
        objective: "posterior", or "likelihood" to leave the priors out.
        optimizer: "lbfgs", or a first-order one: "adam", "adamw", "sgd", ..., or an optax / torch optimiser.
        num_steps: iterations at most.
        learning_rate: of a first-order optimizer.
        tolerance: stop where the best objective gains less than this, relatively, in 25 iterations.
        num_restarts: starts, of which the best end is kept.
        init: site -> starting value, constrained.
    """

    name: ClassVar[str] = "map"
    needs: ClassVar[str] = "continuous latents or params"
    resumes: ClassVar[bool] = True

    objective: str = "posterior"
    optimizer: Any = "lbfgs"
    num_steps: int = 1000
    learning_rate: float = 0.05
    tolerance: float = 1e-9
    num_restarts: int = 1
    init: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        positive(self, "num_steps", "num_restarts")
        one_of(self, "objective", OBJECTIVES)
        between(self, 0, math.inf, "learning_rate")
        if self.tolerance:
            between(self, 0, 1, "tolerance")

    def check(self, target: Target) -> None:
        target.require_enumeration(self.name)
        target.require_full_data(self.name)
        check_init(target, self.init, target.everything)
        if not target.everything.dim:
            raise UnsupportedError(f"map needs continuous latents or params, and {target.program.name} has none")

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        init, step = self._minimiser(target)
        position = positions(target, self.num_restarts, seed, self.init, target.everything)

        def advance(state: Any, start: int, count: int) -> tuple[Any, Any]:
            state, values = step(state, count, position[:, :0], target.arrays)
            return state, {"value": values}

        state, report, reason = driver.run(
            advance, init(position), self.num_steps, label="map", chunk=_CHUNK, stop=self._stop(target)
        )
        values = target.backend.to_numpy(state["value"])
        best = int(np.argmin(np.where(np.isnan(values), np.inf, values)))
        if not np.isfinite(values[best]):
            raise self._failure(target, position)
        settled = reason is not None
        found = [] if settled else [f"map stopped at num_steps={self.num_steps} before it had settled: raise num_steps"]
        return point(target, state["best"][best], "log_" + self.objective, -report["value"][:, best], found)

    def _minimiser(self, target: Target) -> tuple[Callable[..., Any], Callable[..., Any]]:
        density = target.log_joint if self.objective == "posterior" else target.log_likelihood

        def loss(u: Any, _: Any, arrays: Any) -> Any:
            return -density(u, arrays)

        def build() -> Any:
            return target.backend.minimise(
                loss,
                method=self.optimizer,
                learning_rate=self.learning_rate,
                calls=self.num_steps * self.num_restarts,
            )

        if not isinstance(self.optimizer, str):
            return build()
        return target.compiled(("map", self.objective, self.optimizer, self.learning_rate), build)

    def _stop(self, target: Target) -> Callable[[Any, Any, Any], str | None]:
        def stop(before: Any, after: Any, report: Any) -> str | None:
            old, new = (np.nanmin(target.backend.to_numpy(s["value"])) for s in (before, after))
            return "settled" if old - new <= self.tolerance * max(abs(new), 1.0) else None

        return stop

    def _failure(self, target: Target, position: Any) -> ProgramError:
        values = target.constrain(position[0], target.arrays)
        bad = name_bad_sites(target, {n: values[n] for n in target.everything.names}, target.arrays)
        return ProgramError(
            f"{target.program.name} has no finite {self.objective} at any start; not finite: "
            f"{', '.join(bad) or 'unknown'}. "
            "Check the data and priors of these sites, or pass init={site: value}"
        )


def point(target: Target, u: Any, label: str, history: np.ndarray, warnings: list[str]) -> Outcome:
    """The outcome of a point estimate at the vector u of ``everything``."""
    build = target.compiled("point", lambda: target.backend.compile(target.constrain))
    values = {n: np.asarray(v) for n, v in target.backend.to_numpy(build(u, target.arrays)).items()}
    outcome = of_point(values, target.everything.names)
    return replace(outcome, history={label: history}, warnings=warnings)


def of_point(values: Mapping[str, np.ndarray], names: Iterable[str]) -> Outcome:
    """The outcome of constrained values: one draw of them all, and the ``names`` among them as params."""
    draws = {n: v[None, None] for n, v in values.items()}
    return Outcome(draws=draws, params={n: values[n] for n in names}, exact=False)
