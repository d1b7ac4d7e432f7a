"""The Laplace approximation: a Gaussian at the mode, in unconstrained space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.checks import ProgramError
from ppl_gen.inference import importance
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, positive
from ppl_gen.inference.low_rank import Gaussians
from ppl_gen.inference.pathfinder import FEWEST_ROWS, climb, unfinished
from ppl_gen.inference.starts import check_init, evaluator, search
from ppl_gen.target import Target

_HISTORY = 10


@dataclass(frozen=True, kw_only=True)
class Laplace(Engine):
    """A Gaussian at the posterior's mode, in unconstrained coordinates (MacKay 2003, chapter 27).

    ``attrs["pareto_k"]`` is k-hat of the importance weights of its draws: above 0.7 they are far from the posterior.

    Attributes:
        num_steps: gradients of a climb to a mode at most.
        num_samples: draws.
        num_restarts: starts, run side by side, of which the highest end is kept.
        init: site -> value, constrained, at which all starts are.
    """

    name: ClassVar[str] = "laplace"
    needs: ClassVar[str] = "continuous latents"
    resumes: ClassVar[bool] = True

    num_steps: int = 1000
    num_samples: int = 1000
    num_restarts: int = 8
    init: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        positive(self, "num_steps", "num_samples", "num_restarts")

    def check(self, target: Target) -> None:
        target.require_gradient(self.name)
        check_init(target, self.init, target.layout)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        outcome, log_weights = laplace(
            target, driver, seed, self.num_steps, self.num_samples, self.num_restarts, self.init
        )
        outcome.stats["log_weight"] = log_weights[None]
        remedy = "Use engine='pathfinder', engine='svi' with guide='multivariate_normal', or engine='nuts'"
        importance.judge(outcome, log_weights, remedy, "the Gaussian at the mode")
        return outcome


def laplace(
    target: Target,
    driver: Driver,
    seed: int,
    num_steps: int,
    num_samples: int,
    num_restarts: int = 1,
    init: Mapping[str, Any] | None = None,
) -> tuple[Outcome, np.ndarray]:
    """N(mode, H^-1), H the Hessian of minus the log density of u at its mode (MacKay 2003, chapter 27).

    Returns:
        the outcome, and log importance weights log p - log q of its draws.

    Raises:
        ProgramError: the curvature at the mode is not positive: there is no Gaussian.
    """
    evaluate = evaluator(target, max(num_restarts, FEWEST_ROWS))
    position, warnings = search(target, num_restarts, seed, init, evaluate=evaluate)
    no_draws = np.zeros((num_restarts, 0, target.layout.dim))
    state, _, history = climb(driver, evaluate, position, no_draws, history_size=_HISTORY, max_steps=num_steps)
    best = int(np.argmin(state.value))
    gaussian = at_modes(target, state.position[best : best + 1], state.gradient[best : best + 1])
    if not gaussian.exist()[0]:
        raise ProgramError(
            f"the posterior of {target.program.name} is flat or curves upwards at its mode (smallest curvature "
            f"{gaussian.diagonal.min():.3g}), so that no Gaussian fits there: use engine='svi' with "
            "guide='multivariate_normal'"
        )
    draws, log_q = gaussian.draw(np.random.default_rng(seed).standard_normal((1, num_samples, target.layout.dim)))
    loss = history["loss"][best]
    outcome = Outcome(
        positions=draws,
        history={"loss": loss[~np.isnan(loss)]},
        warnings=[*warnings, *unfinished(state, "num_steps", num_steps)],
        exact=False,
    )
    log_p = evaluate(draws[0])[0]
    return outcome, np.where(np.isnan(log_p), -np.inf, log_p) - log_q[0]


def at_modes(target: Target, positions: np.ndarray, gradients: np.ndarray) -> Gaussians:
    """The Gaussians at modes (modes, dim), by Newton's step from where climbs have ended.

    Args:
        gradients: of minus the log density there.

    Where the curvature is not positive there is none, and its ``diagonal`` has the least curvature, so that
    ``exist()`` is False.
    """
    backend = target.backend
    curvature = target.compiled(
        "hessian", lambda: backend.compile(backend.hessian(lambda u, arrays: -target.log_density(u, arrays)))
    )
    held = []
    for u, g in zip(positions, gradients, strict=True):
        hessian = np.asarray(backend.to_numpy(curvature(backend.asarray(u), target.arrays)))
        curves, vectors = np.linalg.eigh(np.nan_to_num(0.5 * (hessian + hessian.T)))
        positive = curves[0] > np.finfo(hessian.dtype).eps * abs(curves[-1])
        values = 1.0 / curves if positive else np.ones_like(curves)
        mean = u - vectors @ (values * (g @ vectors)) if positive else u
        held.append((mean, np.ones_like(u) if positive else np.full_like(u, min(curves[0], 0.0)), vectors, values))
    return Gaussians(*map(np.stack, zip(*held, strict=True)))
