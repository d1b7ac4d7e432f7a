"""The q of local latents that a guide gives: independent normal distributions whose parameters it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Site, UnsupportedError
from ppl_gen.checks import ProgramError
from ppl_gen.inference.local_gaussian import Locals
from ppl_gen.layout import Layout
from ppl_gen.target import Target


class Guide:
    """A program's guide, as far as it speaks of the local latents; what it says of others is not used.

    Attributes:
        layout: of the guide's params.
        start: their unconstrained vector where they are declared.

    Raises:
        ProgramError: the guide lacks a local latent, or has no params.
    """

    def __init__(self, target: Target, locals_: Locals):
        self.target, self.locals = target, locals_
        sites = self._run(target.arrays, 0, key=target.backend.key(0))
        missing = [n for n in locals_.names if n not in sites]
        params = {n: s for n, s in sites.items() if s.kind == "param"}
        if missing or not params:
            lacks = f"no site for {', '.join(map(repr, missing))}" if missing else "no params to learn"
            raise ProgramError(f"the guide of {target.program.name} has {lacks}: expected q of each datum's latents")
        self.layout = Layout.of(target.backend, params)
        self._constraints = {n: s.constraint for n, s in params.items()}
        start = {n: target.backend.bijection(s.constraint).inverse(s.value) for n, s in params.items()}
        start = {n: target.backend.from_numpy(target.backend.to_numpy(x)) for n, x in start.items()}  # no gradients
        self.start = self.layout.join(target.backend.xp, start)

    def _run(self, arrays: Any, shift: float, **request: Any) -> dict[str, Site]:
        """The guide with latents at any values: what it draws is not looked at."""
        target = self.target
        values = {n: s.value + shift for n, s in target.sites.items() if s.kind == "latent" and not s.discrete}
        return target.trace_guide(target.bound.guide, arrays, values=values, **request)

    def gaussian(self, params: Any, arrays: Any, shift: float = 0.0) -> tuple[Any, Any]:
        """Means and standard deviations (*cells, q) at an unconstrained vector of params."""
        sites = self._run(arrays, shift, unconstrained=self.layout.split(params))
        found = [sites[n].distribution for n in self.locals.names]
        return self._joined([d.mean for d in found]), self._joined([d.variance for d in found]) ** 0.5

    def _joined(self, parts: list[Any]) -> Any:
        xp, cells = self.target.backend.xp, self.locals.cells
        sized = zip(parts, self.locals.events.values(), strict=True)
        return xp.concatenate([xp.broadcast_to(x, (*cells, *e)).reshape((*cells, -1)) for x, e in sized], axis=-1)

    def constrain(self, params: Any, arrays: Any) -> dict[str, Any]:
        """Constrained values of the guide's params."""
        sites = self._run(arrays, 0, unconstrained=self.layout.split(params))
        return {n: sites[n].value for n in self.layout.names}

    def unconstrained(self, values: Mapping[str, np.ndarray]) -> Any:
        """The vector of the guide's params at constrained values of them."""
        backend = self.target.backend
        held = {n: backend.from_numpy(np.asarray(values[n])) for n in self.layout.names}
        parts = {n: backend.bijection(self._constraints[n]).inverse(x) for n, x in held.items()}
        return self.layout.join(backend.xp, parts)

    def require_gaussian(self, engine: str) -> None:
        """Every local latent is drawn from a normal distribution that no draw of the guide bears on.

        Raises:
            UnsupportedError: not so.
        """
        target = self.target
        sites = self._run(target.arrays, 0, unconstrained=self.layout.split(self.start))
        odd = [n for n in self.locals.names if not self._is_normal(sites[n].distribution)]
        bounded = [n for n in self.locals.names if not self._is_real(n)]
        one, other = (target.backend.to_numpy(self.gaussian(self.start, target.arrays, shift)) for shift in (0.0, 1.0))
        chained = not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
        if odd or bounded or chained:
            raise UnsupportedError(
                f"{engine} takes a guide that draws each latent of a datum from dist.Normal, on the real line and from "
                f"the data and params alone, and that of {target.program.name} does not"
                + (f" ({', '.join(map(repr, odd or bounded))})" if odd or bounded else " (one draw bears on another)")
                + ": use engine='svi', or leave the guide out for a q of each datum"
            )

    def _is_real(self, name: str) -> bool:
        site, backend = self.target.sites[name], self.target.backend
        u = backend.xp.ones_like(site.value)
        try:
            return bool((np.asarray(backend.to_numpy(backend.bijection(site.constraint).forward(u))) == 1).all())
        except (ValueError, RuntimeError, TypeError):  # another shape
            return False

    def _is_normal(self, distribution: Any) -> bool:
        dist = self.target.backend.dist
        while hasattr(distribution, "base_dist") and not isinstance(distribution, dist.TransformedDistribution):
            distribution = distribution.base_dist
        return isinstance(distribution, dist.Normal)
