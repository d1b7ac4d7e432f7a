"""The E-step on a declared program: what is known of its local latents at given params.

Discrete latents are summed out, linear-Gaussian ones of each row integrated out, exactly. What comes of it are weights
of every entry of every log factor, with Gaussian latents laid out at symmetric points: the expected log joint is a
weighted sum of log factors, whatever the program.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.backends.protocol import Site, UnsupportedError
from ppl_gen.conditioning import Conditioned, Group, condition, departure, of_sites
from ppl_gen.enumeration import Factor, Owner, chain_time, eliminate
from ppl_gen.layout import Layout
from ppl_gen.target import Target

Counted = Callable[[Site], bool]
_AFFINE = 1e-6


class At(NamedTuple):
    """Where to run a program: constrained ``values`` of some sites, the vector ``u`` of a ``layout`` of others."""

    values: Mapping[str, Any]
    u: Any
    layout: Layout | None


def local_latents(target: Target) -> list[str]:
    """Continuous latents in a plate that also holds an observation: one for each datum."""
    rows = {p.name for n in target.observed for p in target.sites[n].plates}
    return [n for n in target.layout.names if any(p.name in rows for p in target.sites[n].plates)]


def chosen_latents(target: Target, integrate: Sequence[str] | None) -> list[str]:
    """The continuous latents to integrate out: those that are named, or else the local ones.

    Raises:
        ValueError: a name that is none of a continuous latent.
    """
    if integrate is None:
        return local_latents(target)
    if isinstance(integrate, str):
        raise ValueError(f"integrate must be a list of names, got {integrate!r}: write [{integrate!r}]")
    unknown = [n for n in integrate if n not in target.layout.names]
    if unknown:
        raise ValueError(
            f"integrate names {', '.join(map(repr, unknown))}, no continuous latent of {target.program.name}: expected "
            f"among {list(target.layout.names)}"
        )
    return list(integrate)


def _require_inside(group: Group, sites: Sequence[Site]) -> None:
    """What depends on the latents stands inside their plates, not in another plate along the same dimension."""
    own = {p.name for s in sites if s.name in group.sites for p in s.plates}
    for s in sites:
        strange = [p.name for p in s.plates if p.dim in group.ordinal and p.name not in own]
        if strange:
            raise UnsupportedError(
                f"{s.name!r} depends on {', '.join(map(repr, group.sites))} from plate {strange[0]!r}, which lies "
                f"along the same dimension as {', '.join(map(repr, own))}: put it inside, as a plate of its own "
                "dimension, or use engine='svi' or 'nuts'"
            )


class Expectation:
    """The E-step of a target, and the expected log joint that goes with it.

    Args:
        integrate: continuous latents to integrate out; those with one value for each datum where None.
        weights: how often each row counts, (rows,) on the device; None for once.

    Where a method takes ``at``, that is a vector of ``layout``, constrained values of its sites by name, or some of
    each (:class:`At`).

    Attributes:
        layout: of what is maximised.
        group: the latents that are integrated out, None where there are none.
    """

    def __init__(self, target: Target, integrate: Sequence[str] | None = None, weights: Any = None):
        self.target, self.weights = target, weights
        self._rows_dim = None if weights is None else _rows_dim(target, weights)
        names = chosen_latents(target, integrate)
        self.layout = Layout(tuple(entry for entry in target.everything.sites if entry[0] not in names))
        self.points = target.points
        self.group = self._group(names) if names else None

    def reweighted(self, weights: Any) -> Expectation:
        """The same with other weights of the same rows; for use inside a compiled step."""
        other = copy.copy(self)
        other.weights = weights
        return other

    @property
    def kind(self) -> str:
        """How the latents are dealt with, in words."""
        chains = {s.num_steps is not None for s in self.target.discrete.values()}
        found = ["forward-backward"] if True in chains else []
        found += ["enumeration"] if False in chains else []
        return " and ".join([*found, "Gaussian conditioning"] if self.group else found)

    def _group(self, names: Sequence[str]) -> Group:
        """The group, in cells of the plates and of the discrete latents that its factors depend on."""
        target, xp = self.target, self.target.backend.xp
        group = of_sites({n: target.sites[n] for n in names}, self.points, target.num_plates)
        u = self.layout.join(xp, self._prototype()) if self.layout.names else xp.zeros((0,))
        zeros = xp.zeros((2, *group.cells, group.size))
        factors, _, sites = self._factors(u, target.arrays, group, zeros, lambda s: True)
        _require_inside(group, [sites[f.sites[0]] for f in factors if group.touches(f)])
        variables = {v for f in factors if group.touches(f) for v in f.variables if v != self.points}
        cells = list(group.cells)
        for name, dim in target.enumerated.items():
            if dim in variables:
                cells[dim] = target.discrete[name].cardinality or 1
        return replace(group, cells=tuple(cells))

    def _prototype(self) -> dict[str, Any]:
        target = self.target
        sites = ((n, target.sites[n]) for n in self.layout.names)
        return {n: target.backend.bijection(s.constraint).inverse(s.value) for n, s in sites}

    def require_gaussian(self, engine: str) -> None:
        """The log joint is quadratic in the group's latents; tested at random params and values.

        Raises:
            UnsupportedError: it is not; names the engines that would work.
        """
        if self.group is None:
            return
        target, group, rng = self.target, self.group, np.random.default_rng(0)
        for _ in range(2):
            u = target.backend.asarray(rng.uniform(-1, 1, self.layout.dim))
            noise = target.backend.asarray(rng.standard_normal((2, *group.cells, group.size)))
            eps = float(np.finfo(np.asarray(target.backend.to_numpy(u)).dtype).eps)
            if not self._departure(u, noise, eps) < max(_AFFINE, 1e4 * eps):
                raise UnsupportedError(
                    f"{engine} integrates out the latents {', '.join(map(repr, group.sites))} of "
                    f"{target.program.name}, one for each datum, exactly where they are linear-Gaussian, and the log "
                    "joint is not quadratic in them: use engine='mcem' or 'vbem', or 'svi' or 'nuts' for a posterior"
                )

    def _departure(self, u: Any, noise: Any, eps: float) -> float:
        target = self.target
        assert self.group is not None
        off = departure(target.backend, self.group, lambda z: self._at(u, target.arrays, z), noise, eps)
        return float(target.backend.to_numpy(off))

    # Factors of one run ---------------------------------------------------------------------------------------

    def _run(self, at: Any, arrays: Any, group: Group | None, z: Any) -> dict[str, Site]:
        target = self.target
        if not isinstance(at, At):
            at = At(at, None, None) if isinstance(at, Mapping) else At({}, at, self.layout)
        coordinates = {} if at.layout is None else at.layout.split(at.u)
        values = dict(at.values) if group is None else {**at.values, **group.values(z)}
        return target.trace(arrays, unconstrained=coordinates, values=values, enumerated=target.enumerated)

    def _factors(
        self, at: Any, arrays: Any, group: Group | None, z: Any, counted: Counted
    ) -> tuple[list[Factor], dict[int, Owner], dict[str, Site]]:
        sites = self._run(at, arrays, group, z)
        factors, owners = self.target.factors(sites, counted), self.target.owners(sites)
        return [self._weighted(f) for f in factors], {d: self._weighted(o) for d, o in owners.items()}, sites

    def _weighted(self, f: Any) -> Any:
        """A factor or owner that stands in the rows counts as often as its row."""
        if self.weights is None or self._rows_dim is None or self._rows_dim not in f.ordinal:
            return f
        return replace(f, scale=f.scale * self.weights.reshape((-1, *(1 for _ in range(-1 - self._rows_dim)))))

    def _at(self, at: Any, arrays: Any, z: Any) -> list[Factor]:
        return self._factors(at, arrays, self.group, z, lambda s: True)[0]

    def constrain(self, at: Any, arrays: Any) -> dict[str, Any]:
        """Constrained values of what is maximised, and of the deterministics that depend on no local latent."""
        group, xp = self.group, self.target.backend.xp
        z = None if group is None else xp.zeros((2, *group.cells, group.size))  # two: what depends on z has a dim more
        return self.target.values_of(self._run(at, arrays, group, z), self.layout.names)

    def condition(self, at: Any, arrays: Any) -> Conditioned | None:
        """The integrated latents given data and discrete latents; None where there are none."""
        if self.group is None:
            return None
        return condition(self.target.backend, self.group, lambda z: self._at(at, arrays, z))

    def _rest(self, at: Any, arrays: Any, counted: Counted) -> tuple[list[Factor], dict[int, Owner], Any]:
        """All factors with the Gaussian latents integrated out."""
        held = self.condition(at, arrays)
        if self.group is None or held is None:
            return *self._factors(at, arrays, None, None, counted)[:2], None
        points = held.points(self.target.backend.xp)
        factors, owners, _ = self._factors(at, arrays, self.group, points, counted)
        return [*(f for f in factors if not self.group.touches(f)), held.factor], owners, points

    def pointwise(self, at: Any, arrays: Any) -> dict[str, Any]:
        """log p(datum) for each observed site, local latents summed and integrated out; see ``Target.pointwise``."""
        kept = {*self.target.discrete, *(self.group.sites if self.group else ())}
        factors, owners, _ = self._rest(at, arrays, lambda s: s.kind == "observed" or s.name in kept)
        return self.target.by_observed(eliminate(self.target.backend.xp, factors, owners))

    # E-step and Q ---------------------------------------------------------------------------------------------

    def log_marginal(self, at: Any, arrays: Any, counted: Counted) -> Any:
        """The log joint with local latents summed and integrated out; scalar."""
        xp = self.target.backend.xp
        factors, owners, _ = self._rest(at, arrays, counted)
        return sum(xp.sum(f.tensor) for f in eliminate(xp, factors, owners))

    def expect(self, at: Any, arrays: Any, counted: Counted) -> tuple[dict[str, Any], Any]:
        """The E-step: ``points`` of the Gaussian latents and ``weights`` of factors, and the log marginal.

        Weights are the derivatives of the log marginal by the log factors: exact posterior marginals of each factor's
        discrete latents, whatever the plates between them.
        """
        xp = self.target.backend.xp
        factors, owners, points = self._rest(at, arrays, counted)

        def log_marginal(tensors: list[Any]) -> Any:
            replaced = [replace(f, tensor=t) for t, f in zip(tensors, factors, strict=True)]
            return sum(xp.sum(f.tensor) for f in eliminate(xp, replaced, owners))

        value, weights = self.target.backend.value_and_grad(log_marginal)([f.tensor for f in factors])
        held = {"weights": weights} if points is None else {"weights": weights, "points": points}
        return held, value

    def expected_log_joint(self, at: Any, held: Mapping[str, Any], arrays: Any, counted: Counted) -> Any:
        """Q(at | held) = sum over factors of weight times log factor; scalar."""
        terms = self.weighted_factors(at, held, arrays, counted)
        return sum(_dot(self.target.backend.xp, w, f.tensor) for f, w, _ in terms)

    def weighted_factors(
        self, at: Any, held: Mapping[str, Any], arrays: Any, counted: Counted
    ) -> list[tuple[Factor, Any, Site]]:
        """Every factor of the completed data with its weight and its site."""
        group = self.group
        factors, _, sites = self._factors(at, arrays, group, held.get("points"), counted)
        touched = [] if group is None else [f for f in factors if group.touches(f)]
        rest = [f for f in factors if group is None or not group.touches(f)]
        weights = list(held["weights"])
        if group is not None:
            weights[len(rest) :] = [weights[-1] / (2 * group.size)] * len(touched)
        pairs = zip([*rest, *touched], weights, strict=True)
        return [(f, w, sites[f.sites[0]]) for f, w in pairs]

    # What is known of the latents ------------------------------------------------------------------------------

    def latent(self, at: Any, arrays: Any) -> dict[str, Any]:
        """Posterior of each local latent.

        Of a discrete one its probabilities (*plates, K); of a Gaussian one its mean (*plates, *event), and as
        ``{name}_cov`` its covariance (*plates, size, size).
        """
        found, weights = self._indicated(at, arrays, False)
        conditioned = self.condition(at, arrays)
        return found if conditioned is None else {**found, **self._moments(conditioned, weights)}

    def most_likely(self, at: Any, arrays: Any) -> dict[str, Any]:
        """The discrete latents that are most probable together, integers (*plates), of a chain (*plates, steps)."""
        xp = self.target.backend.xp
        return {n: xp.argmax(p, axis=-1) for n, p in self._indicated(at, arrays, True)[0].items()}

    def _indicated(self, at: Any, arrays: Any, best: bool) -> tuple[dict[str, Any], Any]:
        """Probabilities of each discrete latent (*plates, K), 0 and 1 where the ``best`` are wanted; cells' weights.

        Both are derivatives of the log marginal, or of the maximum, by log factors of zeros.
        """
        xp, target = self.target.backend.xp, self.target
        factors, owners, _ = self._rest(at, arrays, lambda s: True)
        factors = [replace(f, scale=1.0) for f in factors]
        alone = {d: replace(o, scale=1.0) for d, o in owners.items()}
        times = {d: self._time(factors, d, o) for d, o in owners.items()}
        own = [self._indicator(n, d, owners[d], times[d]) for n, d in target.enumerated.items()]
        integrated = [] if self.group is None else [factors.pop()]

        def total(tensors: list[Any]) -> Any:
            replaced = [replace(f, tensor=t) for t, f in zip(tensors, [*own, *integrated], strict=True)]
            return sum(xp.sum(f.tensor) for f in eliminate(xp, [*factors, *replaced], alone, best))

        weights = target.backend.value_and_grad(total)([f.tensor for f in [*own, *integrated]])[1]
        held = zip(target.enumerated.items(), weights, strict=False)
        return {n: self._probabilities(n, w, d, times[d]) for (n, d), w in held}, weights[-1] if integrated else None

    def _time(self, factors: list[Factor], dim: int, owner: Owner) -> int | None:
        if owner.num_steps is None:
            return None
        return chain_time([f for f in factors if dim in f.variables and not f.part], dim, owner)

    def _indicator(self, name: str, dim: int, owner: Owner, time: int | None) -> Factor:
        """A log factor of zeros over the values of a discrete latent, at each step of a chain."""
        sizes = {p.dim: p.size for p in self.target.sites[name].plates}
        sizes |= {dim: self.target.discrete[name].cardinality or 1}
        sizes |= {} if time is None else {time: owner.num_steps or 1}
        tensor = self.target.backend.xp.zeros(tuple(sizes.get(d, 1) for d in range(self.points + 1, 0)))
        return Factor(tensor, owner.ordinal | ({time} if time else set()), frozenset({dim}), (name,))

    def _probabilities(self, name: str, weight: Any, dim: int, time: int | None) -> Any:
        """Weights of an indicator as (*plates, K), of a chain (*plates, steps, K)."""
        xp = self.target.backend.xp
        moved = xp.moveaxis(weight, dim, -1)
        if time is None:
            return self._rows(name, moved, 1)
        return self._rows(name, xp.moveaxis(xp.expand_dims(moved, time - 2), time - 1, -2), 2)

    def _moments(self, conditioned: Conditioned, weight: Any) -> dict[str, Any]:
        """Mean and covariance of each integrated latent, over the discrete ones."""
        assert self.group is not None
        xp, enumerated = self.target.backend.xp, tuple(range(len(self.target.enumerated)))
        w, m, root = weight[..., None], conditioned.mean, conditioned.root
        mean = xp.sum(w * m, axis=enumerated, keepdims=True)
        second = xp.einsum("...ij,...kj->...ik", root, root) + m[..., :, None] * m[..., None, :]
        cov = xp.sum(w[..., None] * second, axis=enumerated, keepdims=True) - mean[..., :, None] * mean[..., None, :]
        found, start = {}, 0
        for name, event in self.group.sites.items():
            stop = start + math.prod(event)
            found[name] = self._rows(name, mean[..., start:stop], 1)
            found[name] = found[name].reshape((*found[name].shape[:-1], *event))
            found[f"{name}_cov"] = self._rows(name, cov[..., start:stop, start:stop], 2)
            start = stop
        return found

    def _rows(self, name: str, x: Any, event_dim: int) -> Any:
        """x (1, ..., 1, *plates, *event) without the dimensions that the site has no plate in."""
        plates = sorted(p.dim for p in self.target.sites[name].plates)
        lead = x.shape[: len(x.shape) - event_dim]
        return x.reshape((*(lead[d] for d in plates), *x.shape[len(lead) :]))


def _dot(xp: Any, weight: Any, tensor: Any) -> Any:
    return xp.sum(xp.where(weight > 0, weight * xp.where(weight > 0, tensor, 0.0), 0.0))


def _rows_dim(target: Target, weights: Any) -> int:
    """The dimension of the rows' plate.

    Raises:
        ValueError: no plate of that length holds all observations.
    """
    plates = [{p.dim for p in target.sites[n].plates if p.size == len(weights)} for n in target.observed]
    common = set.intersection(*plates) if plates else set()
    if len(common) != 1:
        number = "more than one" if common else "no"
        raise ValueError(
            f"{len(weights)} weights came, and {target.program.name} has {number} plate of {len(weights)} rows that "
            "holds every observation: expected one weight for each row, and the rows declared by one pg.plate"
        )
    return common.pop()
