"""The models' own formulas on NumPy arrays: at prediction time nothing waits for a compiler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from scipy import special

from ppl_gen import backends


class _Linalg:
    """``xp.linalg`` on the host."""

    @staticmethod
    def solve_triangular(a: Any, b: Any, lower: bool = True) -> np.ndarray:
        """SciPy's takes no stacks of matrices in all versions; these are small."""
        return np.linalg.solve(a, b)

    def __getattr__(self, name: str) -> Any:
        return getattr(np.linalg, name)


class _Arrays:
    """``xp`` on the host, as far as predictions use it."""

    linalg = _Linalg()
    logsumexp = staticmethod(special.logsumexp)
    softmax = staticmethod(special.softmax)
    gammaln = staticmethod(special.gammaln)
    digamma = staticmethod(special.digamma)

    @staticmethod
    def scan(step: Callable[..., Any], state: Any, inputs: np.ndarray) -> tuple[Any, list[Any]]:
        """The last state, and what was reported of each row of the inputs."""
        reports = []
        for row in inputs:
            state, report = step(state, row)
            reports.append(report)
        return state, reports

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class _Host:
    xp = _Arrays()


def on_host() -> AbstractContextManager[Any]:
    """Inside, ``xp`` speaks for NumPy."""
    return backends.activate(_Host())  # type: ignore[arg-type]
