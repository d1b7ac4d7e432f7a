"""Whether the posteriors of the latents of single rows have collapsed onto their prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_gen.evaluation.active_units import active_units
from ppl_gen.inference.encoding import encode
from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.training import rows_of
from ppl_gen.target import Target

_ROWS = 1000  # that are looked at, evenly spread
_SHARE = 0.25  # of active units, below which there is a warning


def judge(outcome: Outcome, target: Target, guide: Callable[..., Any]) -> None:
    """Put the number of active units of each latent, and what to do where most are not, into an outcome."""
    names, _ = rows_of(target.guided(), "svi")
    count = len(target.bound.host[names[0]])
    if count < 2:
        return
    part = Target(target.bound.part(names, np.linspace(0, count - 1, min(count, _ROWS)).astype(int)))
    found, _ = encode(part, lambda arrays: part.bound.call(guide, arrays), outcome.params)
    for name, latent in found.items():
        if np.isfinite(latent.mean).all():
            _put(outcome, name, active_units(latent.mean, error=latent.error))


def _put(outcome: Outcome, name: str, active: np.ndarray) -> None:
    number, size = int(active.sum()), active.size
    outcome.attrs[f"active_units_{name}"] = f"{number} of {size}"
    if number < _SHARE * size:
        outcome.warnings.append(
            f"the posterior of {name!r} has collapsed: {number} of its {size} entries depend on the data (Burda et al. "
            "2016: variance over data of the posterior mean above 0.01). Give them room by free_bits or num_annealing, "
            "train longer or with a lower beta, or declare fewer of them"
        )
