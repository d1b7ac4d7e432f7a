"""What an engine may ask of a program bound to data: its sites, densities, and views of them for one algorithm."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ppl_gen.backends.protocol import Backend, Request, Site, UnsupportedError
from ppl_gen.checks import check_prototype, explain_failure
from ppl_gen.enumeration import Factor, Owner, eliminate, factor, links
from ppl_gen.layout import Layout
from ppl_gen.program import Bound, Drawn, Program

_MAX_JOINT_VALUES = 2**20


class Density(Protocol):
    """What a kernel sees: an unconstrained log density, batched over chains."""

    @property
    def dim(self) -> int: ...

    def log_density_and_grad(self, position: Any) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class _DensityAt:
    """The density of a target at given data, chains along the leading axis."""

    dim: int
    batched: Callable[..., tuple[Any, Any]]
    arrays: Mapping[str, Any]

    def log_density_and_grad(self, position: Any) -> tuple[Any, Any]:
        return self.batched(position, self.arrays)


@dataclass(frozen=True)
class Tempered:
    """The density p(latents) p(data | latents)^beta of u at given data, chains along the leading axis.

    Attributes:
        beta: inverse temperature, scalar or (chains,): 0 is the prior, 1 the posterior.
    """

    dim: int
    xp: Any
    batched: Callable[..., tuple[Any, Any]]
    arrays: Mapping[str, Any]
    beta: Any

    def log_density_and_grad(self, position: Any) -> tuple[Any, Any]:
        return self.evaluate(position)[:2]

    def evaluate(self, position: Any) -> tuple[Any, Any, Any]:
        """Log density (chains,), its gradient (chains, dim), log p(data | latents) (chains,), of one run and back.

        The log likelihood is the slope of the log density in beta. Where it is -inf and beta is 0, the density is nan.
        """
        beta = self.xp.zeros(position.shape[:1]) + self.beta
        value, (gradient, log_likelihood) = self.batched((position, beta), self.arrays)
        return value, gradient, log_likelihood


class Target:
    """A bound program as engines see it.

    Attributes:
        sites: of one run of the program on its data, with latents drawn from the prior.
        layout: of the continuous latents; ``params`` that of the params; ``everything`` both, ``valued`` and counts.
        discrete: latents that are summed out exactly; ``enumerated`` the dimension along which each is laid out.
        counts: layout of the discrete latents without a finite set of values, which only their values stand for. Where
            a vector u of ``everything`` is asked for, they come behind it, as whole numbers.
        points: dimension, left of those, along which several values of a continuous latent may be laid out.
    """

    def __init__(self, bound: Bound):
        self.bound: Bound = bound
        self.backend: Backend = bound.backend
        self.program: Program = bound.program
        self.arrays = bound.arrays
        self.sites = self._prototype()
        continuous = {n: s for n, s in self.sites.items() if s.kind == "latent" and not s.discrete}
        params = {n: s for n, s in self.sites.items() if s.kind == "param"}
        endless = self._endless()
        self.counts = Layout(tuple((n, tuple(s.value.shape), tuple(s.value.shape)) for n, s in endless.items()))
        self.layout = Layout.of(self.backend, continuous)
        self.params = Layout.of(self.backend, params)
        self.everything = Layout(self.layout.sites + self.params.sites)
        self.valued = Layout(self.everything.sites + self.counts.sites)
        self.discrete = {
            n: s for n, s in self.sites.items() if s.kind == "latent" and s.discrete and n not in endless
        }
        self.observed = tuple(n for n, s in self.sites.items() if s.kind == "observed")
        self.subsampled = tuple(n for n, s in self.sites.items() if s.kind == "plate")
        self.num_plates = max((len(s.batch_shape) for s in self.sites.values()), default=0)
        self.enumerated = {n: -1 - self.num_plates - i for i, n in enumerate(self.discrete)}
        self.points = -1 - self.num_plates - len(self.discrete)
        chains = (n for n, s in self.discrete.items() if s.num_steps is not None)
        self._previous = {n: self.points - 1 - i for i, n in enumerate(chains)}

    def _prototype(self) -> dict[str, Site]:
        try:
            sites = self.draw(0)
        except Exception as error:
            raise explain_failure(error, self.bound) from error
        seeds = itertools.count(1)
        check_prototype(sites, self.bound, lambda: self.draw(next(seeds)))
        return sites

    def _endless(self) -> dict[str, Site]:
        """Discrete latents without a finite set of values, or with one that changes with such a latent's value."""
        latents = {n: s for n, s in self.sites.items() if s.kind == "latent" and s.discrete}
        found = {n: s for n, s in latents.items() if s.cardinality is None}
        while found and len(found) < len(latents):
            rest = [n for n in latents if n not in found]
            seen = []
            for times, add in ((1, 0), (1, 1), (1, 17), (0, 0)):  # a bound may show at some values only
                moved = {n: times * s.value + add for n, s in found.items()}
                sites = self.trace(self.arrays, values=moved, key=self.backend.key(0))  # the others as they were
                seen.append([sites[n].cardinality for n in rest])
            more = {n: latents[n] for n, *sizes in zip(rest, *seen, strict=True) if len(set(sizes)) > 1}
            if not more:
                break
            found |= more
        return {n: s for n, s in latents.items() if n in found}

    def draw(self, seed: int) -> dict[str, Site]:
        """The sites of a run with latents from the prior."""
        return self.compiled("draw", lambda: Drawn(self.bound))(self.arrays, seed)

    def observing(self, values: Mapping[str, Any], arguments: Mapping[str, str]) -> Target:
        """The same target at other values of observed sites, as NumPy arrays; see :meth:`Bound.observing`."""
        bound = self.bound.observing(values, arguments)
        new = {n: replace(self.sites[n], value=bound.arrays[bound.observed[n]]) for n in values}
        return self._but(bound=bound, arrays=bound.arrays, sites={**self.sites, **new})

    def guided(self) -> Target:
        """The same target where a guide draws the discrete latents, so that none is left to be summed out."""
        return self._but(discrete={}, enumerated={})

    def at(self, data: Any, sites: Mapping[str, Site] | None = None) -> Target:
        """The same target on other data, bound or not, of any number of rows; its sites stay those of these."""
        bound = data if isinstance(data, Bound) else self.bound.at(data)
        return self._but(bound=bound, arrays=bound.arrays, sites={**self.sites, **(sites or {})})

    def _but(self, **fields: Any) -> Target:
        other = copy.copy(self)
        vars(other).update(fields)
        return other

    # Running the program -----------------------------------------------------------------------------------

    def trace(self, arrays: Mapping[str, Any], **request: Any) -> dict[str, Site]:
        """Run the model once; see :class:`Request`."""
        return self.backend.trace(lambda: self.bound.model(arrays), Request(**request))

    def trace_guide(self, guide: Callable[[Any], Any], arrays: Mapping[str, Any], **request: Any) -> dict[str, Site]:
        return self.backend.trace(lambda: guide(arrays), Request(**request))

    def assigned(self, u: Any) -> dict[str, Any]:
        """What a :class:`Request` assigns at the vector u."""
        counts = self.counts.split(u[self.everything.dim :]) if self.counts.names else {}
        values = {n: self.backend.xp.astype(x, self.sites[n].value.dtype) for n, x in counts.items()}
        return {"unconstrained": self.everything.split(u), "values": values}

    def _run(self, u: Any, arrays: Mapping[str, Any]) -> dict[str, Site]:
        return self.trace(arrays, enumerated=self.enumerated, **self.assigned(u))

    def terms(self, sites: Mapping[str, Site], names: Callable[[Site], bool]) -> list[Factor]:
        """Log factors of the sites that ``names`` picks, discrete latents summed out."""
        return eliminate(self.backend.xp, self.factors(sites, names), self.owners(sites))

    def factors(self, sites: Mapping[str, Site], names: Callable[[Site], bool]) -> list[Factor]:
        """Log factors of the sites that ``names`` picks."""
        owners, found = self.owners(sites), []
        for s in (s for s in sites.values() if s.log_prob is not None and names(s)):
            found.append(factor(s, self.num_plates))
            if s.links is not None:
                state = self.enumerated[s.name]
                found.append(links(self.backend.xp, s, self.num_plates, owners[state], state))
        return found

    def owners(self, sites: Mapping[str, Site]) -> dict[int, Owner]:
        """Enumerated variable -> where its site stands."""
        own = {n: factor(sites[n], self.num_plates) for n in self.enumerated}
        return {
            dim: Owner(own[n].ordinal, own[n].scale, self._previous.get(n), self.sites[n].num_steps)
            for n, dim in self.enumerated.items()
        }

    def _total(self, sites: Mapping[str, Site], names: Callable[[Site], bool]) -> Any:
        xp = self.backend.xp
        return sum((xp.sum(f.tensor) for f in self.terms(sites, names)), start=xp.zeros(()))

    # Densities, at a vector u of ``everything`` ---------------------------------------------------------------

    def log_joint(self, u: Any, arrays: Mapping[str, Any]) -> Any:
        """log p(data, latents) on the constrained space, discrete latents summed out; scalar."""
        return self._total(self._run(u, arrays), lambda s: True)

    def log_likelihood(self, u: Any, arrays: Mapping[str, Any]) -> Any:
        """log p(data | continuous latents), discrete latents summed out; scalar."""
        return self._total(self._run(u, arrays), _is_likelihood)

    def log_density(self, u: Any, arrays: Mapping[str, Any]) -> Any:
        """log p(data, latents) + log |d latents / d u|: the density of u itself; scalar."""
        xp, sites = self.backend.xp, self._run(u, arrays)
        jacobian = sum((xp.sum(sites[n].log_det) for n in self.layout.names), start=xp.zeros(()))
        return self._total(sites, lambda s: True) + jacobian

    def log_parts(self, u: Any, arrays: Mapping[str, Any]) -> tuple[Any, Any]:
        """Log prior of the continuous latents as a density of u, and log p(data | continuous latents), of one run.

        Discrete latents are summed out of the likelihood; factors belong to it. The two, scalars, add up to
        :meth:`log_density`.
        """
        xp, sites = self.backend.xp, self._run(u, arrays)
        jacobian = sum((xp.sum(sites[n].log_det) for n in self.layout.names), start=xp.zeros(()))
        if any(f.variables for f in self.factors(sites, _is_continuous)):  # some hang on discrete ones
            prior = self._total(sites, lambda s: s.kind == "latent")
            return prior + jacobian, self._total(sites, lambda s: True) - prior
        return self._total(sites, _is_continuous) + jacobian, self._total(sites, _is_likelihood)

    def describe(self, values: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Latents, params and deterministics at constrained ``values``, and log p(data, latents) there."""
        sites = self.trace(arrays, values=values, enumerated=self.enumerated)
        return self.values_of(sites, self.valued.names), self._total(sites, lambda s: True)

    def pointwise(self, values: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        """log p(datum | continuous latents) for each observed site, one number a row of its plates.

        Sites that share a discrete latent have no separate terms: they come together as "a+b".
        """
        sites = self.trace(arrays, values=values, enumerated=self.enumerated)
        return self.by_observed(self.terms(sites, lambda s: s.kind == "observed" or s.name in self.discrete))

    def by_observed(self, tables: Iterable[Factor]) -> dict[str, Any]:
        """Factors that nothing is left to sum out of, named by the observed sites that they come from."""
        named = (("+".join(n for n in f.sites if n in self.observed), f.tensor) for f in tables)
        return {name: self._rows(tensor) for name, tensor in named if name}

    def _rows(self, tensor: Any) -> Any:
        """Without the enumeration dimensions, which are of size 1 by now."""
        shape = tuple(tensor.shape)
        return tensor.reshape(shape[max(len(shape) - self.num_plates, 0) :])

    def constrain(self, u: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Constrained values of latents, params and deterministics at u.

        Deterministics that depend on a discrete latent have no one value and are left out.
        """
        return self.values_of(self._run(u, arrays), self.valued.names)

    def values_of(self, sites: Mapping[str, Site], names: Iterable[str]) -> dict[str, Any]:
        """Values of the named sites, and of the deterministics that have one value."""
        values = {n: sites[n].value for n in names}
        for name, site in sites.items():
            if site.kind == "deterministic" and tuple(site.value.shape) == tuple(self.sites[name].value.shape):
                values[name] = site.value
        return values

    def unconstrain(self, values: Mapping[str, Any], layout: Layout, arrays: Mapping[str, Any]) -> Any:
        """The vector of ``layout`` at constrained ``values``."""
        given = {**{n: self.sites[n].value for n in self.everything.names}, **values}
        sites = self.trace(arrays, values=given, key=self.backend.key(0))
        parts = {n: self.backend.bijection(sites[n].constraint).inverse(given[n]) for n in layout.names}
        return layout.join(self.backend.xp, parts)

    # Compiled once --------------------------------------------------------------------------------------------

    def compiled(self, name: Any, build: Callable[[], Any]) -> Any:
        """What ``build`` makes; made once for each program, shape, backend and ``name``."""
        return self.program.once((self.bound.key, name), build)

    def batched_density(self) -> Callable[..., tuple[Any, Any]]:
        """``(positions (chains, dim), arrays) -> (log density (chains,), gradient (chains, dim))``, uncompiled."""
        return self.backend.vmap(self.backend.value_and_grad(self.log_density), in_axes=(0, None))

    def value_and_grad(self, *, calls: int = 1) -> Callable[..., tuple[Any, Any]]:
        """The same, compiled."""
        build = functools.partial(self.backend.compile, self.batched_density(), calls=calls)
        return self.compiled(("value_and_grad", calls), build)

    def density(self, arrays: Mapping[str, Any]) -> Density:
        """The density at ``arrays`` as kernels see it; for use inside a compiled step."""
        return _DensityAt(self.layout.dim, self.batched_density(), arrays)

    def tempered(self, arrays: Mapping[str, Any], beta: Any) -> Tempered:
        """The densities on the path from prior to posterior as kernels see them; for use inside a compiled step."""

        def log_density(at: tuple[Any, Any], arrays: Mapping[str, Any]) -> Any:
            prior, likelihood = self.log_parts(at[0], arrays)
            return prior + at[1] * likelihood

        batched = self.backend.vmap(self.backend.value_and_grad(log_density), in_axes=(0, None))
        return Tempered(self.layout.dim, self.backend.xp, batched, arrays, beta)

    # What the program can do ----------------------------------------------------------------------------------

    def require_gradient(self, engine: str) -> None:
        """A continuous posterior with all of its discrete latents summed out.

        Raises:
            UnsupportedError: naming what stands against it and the engines that would work.
        """
        self.require_enumeration(engine)
        self._require_no_params(engine)
        if not self.layout.dim:
            raise UnsupportedError(
                f"{engine} moves continuous latents, and {self.program.name} has none"
                + (f" (only discrete: {_listed(self.discrete)}); use engine='em'" if self.discrete else "")
            )
        self.require_full_data(engine)

    def require_counts(self, engine: str) -> None:
        """A posterior with discrete latents that are not summed out, all others being finite.

        Raises:
            UnsupportedError: naming what stands against it and the engines that would work.
        """
        if not self.counts.names:
            raise UnsupportedError(
                f"{engine} walks over discrete latents without a finite set of values, and {self.program.name} has none"
                ": use engine='nuts' or 'chees', which sum out finite ones"
            )
        self._require_sums(engine)
        self._require_no_params(engine)
        self.require_full_data(engine)

    def _require_no_params(self, engine: str) -> None:
        if not self.params.names:
            return
        learn = getattr(self.program.model, "learned_by", () if self.counts.names else ("svi", "map", "em"))
        raise UnsupportedError(
            f"{engine} draws from a posterior, and {_listed(self.params.names)} of {self.program.name} are learnable "
            "params without a prior, which it would leave at their start: declare them by pg.sample with a prior"
            + (f", or use engine={' or '.join(map(repr, learn))}" if learn else "")
        )

    def require_enumeration(self, engine: str) -> None:
        """Discrete latents that can be summed out."""
        if self.counts.names:
            raise UnsupportedError(
                f"{engine} needs gradients, and the discrete latents {_listed(self.counts.names)} of "
                f"{self.program.name} have no finite set of values to sum over: use engine='gibbs', which draws them, "
                "bound them (Categorical, Binomial, DiscreteUniform), or sum them out by hand with pg.factor"
            )
        self._require_sums(engine)

    def _require_sums(self, engine: str) -> None:
        for s in self.discrete.values():
            _require_plates(s, engine)
        joint = 1
        for s in self.discrete.values():
            joint *= s.cardinality or 1
        if joint > _MAX_JOINT_VALUES or len(self.discrete) + self.num_plates > 25:
            raise UnsupportedError(
                f"{engine} sums out the {len(self.discrete)} discrete latents of {self.program.name}, which "
                f"have {joint} "
                "joint values: put them in a plate so that they are summed one by one, or write a chain of them with "
                "xp.scan and pg.factor (the forward algorithm)"
            )

    def require_full_data(self, engine: str) -> None:
        """No subsampling: exact engines need every row."""
        if self.subsampled:
            raise UnsupportedError(
                f"{engine} needs every row, and {_listed(self.subsampled)} of {self.program.name} is subsampled: leave "
                "out subsample_size" + ("" if self.counts.names else ", or use engine='svi'")
            )


def _require_plates(site: Site, engine: str) -> None:
    """Rows of a discrete latent are summed over one by one, which only a plate allows."""
    rows = {d for d in range(-len(site.batch_shape), 0) if site.batch_shape[d] > 1}
    if rows - {p.dim for p in site.plates}:
        raise UnsupportedError(
            f"{engine} sums out the discrete latent {site.name!r}, which has batch shape {tuple(site.batch_shape)} and "
            "no plate that says its rows are independent: draw it under pg.plate"
        )


def _is_continuous(site: Site) -> bool:
    return site.kind == "latent" and not site.discrete


def _is_likelihood(site: Site) -> bool:
    return site.kind in ("observed", "factor") or site.discrete


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))
