"""Expectation-maximisation by the steps that a model brings: statistics of rows, added up, and their update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.maximum import of_point
from ppl_gen.inference.starts import check_init
from ppl_gen.target import Target


class ClosedSteps:
    """E- and M-steps of a :class:`~ppl_gen.capabilities.ClosedFormEM`, restarts side by side.

    State: params with a leading axis of restarts.
    """

    attrs: ClassVar[dict[str, str]] = {"e_step": "the model's", "m_step": "closed form"}

    def __init__(self, target: Target, weights: np.ndarray | None):
        self.target, self.model = target, target.program.model
        self.weights = None if weights is None else target.backend.asarray(weights)
        self._data: Any = None
        self._around: Any = None

    def start(self, num_restarts: int, seed: int, init: Mapping[str, Any] | None) -> Any:
        """The model's own starts, with what the user gave in their place."""
        target = self.target
        starts = self.model.starts(target.bound.host, num_restarts, np.random.default_rng(seed))
        given = check_init(target, init, target.everything)
        starts.update({n: np.broadcast_to(v, (num_restarts, *v.shape)).copy() for n, v in given.items()})
        params = {n: target.backend.asarray(v) for n, v in starts.items()}
        self._around = {n: v[0] for n, v in params.items()}
        self._data = self._summary() if self._summarised() else target.arrays
        return params

    def _summarised(self) -> bool:
        return hasattr(self.model, "em_summary") and not self.target.bound.missing

    def _summary(self) -> Any:
        target = self.target
        summarise = target.compiled(("em", "summary"), lambda: target.backend.compile(self.model.em_summary))
        return summarise(self._around, target.arrays, self.weights)

    def advance(self, params: Any, count: int) -> tuple[Any, Any]:
        """``count`` iterations; the log likelihood reported is that before each."""
        target, summarised = self.target, self._summarised()
        name = ("em", "closed", summarised, self.weights is None)
        scan = target.compiled(name, lambda: target.backend.scan(self._step(summarised), calls=500))
        weights = None if summarised else self.weights
        return scan(params, target.backend.xp.zeros((count,)), self._around, self._data, weights)

    def _step(self, summarised: bool) -> Any:
        vmap, model = self.target.backend.vmap, self.model

        def step(params: Any, _: Any, fixed: Any, data: Any, weights: Any) -> tuple[Any, Any]:
            around, axis = (fixed, None) if summarised else (params, 0)
            gather = vmap(lambda p, a: model.em_statistics(p, a, data, weights), in_axes=(0, axis))
            statistics, log_likelihood = gather(params, around)
            if hasattr(model, "em_penalty"):
                log_likelihood = log_likelihood + vmap(model.em_penalty)(params)
            return vmap(model.em_update, in_axes=(0, axis))(statistics, around), {"log_likelihood": log_likelihood}

        return step

    def finish(self, params: Any, best: int) -> Outcome:
        """The params of the best restart."""
        values = {n: np.asarray(v)[best] for n, v in self.target.backend.to_numpy(params).items()}
        return replace(of_point(values, values), attrs=dict(self.attrs))
