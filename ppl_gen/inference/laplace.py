"""The Laplace approximation: a Gaussian at the mode, in unconstrained space."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.checks import ProgramError
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.starts import starts
from ppl_gen.target import Target

_CHUNK = 25


def laplace(target: Target, driver: Driver, seed: int, num_steps: int, num_samples: int) -> tuple[Outcome, np.ndarray]:
    """N(mode, H^-1), H the Hessian of minus the log density of u at its mode (MacKay 2003, chapter 27).

    Returns:
        the outcome, and log importance weights log p - log q of its draws.

    Raises:
        ProgramError: the curvature at the mode is not positive: there is no Gaussian.
    """
    backend = target.backend
    init, step = target.compiled(
        "laplace", lambda: backend.minimise(lambda u, _, arrays: -target.log_density(u, arrays), calls=1000)
    )
    position = starts(target, 1, seed)

    def advance(state: Any, start: int, count: int) -> tuple[Any, Any]:
        state, values = step(state, count, position[:, :0], target.arrays)
        return state, {"loss": values[:, 0]}

    def settled(before: Any, after: Any, report: Any) -> str | None:
        old, new = (float(backend.to_numpy(s["value"])[0]) for s in (before, after))
        return "settled" if old - new <= 1e-10 * max(abs(new), 1.0) else None

    state, report, _ = driver.run(advance, init(position), num_steps, label="laplace", chunk=_CHUNK, stop=settled)
    draws, log_q = _gaussian(target, state["best"][0], num_samples, np.random.default_rng(seed))
    value, _ = backend.to_numpy(target.value_and_grad()(backend.asarray(draws), target.arrays))
    outcome = Outcome(positions=draws[None], history={"loss": report["loss"]}, attrs={"guide": "laplace"}, exact=False)
    return outcome, np.asarray(value) - log_q


def _gaussian(target: Target, mode: Any, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws (count, dim) and their log density."""
    backend = target.backend
    curvature = target.compiled(
        "hessian", lambda: backend.compile(backend.hessian(lambda u, arrays: -target.log_density(u, arrays)))
    )
    hessian = np.asarray(backend.to_numpy(curvature(mode, target.arrays)))
    try:
        factor = np.linalg.cholesky(0.5 * (hessian + hessian.T))
    except np.linalg.LinAlgError:
        raise ProgramError(
            f"the posterior of {target.program.name} is flat or curves upwards at its mode (smallest curvature "
            f"{np.linalg.eigvalsh(hessian)[0]:.3g}), so that no Gaussian fits there: use guide='multivariate_normal'"
        ) from None
    xi = rng.standard_normal((count, len(factor)))
    draws = np.asarray(backend.to_numpy(mode)) + np.linalg.solve(factor.T, xi.T).T
    log_q = -0.5 * (xi**2).sum(1) - 0.5 * len(factor) * np.log(2 * np.pi) + np.log(np.diag(factor)).sum()
    return draws, log_q
