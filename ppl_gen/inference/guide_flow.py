"""A flow over all continuous latents of a program as the guide of ``svi``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.flows.guide import FlowGuide
from ppl_gen.inference import starts
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome
from ppl_gen.primitives import deterministic, dist, module, param, xp
from ppl_gen.target import Target

BOUNDS = ("auto", "trace", "enum", "iwae", "renyi")
_CHUNK = 250  # steps in a compiled call
_SCALE = 0.1  # standard deviation that q starts with
_CLIP = 10.0  # length of the longest gradient, unless clip_norm says otherwise: the first ones may be huge
_OWN = "params"  # those of the program, unconstrained


class JointFlow:
    """q of the unconstrained vector u of all latents: u = loc + scale T(e), e ~ N(0, I), T the flow.

    Discrete latents are summed out. ``params`` are unconstrained values of what is learned: of the flow by their names,
    of the program in one vector.
    """

    def __init__(self, guide: FlowGuide, target: Target):
        self.target, self.dim = target, target.layout.dim
        self._net = guide.bijector(self.dim)
        self._constraints: dict[str, Any] = {}

    def start(self, u: Any) -> dict[str, Any]:
        """Params of a narrow q about the vector ``u`` of latents and params of the program."""
        backend = self.target.backend
        sites = self._run(backend.asarray(np.zeros((1, self.dim))), key=backend.key(0))
        self._constraints = {n: s.constraint for n, s in sites.items() if s.kind == "param"}
        found = {n: backend.bijection(c).inverse(sites[n].value) for n, c in self._constraints.items()}
        return {**found, "guide.loc": u[: self.dim], _OWN: u[self.dim :]}

    def constrained(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the flow as it sees them."""
        return {n: self.target.backend.bijection(c).forward(params[n]) for n, c in self._constraints.items()}

    def log_weights(self, params: Mapping[str, Any], noise: Any, arrays: Any) -> tuple[Any, Any]:
        """Vectors of latents and params (draws, dim) at ``noise``, and log p(data, u) - log q(u) there (draws,)."""
        own = params[_OWN]
        sites = self._run(noise, unconstrained={n: x for n, x in params.items() if n != _OWN})
        log_e = -0.5 * xp.sum(noise * noise, axis=-1) - 0.5 * self.dim * math.log(2.0 * math.pi)
        u = sites["guide.u"].value
        u = xp.concatenate([u, xp.broadcast_to(own, (u.shape[0], own.shape[0]))], axis=-1)
        log_p = self.target.backend.vmap(self.target.log_density, in_axes=(0, None))(u, arrays)
        return u, log_p - log_e + sites["guide.log_det"].value

    def _run(self, noise: Any, **request: Any) -> Any:
        return self.target.trace_guide(lambda _: self._carry(noise), {}, **request)

    def _carry(self, noise: Any) -> None:
        carry = module("guide", self._net)
        loc = param("guide.loc", xp.zeros_like(noise[0]))
        scale = param("guide.scale", _SCALE * xp.ones_like(noise[0]), constraint=dist.constraints.positive)
        moved, log_det = carry(noise)
        deterministic("guide.u", loc + scale * moved)
        deterministic("guide.log_det", log_det + xp.sum(xp.log(scale)))


def bound(log_weight: Any, alpha: float | None) -> Any:
    """The ELBO where ``alpha`` is None, else the bound of order alpha, 0 for the importance-weighted one.

    Rezende & Mohamed (2015), equation 15; Li & Turner (2016), equation 11.
    """
    if alpha is None:
        return xp.mean(log_weight)
    share = 1.0 - alpha
    return (xp.logsumexp(share * log_weight, axis=0) - math.log(log_weight.shape[0])) / share


