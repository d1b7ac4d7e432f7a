"""How ``svi`` fits a flow over all latents: from a Gaussian near a mode, with all rows or by minibatches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.flows.guide import FlowGuide
from ppl_gen.inference import pathfinder, starts
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.feed import Feed
from ppl_gen.inference.fitting import feeds, steps_at_once
from ppl_gen.inference.guide_flow import MOST_DENSE, Base, JointFlow, bound
from ppl_gen.inference.lbfgs import Evaluate
from ppl_gen.inference.low_rank import Gaussians
from ppl_gen.inference.plates import row_arguments
from ppl_gen.target import Target

_BOUNDS = ("auto", "trace", "enum", "iwae", "renyi")
_OF_FUNCTIONS = ("beta", "num_annealing", "free_bits", "validation", "mixed_precision", "stream", "processes")
_CLIP = 10.0  # length of the longest gradient, unless clip_norm says otherwise: the first ones may be huge
_PATHS, _PAIRS, _MOVES, _HISTORY = 4, 16, 300, 6  # of the search for a Gaussian to start from
_NARROW = 0.1  # standard deviation to start with where none was found
_ROW = "row of "  # before the names of a batch's arguments
_STARTS, _NOISE, _RESULT = 11, 12, 13  # streams of random numbers


def check_flow(engine: Any, target: Target, guide: FlowGuide) -> None:
    """There are latents for a flow, all of them there at every step.

    Raises:
        UnsupportedError: not so. ValueError: options, or a number of latents, that go with no flow.
    """
    name = target.program.name
    if not target.layout.dim:
        raise UnsupportedError(
            f"a flow is a guide of continuous latents, and {name} has none: leave out guide for its params, or use "
            "engine='em'"
        )
    if engine.elbo not in _BOUNDS:
        raise ValueError(f"elbo={engine.elbo!r} takes a guide that is no flow: use one of {', '.join(_BOUNDS)}")
    if target.subsampled:
        raise UnsupportedError(
            f"a flow as a guide sees every row, or takes its minibatches by itself, and "
            f"{', '.join(map(repr, target.subsampled))} of {name} is subsampled: leave out subsample_size, and pass "
            "batch_size for minibatches"
        )
    guide.bijector(target.layout.dim)
    if engine.batch_size is not None:
        _check_rows(engine, target)


def _check_rows(engine: Any, target: Target) -> None:
    """Every row is there once, and none has latents of its own."""
    name = target.program.name
    rows = row_arguments(target, "svi with a flow as its guide", "takes a few rows at a time")
    if engine.elbo in ("iwae", "renyi"):
        raise ValueError(f"elbo={engine.elbo!r} of a flow takes all rows at once: leave out batch_size, or use 'trace'")
    chosen = [n for n in _OF_FUNCTIONS if getattr(engine, n) != getattr(type(engine), n)]
    if chosen:
        raise ValueError(f"{chosen[0]} goes with a guide that is a function of the rows, not with a flow: leave it out")
    if Target(target.bound.part(rows, slice(0, 1))).layout.dim != target.layout.dim:
        raise UnsupportedError(
            f"a flow keeps all latents while it sees some rows, and {name} has latents of single rows: leave out "
            "batch_size, or pass a guide that is a function of the rows"
        )
    plates = set.intersection(*({p.name for p in target.sites[n].plates} for n in target.observed))
    apart = [n for n, s in target.sites.items() if s.kind == "factor" and not plates & {p.name for p in s.plates}]
    if apart:
        raise UnsupportedError(
            f"{apart[0]!r} of {name} is a factor outside of the plate of rows, which minibatches would count as a part "
            "of each: leave out batch_size"
        )


@dataclass(frozen=True)
class _Seen:
    """What the flow sees of the data at a step.

    Attributes:
        part: the target of a batch, that of all rows where there are none. arrays: what is the same at each step.
        times: how many batches the rows make. feed: of batches, None where there are none.
    """

    part: Target
    arrays: Mapping[str, Any]
    times: float = 1.0
    feed: Feed | None = None

    @classmethod
    def of(cls, engine: Any, target: Target, seed: int) -> _Seen:
        if engine.batch_size is None:
            return cls(target, target.arrays)
        names = row_arguments(target, engine.name, "takes a few rows at a time")
        feed = feeds(engine, target.bound, names, engine.batch_size, seed)[0]
        assert isinstance(feed, Feed)
        part = Target(target.bound.part(names, slice(0, engine.batch_size)))
        fixed = {n: x for n, x in part.arrays.items() if n not in names}
        return cls(part, fixed, feed.num_rows / engine.batch_size, feed)

    def num_steps(self, engine: Any) -> int:
        if self.feed is None or engine.num_epochs is None:
            return engine.num_steps
        return engine.num_epochs * self.feed.steps_per_epoch

    def chunk(self) -> int:
        """Steps in a compiled call, at most."""
        return steps_at_once(0 if self.feed is None else sum(x.nbytes for x in self.feed.rows(0, 1).values()))

    def rows(self, first: int, count: int) -> dict[str, Any]:
        """Batches of ``count`` steps, on the device."""
        if self.feed is None:
            return {}
        return {_ROW + n: self.part.bound.on_device(n, x) for n, x in self.feed.rows(first, count).items()}


def fit_flow(
    engine: Any, guide: FlowGuide, target: Target, driver: Driver, seed: int, watch: Any
) -> tuple[Outcome, np.ndarray | None]:
    """The fitted flow: its draws and history, and log importance weights of the draws (num_samples,).

    Of rows that are not all in memory there are no weights.

    Args:
        engine: an ``SVI``. watch: decides after each chunk of steps whether to stop, and keeps the last good state.
    """
    seen = _Seen.of(engine, target, seed)
    num_steps = seen.num_steps(engine)
    joint, init, advance = _trained(engine, guide, seen, num_steps)
    backend, dim = target.backend, target.layout.dim
    base, own, scale = _start(target, driver, seed, engine.init)
    times = backend.asarray(seen.times)

    def chunk(state: Any, first: int, count: int) -> Any:
        size = (count, guide.num_draws * engine.num_particles, dim)
        noise = np.random.default_rng([seed, _NOISE, first]).standard_normal(size)
        rate = engine.rate(np.arange(first, first + count), num_steps, "cosine")
        inputs = {"noise": backend.asarray(noise), "rate": backend.asarray(rate), **seen.rows(first, count)}
        return advance(state, inputs, base, seen.arrays, times)

    state, report, reason = driver.run(
        chunk, init(joint.start(own, scale)), num_steps, label=engine.name, chunk=seen.chunk(), stop=watch,
        describe=lambda r: f"loss {r['loss'].mean():.4f}",
    )  # fmt: skip
    found = []
    if watch.last_good is not None:
        state, step = watch.last_good, int(np.argmax(~np.isfinite(report["loss"])))
        found = [
            f"svi stopped at step {step + 1}: the loss is not finite. The result is the last good state. Lower "
            "learning_rate, or look at the scale of the data and the priors"
        ]
    params = state["params" if engine.ema is None else "ema"]
    outcome, weights = _drawn(guide, joint, target, params, base, seed, engine.num_samples)
    outcome.history = {n: report[n] for n in ("loss", "gradient_norm")}
    outcome.attrs = {"guide": "flow", "flow": guide.kind_of(dim), "stopped": reason or "num_steps"}
    if seen.feed is not None:
        outcome.attrs["batch_size"] = engine.batch_size
        outcome.attrs["num_epochs"] = round(len(report["loss"]) / seen.feed.steps_per_epoch, 3)
    outcome.warnings = found
    return outcome, weights


def _trained(engine: Any, guide: FlowGuide, seen: _Seen, num_steps: int) -> tuple[JointFlow, Any, Any]:
    """The flow, how its descent starts, and how it goes on; compiled once for like runs."""
    alpha = {"iwae": 0.0, "renyi": engine.alpha}.get(engine.elbo)
    clip_norm = _CLIP if engine.clip_norm is None else engine.clip_norm
    options = {"learning_rate": engine.learning_rate, "clip_norm": clip_norm, "ema": engine.ema}
    options["calls"] = 10 ** math.ceil(math.log10(num_steps))
    batches = seen.feed is not None

    def build() -> tuple[JointFlow, Any, Any]:
        joint = JointFlow(guide, seen.part)

        def loss(params: Any, row: Any, base: Any, fixed: Any, times: Any) -> tuple[Any, dict[str, Any]]:
            rows = {n.removeprefix(_ROW): x for n, x in row.items() if n.startswith(_ROW)}
            weights = joint.log_weights(params, base, row["noise"], {**fixed, **rows}, times if batches else None)[1]
            return -bound(weights.reshape((guide.num_draws, -1)), alpha), {}

        return joint, *seen.part.backend.descend(loss, optimizer=engine.optimizer, **options)

    if not isinstance(engine.optimizer, str):
        return build()
    return seen.part.compiled(("svi flow", guide, alpha, batches, engine.optimizer, *options.values()), build)


def _drawn(
    guide: FlowGuide, joint: JointFlow, target: Target, params: Any, base: Base, seed: int, count: int
) -> tuple[Outcome, np.ndarray | None]:
    """Draws of the flow with these params, and their log importance weights by all rows."""
    backend, whole = target.backend, not target.bound.by_rows

    def draw(noise: Any, key: Any, both: Any) -> tuple[Any, Any]:
        params, base, arrays = both
        u, log_q = joint.draw(params, base, noise[None])
        return u[0], (target.log_density(u[0], arrays) if whole else 0.0 * log_q[0]) - log_q[0]

    mapped = target.compiled(("svi flow draws", guide), lambda: backend.map_draws(draw))
    noise = np.random.default_rng([seed, _RESULT]).standard_normal((count, joint.dim))
    u, weights = backend.to_numpy(mapped(backend.asarray(noise), seed, (params, base, target.arrays)))
    own = target.constrain(backend.asarray(u[0]), target.arrays)
    learned = {**joint.learned(params, base), **{n: own[n] for n in target.params.names}}
    values = {n: np.asarray(x) for n, x in backend.to_numpy(learned).items()}
    return Outcome(positions=np.asarray(u)[None], params=values, exact=False), np.asarray(weights) if whole else None


# The start ------------------------------------------------------------------------------------------------------------


def _start(target: Target, driver: Driver, seed: int, init: Any) -> tuple[Base, Any, float]:
    """The base of a flow, params of the program (unconstrained), and what the base's spread is multiplied by.

    A run that goes on does not look for them again.
    """
    backend, dim = target.backend, target.layout.dim
    square = (dim, dim) if dim <= MOST_DENSE else (dim,)
    like = tuple(backend.asarray(np.zeros(s)) for s in ((dim,), square, (target.params.dim,), ()))
    made = driver.once("svi start", lambda d: tuple(map(backend.asarray, _found(target, d, seed, init))), like)
    loc, root, own, scale = made
    return Base(loc, root), own, float(backend.to_numpy(scale))


def _found(target: Target, driver: Driver, seed: int, init: Any) -> tuple[np.ndarray, ...]:
    """The best Gaussian along quasi-Newton paths (Zhang et al. 2022), else a narrow one where optimisers start."""
    dim = target.layout.dim
    begin = np.asarray(target.backend.to_numpy(starts.positions(target, _PATHS, seed, init, target.everything)))
    own = begin[0, dim:]
    if not target.bound.by_rows:
        evaluate = _evaluator(target, own)
        position = begin[:, :dim]
        if not target.params.names:
            position = starts.search(target, _PATHS, seed, init, evaluate=evaluate)[0]
        noise = _balanced(np.random.default_rng([seed, _STARTS]).standard_normal((_PAIRS, dim)))
        noise = np.broadcast_to(noise, (_PATHS, *noise.shape))  # the same for all, which are compared
        found = pathfinder.climb(driver, evaluate, position, noise, history_size=_HISTORY, max_steps=_MOVES)[1]
        best = int(np.argmax(found.elbo))
        if np.isfinite(found.elbo[best]):
            gaussian = found.gaussians.rows(np.array([best]))
            return gaussian.mean[0], _root(gaussian, dim), own, np.array(1.0)
        begin = position
    return begin[0, :dim], np.eye(dim) if dim <= MOST_DENSE else np.ones(dim), own, np.array(_NARROW)


def _balanced(noise: np.ndarray) -> np.ndarray:
    """Noise (draws, dim) with its mirror image, of variance 1: bounds of independent Gaussians are then exact."""
    noise = noise / np.sqrt((noise**2).mean(0))
    return np.concatenate([noise, -noise])


def _root(gaussian: Gaussians, dim: int) -> np.ndarray:
    """A Cholesky factor of its covariance (dim, dim), or standard deviations (dim,) of many latents."""
    scale = np.sqrt(gaussian.variances()[0])
    if dim > MOST_DENSE:
        return scale
    try:
        return np.linalg.cholesky(gaussian.covariances()[0])
    except np.linalg.LinAlgError:  # to rounding
        return np.diag(scale)


def _evaluator(target: Target, own: np.ndarray) -> Evaluate:
    """Log density and gradient of latents (points, dim) with the program's params held."""
    whole = starts.evaluator(target, pathfinder.FEWEST_ROWS)

    def evaluate(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = whole(np.concatenate([points, np.tile(own, (len(points), 1))], axis=1))
        return value, gradient[:, : points.shape[1]]

    return evaluate
