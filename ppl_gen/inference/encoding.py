"""What a guide says of the latents of single rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.target import Target

NUM_DRAWS = 64  # where a guide's mean has no closed form
_DRAWS_AT_ONCE = 8


class Encoding(NamedTuple):
    """Of a continuous latent, (rows, ...): mean, standard deviation, and the variance of the error of that mean."""

    mean: np.ndarray
    scale: np.ndarray
    error: np.ndarray


def encode(
    target: Target, guide: Callable[[Any], Any], params: Mapping[str, np.ndarray]
) -> tuple[dict[str, Encoding], dict[str, np.ndarray]]:
    """The continuous latents under the guide; and probabilities (rows, values) of the discrete ones.

    Each discrete latent is looked at where those before it, and the continuous ones where all, are most probable.
    Means of distributions that have none in closed form are those of 64 draws.
    """
    backend = target.backend
    values = {n: backend.asarray(x) for n, x in params.items()}
    masses: dict[str, np.ndarray] = {}
    for name, dim in target.enumerated.items():
        sites = target.trace_guide(guide, target.arrays, values=values, enumerated={name: dim}, key=backend.key(0))
        log_mass = np.asarray(backend.to_numpy(sites[name].log_prob))
        masses[name] = np.exp(np.moveaxis(log_mass, dim, -1).reshape(*log_mass.shape[dim + 1 :], -1))
        values[name] = backend.asarray(masses[name].argmax(-1))
    sites = target.trace_guide(guide, target.arrays, values=values, key=backend.key(0))
    drawn = {n: s for n, s in sites.items() if s.kind == "latent" and n not in masses}
    found = {n: _closed(backend, s.distribution) for n, s in drawn.items()}
    if open_ := [n for n, x in found.items() if x is None]:
        found |= _by_draws(target, guide, values, tuple(open_))
    return {n: x for n, x in found.items() if x is not None}, masses


def _closed(backend: Any, distribution: Any) -> Encoding | None:
    """From the moments of a distribution, None where it has none."""
    try:
        mean, scale = backend.to_numpy((distribution.mean, distribution.variance**0.5))
    except (NotImplementedError, AttributeError):
        return None
    return Encoding(np.asarray(mean), np.asarray(scale), np.zeros_like(mean))


def _by_draws(target: Target, guide: Any, values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Encoding]:
    backend = target.backend

    def draw(_: Any, key: Any, both: Any) -> Any:
        values, arrays = both
        sites = target.trace_guide(guide, arrays, values=values, key=key)
        return {n: sites[n].value for n in names}

    mapped = target.compiled(
        ("guide draws", guide, names), lambda: backend.map_draws(draw, random=True, batch_size=_DRAWS_AT_ONCE)
    )
    draws = backend.to_numpy(mapped(backend.asarray(np.zeros(NUM_DRAWS)), 0, (dict(values), target.arrays)))
    moments = {n: (x.mean(0), x.std(0, ddof=1)) for n, x in draws.items()}
    return {n: Encoding(mean, scale, scale**2 / NUM_DRAWS) for n, (mean, scale) in moments.items()}
