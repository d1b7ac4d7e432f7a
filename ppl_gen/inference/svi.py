"""Stochastic variational inference: the backend's own ELBOs and autoguides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import Plate, UnsupportedError
from ppl_gen.capabilities import Starts
from ppl_gen.checks import ProgramError, in_short, name_bad_sites
from ppl_gen.flows.guide import FlowGuide
from ppl_gen.inference import collapse, importance
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.elbo import BOUNDS
from ppl_gen.inference.engine import Outcome, between, one_of, positive, require_processes
from ppl_gen.inference.fitting import fit, no_guide
from ppl_gen.inference.flow_fit import check_flow, fit_flow
from ppl_gen.inference.laplace import laplace
from ppl_gen.inference.starts import check_init
from ppl_gen.inference.training import Training, rows_of
from ppl_gen.program import GUIDES
from ppl_gen.target import Target

_CHUNK, _WINDOW = 500, 100  # steps in a compiled call; steps whose losses are averaged
_ELBOS = ("auto", "trace", "mean_field", "enum", "iwae", "renyi", "dreg")


@dataclass(frozen=True, kw_only=True)
class SVI(Training):
    """Maximises a bound on the log evidence over a guide's parameters (Hoffman et al. 2013; Kucukelbir et al. 2017).

    Attributes:
        guide: a function, or the name of an autoguide: "normal" (factorised), "diagonal", "multivariate_normal",
            "low_rank", "delta" (a point), "laplace" (a Gaussian at the mode), "flow" (normalizing, of all latents
            together) or a :class:`ppl_gen.flows.FlowGuide`. The program's own where None, else "normal".
        elbo: "trace"; "mean_field" (closed-form KL); "enum" (discrete latents summed out); "iwae" (importance-weighted,
            Burda et al. 2016); "renyi" (Li & Turner 2016); with a ``batch_size`` also "dreg", which is "iwae" with the
            doubly reparameterised gradient (Tucker et al. 2019). "auto" is "enum" with discrete latents, else "trace".
        num_particles: draws for each estimate of the bound, with a ``batch_size`` for each row; at least 2 for "iwae",
            "renyi" and "dreg".
        alpha: order of "renyi"; 0 is "iwae".
        num_steps: updates at most.
        optimizer, learning_rate: a name ("adam", ...) or an optax / torch optimiser.
        tolerance, patience: stop where the loss averaged over 100 steps has not gained ``tolerance``, relatively, for
            ``patience`` such averages in a row; never where tolerance is None.
        num_samples: draws from the fitted guide.
        rank: of "low_rank".
        init: site -> value (constrained) at which an autoguide starts, elsewhere where the model says, or at random;
            with a ``batch_size`` and a guide that is a function param -> value, elsewhere where the program says.

    With a ``batch_size`` it trains as :class:`~ppl_gen.inference.training.Training` says, by minibatches of the rows of
    a plate and a guide that is a function; ``history`` then holds means over rows. A flow takes minibatches, too, where
    no latents are of single rows; its ``history`` holds estimates of the loss of all rows.
    """

    name: ClassVar[str] = "svi"
    needs: ClassVar[str] = "latents or params, and a guide or continuous latents for an autoguide"
    resumes: ClassVar[bool] = True

    guide: Callable[..., Any] | FlowGuide | str | None = None
    elbo: str = "auto"
    num_particles: int = 1
    alpha: float = 0.0
    num_steps: int = 5000
    optimizer: Any = "adam"
    learning_rate: float = 0.01
    tolerance: float | None = None
    patience: int = 5
    num_samples: int = 1000
    rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_steps", "num_particles", "num_samples", "patience")
        one_of(self, "elbo", _ELBOS)
        between(self, 0, math.inf, "learning_rate")
        if self.tolerance is not None:
            between(self, 0, 1, "tolerance")
        if isinstance(self.guide, str):
            one_of(self, "guide", GUIDES)
        elif not (self.guide is None or callable(self.guide) or isinstance(self.guide, FlowGuide)):
            came = type(self.guide).__name__
            raise TypeError(f"guide must be a function, a FlowGuide or one of {', '.join(GUIDES)}, got {came}")
        if self.elbo in ("iwae", "renyi", "dreg") and self.num_particles < 2:
            raise ValueError(
                f"elbo={self.elbo!r} weighs particles against each other: num_particles must be at least 2"
            )
        if self.elbo == "renyi" and self.alpha == 1:
            raise ValueError("alpha=1 is the ordinary bound: use elbo='trace'")
        if self.batch_size is not None and self.elbo not in ("auto", *BOUNDS):
            raise ValueError(f"elbo={self.elbo!r} takes all rows at once: leave out batch_size, or use one of {BOUNDS}")
        if self.batch_size is None and self.elbo == "dreg":
            raise ValueError("elbo='dreg' goes by minibatches: set batch_size")

    def check(self, target: Target) -> None:
        target.require_enumeration(self.name)
        chains = [n for n, s in target.discrete.items() if s.num_steps is not None]
        if chains:
            raise UnsupportedError(
                f"svi sums out single discrete latents, and {', '.join(map(repr, chains))} of {target.program.name} is "
                "a Markov chain: use engine='nuts', 'map' or 'em', which sum over its paths"
            )
        guide = self._guide(target)
        if target.discrete and self.elbo in self._without_discrete():
            raise UnsupportedError(
                f"elbo={self.elbo!r} does not sum out discrete latents ({', '.join(map(repr, target.discrete))}): use "
                f"elbo={'enum' if self.batch_size is None else 'trace'!r}"
            )
        if isinstance(guide, FlowGuide):
            check_flow(self, target, guide)
        elif isinstance(guide, str):
            _check_autoguide(target, guide)
        else:
            _check_guide(target, guide, self.batch_size is not None)
            if self.init and self.batch_size is None:
                raise ValueError(
                    f"init says where an autoguide starts, and the guide of {target.program.name} is a function: give "
                    "its params their starting values there, or set batch_size, whose init names params"
                )
        if self.batch_size is not None and not isinstance(guide, FlowGuide):
            _, plate = rows_of(target.guided(), self.name)
            _check_rows(target, guide, plate)
            if self.processes:
                _check_shares(target, self.batch_size)

    def _without_discrete(self) -> tuple[str, ...]:
        """Bounds of programs whose latents are all continuous."""
        return ("mean_field", "iwae", "renyi") if self.batch_size is None else ("iwae", "dreg")

    def _start(self, target: Target, seed: int) -> dict[str, Any]:
        """Where an autoguide starts: from a random point, that of a mixture mostly ends with components unused."""
        given = check_init(target, self.init, target.layout)
        if isinstance(target.program.model, Starts):
            drawn = target.program.model.starts(target.bound.host, 1, np.random.default_rng(seed))
            given = {**{n: v[0] for n, v in drawn.items() if n in target.layout.names}, **given}
        return {n: target.backend.asarray(v) for n, v in given.items()}

    def _guide(self, target: Target) -> Any:
        guide = self.guide or target.program.guide or "normal"
        return FlowGuide() if guide == "flow" else guide

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        guide = self._guide(target)
        if guide == "laplace":
            outcome, weights = laplace(target, driver, seed, self.num_steps, self.num_samples, init=self.init)
            _judge(outcome, weights)
            outcome.attrs["guide"] = "laplace"
            return outcome
        if isinstance(guide, FlowGuide):
            return self._flow(guide, target, driver, seed)
        if self.batch_size is not None:
            outcome = fit(self, target.guided(), no_guide if isinstance(guide, str) else guide, driver, seed)
            if outcome.attrs["guided"]:
                collapse.judge(outcome, target, guide)
            return outcome
        native, chosen = self._native(target, guide)
        state = native.init(seed, target.arrays, self._start(target, seed))
        state, report, watch = self._loop(target, driver, native, state)
        found = []
        if watch.last_good is not None:
            state, step = watch.last_good, int(np.argmax(~np.isfinite(report["loss"])))
            found.append(_not_finite(target, native, watch, step))
        count = self.num_samples if target.layout.dim else 1  # without latents all draws would be alike
        outcome = _outcome(target, native, native.params(state), seed, count, guide)
        outcome.history["loss"] = report["loss"]
        outcome.attrs.update(elbo=chosen, guide=guide if isinstance(guide, str) else "by hand", stopped=watch.reason)
        outcome.warnings[:0] = found
        return outcome

    def _flow(self, guide: FlowGuide, target: Target, driver: Driver, seed: int) -> Outcome:
        outcome, weights = fit_flow(self, guide, target, driver, seed, _Watch(self))
        outcome.attrs["elbo"] = self._chosen(target)
        if weights is not None:
            _judge(outcome, weights, "Use more num_steps or num_particles, a FlowGuide of more num_layers")
        return outcome

    def _chosen(self, target: Target) -> str:
        return ("enum" if target.discrete else "trace") if self.elbo == "auto" else self.elbo

    def _loop(self, target: Target, driver: Driver, native: Any, state: Any) -> tuple[Any, Any, _Watch]:
        """All updates: the last state, the losses, and why they stopped."""
        watch = _Watch(self)
        state, report, reason = driver.run(
            lambda s, start, count: native.advance(s, count, target.arrays),
            state,
            self.num_steps,
            label="svi",
            chunk=_CHUNK,
            stop=watch,
            describe=lambda r: f"loss {r['loss'].mean():.4f}",
        )
        watch.reason = reason or "num_steps"
        return state, report, watch

    def _native(self, target: Target, guide: Any) -> tuple[Any, str]:
        elbo = self._chosen(target)
        alpha = 0.0 if elbo == "iwae" else self.alpha
        options: dict[str, Any] = {
            "elbo": "renyi" if elbo == "iwae" else elbo,
            "num_particles": self.num_particles,
            "alpha": alpha,
            "learning_rate": self.learning_rate,
            "rank": self.rank,
            "max_plate_nesting": target.num_plates,
            "discrete": tuple(target.discrete),
            "calls": 10 ** math.ceil(math.log10(self.num_steps)),  # coarse: runs of like length share what is compiled
        }

        def build() -> Any:
            called = guide if isinstance(guide, str) else lambda arrays: target.bound.call(guide, arrays)
            return target.backend.svi(model=target.bound.model, guide=called, optimizer=self.optimizer, **options)

        if not isinstance(self.optimizer, str):
            return build(), elbo
        key = ("svi", guide, self.optimizer, tuple(sorted(options.items(), key=str)))
        return target.compiled(key, build), elbo


class _Watch:
    """Decides after each chunk whether to stop: a loss that is not finite, or one that no longer gains."""

    remembers = True

    def __init__(self, engine: SVI):
        self.engine = engine
        self.best, self.waited = math.inf, 0
        self.last_good: Any = None
        self.bad: Any = None
        self.reason = ""

    def __call__(self, before: Any, after: Any, report: Mapping[str, np.ndarray]) -> str | None:
        if not np.isfinite(report["loss"]).all():
            self.last_good, self.bad = before, after
            return "loss not finite"
        if self.engine.tolerance is None:
            return None
        for start in range(0, len(report["loss"]), _WINDOW):
            loss = float(np.mean(report["loss"][start : start + _WINDOW]))
            gained = self.best - loss > self.engine.tolerance * max(abs(loss), 1.0)
            self.waited = 0 if gained else self.waited + 1
            self.best = min(self.best, loss)
        return "settled" if self.waited >= self.engine.patience else None


def _not_finite(target: Target, native: Any, watch: _Watch, step: int) -> str:
    """Says at which step and, as far as can be seen from the states around it, at which site."""
    good, after = native.params(watch.last_good), native.params(watch.bad)
    lost = [repr(n) for n, v in target.backend.to_numpy(dict(after)).items() if not np.isfinite(v).all()]
    bad = _bad_sites(target, native, good, step)
    if not bad and not lost:  # finite, but somewhere that the model cannot be
        bad = _bad_sites(target, native, after, step)
    where = "; ".join(filter(None, (", ".join(bad), "params " + ", ".join(lost) if lost else "")))
    return (
        f"svi stopped at step {step + 1}: the loss is not finite ({where or 'a passing draw of the guide'}). "
        "The result is the last good state. Lower learning_rate, scale the data, or look at the priors and supports "
        "of these sites"
    )


def _bad_sites(target: Target, native: Any, params: Mapping[str, Any], step: int) -> list[str]:
    """Sites without a finite log density at a draw of the guide with these params."""
    sites = target.trace_guide(native.guide, target.arrays, values=params, key=target.backend.key(step))
    values = {**{n: s.value for n, s in sites.items() if s.kind == "latent"}, **_own(target, params)}
    return name_bad_sites(target, values, target.arrays)


def _own(target: Target, params: Mapping[str, Any]) -> dict[str, Any]:
    """Params of the model, not of the guide."""
    return {n: params[n] for n in target.params.names if n in params}


def _outcome(target: Target, native: Any, params: Mapping[str, Any], seed: int, count: int, guide: Any) -> Outcome:
    """Draws from the guide, with the weights that tell how far it is from the posterior."""
    backend = target.backend

    def draw(_: Any, key: Any, both: Any) -> tuple[Any, Any]:
        params, arrays = both
        drawn = target.trace_guide(native.guide, arrays, values=params, key=key)
        latents = {n: drawn[n].value for n in target.layout.names if n in drawn}
        log_q = sum(backend.xp.sum(s.log_prob) for s in drawn.values() if s.kind == "latent")
        values, log_p = target.describe({**latents, **_own(target, params)}, arrays)
        return values, log_p - log_q

    mapped = target.compiled(("svi draws", id(native)), lambda: backend.map_draws(draw, random=True))
    rows = backend.asarray(np.zeros(count))
    draws, weights = backend.to_numpy(mapped(rows, seed, (dict(params), target.arrays)))
    outcome = Outcome(
        draws={n: np.asarray(v)[None] for n, v in draws.items()},
        params={n: np.asarray(v) for n, v in backend.to_numpy(dict(params)).items()},
        exact=False,
    )
    if guide != "delta" and target.layout.dim and not target.subsampled:
        _judge(outcome, np.asarray(weights))
    return outcome


_REMEDY = "Use guide='multivariate_normal', 'low_rank' or 'flow', more num_steps"


def _judge(outcome: Outcome, log_weights: np.ndarray, remedy: str = _REMEDY) -> None:
    """Put the importance weights, and what they say of the guide, into an outcome."""
    outcome.stats["log_weight"] = log_weights[None]
    importance.judge(outcome, log_weights, f"{remedy}, or engine='nuts'")


def _check_autoguide(target: Target, guide: str) -> None:
    if not target.layout.dim and not target.params.dim:
        raise UnsupportedError(f"svi needs continuous latents or params, and {target.program.name} has none")
    if guide == "laplace":
        target.require_gradient("svi with guide='laplace'")


def _check_rows(target: Target, guide: Any, plate: Plate) -> None:
    """Latents of rows are drawn by a guide of the rows, discrete ones too."""
    if not callable(guide) and (target.layout.dim or target.discrete):
        raise UnsupportedError(
            f"svi with a batch_size needs a guide that is a function of the rows, and that of {target.program.name} is "
            f"{guide!r}: pass guide=, or subsample a plate and leave out batch_size"
        )
    outside = [n for n, s in target.discrete.items() if plate.name not in {p.name for p in s.plates}]
    if outside:
        raise UnsupportedError(
            f"svi by minibatches sums out discrete latents of single rows, and {', '.join(map(repr, outside))} of "
            f"{target.program.name} stands outside of the plate {plate.name!r}: leave out batch_size"
        )


def _check_shares(target: Target, batch_size: int) -> None:
    """Each of several processes has its share of a batch."""
    require_processes(target)
    if batch_size % target.backend.num_processes():
        raise ValueError(
            f"batch_size {batch_size} does not divide among {target.backend.num_processes()} processes, each of which "
            "has its share of a batch: choose a multiple"
        )


def _check_guide(target: Target, guide: Callable[..., Any], by_rows: bool) -> None:
    """A guide has a site for every latent of the model, and for nothing else.

    Discrete latents may be left out, unless it goes ``by_rows``.
    """
    try:
        sites = target.trace_guide(lambda a: target.bound.call(guide, a), target.arrays, key=target.backend.key(0))
    except Exception as error:
        raise ProgramError(f"the guide of {target.program.name} failed: {in_short(error)}") from error
    drawn = {n for n, s in sites.items() if s.kind == "latent"}
    needed = set(target.layout.names) | (set(target.discrete) if by_rows else set())
    unknown = sorted(drawn - needed - set(target.discrete))
    missing = sorted(needed - drawn)
    if unknown or missing:
        raise ProgramError(
            f"guide and model of {target.program.name} do not match: the guide "
            + "; it ".join(
                part
                for part in (
                    f"has no site for the latents {missing}" if missing else "",
                    f"draws {unknown}, which the model does not" if unknown else "",
                )
                if part
            )
            + ". Give both the same names"
        )
    for name in needed & drawn:
        expected, came = tuple(target.sites[name].value.shape), tuple(sites[name].value.shape)
        if expected != came:
            raise ProgramError(
                f"the guide draws {name!r} with shape {came}, the model with {expected}: expected equal shapes"
            )
