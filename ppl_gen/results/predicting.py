"""New data and densities from draws: the program run again, once for each draw."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.checks import ProgramError
from ppl_gen.expectation import Expectation, local_latents
from ppl_gen.inference.engine import Outcome
from ppl_gen.results.constraining import constrain
from ppl_gen.target import Target

Draws = Mapping[str, np.ndarray]


class ShapeError(ProgramError):
    """A latent whose shape is not the one that it was inferred with."""


def drawn(target: Target, outcome: Outcome) -> tuple[Draws, Draws, Draws]:
    """The constrained draws of an outcome, their statistics and its params, components in order."""
    posterior = dict(outcome.draws)
    if outcome.positions is not None:
        posterior.update(constrain(target, outcome.positions))
    posterior, params = relabelled(target, posterior, outcome.params)
    return posterior, outcome.stats, params


def relabelled(target: Target, posterior: Any, params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Interchangeable components put in one order, where the model says how."""
    relabel = getattr(target.program.model, "relabel", None)
    if relabel is None:
        return posterior, params
    whole = set(target.layout.names)
    return (
        relabel(posterior, 2) if whole <= set(posterior) else posterior,
        relabel(params, 0) if whole <= set(params) else params,
    )


def values_of(target: Target, posterior: Draws, params: Draws) -> dict[str, np.ndarray]:
    """Values of the program's latents that are not summed out and of its params, name -> (draws, ...).

    Fixed params are repeated.

    Raises:
        ShapeError: a latent whose shape changes with the data.
    """
    flat = {n: x.reshape(-1, *x.shape[2:]) for n, x in posterior.items() if n in target.valued.names}
    for name in set(target.counts.names) & set(flat):
        flat[name] = flat[name].astype(np.asarray(target.backend.to_numpy(target.sites[name].value)).dtype)
    count = next((len(x) for x in flat.values()), 1)
    for name in target.params.names:
        if name in params and name not in flat:
            flat[name] = np.broadcast_to(params[name], (count, *np.shape(params[name])))
    for name, _, shape in target.valued.sites:
        if name in flat and flat[name].shape[1:] != shape:
            raise ShapeError(
                f"latent {name!r} was inferred with shape {flat[name].shape[1:]}, and these data ask for "
                f"{shape}: it belongs "
                "to single data, so that other data have no draws of it. Pass data of the fitted shape, or write the "
                "program with this latent summed out"
            )
    return flat


def fits(target: Target, posterior: Draws) -> bool:
    """Whether the draws have the shapes that these data ask for, so that none belongs to single rows of others."""
    shapes = {name: shape for name, _, shape in target.valued.sites}
    return all(x.shape[2:] == shapes[n] for n, x in posterior.items() if n in shapes)


def at_draws(target: Target, name: Any, f: Callable[..., Any], values: Any, seed: int, random: bool) -> Any:
    mapped = target.compiled((name, tuple(values)), lambda: target.backend.map_draws(f, random=random, batch_size=256))
    draws = {n: np.ascontiguousarray(v) for n, v in values.items()}
    if not draws:  # nothing to condition on: one row stands for the draw
        draws = {"": np.zeros(1, np.float32)}
    return target.backend.to_numpy(mapped(draws, seed, target.arrays))


def known_at(target: Target, name: str, f: Callable[[Any, Any], Any], values: Any) -> dict[str, np.ndarray]:
    """``f(values of a draw, arrays)``, a dict of arrays, at each draw."""

    def given(values: Any, key: Any, arrays: Any) -> Any:
        return f({n: v for n, v in values.items() if n}, arrays)

    return {n: np.asarray(x) for n, x in at_draws(target, name, given, values, 0, False).items()}


def log_likelihood(target: Target, posterior: Draws, params: Draws) -> dict[str, np.ndarray]:
    """name -> (chain, draw, *plates); empty where a latent has no value and cannot be integrated out."""
    values = values_of(target, posterior, params)
    expectation = integrated(target, values)
    if expectation is None or not target.observed:
        return {}

    lead = next((x.shape[:2] for x in posterior.values()), (1, 1))
    terms = known_at(target, "pointwise", expectation.pointwise, values)
    return {n: x.reshape(*lead, *x.shape[1:]) for n, x in terms.items()}


def integrated(target: Target, values: Draws) -> Expectation | None:
    """What integrates out the latents without a value; None where that cannot be done exactly."""
    missing = [n for n in target.layout.names if n not in values]
    if not set(missing) <= set(local_latents(target)) or not set(target.counts.names) <= set(values):
        return None
    try:
        return target.compiled(("integrated", tuple(missing)), lambda: _expectation(target, missing))
    except UnsupportedError:
        return None


def is_exact(target: Target, posterior: Draws, params: Draws) -> bool:
    """Whether latents that neither the posterior nor the params hold can be integrated out exactly."""
    return integrated(target, values_of(target, posterior, params)) is not None


def _expectation(target: Target, missing: list[str]) -> Expectation:
    expectation = Expectation(target, missing)
    expectation.require_gaussian("log_prob")
    return expectation


def log_prob(target: Target, posterior: Draws, params: Draws) -> np.ndarray:
    """log mean over draws of p(datum | draw), for each datum; sites in the same plates are added."""
    terms = log_likelihood(target, posterior, params)
    if not terms:
        missing = [n for n in target.layout.names if n not in posterior and n not in params]
        if missing and target.observed and set(missing) <= set(local_latents(target)):
            raise _not_exact(target, missing)
        raise ProgramError(
            "log_prob needs observed sites and a value of every continuous latent; in these data "
            f"{target.program.name} {_left_open(missing)}: pass the observations with the other data, as in infer"
        )
    flat = [x.reshape(-1, *x.shape[2:]) for x in terms.values()]
    if len({x.shape for x in flat}) > 1:
        total = sum(x.reshape(len(x), -1).sum(1) for x in flat)
    else:
        total = sum(flat)
    return np.logaddexp.reduce(total, axis=0) - np.log(len(total))


