"""Bounds on the log evidence of rows of data under a program and its guide, written once for both backends."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.backends.protocol import Plate, Site
from ppl_gen.target import Target

BOUNDS = ("trace", "mean_field", "iwae", "dreg")


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

        Args:
            target: of ``num_particles`` times the rows, draw after draw of them; ``arrays`` hold them so.
            params: unconstrained, of model and guide.
            beta: what the divergence counts for (Higgins et al. 2017, equation 4).
        """
        drawn = target.trace_guide(guide, arrays, key=key, unconstrained=params)
        latents = {n: s.value for n, s in drawn.items() if s.kind == "latent"}
        stopped = target.backend.stopped
        if self.kind == "dreg":
            fixed = {n: stopped(x) for n, x in params.items()}
            guided = lambda z: target.trace_guide(guide, arrays, values=z, unconstrained=fixed)
            parts = self._parts(target, plate, guided(latents), latents, params, arrays)
            weight = stopped(target.backend.xp.softmax(_log_weight(parts, beta), axis=0)).reshape((-1,))
            latents = {n: _scaled_gradient(stopped, plate, drawn[n], weight) for n in latents}
            drawn = guided(latents)
        parts = self._parts(target, plate, drawn, latents, params, arrays)
        log_weight = _log_weight(parts, beta, self.free_bits)
        return self._pooled(target, log_weight), {n: target.backend.xp.mean(sum(x), axis=0) for n, x in parts.items()}

    def _parts(
        self, target: Target, plate: Plate, drawn: Mapping[str, Site], latents: Any, params: Any, arrays: Any
    ) -> dict[str, list[Any]]:
        """``likelihood`` and ``divergence``, each a list of terms (draws, rows)."""
        xp, shape = target.backend.xp, (self.num_particles, -1)
        sites = target.trace(arrays, values=latents, unconstrained=params)
        seen = [s for s in sites.values() if s.kind in ("observed", "factor")]
        likelihood = sum((self._of_rows(xp, plate, s, s.log_prob) for s in seen), start=xp.zeros((plate.size,)))
        likelihood, none = likelihood.reshape(shape), xp.zeros_like(likelihood.reshape(shape))
        divergences = [self._divergence(target, plate, drawn[n], sites[n]).reshape(shape) for n in latents]
        return {"likelihood": [likelihood], "divergence": divergences or [none]}

    def log_weights(self, target: Target, guide: Any, plate: Plate, values: Any, arrays: Any, key: Any) -> Any:
        """log p(x, z) - log q(z | x) of one draw for each row (rows,), at constrained ``values`` of all params."""
        drawn = target.trace_guide(guide, arrays, values=values, key=key)
        latents = {n: s.value for n, s in drawn.items() if s.kind == "latent"}
        sites = target.trace(arrays, values={**values, **latents})
        seen = [s for s in sites.values() if s.kind in ("observed", "factor", "latent")]
        of_rows = functools.partial(self._of_rows, target.backend.xp, plate)
        log_q = [of_rows(drawn[n], drawn[n].log_prob) for n in latents]
        return sum(of_rows(s, s.log_prob) for s in seen) - sum(log_q)

    def _divergence(self, target: Target, plate: Plate, q: Site, p: Site) -> Any:
        """log q - log p of a latent, or its mean in closed form, (draws * rows,)."""
        if self.kind == "mean_field":
            closed = target.backend.divergence(q.distribution, p.distribution)
            if closed is not None:
                return self._of_rows(target.backend.xp, plate, q, closed)
        log_q: Any = q.log_prob
        return self._of_rows(target.backend.xp, plate, q, log_q - p.log_prob)

    def _of_rows(self, xp: Any, plate: Plate, site: Site, x: Any) -> Any:
        """x, of the site's batch shape, summed to one number for each row of the plate."""
        if not any(p.name == plate.name for p in site.plates):
            return xp.sum(x) / self.num_rows + xp.zeros((plate.size,))
        x = xp.broadcast_to(x, xp.broadcast_shapes(tuple(x.shape), (plate.size, *(1 for _ in range(-plate.dim - 1)))))
        return xp.sum(x, axis=tuple(d for d in range(-x.ndim, 0) if d != plate.dim))

    def _pooled(self, target: Target, log_weight: Any) -> Any:
        """(draws, rows) -> (rows,)."""
        xp, stopped = target.backend.xp, target.backend.stopped
        if self.kind not in ("iwae", "dreg"):
            return xp.mean(log_weight, axis=0)
        value = xp.logsumexp(log_weight, axis=0) - math.log(self.num_particles)
        if self.kind == "iwae":
            return value
        moving = xp.sum(stopped(xp.softmax(log_weight, axis=0)) * log_weight, axis=0)
        return stopped(value - moving) + moving


def _log_weight(parts: Mapping[str, list[Any]], beta: Any, free_bits: float = 0.0) -> Any:
    """Likelihood minus divergence (draws, rows); a latent under its free bits, on average, has no gradient."""
    found = sum(parts["likelihood"])
    for divergence in parts["divergence"]:
        charged = divergence + (free_bits - divergence.mean()).clip(0.0) if free_bits else divergence
        found = found - beta * charged
    return found


def _scaled_gradient(stopped: Callable[[Any], Any], plate: Plate, site: Site, weight: Any) -> Any:
    """A latent whose gradient counts for the ``weight`` (draws * rows,) of its row."""
    z = site.value
    weight = weight.reshape((-1, *(1 for _ in range(-plate.dim - 1 + site.event_dim))))
    return stopped(z) + weight * (z - stopped(z))
