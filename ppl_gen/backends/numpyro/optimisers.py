"""Optimisers from optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

_BY_NAME = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "adagrad": optax.adagrad,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}


def optimiser(name: Any, learning_rate: float) -> optax.GradientTransformation:
    """An optax optimiser by name, or by what makes one of a learning rate; one that is made already stays as it is.

    Raises:
        ValueError: something else.
    """
    if isinstance(name, optax.GradientTransformation):
        return name
    make = name if callable(name) else _BY_NAME.get(name) if isinstance(name, str) else None
    made = make(learning_rate) if make else None
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"unknown optimizer {name!r} on NumPyro: expected one of {', '.join(_BY_NAME)}, an optax optimiser, or a "
            "function that makes one of a learning rate"
        )
    return made


def minimise(
    f: Callable[..., Any], *, method: Any = "lbfgs", learning_rate: float = 0.01, calls: int = 1
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``advance(state, num_steps, batched, *constants)`` descends ``f(u, batched_row, *constants)`` for rows of u.

    ``f`` is scalar. State: dict with ``position`` (rows, dim), ``best`` (rows, dim), ``value`` (rows,) of the best,
    and the optimiser's own; ``init(position)`` makes it. Every step reports the value of each row.

    Returns:
        init, advance
    """
    del calls
    solver = optax.lbfgs() if method == "lbfgs" else optimiser(method, learning_rate)

    def init(position: Any) -> dict[str, Any]:
        value = jnp.full(position.shape[:1], jnp.inf, position.dtype)
        return {"position": position, "best": position, "value": value, "solver": jax.vmap(solver.init)(position)}

    def step(state: dict[str, Any], batched: Any, *constants: Any) -> tuple[dict[str, Any], Any]:
        def loss(u: Any) -> Any:
            return f(u, batched, *constants)

        u = state["position"]
        value, gradient = jax.value_and_grad(loss)(u)
        extra = {"value": value, "grad": gradient, "value_fn": loss} if method == "lbfgs" else {}
        update, inner = solver.update(gradient, state["solver"], u, **extra)
        better = value < state["value"]
        best = jnp.where(better, u, state["best"])
        moved = optax.apply_updates(u, jnp.where(jnp.isfinite(update), update, 0.0))
        new = {"position": moved, "best": best, "value": jnp.where(better, value, state["value"]), "solver": inner}
        return new, value

    def advance(state: Any, num_steps: int, batched: Any, *constants: Any) -> tuple[Any, Any]:
        def body(s: Any, _: Any) -> tuple[Any, Any]:
            axes = (0, 0, *(None for _ in constants))
            return jax.vmap(step, in_axes=axes)(s, batched, *constants)

        return jax.lax.scan(body, state, None, length=num_steps)

    return init, jax.jit(advance, static_argnums=1)
