"""What engines share that learn a posterior from simulations: rounds of them, training, and draws that are weighed."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.inference import importance
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, between, one_of, positive
from ppl_gen.inference.fitting import fit
from ppl_gen.inference.posterior_network import Standard, Trained
from ppl_gen.inference.simulation import RUNS, Simulator, has_inner_noise, require_simulable
from ppl_gen.inference.svi import SVI
from ppl_gen.inference.truncation import Propose, Region, inside, log_joint, truncated
from ppl_gen.layout import Layout
from ppl_gen.primitives import deterministic, module, xp
from ppl_gen.program import DataError, as_program
from ppl_gen.target import Target

_CHUNK = 1000  # pairs that are kept at a time
_MOST_TRIES = 20_000  # calls for them
_ROWS = 256  # that the program of a network is looked at with
_REMEDY = "Raise num_simulations or num_rounds, pass embedding=, or use engine='nuts'"


@dataclass(frozen=True, kw_only=True)
class NeuralPosterior(Engine):
    """Posteriors learned from runs of the program: latents from its prior, data given them, nothing else is asked.

    A network q(u | y) of the unconstrained latents is trained on such pairs. It is amortised: the posterior of any data
    of the same shapes is there at once, ``run.posterior_for(data)``, with its density, ``run.posterior_log_prob``.
    Where the program's own density is known, draws are weighed by p(u, y) / q(u | y) and resampled, which leads back to
    the exact posterior as far as ``attrs["pareto_k"]`` allows; ``attrs["log_evidence"]`` comes with it.

    Rounds after the first draw from the prior where the network of the round before has all but 1e-4 of its mass
    (Deistler, Goncalves & Macke 2022); runs of earlier rounds that lie there are kept, and each round trains anew. The
    result then holds for the data of the run alone.

    Attributes:
        num_simulations: pairs that a round trains on. num_rounds: of simulation and training.
        num_samples: draws of the posterior.
        correction: weigh and resample; where None, if the density is known. ``attrs["correction"]`` says what was done.
        oversampling: how many draws of the network each draw is resampled from.
        latents: names of the continuous latents that are inferred, the others being drawn anew in each run; all where
            None.
        observe: deterministic site -> the value it was seen at, where a program makes its data without a density.
        embedding: a network of ``ppl_gen.nets`` that the data go through first, in the shape of the one observed site,
            as a vector where there are several; learned too.
        batch_size, num_epochs, learning_rate, clip_norm, ema, validation, patience: of training, as of ``svi``; the
            learning rate falls to 0 along a cosine.
    """

    resumes: ClassVar[bool] = True

    num_simulations: int = 10_000
    num_rounds: int = 1
    num_samples: int = 1000
    correction: bool | None = None
    oversampling: int = 10
    latents: tuple[str, ...] | None = None
    observe: Mapping[str, Any] | None = None
    embedding: Any = None
    batch_size: int = 256
    num_epochs: int = 100
    learning_rate: float = 1e-3
    clip_norm: float | None = 5.0
    ema: float | None = None
    validation: float = 0.1
    patience: int = 20

    def __post_init__(self) -> None:
        positive(self, "num_simulations", "num_rounds", "num_samples", "oversampling", "batch_size")
        one_of(self, "correction", (None, True, False))
        for name in ("latents", "hidden"):
            if isinstance(getattr(self, name, None), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.latents, str):
            object.__setattr__(self, "latents", (self.latents,))
        if self.num_simulations < 100:
            raise ValueError(f"num_simulations must be at least 100, got {self.num_simulations}")
        if self.embedding is not None and not hasattr(self.embedding, "build"):
            came = type(self.embedding).__name__
            raise TypeError(f"embedding must be a network of ppl_gen.nets, such as nets.MLP, got {came}")
        between(self, 0, 1, "validation")
        self._training(self.num_simulations)

    def _training(self, num_rows: int) -> SVI:
        """How the network is trained on so many pairs."""
        most = int(num_rows * min(self.validation, 1.0 - self.validation))  # what is kept back makes a batch
        options = ("num_epochs", "learning_rate", "clip_norm", "ema", "validation", "patience")
        own = {n: getattr(self, n) for n in options}
        return SVI(batch_size=max(1, min(self.batch_size, most)), schedule="cosine", **own)

    def estimator(self, features: int, shape: tuple[int, ...], num_context: int) -> Any:
        """The network: an :class:`~ppl_gen.inference.posterior_network.Estimator`.

        Args:
            features: length of u. shape: of the data as the embedding sees them. num_context: length of what it makes.
        """
        raise TypeError(f"{type(self).__name__} defines no network")

    # What is asked of a program -----------------------------------------------------------------------------------

    def check(self, target: Target) -> None:
        require_simulable(target, self.name)
        self._layout(target)
        self._check_data(target)
        why = self._unknown_density(target) if self.correction else ""
        if why:
            raise UnsupportedError(f"{self.name} with correction=True weighs draws by the density, and {why}: leave it")

    def _layout(self, target: Target) -> Layout:
        """Of the latents that are inferred.

        Raises:
            UnsupportedError: there are none, or discrete ones that nobody said to leave out. ValueError: wrong names.
        """
        held, name = target.layout, target.program.name
        if not held.names:
            raise UnsupportedError(f"{self.name} infers continuous latents, and {name} has none: use engine='em'")
        if self.latents is not None:
            for unknown in (n for n in self.latents if n not in held.names):
                near = difflib.get_close_matches(str(unknown), held.names, n=1)
                raise ValueError(
                    f"latents has {unknown!r}{f' (did you mean {near[0]!r}?)' if near else ''}, and the continuous "
                    f"latents of {name} are {', '.join(map(repr, held.names))}"
                )
            return held.only(self.latents)
        if target.counts.names:
            raise UnsupportedError(
                f"{self.name} infers continuous latents, and {', '.join(map(repr, target.counts.names))} of {name} "
                f"have no finite set of values to sum over: pass latents={held.names!r}, the others are then drawn "
                "anew in each simulation, or use engine='gibbs'"
            )
        return held

    def _check_data(self, target: Target) -> None:
        name = target.program.name
        if target.bound.missing:
            raise UnsupportedError(
                f"{self.name} compares whole data, and {', '.join(map(repr, target.bound.missing))} of {name} has "
                "missing entries: use engine='nuts'"
            )
        if not target.observed and not self.observe:
            raise UnsupportedError(
                f"{self.name} learns from observed data, and {name} observes nothing: pass data with its observations, "
                "or observe={site: value} of its deterministic sites"
            )
        for site, value in (self.observe or {}).items():
            known = [n for n, s in target.sites.items() if s.kind == "deterministic"]
            if site not in known:
                raise ValueError(
                    f"observe has {site!r}, and the deterministic sites of {name} are "
                    f"{', '.join(map(repr, known)) or 'none'}: other sites are observed by obs= in the program"
                )
            expected, came = tuple(target.sites[site].value.shape), np.shape(value)
            if expected != came or not np.isfinite(np.asarray(value, float)).all():
                raise DataError(f"observe[{site!r}] must hold finite numbers of shape {expected}, got shape {came}")

    def _unknown_density(self, target: Target) -> str:
        """Why p(u, data) cannot be had; empty where it can."""
        name = target.program.name
        if self.observe:
            return f"{', '.join(map(repr, self.observe))} of {name} are deterministic sites, which have no density"
        if self.latents is not None and set(self.latents) != set(target.layout.names):
            return f"latents of {name} are drawn anew that are not inferred"
        try:
            target.require_enumeration(self.name)
        except UnsupportedError as error:
            return str(error)
        if has_inner_noise(target, ()):
            return f"{name} draws random numbers beside its sites"
        return ""

    def simulator(self, target: Target) -> Simulator:
        """Runs of the target as pairs of u and y."""
        return Simulator(target, self._layout(target), (*target.observed, *sorted(self.observe or {})))

    def observation(self, target: Target) -> np.ndarray:
        """The data of the target as one vector."""
        simulator = self.simulator(target)
        values = {n: target.backend.to_numpy(target.sites[n].value) for n in simulator.seen}
        return simulator.flat({**values, **(self.observe or {})})

    def estimator_of(self, target: Target) -> Any:
        """The network for the latents and data of this target."""
        simulator = self.simulator(target)
        one = tuple(target.sites[simulator.seen[0]].value.shape) if len(simulator.seen) == 1 else ()
        shape = one or (simulator.num_seen,)
        return self.estimator(simulator.layout.dim, shape, self._num_context(target, shape))

    def _num_context(self, target: Target, shape: tuple[int, ...]) -> int:
        if self.embedding is None:
            return math.prod(shape)
        backend = target.backend

        def look(_: Any) -> None:
            deterministic("made", module("embedding", self.embedding)(xp.zeros((2, *shape))))

        try:
            made = target.trace_guide(look, {}, key=backend.key(0))["made"].value
        except Exception as error:
            raise ValueError(f"embedding does not take data of shape (rows, {shape}): {error}") from error
        if made.ndim != 2:
            raise ValueError(f"embedding must make (rows, features) of data (rows, {shape}), got {tuple(made.shape)}")
        return int(made.shape[1])

    # The work -----------------------------------------------------------------------------------------------------

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        simulator, y = self.simulator(target), self.observation(target)
        known = not self._unknown_density(target)
        regions: list[Region] = []
        pairs = np.zeros((0, simulator.layout.dim)), np.zeros((0, simulator.num_seen))
        runs, warnings, trained, made = 0.0, [], None, None
        for i in range(self.num_rounds):
            propose: Propose | None = simulator.prior
            if regions:
                propose = truncated(simulator, regions, known, _seed(seed, 1, i))
                kept = inside(regions, target, pairs[0])
                pairs = pairs[0][kept], pairs[1][kept]
            if propose is None:
                warnings.append(
                    f"{self.name} stopped after {i} of {self.num_rounds} rounds: hardly any draw lies where the last "
                    "network has its mass. Raise num_simulations, so that rounds narrow down more slowly"
                )
                break
            if (lacking := self.num_simulations - len(pairs[0])) > 0:
                new, count = self._simulated(propose, driver, seed, i, lacking)
                pairs, runs = tuple(map(np.concatenate, zip(pairs, new, strict=True))), runs + count  # type: ignore
            trained, made = self._fitted(target, driver, _seed(seed, 2, i), *pairs)
            if i + 1 < self.num_rounds:
                regions.append(Region.of(trained, target, y, _seed(seed, 3, i)))
        assert trained is not None and made is not None
        outcome = self.drawn(target, trained, _seed(seed, 4, 0))
        outcome.history = {n: x for n, x in made.history.items() if n in ("loss", "validation", "gradient_norm")}
        outcome.params = trained.params
        outcome.warnings = [*made.warnings, *warnings, *outcome.warnings]
        outcome.attrs |= {"num_simulations": round(runs), "num_rounds": len(regions) + 1, "options": self._said()}
        outcome.attrs |= {n: made.attrs[n] for n in ("stopped", "num_epochs")}
        return outcome

    def _said(self) -> str:
        """Options of the network, which a saved run is asked with again; of objects their names alone."""
        default = type(self)()
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "observe"}
        chosen = {n: x for n, x in chosen.items() if x != getattr(default, n)}
        objects = [n for n, x in chosen.items() if not isinstance(x, bool | int | float | str | tuple | None)]
        return json.dumps({"objects": objects, **{n: x for n, x in chosen.items() if n not in objects}})

    def _simulated(
        self, propose: Propose, driver: Driver, seed: int, index: int, count: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], float]:
        """So many new pairs, and how many runs of the program they took."""

        def advance(state: Any, start: int, rows: int) -> tuple[Any, dict[str, np.ndarray]]:
            parts: list[tuple[np.ndarray, np.ndarray]] = []
            tries = 0
            while sum(map(len, (u for u, _ in parts))) < rows:
                if tries == _MOST_TRIES:
                    raise RuntimeError(f"{self.name} found no {rows} simulations in {tries * RUNS} runs of the program")
                parts.append(propose(RUNS, _seed(seed, 5, index, start, tries)))
                tries += 1
            u, y = (np.concatenate(x)[:rows] for x in zip(*parts, strict=True))
            return state, {"u": u, "y": y, "runs": np.full(rows, tries * RUNS / rows)}

        label = f"{self.name} simulations" + (f", round {index + 1}" if self.num_rounds > 1 else "")
        _, report, _ = driver.run(advance, np.zeros(1), count, label=label, chunk=_CHUNK)
        return (np.asarray(report["u"]), np.asarray(report["y"])), float(np.sum(report["runs"]))

    def _fitted(
        self, target: Target, driver: Driver, seed: int, u: np.ndarray, y: np.ndarray
    ) -> tuple[Trained, Outcome]:
        """The network trained on pairs."""
        of_u, of_y, estimator = Standard.of(u), Standard.of(y), self.estimator_of(target)
        data = {"u": of_u.forward(u), "y": of_y.forward(y)}
        inner = Target(target.bound.of(as_program(estimator), _ROWS, data))
        made = fit(self._training(len(u)), inner.guided(), inner.program.guide, driver, seed, self.name)
        return Trained(estimator, made.params, of_u, of_y), made

    # What comes out -----------------------------------------------------------------------------------------------

    def drawn(self, target: Target, trained: Trained, seed: int) -> Outcome:
        """Draws of the posterior of the target's data, weighed and resampled where that is asked for and can be."""
        y, unknown = self.observation(target), self._unknown_density(target)
        why = "it was not asked for" if self.correction is False else unknown
        outcome = Outcome(exact=False, observed={n: np.asarray(x) for n, x in (self.observe or {}).items()})
        if why:
            u = trained.draw_alone(target, y, self.num_samples, seed)
            outcome.attrs["correction"] = f"none: {why}"
        else:
            u = self._weighed(target, trained, y, seed, outcome)
        if not unknown:
            outcome.positions = u[None]
        else:
            outcome.draws = {n: x[None] for n, x in self._constrained(target, u).items()}
            outcome.attrs["log_likelihood"] = f"left out, {unknown}"
        return outcome

    def _weighed(self, target: Target, trained: Trained, y: np.ndarray, seed: int, outcome: Outcome) -> np.ndarray:
        """Draws resampled by their importance weights; what these are worth goes into the outcome."""
        u, log_q = trained.draw(target, y, self.num_samples * self.oversampling, seed)
        log_weight = log_joint(target, u) - log_q
        importance.judge(outcome, log_weight, _REMEDY, f"the network of {self.name}")
        top = log_weight.max()
        if not np.isfinite(top):
            outcome.attrs["correction"] = "none: no draw of the network has a finite weight"
            return u[: self.num_samples]
        raw = np.exp(log_weight - top)
        ess = float(raw.sum() ** 2 / (raw**2).sum())
        outcome.attrs |= {
            "correction": f"importance weights of {len(u)} draws", "ess": ess,
            "log_evidence": float(top + np.log(raw.mean())),
            "log_evidence_se": math.sqrt(max(1.0 / ess - 1.0 / len(u), 0.0)),
        }  # fmt: skip
        rng = np.random.default_rng([seed, 1])
        return u[importance.resample(importance.smoothed(log_weight), self.num_samples, rng)]

    def log_prob(self, target: Target, trained: Trained, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """log q(latents | the target's data) of constrained values, name -> (draws, ...), as their density; (draws,).

        Raises:
            ValueError: a latent is missing, unknown, or of another shape.
        """
        layout, backend = self._layout(target), target.backend
        shapes = {n: shape for n, _, shape in layout.sites}
        came = {n: np.shape(x)[1:] for n, x in values.items()}
        if shapes != came or len({len(x) for x in values.values()}) != 1:
            raise ValueError(f"latents must hold draws (draws, *shape) of sites of shapes {shapes}, got {came}")

        def back(held: Any, key: Any, arrays: Any) -> tuple[Any, Any]:
            given = {**{n: s.value for n, s in target.sites.items() if s.kind == "latent"}, **held}
            sites = target.trace(arrays, values=given, key=backend.key(0))
            maps = {n: backend.bijection(sites[n].constraint) for n in layout.names}
            u = {n: m.inverse(held[n]) for n, m in maps.items()}
            slopes = (backend.xp.sum(m.log_abs_det(u[n], held[n])) for n, m in maps.items())
            return layout.join(backend.xp, u), sum(slopes, start=backend.xp.zeros(()))

        mapped = target.compiled(("unconstrained", layout.names), lambda: backend.map_draws(back))
        rows = {n: backend.asarray(np.asarray(values[n], float)) for n in layout.names}
        u, log_det = (np.asarray(x, float) for x in backend.to_numpy(mapped(rows, 0, target.arrays)))
        return trained.log_prob(target, u, self.observation(target)) - np.where(np.isnan(log_det), 0.0, log_det)

    def _constrained(self, target: Target, u: np.ndarray) -> dict[str, np.ndarray]:
        """Values of the latents that are inferred, of a program of which no more is known; name -> (draws, ...)."""
        layout, backend = self._layout(target), target.backend

        def values(u: Any, key: Any, arrays: Any) -> dict[str, Any]:
            others = {n: s.value for n, s in target.sites.items() if s.kind == "latent" and n not in layout.names}
            sites = target.trace(arrays, unconstrained=layout.split(u), values=others, key=key)
            return {n: sites[n].value for n in layout.names}

        mapped = target.compiled(("constrained", layout.names), lambda: backend.map_draws(values, random=True))
        return {n: np.asarray(x) for n, x in backend.to_numpy(mapped(backend.asarray(u), 0, target.arrays)).items()}


def with_options(engine: NeuralPosterior, **options: Any) -> NeuralPosterior:
    """The same engine with those options that are not None."""
    return replace(engine, **{n: x for n, x in options.items() if x is not None})


def context_of(estimator: Any, y: Any) -> Any:
    """What a network is told of the data y (..., num_seen): an embedding of them, where there is one."""
    if estimator.embedding is None:
        return y
    rows = y.reshape((-1, *estimator.shape))
    made = module("embedding", estimator.embedding)(rows)
    return made.reshape((*y.shape[:-1], made.shape[-1]))


def _seed(seed: int, *stream: int) -> int:
    return int(np.random.SeedSequence([seed, *stream]).generate_state(1)[0] >> 1)
