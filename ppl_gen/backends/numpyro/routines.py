"""``xp.jit``, and ``xp.routine``: a function with loops and branches on values that is one step of a program.

Mirror: `pyro/routines.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax

flow = SimpleNamespace(scan=jax.lax.scan, cond=jax.lax.cond, while_loop=jax.lax.while_loop)


@functools.cache
def jit(f: Callable[..., Any], static: tuple = ()) -> Callable[..., Any]:
    """``f(*static, *trees)`` as a function of trees of arrays, compiled as one where nothing around it is."""
    return jax.jit(functools.partial(f, *static))


@functools.cache
def routine(f: Callable[..., Any], static: tuple = (), differentiable: bool = False) -> Callable[..., Any]:
    """``f(flow, *static, *trees)`` as a function of trees of arrays, which may loop and branch on values.

    ``flow`` has JAX's ``scan(f, init, xs, reverse=False)``, ``cond(pred, true_f, false_f, *operands)`` and
    ``while_loop(test, body, init)``. Where the routine is mapped by vmap, ``f`` is called once, with arrays that have
    one more leading axis, of size 1 for those that are not mapped over; its results have it in full.

    Args:
        f: a function that does not depend on anything but its arguments; ``static`` are those that are not arrays.
        differentiable: ``f`` returns ``(value, gradients)``, one for each argument and of its shape, where the axes of
            ``value`` are the first ones of every argument, independent of each other; the routine is ``value`` alone.
    """
    call = _mapped(functools.partial(f, flow, *static))
    return jax.jit(_with_derivative(call) if differentiable else call)


def _mapped(f: Callable[..., Any]) -> Callable[..., Any]:
    @jax.custom_jvp
    @jax.custom_batching.custom_vmap
    def call(*trees: Any) -> Any:
        return f(*trees)

    call.defjvp(lambda trees, tangents: jax.jvp(f, trees, tangents))

    @call.fun.def_vmap
    def rule(_: int, is_mapped: Any, *trees: Any) -> Any:
        wide = jax.tree.map(lambda x, mapped: x if mapped else x[None], list(trees), is_mapped)
        out = _mapped(f)(*wide)
        return out, jax.tree.map(lambda _: True, out)

    return call


def _with_derivative(both: Callable[..., Any]) -> Callable[..., Any]:
    @jax.custom_jvp
    def value(*trees: Any) -> Any:
        return both(*trees)[0]

    @value.defjvp
    def rule(trees: Any, tangents: Any) -> Any:
        out, gradients = both(*trees)
        terms = jax.tree.map(lambda g, t: (g * t).sum(range(out.ndim, g.ndim)), gradients, tangents)
        return out, sum(jax.tree.leaves(terms))

    return value