def _not_exact(target: Target, missing: list[str]) -> UnsupportedError:
    return UnsupportedError(
        f"log_prob of {target.program.name} cannot be had: {', '.join(map(repr, missing))} has one value for each "
        "datum, and the program is not linear-Gaussian in it, so that it cannot be integrated out exactly. For the "
        "fitted data engine='vbem' gives a lower bound of log p of all of them, run.history['elbo']; for single data "
        "write the program with this latent discrete or summed out"
    )


def _left_open(missing: list[str]) -> str:
    return f"has no value of {', '.join(map(repr, missing))}" if missing else "observes nothing"


def predict(
    target: Target, posterior: Draws, params: Draws, num_samples: int | None, seed: int, outputs: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Sites ``outputs`` drawn anew, whether these data observe them or not, name -> (chain, draw, ...)."""
    if num_samples is not None:
        posterior = {n: _spread(x, num_samples) for n, x in posterior.items()}
    lead = next((x.shape[:2] for x in posterior.values()), (1, 1))
    drawn = _draw(target, values_of(target, posterior, params), seed, outputs)
    return {n: np.asarray(x).reshape(*lead, *x.shape[1:]) for n, x in drawn.items()}


def _spread(x: np.ndarray, num_samples: int) -> np.ndarray:
    """About ``num_samples`` draws in all, the same number from each chain, evenly spread."""
    per_chain = min(x.shape[1], max(1, num_samples // x.shape[0]))
    return x[:, np.linspace(0, x.shape[1] - 1, per_chain).astype(int)]


def _draw(target: Target, values: Any, seed: int, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
    def simulate(values: Any, key: Any, arrays: Any) -> Any:
        given = {n: v for n, v in values.items() if n}
        sites = target.trace(arrays, values=given, hide_observed=True, key=key)
        return {n: sites[n].value for n in outputs}

    if not outputs:
        raise ProgramError(
            f"{target.program.name} observes nothing: pass data with its observations, which predict and sample "
            "draw anew"
        )
    _refuse_flat(target, values)
    return at_draws(target, ("simulate", outputs), simulate, values, seed, True)


def _refuse_flat(target: Target, values: Draws) -> None:
    flat = [n for n, s in target.sites.items() if s.improper and s.kind == "latent" and n not in values]
    if flat:
        raise ProgramError(
            f"{', '.join(map(repr, flat))} of {target.program.name} has a flat prior, which has no draws, and "
            "the run holds "
            "no value of it: give it a proper prior, or run an engine that infers it"
        )


def sample(target: Target, posterior: Draws, params: Draws, n: int, seed: int) -> Any:
    """n data sets, each from a random draw of the posterior."""
    values = values_of(target, posterior, params)
    drawn = _draw(target, _chosen(values, n, seed), seed, target.observed)
    return drawn[target.observed[0]] if len(target.observed) == 1 else drawn


def _chosen(values: Draws, n: int, seed: int) -> dict[str, np.ndarray]:
    count = next((len(x) for x in values.values()), 1)
    rows = np.random.default_rng(seed).integers(0, count, n)
    return {name: x[rows] for name, x in values.items()}


def sample_rows(
    bind: Callable[[Any], Target], row_data: Callable[..., Any], posterior: Draws, params: Draws, n: int, seed: int
) -> Any:
    """n rows of a model that brings ``row_data``: all at once from a point, one by one from draws."""
    count = next((x.shape[0] * x.shape[1] for x in posterior.values()), 1)
    arguments = functools.partial(row_data, {**params, **{k: v[0, 0] for k, v in posterior.items()}})
    target = bind(arguments(1))  # which draws its data once by itself
    if count == 1:
        target = target.at(arguments(n))
    values = values_of(target, {k: v for k, v in posterior.items() if not _is_of_rows(target, k)}, params)
    sites = [name for name, s in target.sites.items() if s.kind == "latent" and name not in values]

    def simulate(values: Any, key: Any, arrays: Any) -> Any:
        found = target.trace(arrays, values={k: v for k, v in values.items() if k}, key=key)
        return {name: found[name].value for name in sites}

    drawn = at_draws(target, "rows", simulate, values if count == 1 else _chosen(values, n, seed), seed, True)
    rows = {k: x[0] if count == 1 else x.reshape(n, *x.shape[2:]) for k, x in drawn.items()}
    outputs = getattr(target.program.model, "outputs", None) or tuple(rows)
    return rows[outputs[0]] if len(outputs) == 1 else {k: rows[k] for k in outputs}


def _is_of_rows(target: Target, name: str) -> bool:
    """Whether a latent stands in a plate: then new rows have new values of it."""
    return name in target.sites and bool(target.sites[name].plates)


def observed(target: Target, name: str) -> np.ndarray | None:
    """Values of an observed site, NaN where entries are missing; None of data that stay in a file."""
    bound = target.bound
    if name in bound.host and (bound.by_rows or name in bound.missing):
        return None if isinstance(bound.host[name], np.memmap) else bound.host[name]
    return None if bound.by_rows else np.asarray(target.backend.to_numpy(target.sites[name].value))
