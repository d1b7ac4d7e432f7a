"""The target of a question to a run: the program looked at once for all data of like shapes, where that is enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ppl_gen.program import Bound
from ppl_gen.target import Target


def asked(bound: Bound) -> Target:
    """The target at these data, to be evaluated at values that a run holds; an engine would start from its sites.

    A program without data is looked at once, and so is one that has no latents and observes nothing but its arguments,
    at sites that any number can be at. Others are looked at again, for what these data may not be.
    """
    table, key = bound.program.compiled, (bound.key, "asked")
    if key in table:
        target, arguments = table[key]
        return _at(target, bound, {n: bound.arrays[a] for n, a in arguments.items()})
    target = Target(bound)
    arguments = _arguments(target)
    if arguments is not None:
        table[key] = _at(target, bound.without_data(), dict.fromkeys(arguments)), arguments
    return target


def _at(target: Target, bound: Bound, observed: dict[str, Any]) -> Target:
    new = {n: replace(target.sites[n], value=x, in_support=None) for n, x in observed.items()}
    return target.at(bound, new)


def _arguments(target: Target) -> dict[str, str] | None:
    """Observed site -> the argument that it is; None where one look is not enough."""
    if not target.arrays:
        return {}
    if target.subsampled or target.bound.missing or any(s.kind == "latent" for s in target.sites.values()):
        return None
    named, found = {id(x): n for n, x in target.arrays.items()}, {}
    for name in target.observed:
        site = target.sites[name]
        if id(site.value) not in named or not target.backend.is_unbounded(site.constraint):
            return None
        found[name] = named[id(site.value)]
    return found
