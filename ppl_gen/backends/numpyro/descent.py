"""Stochastic gradient descent: a loss, its minibatches along an axis of steps, all steps compiled whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ppl_gen.backends.numpyro.optimisers import optimiser


def descend(
    loss: Callable[..., Any],
    *,
    optimizer: Any = "adam",
    learning_rate: float = 1e-3,
    clip_norm: float | None = None,
    ema: float | None = None,
    processes: bool = False,
    carries: bool = False,
    calls: int = 1,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``advance(state, rows, *constants)`` descends ``loss(params, row, *constants) -> (value, report)``.

    Args:
        clip_norm: to which a gradient is shortened where it is longer.
        ema: decay of the moving average of params that the state has beside them; None for none.
        processes: the loss is the mean of those of all processes; here it is, of arrays that lie over all of them.
        carries: the loss is ``loss(params, row, carried, *constants) -> (value, (report, carried))``, and the state has
            what it ``carried`` from the step before, such as chains.

    Returns:
        ``init(params, carried=()) -> state``, a dict with ``params``, ``ema`` (the params themselves where there is
        none), ``carried`` and the optimiser's own; ``advance``, where each row has the ``rate`` that the step's move is
        multiplied by, a ``key``, and whatever the loss wants; the report has the ``loss`` and the length of the
        gradient, ``gradient_norm``.
    """
    del processes, calls
    solver = optimiser(optimizer, learning_rate)

    def init(params: Any, carried: Any = ()) -> dict[str, Any]:
        average = () if ema is None else params
        return {"params": params, "ema": average, "solver": solver.init(params), "carried": carried}

    def step(state: Any, row: Any, *constants: Any) -> tuple[Any, Any]:
        params, given = state["params"], (state["carried"], *constants) if carries else constants
        (value, report), gradient = jax.value_and_grad(loss, has_aux=True)(params, row, *given)
        report, carried = report if carries else (report, ())
        norm = _length(gradient)
        if clip_norm is not None:
            factor = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-30))
            gradient = jax.tree.map(lambda g: g * factor, gradient)
        update, held = solver.update(gradient, state["solver"], params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: u * row["rate"].astype(u.dtype), update))
        average = state["ema"] if ema is None else optax.incremental_update(params, state["ema"], 1.0 - ema)
        new = {"params": params, "ema": average, "solver": held, "carried": carried}
        return new, {**report, "loss": value, "gradient_norm": norm}

    @jax.jit
    def advance(state: Any, rows: Any, *constants: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda s, row: step(s, row, *constants), state, rows)

    return init, advance


def _length(gradient: Any) -> Any:
    """Of all of it as one vector: part by part XLA takes as long as for a tenth of the step of a small network."""
    return jnp.linalg.norm(jnp.concatenate([g.ravel() for g in jax.tree.leaves(gradient)]))
