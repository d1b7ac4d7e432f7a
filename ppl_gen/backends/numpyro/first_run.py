"""A program run with latents from the prior, compiled whole: by itself each of its operations takes a compilation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import jax
import numpy as np

from ppl_gen.backends.numpyro.tracing import trace
from ppl_gen.backends.protocol import Request, Site

# XLA's own generator gives good enough numbers for a first look and compiles faster; Poisson counts need the other.
_GENERATORS = ("unsafe_rbg", "threefry2x32")
_FIELDS = [f.name for f in fields(Site)]


def draws(model: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any], int], dict[str, Site]]:
    """``drawn(arrays, seed)``: the sites of ``model(arrays)`` with latents from the prior, checked.

    What cannot be compiled is run as it is, and so is what fails, for the error that it then raises. Of distributions
    only the kind is kept, of log probabilities the shape: nobody asks for the numbers, which would be half of the work
    of a density that is asked for once.
    """
    ways = [_compiled(model, generator) for generator in _GENERATORS]

    def drawn(arrays: Mapping[str, Any], seed: int) -> dict[str, Site]:
        while ways:
            try:
                return ways[0](arrays, seed)
            except Exception:
                del ways[0]
        return _run(model, arrays, jax.random.PRNGKey(seed))

    return drawn


def _run(model: Callable[[Mapping[str, Any]], Any], arrays: Mapping[str, Any], key: Any) -> dict[str, Site]:
    return trace(lambda: model(arrays), Request(key=key, check=True))


def _compiled(model: Callable[[Mapping[str, Any]], Any], generator: str) -> Callable[..., dict[str, Site]]:
    """The same with this generator, or whatever the program raises where its values are not known."""
    held: dict[str, Any] = {}

    @jax.jit
    def run(arrays: Mapping[str, Any], seed: Any) -> list[Any]:
        found = _run(model, arrays, jax.random.key(seed, impl=generator)).values()
        sites = [replace(s, distribution=_kind(s.distribution), unscaled=_without_numbers(s.unscaled)) for s in found]
        leaves, held["tree"] = jax.tree.flatten([[getattr(site, field) for field in _FIELDS] for site in sites])
        handed = {id(x): lambda given, name=name: given[name] for name, x in arrays.items()}
        held["known"] = [
            handed.get(id(x)) if isinstance(x, jax.core.Tracer) else lambda _, x=x: x for x in leaves
        ]
        return [x for x, known in zip(leaves, held["known"], strict=True) if known is None]

    def drawn(arrays: Mapping[str, Any], seed: int) -> dict[str, Site]:
        computed = iter(run(arrays, seed))
        leaves = [next(computed) if known is None else known(arrays) for known in held["known"]]
        sites = [Site(*values) for values in jax.tree.unflatten(held["tree"], leaves)]
        return {site.name: site for site in sites}

    return drawn


def _without_numbers(x: Any) -> Any:
    return None if x is None else np.broadcast_to(np.float32(np.nan), np.shape(x))


def _kind(fn: Any) -> Any:
    """What is called as a distribution, and as what it rests on, is, without its arrays, which are gone when compiled.

    They would also be flattened in an order that changes from process to process, and with it what is compiled, so
    that the cache of an earlier process would not have it.
    """
    if fn is None:
        return None
    kind = type(type(fn).__name__, (), {})()
    if hasattr(fn, "base_dist"):
        kind.base_dist = _kind(fn.base_dist)
    return kind
