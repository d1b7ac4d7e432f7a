"""A program run with latents from the prior, compiled whole: by itself each of its operations takes a compilation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import jax

from ppl_gen.backends.numpyro.tracing import trace
from ppl_gen.backends.protocol import Request, Site

_GENERATOR = "unsafe_rbg"  # XLA's own, of good enough numbers for a first look: it compiles ten times faster
_FIELDS = [f.name for f in fields(Site)]


def draws(model: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any], int], dict[str, Site]]:
    """``drawn(arrays, seed)``: the sites of ``model(arrays)`` with latents from the prior, checked.

    What cannot be compiled is run as it is, and so is what fails, for the error that it then raises.
    """
    held: dict[str, Any] = {}

    def run(arrays: Mapping[str, Any], key: Any) -> dict[str, Site]:
        return trace(lambda: model(arrays), Request(key=key, check=True))

    @jax.jit
    def compiled(arrays: Mapping[str, Any], seed: Any) -> list[Any]:
        sites = run(arrays, jax.random.key(seed, impl=_GENERATOR))
        told = [[getattr(site, field) for field in _FIELDS] for site in sites.values()]  # a dict would be sorted
        leaves, held["tree"] = jax.tree.flatten(told)
        held["rest"] = [None if isinstance(x, jax.core.Tracer) else (x,) for x in leaves]
        return [x for x, known in zip(leaves, held["rest"], strict=True) if known is None]

    def drawn(arrays: Mapping[str, Any], seed: int) -> dict[str, Site]:
        if not held.get("fails"):
            try:
                computed = iter(compiled(arrays, seed))
            except Exception:
                held["fails"] = True
            else:
                leaves = [next(computed) if known is None else known[0] for known in held["rest"]]
                told = jax.tree.unflatten(held["tree"], leaves)
                return {values[0]: Site(**dict(zip(_FIELDS, values, strict=True))) for values in told}
        return run(arrays, jax.random.PRNGKey(seed))

    return drawn
