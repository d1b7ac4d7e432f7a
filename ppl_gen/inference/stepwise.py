"""Stepwise (online) expectation-maximisation over minibatches and streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ppl_gen.capabilities import ClosedFormEM
from ppl_gen.checks import ProgramError
from ppl_gen.inference.climbing import check_rows, check_weights
from ppl_gen.inference.driver import ENDLESS, Driver
from ppl_gen.inference.engine import Engine, Outcome, positive
from ppl_gen.inference.maximum import of_point
from ppl_gen.inference.own_rows import by_rows
from ppl_gen.inference.starts import check_model_init, model_starts
from ppl_gen.program import Bound, DataError, Program
from ppl_gen.rows import Rows
from ppl_gen.target import Target

_CHUNK = 50
_EPOCHS = 10
_FINAL_ROWS = 65536


@dataclass(frozen=True, kw_only=True)
class Stepwise(Engine):
    """EM that updates after each minibatch (Cappe & Moulines 2009, equation 15).

    The expected statistics s of a row follow s <- (1 - gamma_t) s + gamma_t s(batch), gamma_t = (t + delay)^-decay, and
    the params are updated from s after each batch. It sees more data in less time than ``em`` where there are many
    rows, at the price of noise that falls with gamma. The history is that of batches and does not rise at every step.
    A declared program does, too, where its local latents are discrete and all of its params have a closed M-step.

    Attributes:
        num_steps: minibatches; ten times through the data where None.
        batch_size: rows in one.
        decay: above 0.5, so that the noise dies out, and at most 1.
        delay: batches that the first step counts for.
        num_restarts: starts, run side by side, of which the best end is kept.
        init: site -> starting value, constrained.
        weights: how often each row counts, (rows,); None for once. Not with a stream.
        stream: batches that follow after ``data``, each in the form of ``data``, of any length; gone through once,
            instead of ``data`` again and again. ``data`` are then the first rows, which give the start; where any batch
            has NaN for entries that were not observed, they must have some as well.
    """

    name: ClassVar[str] = "stepwise"
    needs: ClassVar[str] = "a model's own steps, or discrete latents of each datum and closed M-steps"

    num_steps: int | None = None
    batch_size: int = 512
    decay: float = 0.7
    delay: int = 2
    num_restarts: int = 1
    init: Mapping[str, Any] | None = None
    weights: Any = None
    stream: Iterable[Any] | None = None

    def __post_init__(self) -> None:
        positive(self, "batch_size", "delay", "num_restarts", *(["num_steps"] if self.num_steps is not None else []))
        if isinstance(self.decay, bool) or not isinstance(self.decay, int | float) or not 0.5 < self.decay <= 1:
            raise ValueError(f"decay must be a number above 0.5 and at most 1, got {self.decay!r}")
        if check_weights(self.weights) is not None and self.stream is not None:
            raise ValueError("weights belong to the rows of data, and a stream brings others: repeat its rows instead")

    def rows_at_once(self, program: Program) -> int | None:
        return self.batch_size

    def check(self, target: Target) -> None:
        self._program(target)
        check_model_init(target, self.init)
        check_rows(target, check_weights(self.weights))

    def _program(self, target: Target) -> Program:
        """The program, if it brings its EM by rows; else with what is found of that.

        Raises:
            UnsupportedError: nothing is.
        """
        model = target.program.model
        own = isinstance(model, ClosedFormEM) and hasattr(model, "em_rows")
        return target.program if own else by_rows(target, self.name)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        program = self._program(target)
        if program is not target.program:
            target = Target(target.bound.of(program, self.batch_size))
            check_rows(target, check_weights(self.weights))
        steps = _Steps(self, target, seed)
        state, report, _ = driver.run(
            steps.advance,
            steps.start(),
            steps.num_steps,
            label=self.name,
            chunk=_CHUNK,
            stop=steps.stop,
            describe=lambda r: f"log likelihood of a row {r['row'][0].max():.4f}",
        )
        values = steps.final(state["params"])
        best = int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))
        if not np.isfinite(values[best]):
            raise ProgramError(
                f"stepwise reached no finite log likelihood for {target.program.name}: use larger batches, or pass "
                "init={site: value}"
            )
        params = {n: np.asarray(v)[best] for n, v in target.backend.to_numpy(state["params"]).items()}
        outcome = of_point(params, params)
        history = {"log_likelihood": report["row"][: steps.taken, best] * steps.rows_in_all}
        e_step = getattr(target.program.model, "e_step", "the model's")
        attrs = {"e_step": e_step, "m_step": "closed form", "log_likelihood": float(values[best])}
        return replace(outcome, history=history, attrs=attrs)


class _Steps:
    """State: params, running statistics of a row, both with a leading axis of restarts, and the number of batches."""

    def __init__(self, engine: Stepwise, target: Target, seed: int):
        self.engine, self.target, self.model = engine, target, target.program.model
        self.rng = np.random.default_rng(seed)
        self.rows_in_all = target.bound.num_rows
        self.size = min(engine.batch_size, self.rows_in_all)
        per_epoch = -(-self.rows_in_all // self.size)
        self.num_steps = engine.num_steps or (ENDLESS if engine.stream is not None else _EPOCHS * per_epoch)
        self.taken, self.ended, self.weights = 0, False, check_weights(engine.weights)
        self._batches = self._stream() if engine.stream is not None else self._epochs()
        backend = target.backend
        calls = min(self.num_steps, 5000)
        self._step = target.compiled(("stepwise", "step"), lambda: backend.compile(self._one, calls=calls))
        self._around: Any = None

    def start(self) -> Any:
        """The model's starts, and the statistics of the first batch there."""
        engine, target = self.engine, self.target
        params = model_starts(target, engine.num_restarts, self.rng, engine.init)
        self._around = params
        first = target.compiled(("stepwise", "first"), lambda: target.backend.compile(self._per_row))
        statistics, _ = first(params, params, *next(self._batches))
        return {"params": params, "statistics": statistics}

    def advance(self, state: Any, done: int, count: int) -> tuple[Any, Any]:
        """``count`` batches, fewer where the stream ends."""
        xp, values = self.target.backend.xp, []
        for t in range(done, done + count):
            data, weights = next(self._batches, (None, None))
            if data is None:
                self.ended = True
                break
            gamma = self.target.backend.asarray((t + self.engine.delay) ** -self.engine.decay)
            rows = self.target.backend.asarray(float(self.rows_in_all))
            state, value = self._step(state, self._around, data, weights, gamma, rows)
            values.append(value)
        self.taken += len(values)
        missing = [xp.full((self.engine.num_restarts,), np.nan)] * (count - len(values))
        return state, {"row": xp.stack([*values, *missing])}

    def stop(self, before: Any, after: Any, report: Any) -> str | None:
        """At the end of the stream, or broken."""
        if self.ended:
            return "end of the stream"
        return None if np.isfinite(report["row"][-1]).any() else "not finite"

    # One batch ------------------------------------------------------------------------------------------------

    def _per_row(self, params: Any, around: Any, data: Any, weights: Any) -> Any:
        """Average statistics and log likelihood of a row."""
        count = next(data[n] for n in self.model.em_rows if n in data).shape[0]
        f = self.target.backend.vmap(lambda p, a: self.model.em_statistics(p, a, data, weights), in_axes=(0, 0))
        statistics, value = f(params, around)
        return {n: x / count for n, x in statistics.items()}, value / count

    def _one(self, state: Any, around: Any, data: Any, weights: Any, gamma: Any, rows: Any) -> tuple[Any, Any]:
        seen, value = self._per_row(state["params"], around, data, weights)
        held = {n: (1 - gamma) * s + gamma * seen[n] for n, s in state["statistics"].items()}
        total = {n: rows * s for n, s in held.items()}
        params = self.target.backend.vmap(self.model.em_update, in_axes=(0, 0))(total, around)
        return {"params": params, "statistics": held}, value

    # Where batches come from ----------------------------------------------------------------------------------

    def _rows(self, i: int) -> slice:
        """Batch i; the last one reaches back, so that all are of one length."""
        first = min(i * self.size, self.rows_in_all - self.size)
        return slice(first, first + self.size)

    def _placed(self, rows: Any) -> tuple[dict[str, Any], Any]:
        """Arguments of the model with these rows, a slice or indices, in the place of all, and their weights."""
        bound = self.target.bound
        held = {n: np.asarray(bound.host[n][rows]) for n in self.model.em_rows if n in bound.host}
        arrays = {**bound.arrays, **{n: bound.on_device(n, x) for n, x in held.items()}}
        return arrays, None if self.weights is None else bound.backend.asarray(self.weights[rows])

    def _epochs(self) -> Iterator[Any]:
        """Batches in a new order each time through: of rows in memory drawn anew, of a file as they lie there."""
        host = self.target.bound.host
        from_file = any(isinstance(host[n], np.memmap) for n in self.model.em_rows if n in host)
        count = -(-self.rows_in_all // self.size)
        while True:
            order = self.rng.permutation(count if from_file else self.rows_in_all)
            for i in range(count):
                yield self._placed(self._rows(order[i]) if from_file else order[self._rows(i)])

    def _stream(self) -> Iterator[Any]:
        """The first rows, then what the caller's batches hold."""
        yield self._placed(slice(None))
        for i, data in enumerate(self.engine.stream or ()):
            bound = self.target.program.bind(data, self.target.backend, ())
            self.rows_in_all += bound.num_rows
            yield self._like_first(bound, i), None

    def _like_first(self, bound: Bound, i: int) -> dict[str, Any]:
        """Arguments with the rows of a batch that came, in the form that those of the first rows have.

        Raises:
            DataError: other arguments, other columns, or missing entries where the first rows have none.
        """
        first = self.target.bound
        names = [n for n in self.model.em_rows if n in first.host]
        odd = sorted(set(names) ^ {n for n in self.model.em_rows if n in bound.host})
        if odd:
            lacks, has = ("the batch lacks", "first rows have") if odd[0] in names else ("data lack", "batch has")
            raise DataError(
                f"{lacks} {odd[0]!r}, which the {has}: batch {i} of the stream and data, the first rows, must hold the "
                "same arguments"
            )
        for n in names:
            expected, came = first.host[n].shape[1:], bound.host[n].shape[1:]
            if came != expected:
                raise DataError(f"{n!r} of batch {i} of the stream has rows of shape {came}: expected {expected}")
            if n in bound.missing and n not in first.missing:
                raise DataError(
                    f"{n!r} of batch {i} of the stream has NaN, entries that were not observed, and the first rows "
                    "have none, so that what was summed of them does not do: let data hold rows with NaN as well"
                )
        return {**first.arrays, **{n: first.on_device(n, bound.host[n]) for n in names}}

    def final(self, params: Any) -> np.ndarray:
        """Log likelihood of the data at hand at the end, for each restart."""
        backend, rows = self.target.backend, Rows(self.target.bound, self.weights, _FINAL_ROWS)
        in_axes = (0, None, None)
        gather = backend.vmap(lambda p, data, weights: self.model.em_statistics(p, p, data, weights)[1], in_axes)
        compiled = self.target.compiled(("stepwise", "final"), lambda: backend.compile(gather))
        return np.sum([backend.to_numpy(compiled(params, *block)) for block in rows], axis=0)
