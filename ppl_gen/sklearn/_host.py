"""The models' own formulas on NumPy arrays: at prediction time nothing waits for a compiler."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from scipy import special

from ppl_gen import backends


class _Arrays:
    """``xp`` on the host, as far as predictions use it."""

    logsumexp = staticmethod(special.logsumexp)
    gammaln = staticmethod(special.gammaln)
    digamma = staticmethod(special.digamma)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class _Host:
    xp = _Arrays()


def on_host() -> AbstractContextManager[Any]:
    """Inside, ``xp`` speaks for NumPy."""
    return backends.activate(_Host())  # type: ignore[arg-type]
