"""Simulation-based calibration: does an engine, on this program, give back the uncertainty that there is?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ppl_gen import backends, evaluation
from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, resolve
from ppl_gen.inference.progress import progress_bar
from ppl_gen.inference.simulation import observed_arguments, require_simulable, simulations
from ppl_gen.program import as_program
from ppl_gen.results import naming, predicting
from ppl_gen.results.calibration import LOG_LIKELIHOOD, Calibration
from ppl_gen.results.run import Setting
from ppl_gen.target import Target

Values = dict[str, np.ndarray]


def sbc(
    program: Any,
    data: Any = None,
    engine: str | Engine = "nuts",
    num_replicates: int = 500,
    num_draws: int = 100,
    seed: int = 0,
    backend: str = "numpyro",
    progress: bool = True,
    precision: str = "float64",
    device: str | None = None,
    prob: float = 0.95,
    **engine_options: Any,
) -> Calibration:
    """Simulation-based calibration of an engine on a program.

    Latents are drawn from the prior and data given them, and the engine infers the latents from these data. Over many
    such replicates the ranks of the true values among the draws are uniform where the engine is right: Talts et al.
    (2018), arXiv:1804.06788. Besides each latent, and each deterministic of the program, the log likelihood is ranked:
    it sees errors that no latent by itself shows (Modrák et al. 2023, Bayesian Analysis).

    All replicates share what is compiled. Observed sites are given their simulated values by name; all else that the
    program makes of its data stays as it is (covariates, or the past of a series that the program conditions on).

    Args:
        program, data, engine, backend, precision, device, engine_options: as in :func:`ppl_gen.infer`. Of the
            observations in ``data`` only the shape counts.
        num_replicates: how many data sets.
        num_draws: how many draws of each posterior a rank is among, evenly spread over its chains. They should be
            nearly independent: a warning says where the effective sample size is smaller.
        seed: of the simulation, and of the engine in each replicate.
        progress: show a bar.
        prob: probability of the bands that ``uniform`` and ``plot`` go by.

    Raises:
        ValueError, TypeError: wrong options or data; fewer draws than ``num_draws``.
        UnsupportedError: a program that cannot be simulated (flat priors, params, factors, scaled or subsampled sites),
            or that lacks what the engine needs.
        RuntimeError: the engine failed in every replicate.
    """
    for name, value, least in (("num_replicates", num_replicates, 2), ("num_draws", num_draws, 2), ("seed", seed, 0)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if not 0 < prob < 1:
        raise ValueError(f"prob must be between 0 and 1, got {prob!r}")
    chosen, room, declared = resolve(engine, engine_options), backends.get(backend), as_program(program)
    setting, began = Setting(backend, precision, device, int(seed)), time.perf_counter()
    simulation, *streams = np.random.SeedSequence(int(seed)).generate_state(num_replicates + 1) >> 2
    with room.scope(precision=precision, device=device, seed=int(simulation)):
        target = Target(declared.bind(data, room, (setting.precision, setting.device)))
        _require_simulable(target)
        chosen, _ = chosen.pick(target)
        chosen.admit(target)
        prior, simulated = _simulate(target, num_replicates, int(simulation))
        one = _Replicate(target, chosen, Driver(room.to_numpy, progress=False), num_draws)
        held = one.of_all(prior, simulated, [int(s) for s in streams], progress)
    return Calibration.of(
        held, engine=chosen.name, program=declared.name, prior=prior, simulated=simulated, num_draws=num_draws,
        prob=prob, dims=naming.dims(target), coords={k: list(v) for k, v in declared.coords.items()},
        attrs={**asdict(setting), "inference_time": time.perf_counter() - began},
    )  # fmt: skip


def _require_simulable(target: Target) -> None:
    """A program whose prior predictive its own statements draw, with observations in it."""
    require_simulable(target, "simulation-based calibration")
    if not target.observed:
        raise UnsupportedError(
            f"simulation-based calibration draws latents and data from {target.program.name}, and it observes nothing: "
            "pass data with observations, of which the shape counts"
        )


def _simulate(target: Target, count: int, seed: int) -> tuple[Values, Values]:
    """Latents and deterministics, and observations given them, from the prior: name -> (count, ...)."""
    names = (*target.layout.names, *(n for n, s in target.sites.items() if s.kind == "deterministic"))
    read = lambda sites: {n: sites[n].value for n in (*names, *target.observed)}
    drawn = simulations(target, "simulate all", read, count, seed)
    kinds = {n: np.asarray(target.backend.to_numpy(target.sites[n].value)).dtype for n in target.observed}
    simulated = {n: np.asarray(drawn[n]).astype(kinds[n], copy=False) for n in target.observed}
    return {n: np.asarray(drawn[n]) for n in names}, simulated


@dataclass(frozen=True)
class _Replicate:
    """Inference of simulated data sets, one after the other."""

    target: Target
    engine: Engine
    driver: Driver
    num_draws: int

    def of_all(self, prior: Values, simulated: Values, seeds: list[int], progress: bool) -> list[Any]:
        """Of each replicate its ranks and diagnostics, or the error that ended it."""
        same, rng = observed_arguments(self.target), np.random.default_rng(seeds[0])
        held: list[Any] = []
        for i, seed in enumerate(progress_bar(seeds, desc="calibration", disable=not progress)):
            try:
                data = self.target.observing({n: x[i] for n, x in simulated.items()}, same)
                held.append(self._one(data, {n: x[i] for n, x in prior.items()}, seed, rng))
            except _TooFew as error:
                raise ValueError(str(error)) from None
            except Exception as error:  # reported with its replicate: one data set may defeat an engine
                held.append(error)
        if all(isinstance(x, Exception) for x in held):
            message = f"{self.engine.name} failed in all {len(held)} replicates; the first: {held[0]}"
            raise RuntimeError(message) from held[0]
        return held

    def _one(self, data: Target, truth: Values, seed: int, rng: np.random.Generator) -> tuple[Values, dict[str, float]]:
        """Ranks of the truth, and diagnostics."""
        outcome = self.engine.run(data, self.driver, seed)
        draws = dict(outcome.draws)
        if outcome.positions is not None:
            draws.update(predicting.constrain(data, outcome.positions))
        draws, truth = (_ordered(data, x) for x in (draws, {n: x[None, None] for n, x in truth.items()}))
        names = [n for n in truth if n in draws and draws[n].size]
        draws = {n: draws[n] for n in names}
        both = {n: np.concatenate([truth[n][0], self._thinned(draws[n])]) for n in names}
        both[LOG_LIKELIHOOD] = _log_likelihood(data, both)
        if not all(np.isfinite(x).all() for x in both.values()):
            raise FloatingPointError("draws, or their log likelihood, are not finite")
        return {n: _rank(x[0], x[1:], rng) for n, x in both.items() if x.size}, _diagnostics(draws, outcome.stats)

    def _thinned(self, x: np.ndarray) -> np.ndarray:
        """(chain, draw, ...) -> (num_draws, ...), evenly spread over the chains laid end to end."""
        flat = x.reshape(-1, *x.shape[2:])
        if len(flat) < self.num_draws:
            raise _TooFew(
                f"{self.engine.name} gives {len(flat)} draws and num_draws is {self.num_draws}: raise num_samples or "
                "num_chains, or lower num_draws"
            )
        return flat[np.linspace(0, len(flat), self.num_draws, endpoint=False).astype(int)]


def _ordered(target: Target, values: Values) -> Values:
    """Interchangeable components in one order, where the model says how: (chain, draw, ...)."""
    return dict(predicting.relabelled(target, values, {})[0])


class _TooFew(Exception):
    """The engine gives fewer draws than are asked for."""


def _log_likelihood(target: Target, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """log p(data | draw) of each draw (draws,), discrete latents summed out; empty where it cannot be had."""
    held = {n: values[n][None] for n in target.layout.names if n in values}
    terms = predicting.log_likelihood(target, held, {}) if len(held) == len(target.layout.names) else {}
    return np.asarray(sum(x[0].reshape(x.shape[1], -1).sum(1) for x in terms.values())) if terms else np.zeros(0)


def _rank(truth: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many draws are below the truth, a random share of those that equal it among them."""
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    return below + rng.integers(0, equal + 1)


def _diagnostics(draws: Values, stats: Mapping[str, np.ndarray]) -> dict[str, float]:
    chains = [x for x in draws.values() if x.dtype.kind == "f" and x.shape[1] >= 4]
    return {
        "ess": _worst(evaluation.ess, np.nanmin, chains),
        "r_hat": _worst(evaluation.rhat, np.nanmax, chains),
        "diverging": float(np.sum(stats.get("diverging", 0))),
    }


def _worst(measure: Callable[[np.ndarray], np.ndarray], pick: Callable[[Any], Any], arrays: list[np.ndarray]) -> float:
    values = np.concatenate([np.ravel(measure(x)) for x in arrays]) if arrays else np.zeros(0)
    return float(pick(values)) if np.isfinite(values).any() else float("nan")
