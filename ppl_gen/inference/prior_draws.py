"""Draws of the prior in unconstrained space, where the path to the posterior begins."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.checks import ProgramError
from ppl_gen.target import Target

_TRIES = 20
_MOST_LOST = 0.01  # of draws whose unconstrained values are not finite numbers


def require_prior(target: Target, engine: str) -> None:
    """A gradient, and a prior that is a distribution.

    Raises:
        UnsupportedError: naming the site that stands against it, and what to do.
    """
    target.require_gradient(engine)
    latents = {n: target.sites[n] for n in target.layout.names}
    flat = [n for n, s in latents.items() if s.improper]
    if flat:
        raise UnsupportedError(
            f"{engine} goes from the prior to the posterior, and {', '.join(map(repr, flat))} of {target.program.name} "
            "has a flat prior, which has no draws and leaves the evidence undefined: give it a proper prior, however "
            "wide, or use engine='nuts' or 'chees'"
        )
    scales = {n: np.asarray(target.backend.to_numpy(s.scale)) for n, s in latents.items() if s.scale is not None}
    scaled = [n for n, scale in scales.items() if (scale != 1).any()]
    if scaled:
        raise UnsupportedError(
            f"{engine} draws from the prior, and {', '.join(map(repr, scaled))} of {target.program.name} counts for "
            "other than once by pg.scale, which draws do not know of: scale the observed sites only, or use "
            "engine='nuts'"
        )


def prior_draws(target: Target, count: int, seed: int) -> np.ndarray:
    """Unconstrained draws (count, dim) of the continuous latents, on the host.

    A few draws at the edge of a support, where numbers end (a gamma variable of tiny shape is 0), are drawn anew.

    Raises:
        ProgramError: more than a hundredth of them lie there; names the sites.
    """
    backend, layout = target.backend, target.layout

    def draw(_: Any, key: Any, arrays: Any) -> Any:
        sites = target.trace(arrays, key=key)
        parts = {n: backend.bijection(sites[n].constraint).inverse(sites[n].value) for n in layout.names}
        return layout.join(backend.xp, parts)

    mapped = target.compiled("prior draws", lambda: backend.map_draws(draw, random=True))
    found = np.full((count, layout.dim), np.nan)
    for attempt in range(_TRIES):
        lost = ~np.isfinite(found).all(1)
        if not lost.any():
            return found
        if attempt == 1 and lost.mean() > _MOST_LOST:
            break
        blank = backend.asarray(np.zeros(int(lost.sum())))
        found[lost] = backend.to_numpy(mapped(blank, (seed + attempt) % 2**31, target.arrays))
    columns = np.flatnonzero(~np.isfinite(found).all(0))
    names = dict.fromkeys(layout.label(int(j)) for j in columns)
    raise ProgramError(
        f"{lost.mean():.1%} of the prior draws of {', '.join(map(repr, names))} of {target.program.name} lie on the "
        "edge of the support or are not finite: give it a prior with its mass inside, e.g. a Gamma of larger shape"
    )
