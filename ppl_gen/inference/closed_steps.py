"""Expectation-maximisation by the steps that a model brings: statistics of rows, added up, and their update."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.maximum import of_point
from ppl_gen.inference.settling import Steps, settling
from ppl_gen.inference.starts import model_starts, prior_starts
from ppl_gen.rows import Rows
from ppl_gen.target import Target

SHORT = 4096  # rows up to which they are iterated on all at once
_BYTES = 2**25  # of rows that are summed up together
_ITERATIONS = 200  # that a run is thought to take


class ClosedSteps(Steps):
    """E- and M-steps of a :class:`~ppl_gen.capabilities.ClosedFormEM`, restarts side by side.

    Data in one block are iterated on in one compiled loop; more of them block by block, in memory or from a file, and
    over all processes that hold a part of them.

    State: params with a leading axis of restarts.
    """

    attrs: ClassVar[dict[str, str]] = {"e_step": "the model's", "m_step": "closed form"}

    def __init__(
        self, target: Target, weights: np.ndarray | None, block_rows: int, shared: bool, from_prior: bool = False
    ):
        """``weights`` on the host; ``shared``: this process holds a part of the rows; ``from_prior``: random starts."""
        self.from_prior = from_prior
        self.target, self.model, self.shared = target, target.program.model, shared
        self.summarised = hasattr(self.model, "em_summary") and not target.bound.missing
        self.rows = Rows(target.bound, weights, block_rows) if target.bound.by_rows else None
        self.weights, self.weights_on_host = None if weights is None else target.backend.asarray(weights), weights
        self._data: Any = target.arrays
        self._around: Any = None

    def start(self, num_restarts: int, seed: int, init: Mapping[str, Any] | None) -> Any:
        """The model's own starts, with what the user gave in their place; those of the first process."""
        target = self.target
        if self.from_prior:
            params = prior_starts(target, num_restarts, seed, init)
        else:
            params = model_starts(target, num_restarts, np.random.default_rng(seed), init)
        params = target.backend.from_first_process(params) if self.shared else params
        self._around = {n: v[0] for n, v in params.items()}
        if self.summarised:
            self._data = self._summary()
        if hasattr(self.model, "em_layout"):
            arrange = target.compiled(("em", "layout"), lambda: target.backend.compile(self.model.em_layout))
            self._data = arrange(target.arrays, self.weights)
        return params

    @property
    def at_once(self) -> bool:  # type: ignore[override]
        return self.summarised or not (self.rows is not None or self.shared or self._is_long())

    def advance(self, held: Any, count: int) -> tuple[Any, Any]:
        if not self.at_once:
            return super().advance(held, count)
        target, weights = self.target, None if self.summarised else self.weights
        name, backend = ("em", "closed", self.summarised, weights is None), target.backend
        scan = target.compiled(name, lambda: backend.scan(settling(backend.xp, self._step), calls=500))
        return scan(held, backend.xp.zeros((count,)), self._around, self._data, weights)

    def _is_long(self) -> bool:
        """Whether rows are better taken in blocks that fit a cache than all at once in one compiled loop."""
        return self.target.bound.num_rows > SHORT

    def _step(self, params: Any, fixed: Any, data: Any, weights: Any) -> tuple[Any, Any]:
        around = fixed if self.summarised else params
        return self._update(self._gather(params, around, data, weights), params, around)

    def _gather(self, params: Any, around: Any, data: Any, weights: Any) -> Any:
        """Statistics and log likelihood of some rows."""
        f = self.target.backend.vmap(
            lambda p, a: self.model.em_statistics(p, a, data, weights), in_axes=(0, None if self.summarised else 0)
        )
        return f(params, around)

    def _update(self, gathered: Any, params: Any, around: Any) -> tuple[Any, Any]:
        vmap, (statistics, value) = self.target.backend.vmap, gathered
        report = {"value": value}
        if hasattr(self.model, "em_penalty"):
            report = {"value": value + vmap(self.model.em_penalty)(params), "log_likelihood": value}
        new = vmap(self.model.em_update, in_axes=(0, None if self.summarised else 0))(statistics, around)
        return new, report

    def _summary(self) -> Any:
        """What the model says of all rows; on a CPU by NumPy, where a product of a matrix with itself costs half."""
        backend, bound = self.target.backend, self.target.bound
        if not backend.on_host():
            return self._total("summary", self.model.em_summary, self._around)
        around = backend.to_numpy(self._around)
        held = {n: bound.host[n] for n in self.model.em_rows if n in bound.host}
        dtype = next(iter(around.values())).dtype
        step = max(1, _BYTES * bound.num_rows // sum(x.size * dtype.itemsize for x in held.values()))
        total: Any = None
        for i in range(0, bound.num_rows, step):
            rows = {n: np.asarray(x[i : i + step], dtype) for n, x in held.items()}
            weights = None if self.weights_on_host is None else self.weights_on_host[i : i + step].astype(dtype)
            part = {n: np.asarray(v, float) for n, v in self.model.em_summary(around, rows, weights).items()}
            total = part if total is None else _sum(total, part)
        found = {n: backend.asarray(v) for n, v in total.items()}
        return backend.sum_over_processes(found) if self.shared else found

    # By blocks ------------------------------------------------------------------------------------------------

    def step(self, params: Any) -> tuple[Any, Any]:
        """One iteration, block by block; the log likelihood reported is that before it."""
        backend = self.target.backend
        update = self.target.compiled(("em", "update"), lambda: backend.compile(self._update, calls=500))
        return update(self._total("statistics", self._gather, params, params), params, params)

    def value(self, held: Any, count: int) -> Any:
        """By blocks, that of the first, which says whether it is finite without one more pass through a file."""
        if self.at_once:
            return super().value(held, count)
        params = held["state"]
        return self._total("statistics", self._gather, params, params, blocks=1)[1]

    def _total(self, name: str, f: Any, *args: Any, blocks: int | None = None) -> Any:
        """The sum of ``f(*args, data, weights)`` over all rows, or the first ``blocks``, of all processes."""
        target, weighted = self.target, self.weights is None
        names = set(getattr(self.model, "em_rows", target.arrays))

        def of_rows(args: Any, fixed: Any, rows: Any) -> Any:
            return f(*args, {**fixed, **rows[0]}, rows[1])

        parts = [(target.arrays, self.weights)] if self.rows is None else self.rows

        def build() -> Any:
            calls = _ITERATIONS * max(len(parts), target.bound.num_rows // SHORT)
            return target.backend.sum_over_rows(of_rows, calls=calls), target.backend.compile(_sum)

        over_rows, add = target.compiled(("em", name, weighted), build)
        total = None
        for data, weights in itertools.islice(parts, blocks):
            fixed, rows = ({n: x for n, x in data.items() if (n in names) == own} for own in (False, True))
            part = over_rows((args, fixed), (rows, weights))
            total = part if total is None else add(total, part)
        return target.backend.sum_over_processes(total) if self.shared else total

    def finish(self, params: Any, best: int) -> Outcome:
        """The params of the best restart."""
        values = {n: np.asarray(v)[best] for n, v in self.target.backend.to_numpy(params).items()}
        return replace(of_point(values, values), attrs=dict(self.attrs))


def _sum(a: Any, b: Any) -> Any:
    """The sum of two trees of dicts and tuples."""
    if isinstance(a, dict):
        return {n: _sum(x, b[n]) for n, x in a.items()}
    return tuple(_sum(x, y) for x, y in zip(a, b, strict=True)) if isinstance(a, tuple) else a + b
