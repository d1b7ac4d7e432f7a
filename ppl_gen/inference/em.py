"""Expectation-maximisation on a declared program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import Site, UnsupportedError
from ppl_gen.capabilities import ClosedFormEM
from ppl_gen.checks import ProgramError
from ppl_gen.enumeration import Factor, eliminate
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, between, one_of, positive
from ppl_gen.inference.maximum import OBJECTIVES, point
from ppl_gen.inference.starts import check_init, positions
from ppl_gen.target import Target

_CHUNK = 20


@dataclass(frozen=True, kw_only=True)
class EM(Engine):
    """Expectation-maximisation: discrete local latents summed out exactly (Dempster, Laird & Rubin 1977).

    The M-step is the model's own where it brings one, otherwise some L-BFGS iterations on the expected log joint from
    the current point (generalised EM): the history never falls. The continuous latents and params are what is
    maximised.

    Attributes:
        num_steps: iterations at most.
        tolerance: stop where the log likelihood gains less than this, relatively, in one iteration.
        num_restarts: starts, run side by side, of which the best end is kept.
        objective: "likelihood" leaves the priors of what is maximised out; "posterior" is MAP-EM.
        m_steps: L-BFGS iterations of a gradient M-step.
        init: site -> starting value, constrained.
    """

    name: ClassVar[str] = "em"
    needs: ClassVar[str] = "discrete latents with finitely many values, or a model's own steps"

    num_steps: int = 1000
    tolerance: float = 1e-9
    num_restarts: int = 8
    objective: str = "likelihood"
    m_steps: int = 5
    init: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        positive(self, "num_steps", "num_restarts", "m_steps")
        one_of(self, "objective", OBJECTIVES)
        if self.tolerance != 0 or isinstance(self.tolerance, bool):
            between(self, 0, 1, "tolerance")

    def _closed(self, target: Target) -> bool:
        return isinstance(target.program.model, ClosedFormEM) and self.objective == "likelihood"

    def check(self, target: Target) -> None:
        target.require_enumeration(self.name)
        target.require_full_data(self.name)
        check_init(target, self.init, target.everything)
        if self._closed(target):
            return
        if not target.discrete:
            raise UnsupportedError(
                f"em sums out discrete latents, and {target.program.name} has none, nor steps of its own: use "
                "engine='map' for a point, 'svi' or 'nuts' for a posterior"
            )
        if not target.everything.dim:
            raise UnsupportedError(f"em needs continuous latents or params to maximise, {target.program.name} has none")
        shared = _local(target)
        if shared:
            raise UnsupportedError(
                f"em would maximise over the latents {shared} of {target.program.name}, one for each datum, "
                "where it should "
                "integrate: sum them out by hand, or use engine='svi' or 'nuts'"
            )

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        steps = _closed_steps(target) if self._closed(target) else self._gradient_steps(target)
        start, advance, finish = steps
        state = start(self, seed)
        state, report, reason = driver.run(
            lambda s, first, count: advance(s, count),
            state,
            self.num_steps,
            label="em",
            chunk=_CHUNK,
            stop=self._stop,
            describe=lambda r: f"log likelihood {np.nanmax(r['log_likelihood'][-1]):.4f}",
        )
        history = np.asarray(report["log_likelihood"])
        ends = np.where(np.isfinite(history[-1]), history[-1], -np.inf)
        best = int(np.argmax(ends))
        if not np.isfinite(ends[best]):
            raise ProgramError(
                f"em reached no finite log likelihood for {target.program.name} from any of {self.num_restarts} "
                "starts: "
                "scale the data, use fewer components or a simpler covariance, or pass init={site: value}"
            )
        outcome = finish(state, best, history[:, best])
        outcome.attrs.update(objective=self.objective, num_restarts=self.num_restarts)
        if reason is None and not self._settled(history)[best]:
            outcome.warnings.append(
                f"em stopped at num_steps={self.num_steps} before it had converged: raise num_steps"
            )
        outcome.warnings.extend(_falls(history[:, best]))
        return outcome

    def _stop(self, before: Any, after: Any, report: Any) -> str | None:
        values = np.asarray(report["log_likelihood"])
        if not np.isfinite(values[-1]).any():
            return "not finite"
        return "converged" if self._settled(values).all() else None

    def _settled(self, values: np.ndarray) -> np.ndarray:
        """Whether each restart has stopped gaining, or has broken down; ``values`` (iterations, restarts)."""
        if len(values) < 2:
            return np.zeros(values.shape[1:], bool)
        gain = values[-1] - values[-2]
        return ~np.isfinite(values[-1]) | (gain <= self.tolerance * np.maximum(np.abs(values[-1]), 1.0))

    # Exact E-step by enumeration, gradient M-step -------------------------------------------------------------

    def _gradient_steps(self, target: Target) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
        backend, counted = target.backend, _counted(self.objective)

        def build() -> Any:
            e_step = backend.compile(
                backend.vmap(lambda u, arrays: expect(target, u, arrays, counted), in_axes=(0, None)), calls=1000
            )
            return e_step, backend.minimise(
                lambda u, weights, arrays: -expected_log_joint(target, u, weights, arrays, counted), calls=100_000
            )

        e_step, (init, descend) = target.compiled(("em", self.objective), build)

        def start(engine: EM, seed: int) -> Any:
            return positions(target, engine.num_restarts, seed, engine.init, target.everything)

        def advance(u: Any, count: int) -> tuple[Any, Any]:
            values = []
            for _ in range(count):
                weights, log_likelihood = e_step(u, target.arrays)
                values.append(log_likelihood)
                state, _ = descend(init(u), self.m_steps + 1, weights, target.arrays)
                u = state["best"]
            return u, {"log_likelihood": backend.xp.stack(values)}

        def finish(u: Any, best: int, history: np.ndarray) -> Outcome:
            outcome = point(target, u[best], "log_likelihood", history, [])
            outcome.attrs.update(e_step="enumeration", m_step="gradient")
            return outcome

        return start, advance, finish


def _counted(objective: str) -> Callable[[Site], bool]:
    if objective == "posterior":
        return lambda s: True
    return lambda s: s.kind in ("observed", "factor") or s.discrete


def _factors(target: Target, u: Any, arrays: Any, counted: Callable[[Site], bool]) -> tuple[list[Factor], Any]:
    sites = target.trace(arrays, unconstrained=target.everything.split(u), enumerated=target.enumerated)
    return target.factors(sites, counted), target.owners(sites)


def expect(target: Target, u: Any, arrays: Any, counted: Callable[[Site], bool]) -> tuple[list[Any], Any]:
    """The E-step: posterior weights of every entry of every log factor, and the log marginal.

    They are the derivatives of the log marginal by the log factors: exact posterior marginals of each factor's
    discrete latents, whatever the plates between them.
    """
    xp = target.backend.xp
    factors, owners = _factors(target, u, arrays, counted)

    def log_marginal(tensors: list[Any]) -> Any:
        replaced = [replace(f, tensor=t) for t, f in zip(tensors, factors, strict=True)]
        return sum(xp.sum(f.tensor) for f in eliminate(xp, replaced, owners))

    value, weights = target.backend.value_and_grad(log_marginal)([f.tensor for f in factors])
    return weights, value


def expected_log_joint(target: Target, u: Any, weights: list[Any], arrays: Any, counted: Callable[[Site], bool]) -> Any:
    """Q(u | weights) = sum over factors of weight times log factor at u; scalar."""
    xp = target.backend.xp
    factors, _ = _factors(target, u, arrays, counted)
    terms = zip(factors, weights, strict=True)
    return sum(xp.sum(xp.where(w > 0, w * xp.where(w > 0, f.tensor, 0.0), 0.0)) for f, w in terms)


# Steps that a model brings ----------------------------------------------------------------------------------------


def _closed_steps(target: Target) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    backend, model = target.backend, target.program.model

    def step(params: Any, _: Any, arrays: Any) -> tuple[Any, Any]:
        params, log_likelihood = backend.vmap(model.em_step, in_axes=(0, None))(params, arrays)
        return params, {"log_likelihood": log_likelihood}

    scan = target.compiled(("em", "closed"), lambda: backend.scan(step, calls=500))
    prepare = getattr(model, "em_data", lambda data: data)
    data = target.compiled(("em", "data"), lambda: backend.compile(prepare))(target.arrays)

    def start(engine: EM, seed: int) -> Any:
        starts = model.starts(target.bound.host, engine.num_restarts, np.random.default_rng(seed))
        given = check_init(target, engine.init, target.everything)
        starts.update({n: np.broadcast_to(v, (engine.num_restarts, *v.shape)).copy() for n, v in given.items()})
        return {n: backend.asarray(v) for n, v in starts.items()}

    def advance(params: Any, count: int) -> tuple[Any, Any]:
        return scan(params, backend.xp.zeros((count,)), data)

    def finish(params: Any, best: int, history: np.ndarray) -> Outcome:
        values = {n: np.asarray(v)[best] for n, v in backend.to_numpy(params).items()}
        return Outcome(
            draws={n: v[None, None] for n, v in values.items()},
            params=values,
            history={"log_likelihood": history},
            attrs={"e_step": "the model's", "m_step": "closed form"},
            exact=False,
        )

    return start, advance, finish


def _local(target: Target) -> list[str]:
    """Continuous latents in a plate that also holds an observation and a discrete latent: one for each datum."""
    rows = {p.name for s in target.discrete.values() for p in s.plates}
    rows &= {p.name for n in target.observed for p in target.sites[n].plates}
    return [n for n in target.layout.names if any(p.name in rows for p in target.sites[n].plates)]


def _falls(history: np.ndarray) -> list[str]:
    falls = np.flatnonzero(np.diff(history) < -1e-6 * np.maximum(np.abs(history[1:]), 1.0))
    if not falls.size:
        return []
    at = int(falls[0])
    return [
        f"the log likelihood fell at iteration {at + 1}, from {history[at]:.8g} to {history[at + 1]:.8g}, which "
        "exact EM "
        "never does: the steps have lost precision; use precision='float64' or rescale the data"
    ]
