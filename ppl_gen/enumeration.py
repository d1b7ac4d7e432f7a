"""Exact summation over discrete latents: plated sum-product by variable elimination.

Each discrete latent is laid out along an enumeration dimension of its own, left of all plates. Log-probability
tensors are the factors; an ordinal is the set of plate dimensions that a factor stands in (Obermeyer et al. 2019,
"Tensor variable elimination for plated factor graphs", algorithm 1).

A scale, of a subsampled plate or ``pg.scale``, says how often what stands inside counts, and the sum over a latent
counts as often as the latent: s log sum_z p(z) p(y | z) where both are scaled by s, log sum_z p(z) p(y | z)^s where
only y is. A factor carries its scale beside its tensor until it leaves the plates and sums inside.

A Markov chain is one variable whose states lie along its dimension; what depends on it stands in a plate of its steps.
It is summed out by the forward algorithm where other variables are by a sum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ppl_gen.backends.protocol import Site, UnsupportedError
from ppl_gen.chain_elimination import sum_chain
from ppl_gen.winners import highest

Dims = frozenset[int]


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare
class Factor:
    """A log factor: which plates and enumerated variables (negative dims) it spans, which sites it came from.

    ``part`` names the "first" state and the "links" of a chain's own factors.
    """

    tensor: Any
    ordinal: Dims
    variables: Dims
    sites: tuple[str, ...]
    scale: Any = 1.0
    part: str = ""


@dataclass(frozen=True, eq=False)
class Owner:
    """The plates and the scale that an enumerated variable's site stands in.

    Attributes:
        previous: dimension of a chain's state one step before, and its ``num_steps``; None of a plain variable.
        time: dimension of the plate of a chain's steps.
    """

    ordinal: Dims
    scale: Any = 1.0
    previous: int | None = None
    num_steps: int | None = None
    time: int | None = None


def factor(site: Site, num_plates: int) -> Factor:
    """The factor of a site that has been run with discrete latents laid out; of a chain, that of its first state."""
    if any(d < -num_plates for d in _spans(site.scale)):
        raise UnsupportedError(f"the scale of {site.name!r} depends on a discrete latent: use pg.factor")
    scale = 1.0 if site.scale is None else site.scale
    return _factor(site.unscaled, num_plates, site.name, scale, "" if site.links is None else "first")


def links(xp: Any, site: Site, num_plates: int, owner: Owner, state: int) -> Factor:
    """The factor of a chain's transitions, from dimension ``owner.previous`` to ``state``."""
    assert site.links is not None and owner.previous is not None
    batch, k = tuple(site.links.shape[:-2]), site.links.shape[-1]
    moved = xp.moveaxis(site.links, (-2, -1), (0, 1))
    between = (1,) * (state - owner.previous - 1)
    tensor = moved.reshape((k, *between, k, *(1,) * (-1 - state - len(batch)), *batch))
    return _factor(tensor, num_plates, site.name, owner.scale, "links")


def _factor(tensor: Any, num_plates: int, name: str, scale: Any, part: str) -> Factor:
    spans = _spans(tensor)
    plates = frozenset(d for d in spans if d >= -num_plates)
    return Factor(tensor, plates, frozenset(spans) - plates, (name,), scale, part)


def _spans(tensor: Any) -> list[int]:
    shape = getattr(tensor, "shape", ())
    return [d for d in range(-len(shape), 0) if shape[d] > 1]


def eliminate(xp: Any, factors: Iterable[Factor], owners: Mapping[int, Owner], best: bool = False) -> list[Factor]:
    """Sum out all enumerated variables, or take the maximum over them where the ``best`` values are wanted.

    Args:
        owners: variable -> where the site that it belongs to stands.

    Returns:
        factors without variables, each a scaled table over the plates of its root; their sum is the log marginal.

    Raises:
        UnsupportedError: the plates make exact elimination exponential.
    """
    waiting, owners = _place_chains(list(factors), owners)
    done = []
    while waiting:
        leaf = max((f.ordinal for f in waiting), key=len)
        here = [f for f in waiting if f.ordinal == leaf]
        waiting = [f for f in waiting if f.ordinal != leaf]
        local = frozenset(v for v, owner in owners.items() if owner.ordinal == leaf)
        for group in _components(here, local):
            result = _contract(xp, group, local, owners, best)
            if not result.variables:
                done.append(_weighted(xp, result, 1.0))
            elif result.ordinal < leaf:  # the steps of a chain are gone with it
                waiting.append(result)
            else:
                waiting.append(_lift(xp, result, owners))
    return done


