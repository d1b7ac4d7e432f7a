"""Pathfinder: the best Gaussian along a quasi-Newton path to a mode; of several paths, draws weighed by importance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.special import logsumexp

from ppl_gen.checks import ProgramError
from ppl_gen.inference import importance, lbfgs, low_rank
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, between, positive
from ppl_gen.inference.lbfgs import Evaluate
from ppl_gen.inference.low_rank import Gaussians
from ppl_gen.inference.starts import bad_sites, check_init, evaluator, search
from ppl_gen.target import Target

_CHUNK = 25
FEWEST_ROWS = 32  # of a call of the density


class Found(NamedTuple):
    """The best Gaussian of each path so far.

    Attributes:
        gaussians: one for each path; ``elbo`` (paths,) its evidence lower bound, -inf where none was found.
        lost: draws (paths, dim) of the last Gaussian without a finite density, NaN where there was none.
    """

    gaussians: Gaussians
    elbo: np.ndarray
    lost: np.ndarray


def climb(
    driver: Driver,
    evaluate: Evaluate,
    position: np.ndarray,
    noise: np.ndarray,
    *,
    history_size: int,
    max_steps: int,
    early: bool = False,
) -> tuple[lbfgs.State, Found, dict[str, np.ndarray]]:
    """Paths from ``position`` (paths, dim), with the best Gaussian on each (algorithms 1 to 4 of Zhang et al. 2022).

    Args:
        noise: standard normals (paths, draw, dim), by which all Gaussians of a path are judged, so that they are
            compared on the same draws. Without draws the paths are climbed and no Gaussian is looked for.
        early: end where a chunk of steps has bettered no path's Gaussian, though there may be more to climb.

    Returns:
        where paths have ended; what they found; and the history of each move, NaN after a path's end: the bound
        ``elbo`` (paths, moves), and the ``loss``, minus the log density.
    """
    state = lbfgs.begin(evaluate, position, history_size)
    empty = np.full(len(position), -np.inf)
    found = Found(low_rank.gaussians(state.pairs, position, state.gradient), empty, np.full(position.shape, np.nan))
    found, first = _better(evaluate, state, found, noise)

    def advance(both: Any, start: int, count: int) -> tuple[Any, Any]:
        state, found = both
        reports: list[tuple[np.ndarray, np.ndarray]] = []
        while len(reports) < count and not state.done.all():
            state = lbfgs.tick(evaluate, state)
            found, elbo = _better(evaluate, state, found, noise)
            reports.append((elbo, np.where(state.moved, state.value, np.nan)))
        table = np.array(reports).reshape(-1, 2, len(position))
        return (state, found), {"elbo": table[:, 0], "loss": table[:, 1]}

    def stop(before: Any, after: Any, report: Any) -> str | None:
        idle = early and not (after[1].elbo > before[1].elbo).any()
        return "ended" if idle or after[0].done.all() else None

    first_loss = np.where(state.moved, state.value, np.nan)
    (state, found), report, _ = driver.run(
        advance, (state, found), max_steps, label="pathfinder", chunk=_CHUNK, stop=stop
    )
    whole = {"elbo": (first, report["elbo"]), "loss": (first_loss, report["loss"])}
    return state, found, {name: _moves(np.concatenate([x[None], xs])) for name, (x, xs) in whole.items()}


def _better(evaluate: Evaluate, state: lbfgs.State, found: Found, noise: np.ndarray) -> tuple[Found, np.ndarray]:
    """What was found, with the Gaussians of the paths that have just moved; their bounds (paths,), NaN of others."""
    bounds = np.full(len(found.elbo), np.nan)
    which = np.flatnonzero(state.moved)
    if not len(which) or not noise.shape[1]:
        return found, bounds
    pairs = low_rank.Pairs(*(x[which] for x in state.pairs))
    new = low_rank.gaussians(pairs, state.position[which], state.gradient[which])
    exist = new.exist()
    which, new = which[exist], new.rows(exist)
    if not len(which):
        return found, bounds
    draws, log_q = new.draw(noise[which])
    log_p = evaluate(draws.reshape(-1, draws.shape[-1]))[0].reshape(log_q.shape)
    gains = log_p - log_q
    fine = np.isfinite(gains)
    bounds[which] = np.where(fine.all(1), np.where(fine, gains, 0.0).mean(1), -np.inf)
    lost = found.lost.copy()
    for path, each, inside in zip(which, draws, fine, strict=True):
        if not inside.all():
            lost[path] = each[~inside][0]
    better = bounds[which] > found.elbo[which]
    held = tuple(x.copy() for x in found.gaussians)
    for old, came in zip(held, new, strict=True):
        old[which[better]] = came[better]
    return Found(Gaussians(*held), np.fmax(found.elbo, bounds), lost), bounds


def _moves(values: np.ndarray) -> np.ndarray:
    """Values (ticks, paths), NaN where a path did not move -> (paths, moves)."""
    rows = [v[~np.isnan(v)] for v in values.T]
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, held in zip(table, rows, strict=True):
        row[: len(held)] = held
    return table


def weigh(evaluate: Evaluate, mixture: Gaussians, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws (path * draw, dim) of an even mixture of Gaussians, in order of the paths, and log p - log q of them.

    q is the mixture's density, so that draws of two paths to one mode share its weight (Owen & Zhou 2000).
    """
    draws = mixture.draw(noise)[0].reshape(-1, noise.shape[-1])
    log_q = logsumexp(mixture.log_density(draws), axis=0) - math.log(len(mixture.mean))
    log_p = evaluate(draws)[0]
    return draws, np.where(np.isfinite(log_p), log_p, -np.inf) - log_q


