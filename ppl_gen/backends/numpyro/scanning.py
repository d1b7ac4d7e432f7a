"""``xp.scan``: inside compiled code JAX's own; outside, compiled once for each text of its step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as core

# JAX would compile every scan outside of compiled code anew, since its step is a new function each time.
_compiled: dict[Any, Callable[..., Any]] = {}


def scan(f: Callable[..., Any], init: Any, xs: Any) -> tuple[Any, Any]:
    """Fold `f(carry, x) -> (carry, y)` over the leading axis of the pytree `xs`; `(carry, stacked ys)`."""
    if _traced((init, xs)):
        return jax.lax.scan(f, init, xs)
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    step, shape = jax.make_jaxpr(f, return_shape=True)(init, row)
    if _traced(step.consts):
        return jax.lax.scan(f, init, xs)
    key = str(step.jaxpr), jax.tree.structure((init, xs)), jax.tree.structure(shape)
    if key not in _compiled:
        _compiled[key] = _of_text(step.jaxpr, jax.tree.structure(shape))
    return _compiled[key](step.consts, init, xs)


def _of_text(jaxpr: Any, structure: Any) -> Callable[..., Any]:
    """The scan of a step whose captured arrays are handed in."""

    @jax.jit
    def run(captured: Any, init: Any, xs: Any) -> tuple[Any, Any]:
        step = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, captured))
        return jax.lax.scan(lambda c, x: jax.tree.unflatten(structure, step(*jax.tree.leaves((c, x)))), init, xs)

    return run


def _traced(tree: Any) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree))
