"""Exact summation over discrete latents: plated sum-product by variable elimination.

Each discrete latent is laid out along an enumeration dimension of its own, left of all plates. Log-probability
tensors are the factors; an ordinal is the set of plate dimensions that a factor stands in (Obermeyer et al. 2019,
"Tensor variable elimination for plated factor graphs", algorithm 1).

A scale, of a subsampled plate or ``pg.scale``, says how often what stands inside counts, and the sum over a latent
counts as often as the latent: s log sum_z p(z) p(y | z) where both are scaled by s, log sum_z p(z) p(y | z)^s where
only y is. A factor carries its scale beside its tensor until it leaves the plates and sums inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ppl_gen.backends.protocol import Site, UnsupportedError

Dims = frozenset[int]


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare
class Factor:
    """A log factor: which plates and enumerated variables (negative dims) it spans, which sites it came from."""

    tensor: Any
    ordinal: Dims
    variables: Dims
    sites: tuple[str, ...]
    scale: Any = 1.0


@dataclass(frozen=True, eq=False)
class Owner:
    """The plates and the scale that an enumerated variable's site stands in."""

    ordinal: Dims
    scale: Any = 1.0


def factor(site: Site, num_plates: int) -> Factor:
    """The factor of a site that has been run with discrete latents laid out."""
    spans = _spans(site.unscaled)
    if any(d < -num_plates for d in _spans(site.scale)):
        raise UnsupportedError(f"the scale of {site.name!r} depends on a discrete latent: use pg.factor")
    return Factor(
        site.unscaled,
        frozenset(d for d in spans if d >= -num_plates),
        frozenset(d for d in spans if d < -num_plates),
        (site.name,),
        1.0 if site.scale is None else site.scale,
    )


def _spans(tensor: Any) -> list[int]:
    shape = getattr(tensor, "shape", ())
    return [d for d in range(-len(shape), 0) if shape[d] > 1]


def eliminate(xp: Any, factors: Iterable[Factor], owners: Mapping[int, Owner]) -> list[Factor]:
    """Sum out all enumerated variables.

    Args:
        owners: variable -> where the site that it belongs to stands.

    Returns:
        factors without variables, each a scaled table over the plates of its root; their sum is the log marginal.

    Raises:
        UnsupportedError: the plates make exact elimination exponential.
    """
    waiting, done = list(factors), []
    while waiting:
        leaf = max((f.ordinal for f in waiting), key=len)
        here = [f for f in waiting if f.ordinal == leaf]
        waiting = [f for f in waiting if f.ordinal != leaf]
        local = frozenset(v for v, owner in owners.items() if owner.ordinal == leaf)
        for group in _components(here, local):
            result = _contract(xp, group, local, owners)
            if not result.variables:
                done.append(_weighted(xp, result, 1.0))
            else:
                waiting.append(_lift(xp, result, owners))
    return done


def _components(factors: Sequence[Factor], shared: Dims) -> list[list[Factor]]:
    """Groups of factors that are connected by variables of ``shared``."""
    groups: list[list[Factor]] = []
    for f in factors:
        touching = [g for g in groups if any(f.variables & h.variables & shared for h in g)]
        groups = [g for g in groups if g not in touching]
        groups.append([h for g in touching for h in g] + [f])
    return groups


def _contract(xp: Any, group: Sequence[Factor], local: Dims, owners: Mapping[int, Owner]) -> Factor:
    """The sum over the local variables of the product of a group."""
    variables = frozenset().union(*(f.variables for f in group))
    gone = variables & local
    if not gone:  # nothing connects it: a group of one
        return group[0]
    sites = tuple(name for f in group for name in f.sites)
    scale = _scale_of(gone, owners, sites)
    total = sum((_weighted(xp, f, scale).tensor for f in group[1:]), start=_weighted(xp, group[0], scale).tensor)
    total = xp.logsumexp(total, axis=tuple(sorted(gone)), keepdims=True)
    return Factor(total, group[0].ordinal, variables - local, sites, scale)


def _lift(xp: Any, f: Factor, owners: Mapping[int, Owner]) -> Factor:
    """The product over the plates that the remaining variables do not stand in."""
    parent = frozenset().union(*(owners[v].ordinal for v in f.variables))
    if not parent < f.ordinal:
        raise UnsupportedError(
            f"the discrete latents behind {', '.join(f.sites)} cannot be summed out exactly: their plates cross; put "
            "them into one plate, or sum one of them out by hand with pg.factor"
        )
    nearest = frozenset(v for v in f.variables if owners[v].ordinal == parent) or f.variables
    weighted = _weighted(xp, f, _scale_of(nearest, owners, f.sites))
    total = xp.sum(weighted.tensor, axis=tuple(sorted(f.ordinal - parent)), keepdims=True)
    return replace(weighted, tensor=total, ordinal=parent)


# Scales -----------------------------------------------------------------------------------------------------------


def _scale_of(variables: Dims, owners: Mapping[int, Owner], sites: Sequence[str]) -> Any:
    """The one scale of variables that are summed over together."""
    return common_scale([owners[v].scale for v in variables], sites)


def common_scale(scales: Sequence[Any], sites: Sequence[str]) -> Any:
    """The one scale of what is summed or integrated out together; arrays are told apart by shape alone."""
    if len({_identity(s) for s in scales}) > 1:
        raise UnsupportedError(
            f"the latents behind {', '.join(sites)} are summed out together and stand under different scales: "
            "put them under one pg.scale and into the same subsampled plates"
        )
    return scales[0]


def _identity(scale: Any) -> Any:
    return scale if isinstance(scale, int | float) else tuple(scale.shape)


def _weighted(xp: Any, f: Factor, scale: Any) -> Factor:
    """The same factor in units of ``scale``: the tensor to the power that remains."""
    ratio = _ratio(xp, f.scale, scale)
    return f if ratio is None else replace(f, tensor=ratio * f.tensor, scale=scale)


def _ratio(xp: Any, one: Any, other: Any) -> Any:
    """one / other, None where it is 1 for sure; 1 where both are zero, since nothing inside counts then."""
    if one is other or (isinstance(one, int | float) and isinstance(other, int | float) and one == other):
        return None
    if isinstance(other, int | float):
        return one / other if other else 1.0
    return xp.where(other == 0, 1.0, one / xp.where(other == 0, 1.0, other))
