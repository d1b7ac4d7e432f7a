"""Bounds on the log evidence of rows of data under a program and its guide, written once for both backends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ppl_gen.backends.protocol import Plate, Site
from ppl_gen.target import Target

BOUNDS = ("trace", "mean_field", "iwae", "dreg")
WEIGHING = ("iwae", "dreg")  # particles against each other


@dataclass(frozen=True)
class RowBound:
    """The bound on some rows of a plate: (rows,) terms of single rows, and what stands outside of the plate.

    * "trace": mean over draws of log p(x, z) - log q(z | x) (Kingma & Welling 2014, equation 3).
    * "mean_field": the same with the Kullback-Leibler divergence of each latent in closed form where it has one.
    * "iwae": log of the mean of p(x, z) / q(z | x) over draws, row by row (Burda, Grosse & Salakhutdinov 2016,
      equation 8).
    * "dreg": that bound with the doubly reparameterised gradient of the guide (Tucker et al. 2019, equation 8).

    Attributes:
        num_particles: draws of the latents for each row.
        num_rows: of the whole data: what stands outside of the plate counts for one part in so many with each row.
        free_bits: nats of divergence that each latent of single rows may have at no cost, mean over rows (Kingma et al.
            2016, equation 15, with one group for each latent).
    """

    num_rows: int
    kind: str = "trace"
    num_particles: int = 1
    free_bits: float = 0.0

    def __call__(
        self, target: Target, guide: Callable[[Any], Any], plate: Plate, params: Any, arrays: Any, key: Any, beta: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The bound of the rows (rows,), to which each adds its share of what stands outside; and its parts (rows,).

        The log density of what a guide observes, such as a label that it tells from x, is added to the bound.

        Args:
            target: of ``num_particles`` times the rows, draw after draw of them; ``arrays`` hold them so.
            params: unconstrained, of model and guide.
            beta: what the divergence counts for (Higgins et al. 2017, equation 4).
        """
        held = {"unconstrained": params}
        drawn = self._guided(target, guide, arrays, key=key, **held)
        latents = _values(drawn)
        stopped = target.backend.stopped
        if self.kind == "dreg":
            fixed = {n: stopped(x) for n, x in params.items()}
            guided = lambda z: self._guided(target, guide, arrays, values=z, unconstrained=fixed)
            log_weight = self._parts(target, plate, guided(latents), arrays, held).log_weight(beta)
            weight = stopped(target.backend.xp.softmax(log_weight[0], axis=0)).reshape((-1,))
            latents = {n: _scaled_gradient(stopped, plate, drawn[n], weight) for n in latents}
            drawn = guided(latents)
        parts = self._parts(target, plate, drawn, arrays, held).averaged(target.backend.xp)
        xp, log_weight = target.backend.xp, parts.log_weight(beta, self.free_bits)[0]
        log_weight = log_weight + self._sum(target, plate, (s for s in drawn.values() if s.kind == "observed"))[0]
        found = {"likelihood": parts.likelihood[0], "divergence": sum(parts.divergences)[0]}
        return self._pooled(target, log_weight), {n: xp.mean(x, axis=0) for n, x in found.items()}

    def log_weights(self, target: Target, guide: Any, plate: Plate, values: Any, arrays: Any, key: Any) -> Any:
        """log p(x, z) - log q(z | x) of one draw for each row (rows,), at constrained ``values`` of all params.

        Discrete latents are summed out: log sum_y p(x, y, z_y) / q(z_y | x, y), z_y drawn for each y that the guide
        does not rule out.
        """
        xp, held = target.backend.xp, {"values": values}
        parts = self._parts(target, plate, self._guided(target, guide, arrays, key=key, **held), arrays, held)
        possible = parts.log_mass > -xp.inf
        return xp.logsumexp(xp.where(possible, parts.log_weight() + parts.log_mass, -xp.inf), axis=0)[0]

    def _guided(self, target: Target, guide: Any, arrays: Any, **request: Any) -> dict[str, Site]:
        """A run of the guide, discrete latents at all of their values."""
        return target.trace_guide(guide, arrays, enumerated=target.enumerated, **request)

    def _parts(self, target: Target, plate: Plate, drawn: Mapping[str, Site], arrays: Any, held: Any) -> Parts:
        """What the model says of the rows and of what the guide has drawn; ``held`` are the params of a request."""
        latents = _values(drawn)
        sites = target.trace(arrays, **{**held, "values": {**held.get("values", {}), **latents}})
        likelihood = self._sum(target, plate, (s for s in sites.values() if s.kind in ("observed", "factor")))
        apart = ((drawn[n], self._divergence(target, drawn[n], sites[n])) for n in latents)
        divergences = [self.of_rows(target, plate, site, x) for site, x in apart]
        log_mass = self._sum(target, plate, (drawn[n] for n in latents if n in target.enumerated))
        return Parts(likelihood, divergences or [target.backend.xp.zeros_like(likelihood)], log_mass)

    def _sum(self, target: Target, plate: Plate, sites: Iterable[Site]) -> Any:
        """Log probabilities of sites for each row, (values, draws, rows)."""
        none = target.backend.xp.zeros((1, self.num_particles, plate.size // self.num_particles))
        return sum((self.of_rows(target, plate, s, s.log_prob) for s in sites), start=none)

    def _divergence(self, target: Target, q: Site, p: Site) -> Any:
        """log q - log p of a latent, or its mean in closed form, of its batch shape."""
        closed = target.backend.divergence(q.distribution, p.distribution) if self.kind == "mean_field" else None
        if closed is not None and q.name not in target.enumerated:
            return closed
        log_q: Any = q.log_prob
        return log_q - p.log_prob

    def of_rows(self, target: Target, plate: Plate, site: Site, x: Any) -> Any:
        """x, of the site's batch shape, summed to one number for each row of the plate: (values, draws, rows).

        ``values`` are the joint values of discrete latents, 1 where there are none.
        """
        xp = target.backend.xp
        if not any(p.name == plate.name for p in site.plates):
            return xp.sum(x) / self.num_rows + xp.zeros((1, self.num_particles, plate.size // self.num_particles))
        laid = sorted(target.enumerated.values())
        shape = [1] * max(-d for d in (plate.dim, *laid))
        shape[plate.dim] = plate.size
        for name, dim in target.enumerated.items():
            shape[dim] = target.discrete[name].cardinality or 1
        x = xp.broadcast_to(x, xp.broadcast_shapes(tuple(x.shape), tuple(shape)))
        x = xp.sum(x, axis=tuple(d for d in range(-x.ndim, 0) if d not in (plate.dim, *laid)))
        return x.reshape((-1, self.num_particles, plate.size // self.num_particles))

    def _pooled(self, target: Target, log_weight: Any) -> Any:
        """(draws, rows) -> (rows,)."""
        xp, stopped = target.backend.xp, target.backend.stopped
        if self.kind not in WEIGHING:
            return xp.mean(log_weight, axis=0)
        value = xp.logsumexp(log_weight, axis=0) - math.log(self.num_particles)
        if self.kind == "iwae":
            return value
        moving = xp.sum(stopped(xp.softmax(log_weight, axis=0)) * log_weight, axis=0)
        return stopped(value - moving) + moving


class Parts(NamedTuple):
    """What a bound is made of, (values, draws, rows) each, for all joint values of discrete latents.

    Attributes:
        likelihood: log p(x | latents). divergences: of each latent.
        log_mass: log q of the values.
    """

    likelihood: Any
    divergences: list[Any]
    log_mass: Any

    def averaged(self, xp: Any) -> Parts:
        """The mean over the values of discrete latents, (1, draws, rows): exact, under the guide."""
        if len(self.log_mass) == 1:
            return self
        mass = xp.exp(self.log_mass)
        mean = lambda x: xp.sum(mass * xp.where(mass > 0.0, x, 0.0), axis=0, keepdims=True)
        return Parts(mean(self.likelihood), [mean(x) for x in self.divergences], xp.zeros_like(mass[:1]))

    def log_weight(self, beta: Any = 1.0, free_bits: float = 0.0) -> Any:
        """Likelihood minus divergence; a latent under its free bits, on average, has no gradient."""
        found = self.likelihood
        for divergence in self.divergences:
            charged = divergence + (free_bits - divergence.mean()).clip(0.0) if free_bits else divergence
            found = found - beta * charged
        return found


def _values(drawn: Mapping[str, Site]) -> dict[str, Any]:
    return {n: s.value for n, s in drawn.items() if s.kind == "latent"}


def _scaled_gradient(stopped: Callable[[Any], Any], plate: Plate, site: Site, weight: Any) -> Any:
    """A latent whose gradient counts for the ``weight`` (draws * rows,) of its row."""
    z = site.value
    weight = weight.reshape((-1, *(1 for _ in range(-plate.dim - 1 + site.event_dim))))
    return stopped(z) + weight * (z - stopped(z))