@dataclass(frozen=True, kw_only=True)
class Pathfinder(Engine):
    """The best Gaussian along quasi-Newton paths, its draws resampled by importance (Zhang et al. 2022, JMLR 23(306)).

    Every path climbs the log density by L-BFGS, all side by side. At each of its points the inverse-Hessian estimate
    gives a Gaussian; that with the largest evidence lower bound is kept. Draws of all paths are resampled by Pareto
    smoothed weights: modes come in proportion to their mass. ``attrs["pareto_k"]`` above 0.7 says that the Gaussians
    are too far from the posterior for that.

    Attributes:
        num_paths: from starts of their own.
        num_samples: draws of each path, and as many are kept of all of them.
        num_elbo_draws: for each estimate of a bound.
        max_steps: gradients of a path at most.
        history_size: moves that the estimate of the inverse Hessian is made of.
        init: site -> value, constrained, at which the first path starts, and about which the others do.
        jitter: half the width of the uniform distribution, unconstrained, that starts are drawn from.
    """

    name: ClassVar[str] = "pathfinder"
    needs: ClassVar[str] = "continuous latents"
    resumes: ClassVar[bool] = True

    num_paths: int = 8
    num_samples: int = 1000
    num_elbo_draws: int = 25
    max_steps: int = 500
    history_size: int = 6
    init: Mapping[str, Any] | None = None
    jitter: float = 2.0

    def __post_init__(self) -> None:
        positive(self, "num_paths", "num_samples", "num_elbo_draws", "max_steps", "history_size")
        between(self, 0, math.inf, "jitter")

    def check(self, target: Target) -> None:
        target.require_gradient(self.name)
        check_init(target, self.init, target.layout)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        rng, dim = np.random.default_rng([seed, 1]), target.layout.dim
        evaluate = evaluator(target, max(self.num_paths, FEWEST_ROWS))
        radii = {"radius": self.jitter, "jitter": self.jitter}
        position, warnings = search(target, self.num_paths, seed, self.init, evaluate=evaluate, **radii)
        noise = rng.standard_normal((self.num_paths, self.num_elbo_draws, dim))
        state, found, history = climb(
            driver, evaluate, position, noise, history_size=self.history_size, max_steps=self.max_steps
        )
        good = np.flatnonzero(np.isfinite(found.elbo))
        if not len(good):
            raise failure(target, found)
        noise = rng.standard_normal((len(good), self.num_samples, dim))
        draws, log_weights = weigh(evaluate, found.gaussians.rows(good), noise)
        chosen = importance.resample(importance.smoothed(log_weights), self.num_samples, rng)
        outcome = Outcome(
            positions=draws[chosen][None],
            stats={"path": good[chosen // self.num_samples][None]},
            history={"elbo": history["elbo"]},
            attrs={"num_paths": self.num_paths, "num_failed_paths": self.num_paths - len(good)},
            warnings=[*warnings, *unfinished(state, "max_steps", self.max_steps)],
            exact=False,
        )
        importance.judge(outcome, log_weights, _REMEDY, "the mixture of Gaussians that pathfinder found")
        return outcome


def unfinished(state: lbfgs.State, option: str, value: int) -> list[str]:
    """A warning where paths had to stop on their way up."""
    left = int((~state.done).sum())
    return [f"{left} of {len(state.done)} paths had not ended after {value} steps: raise {option}"] if left else []


_REMEDY = "Raise num_paths or history_size, reparameterise, or use engine='nuts' (start='pathfinder' begins there)"


def failure(target: Target, found: Found) -> ProgramError:
    """Says that no path has found a Gaussian, and which sites have no finite density at its draws."""
    lost = found.lost[~np.isnan(found.lost).any(1)]
    bad = bad_sites(target, lost[0]) if len(lost) else []
    return ProgramError(
        f"pathfinder found no Gaussian along its paths whose draws all have a finite log density under "
        f"{target.program.name}; not finite: {', '.join(bad) or 'the log density'}. Check the priors of these sites, "
        "pass init={site: value} with a point well inside the support, or use engine='nuts'"
    )