def _place_chains(
    factors: list[Factor], owners: Mapping[int, Owner]
) -> tuple[list[Factor], dict[int, Owner]]:
    """Every chain and its own factors put into the plate of its steps."""
    placed = dict(owners)
    for state, owner in owners.items():
        if owner.num_steps is None:
            continue
        behind = [f for f in factors if state in f.variables]
        own = [f for f in behind if f.part and f.sites == behind[0].sites]
        time = chain_time([f for f in behind if not f.part], state, owner)
        ordinal = owner.ordinal | {time}
        placed[state] = replace(owner, ordinal=ordinal, time=time)
        factors = [replace(f, ordinal=f.ordinal | ordinal) if f in own else f for f in factors]
    return factors, placed


def chain_time(dependent: Sequence[Factor], state: int, owner: Owner) -> int:
    """The dimension of the plate that a chain's steps lie along: the one of that length in all that depends on it.

    Raises:
        UnsupportedError: there is none, or more than one.
    """
    lengths = [
        {d for d in f.ordinal - owner.ordinal if f.tensor.shape[d] == owner.num_steps} for f in dependent
    ]
    common = frozenset.intersection(*map(frozenset, lengths)) if lengths else frozenset()
    if len(common) != 1:
        names = ", ".join(sorted({name for f in dependent for name in f.sites})) or "found none"
        raise UnsupportedError(
            f"a Markov chain of {owner.num_steps} steps is summed out where all that depends on it ({names}) stands "
            f"in one plate of {owner.num_steps} rows, one for each step; found {len(common)} such plates. The steps "
            "are the chain's last axis; where it stands in a plate itself, with the plate of the steps inside at "
            "dim=-1, write xp.squeeze(z, -2)"
        )
    return next(iter(common))


def _components(factors: Sequence[Factor], shared: Dims) -> list[list[Factor]]:
    """Groups of factors that are connected by variables of ``shared``."""
    groups: list[list[Factor]] = []
    for f in factors:
        touching = [g for g in groups if any(f.variables & h.variables & shared for h in g)]
        groups = [g for g in groups if g not in touching]
        groups.append([h for g in touching for h in g] + [f])
    return groups


def _contract(xp: Any, group: Sequence[Factor], local: Dims, owners: Mapping[int, Owner], best: bool) -> Factor:
    """The sum, or maximum, over the local variables of the product of a group."""
    variables = frozenset().union(*(f.variables for f in group))
    gone = variables & local
    if not gone:  # nothing connects it: a group of one
        return group[0]
    sites = tuple(name for f in group for name in f.sites)
    scale = _scale_of(gone, owners, sites)
    chains = [v for v in gone if owners[v].time is not None]
    if chains:
        return _contract_chain(xp, group, gone, chains, owners, best)
    total = _over(xp, best)(_product(xp, group, scale), axis=tuple(sorted(gone)), keepdims=True)
    return Factor(total, group[0].ordinal, variables - local, sites, scale)


def _over(xp: Any, best: bool) -> Callable[..., Any]:
    return functools.partial(highest, xp) if best else xp.logsumexp


def _product(xp: Any, group: Sequence[Factor], scale: Any) -> Any:
    tensors = [_weighted(xp, f, scale).tensor for f in group]
    return sum(tensors[1:], start=tensors[0])


def _contract_chain(
    xp: Any, group: Sequence[Factor], gone: Dims, chains: Sequence[int], owners: Mapping[int, Owner], best: bool
) -> Factor:
    """The sum, or maximum, over the paths of a chain, after other variables of its steps."""
    sites = tuple(name for f in group for name in f.sites)
    if len(chains) > 1:
        raise UnsupportedError(
            f"the Markov chains behind {', '.join(sites)} are coupled by what depends on both: make them one chain "
            "over pairs of states"
        )
    (state,) = chains
    owner, scale = owners[state], _scale_of(gone, owners, sites)
    assert owner.previous is not None and owner.time is not None
    first, links = (_product(xp, [f for f in group if f.part == part], scale) for part in ("first", "links"))
    steps = _product(xp, [f for f in group if not f.part], scale)
    others = tuple(sorted(gone - {state}))
    steps = _over(xp, best)(steps, axis=others, keepdims=True) if others else steps
    total = sum_chain(xp, first, links, steps, state, owner.previous, owner.time, best)
    left = frozenset().union(*(f.variables for f in group)) - gone - {owner.previous}
    return Factor(total, group[0].ordinal - {owner.time}, left, sites, scale)


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
