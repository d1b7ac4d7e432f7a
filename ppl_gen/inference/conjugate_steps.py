"""Variational Bayes EM by the steps that a model brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.settling import Steps, settling
from ppl_gen.target import Target

_POSITIVE = ("concentration", "mean_precision", "degrees_of_freedom")  # in the names of what is positive


class ConjugateSteps(Steps):
    """Steps of a :class:`~ppl_gen.capabilities.ClosedFormVB`. State: q with a leading axis of restarts."""

    at_once = True

    def __init__(self, target: Target, weights: Any, num_samples: int):
        self.target, self.model, self.weights = target, target.program.model, weights
        self.num_samples = num_samples
        self._seed = 0

    def start(self, num_restarts: int, seed: int, init: Mapping[str, Any] | None) -> Any:
        """The model's own starts, with what the user gave in their place."""
        self._seed = seed
        q = self.model.vb_starts(self.target.bound.host, num_restarts, np.random.default_rng(seed))
        for name, value in (init or {}).items():
            name = name.removeprefix("q.")
            q[name] = np.broadcast_to(_checked(name, value, q), q[name].shape).copy()
        return {n: self.target.backend.asarray(v) for n, v in q.items()}

    def advance(self, held: Any, count: int) -> tuple[Any, Any]:
        target, backend = self.target, self.target.backend
        name = ("vbem", self.weights is None)
        scan = target.compiled(name, lambda: backend.scan(settling(backend.xp, self._step), calls=500))
        return scan(held, backend.xp.zeros((count,)), target.arrays, self.weights)

    def _step(self, q: Any, data: Any, weights: Any) -> tuple[Any, Any]:
        """The bound reported is that before the step."""
        step = self.target.backend.vmap(lambda q: self.model.vb_step(q, data, weights))
        q, value = step(q)
        return q, {"value": value}

    def finish(self, q: Any, best: int) -> Outcome:
        """Means and draws of the best restart."""
        q = {n: np.asarray(v)[best] for n, v in self.target.backend.to_numpy(q).items()}
        drawn = self.model.vb_draws(q, self.num_samples, np.random.default_rng(self._seed))
        return Outcome(
            draws={n: v[None] for n, v in drawn.items()},
            params={**self.model.vb_mean(q), **{f"q.{n}": v for n, v in q.items()}},
            attrs={"e_step": "the model's", "m_step": "closed form"},
            exact=False,
        )


def _checked(name: str, value: Any, q: Mapping[str, np.ndarray]) -> np.ndarray:
    """A user's starting value of a part of q.

    Raises:
        ValueError: unknown name, wrong shape, not finite, or not positive where q holds what must be.
    """
    if name not in q:
        raise ValueError(f"init names {name!r}, which is no part of q: expected among {list(q)}")
    array, shape = np.asarray(value, dtype=float), q[name].shape[1:]
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"init of {name!r} has shape {array.shape}: expected finite numbers of shape {shape}")
    if any(word in name for word in _POSITIVE) and (array <= 0).any():
        raise ValueError(f"init of {name!r} is outside of its support: expected positive numbers, got {array.min()}")
    return array