def fit_flow(
    engine: Any, guide: FlowGuide, target: Target, driver: Driver, seed: int, watch: Any
) -> tuple[Outcome, np.ndarray]:
    """The fitted flow: its draws and history, and log importance weights of the draws (num_samples,).

    Args:
        engine: an ``SVI``. watch: decides after each chunk of steps whether to stop, and keeps the last good state.
    """
    joint, init, advance = _trained(engine, guide, target)
    backend, dim = target.backend, target.layout.dim

    def chunk(state: Any, first: int, count: int) -> Any:
        noise = np.random.default_rng([seed, first]).standard_normal((count, engine.num_particles, dim))
        rate = engine.rate(np.arange(first, first + count), engine.num_steps)
        return advance(state, {"noise": backend.asarray(noise), "rate": backend.asarray(rate)}, target.arrays)

    begin = starts.positions(target, 1, seed, engine.init, target.everything)[0]
    state, report, reason = driver.run(
        chunk, init(joint.start(begin)), engine.num_steps, label=engine.name, chunk=_CHUNK, stop=watch,
        describe=lambda r: f"loss {r['loss'].mean():.4f}",
    )  # fmt: skip
    found = []
    if watch.last_good is not None:
        state, step = watch.last_good, int(np.argmax(~np.isfinite(report["loss"])))
        found = [
            f"svi stopped at step {step + 1}: the loss is not finite. The result is the last good state. Lower "
            "learning_rate, set clip_norm, or look at the scale of the data and the priors"
        ]
    outcome, weights = _drawn(joint, state["params" if engine.ema is None else "ema"], seed, engine.num_samples)
    outcome.history = {n: report[n] for n in ("loss", "gradient_norm")}
    outcome.attrs = {"elbo": _elbo(engine, target), "guide": "flow", "stopped": reason or "num_steps"}
    outcome.warnings = found
    return outcome, weights


def _trained(engine: Any, guide: FlowGuide, target: Target) -> tuple[JointFlow, Any, Any]:
    """The flow, how its descent starts, and how it goes on; compiled once for like runs."""
    alpha = {"iwae": 0.0, "renyi": engine.alpha}.get(engine.elbo)
    clip_norm = _CLIP if engine.clip_norm is None else engine.clip_norm
    options = {"learning_rate": engine.learning_rate, "clip_norm": clip_norm, "ema": engine.ema}
    options["calls"] = 10 ** math.ceil(math.log10(engine.num_steps))

    def build() -> tuple[JointFlow, Any, Any]:
        joint = JointFlow(guide, target)

        def loss(params: Any, row: Any, arrays: Any) -> tuple[Any, dict[str, Any]]:
            return -bound(joint.log_weights(params, row["noise"], arrays)[1], alpha), {}

        return joint, *target.backend.descend(loss, optimizer=engine.optimizer, **options)

    if not isinstance(engine.optimizer, str):
        return build()
    return target.compiled(("svi flow", guide, alpha, engine.optimizer, *options.values()), build)


def _elbo(engine: Any, target: Target) -> str:
    return ("enum" if target.discrete else "trace") if engine.elbo == "auto" else engine.elbo


def _drawn(joint: JointFlow, params: Any, seed: int, count: int) -> tuple[Outcome, np.ndarray]:
    """Draws of the flow with these params, and their log importance weights."""
    target, backend = joint.target, joint.target.backend

    def draw(noise: Any, key: Any, both: Any) -> tuple[Any, Any]:
        u, log_weight = joint.log_weights(both[0], noise[None], both[1])
        return u[0], log_weight[0]

    mapped = target.compiled(("svi flow draws", id(joint)), lambda: backend.map_draws(draw))
    noise = np.random.default_rng([seed, 2**31]).standard_normal((count, joint.dim))
    u, weights = backend.to_numpy(mapped(backend.asarray(noise), seed, (params, target.arrays)))
    own = target.constrain(backend.asarray(u[0]), target.arrays)
    learned = {**joint.constrained(params), **{n: own[n] for n in target.params.names}}
    values = {n: np.asarray(x) for n, x in backend.to_numpy(learned).items()}
    return Outcome(positions=np.asarray(u)[None], params=values, exact=False), np.asarray(weights)


def check_flow(target: Target, guide: FlowGuide, elbo: str) -> None:
    """There are latents for a flow, all of them there at once.

    Raises:
        UnsupportedError: not so. ValueError: a bound, or a number of latents, that this flow has not.
    """
    if elbo not in BOUNDS:
        raise ValueError(f"elbo={elbo!r} wants divergences in closed form, and a flow has none: use elbo='trace'")
    if not target.layout.dim:
        raise UnsupportedError(
            f"a flow is a guide of continuous latents, and {target.program.name} has none: leave out guide"
        )
    target.require_full_data("svi with a flow as its guide")
    guide.bijector(target.layout.dim)
