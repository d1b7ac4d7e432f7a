"""A run of training: its batches, its steps in compiled chunks, the rows kept back, and what it ends with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.inference.driver import Driver, chunk_size
from ppl_gen.inference.elbo import RowBound
from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.feed import AUGMENTS, Ahead, Augment, Feed, Finish
from ppl_gen.inference.streams import Stream
from ppl_gen.inference.training import rows_of, trainer
from ppl_gen.program import Bound
from ppl_gen.target import Target

_CHUNK_BYTES, _CHUNK = 2**24, 250  # of the batches of a compiled call, and how many at most
_LOOKS = 2**30  # the number of the first step that rows kept back take their draws from


_FIRST = ("loss", "likelihood", "divergence", "gradient_norm", "validation")  # of what a history has, in this order


class Fit:
    """A run of training, from its options to what it ends with.

    Attributes:
        label: what the run is called. steps_per_epoch: of all processes.
        carries: whether the loss hands something on from step to step, see ``Backend.descend``.
        unsaid: reports that are left out of the history. exact: as of ``Outcome``.
    """

    carries = False
    unsaid: tuple[str, ...] = ()
    exact = False

    def __init__(self, engine: Any, target: Target, guide: Callable[..., Any], seed: int, label: str = ""):
        names, _ = rows_of(target, engine.name)
        engine = engine.sized(len(target.bound.host[names[0]]))
        self.engine, self.target, self.seed, self.label = engine, target, seed, label or engine.name
        self.share = target.backend.share(engine.batch_size, engine.processes)
        self.adds = engine.adds(target)
        self.feed, self.looks = feeds(engine, target.bound, names, self.share.here, seed, self.adds)
        num_rows = round(self._sum(self.feed.num_rows))
        self.steps_per_epoch = num_rows // engine.batch_size
        self.num_steps = engine.num_steps if engine.num_epochs is None else engine.num_epochs * self.steps_per_epoch
        self.trainer = self._trainer(guide, num_rows)
        self.fixed = self.share.place({n: x for n, x in target.arrays.items() if n not in names}, None)
        self.init, self.advance, self.look = self._compiled()

    def _trainer(self, guide: Callable[..., Any], num_rows: int) -> Any:
        """What says where training starts, and the loss of a batch."""
        engine = self.engine
        kind = {"auto": "trace"}.get(engine.elbo, engine.elbo)
        bound = RowBound(num_rows, kind, engine.num_particles, engine.free_bits)
        computes_in = _dtype_of_networks(engine, self.target)
        return trainer(self.target, guide, bound, self.share.seen, computes_in, self.adds)

    def _compiled(self) -> tuple[Callable[..., Any], ...]:
        """Where training starts, many steps of it, and the loss of rows kept back: compiled once for like runs."""
        engine, made, backend = self.engine, self.trainer, self.target.backend
        options = {n: getattr(engine, n) for n in ("optimizer", "learning_rate", "clip_norm", "ema", "processes")}
        calls = 10 ** math.ceil(math.log10(self.num_steps))  # coarse: runs of like length share what is compiled

        def build() -> tuple[Callable[..., Any], ...]:
            look = backend.compile(made.looked_at, calls=calls // 10)
            return *backend.descend(made.loss, **options, carries=self.carries, calls=calls), look

        if not isinstance(engine.optimizer, str):
            return build()
        key = ("training", *made.key, self.share.seen, calls, *options.values())
        return self.target.compiled(key, build)

    def _sum(self, x: float) -> float:
        """Over all processes that train together."""
        backend = self.target.backend
        if not self.engine.processes:
            return x
        return float(backend.to_numpy(backend.sum_over_processes({"x": backend.asarray(np.array(x, float))})["x"]))

    def run(self, driver: Driver) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
        """The params, constrained; the history of each step; and why training ended."""
        backend, watch = self.target.backend, _Watch(self.engine.patience if self.looks else None)
        start = self._start()
        backend.key(self.seed + (backend.process_index() if self.engine.processes else 0))
        with self._reading() as self.ready:
            state, report, reason = driver.run(
                self._chunk, start, self.num_steps, label=self.label, chunk=self._chunk_size(), stop=watch,
                describe=_Pace(self.engine),
            )  # fmt: skip
        state = watch.last_good or state
        found = state["best"] if self.looks else self._params(state["now"])
        self.bad_step = None if watch.last_good is None else int(np.argmax(~np.isfinite(report["loss"])))
        return self.trainer.constrained(backend.from_numpy(backend.to_numpy(found))), report, reason or "num_steps"

    def outcome(self, driver: Driver) -> Outcome:
        """Train; what a run comes to."""
        params, report, reason = self.run(driver)
        epochs = round(len(report["loss"]) / self.steps_per_epoch, 3)
        names = [n for n in _FIRST if n in report] + [n for n in report if n not in _FIRST]
        return Outcome(
            params={n: np.asarray(v) for n, v in self.target.backend.to_numpy(params).items()},
            history={n: report[n] for n in names if n not in self.unsaid}, exact=self.exact,
            warnings=[] if self.bad_step is None else [self.said_of(self.bad_step, report)],
            attrs={"stopped": reason, "batch_size": self.engine.batch_size, "num_epochs": epochs},
        )  # fmt: skip

    def said_of(self, step: int, report: Mapping[str, np.ndarray]) -> str:
        """What went wrong at a step."""
        return (
            f"{self.label} stopped at step {step + 1}: the loss is not finite. The result is the last good state "
            "before it. Lower learning_rate, set clip_norm, or look at the scale of the data and the supports"
        )

    def _start(self) -> dict[str, Any]:
        params = self.trainer.start(self.seed, self.engine.init)
        if self.engine.processes:  # they may hang on the data
            params = self.target.backend.from_first_process(params)
        now = self.init(params, self._carried())
        return {"now": now, "best": self._params(now), "lowest": math.inf, "waited": 0}

    def _carried(self) -> Any:
        """What the loss is handed at the first step, where it ``carries``."""
        return ()

    @contextmanager
    def _reading(self) -> Iterator[Callable[[int, int], Any]]:
        """What gives the rows of some steps; by a thread, but for streams that would draw amid the steps' own draws."""
        if isinstance(self.feed, Stream) and not self.target.backend.scope_of_thread:
            yield self.feed.rows
        else:
            with closing(Ahead(self.feed.rows)) as ahead:
                yield ahead

    def _params(self, now: Mapping[str, Any]) -> Any:
        return now["params"] if self.engine.ema is None else now["ema"]

    def _chunk_size(self) -> int:
        """Steps in a compiled call: of so many bytes at most; where rows are kept back, within an epoch."""
        row = sum(self.trainer.part.bound.host[n][:1].nbytes for n in self.trainer.names)
        most = steps_at_once(row * self.engine.batch_size)
        return most if self.looks is None else chunk_size(self.steps_per_epoch, most)

    def _chunk(self, state: dict[str, Any], start: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        rows, place = self.ready(start, count), self.share.place
        inputs = {**place(self._on_device(rows), 1), **place(self._of_steps(start, count), None)}
        now, report = self.advance(place(state["now"], None), inputs, self.fixed)
        state = {**state, "now": now}
        if self.looks is None:
            return state, report
        report = {**report, "validation": np.full(count, np.nan)}
        if (start + count) // self.steps_per_epoch > start // self.steps_per_epoch:
            loss = self._validation(self._params(now))
            report["validation"][-1] = -loss if self.engine.bounds else loss
            better = loss < state["lowest"]
            best = {"best": self._params(now), "lowest": loss, "waited": 0}
            state = {**state, **(best if better else {"waited": state["waited"] + 1})}
        return state, report

    def _on_device(self, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {n: self.trainer.part.bound.on_device(n, x) for n, x in rows.items()}

    def _of_steps(self, start: int, count: int) -> dict[str, Any]:
        """What ``count`` steps from ``start`` are handed beside rows."""
        backend, steps = self.target.backend, np.arange(start, start + count)
        factors = {"rate": self.engine.rate(steps, self.num_steps), "beta": self.engine.charge(steps)}
        return {**{n: backend.asarray(x) for n, x in factors.items()}, **backend.keys(self.seed, start, count)}

    def _validation(self, params: Any) -> float:
        """Mean loss of the rows kept back, their batches and draws the same each time."""
        assert self.looks is not None
        backend, place, losses = self.target.backend, self.share.place, []
        with backend.apart(self.seed):
            for i in range(self.looks.steps_per_epoch):
                rows = {n: x[0] for n, x in self.looks.rows(i, 1).items()}
                keys = {n: k[0] for n, k in backend.keys(self.seed, _LOOKS + i, 1).items()}
                alike = place({**keys, "beta": backend.asarray(np.array(1.0))}, None)
                losses.append(self.look(params, {**place(self._on_device(rows), 0), **alike}, self.fixed))
        return self._sum(float(np.mean([backend.to_numpy(x) for x in losses]))) / self._sum(1)


class _Watch:
    """Ends a run whose loss is not finite, or that has not come to better params for ``patience`` epochs."""

    remembers = True

    def __init__(self, patience: int | None):
        self.patience, self.last_good = patience, None

    def __call__(self, before: Any, after: Any, report: Mapping[str, np.ndarray]) -> str | None:
        if not np.isfinite(report["loss"]).all():
            self.last_good = before
            return "loss not finite"
        return "settled" if self.patience is not None and after["waited"] >= self.patience else None


class _Pace:
    """What the bar says of a chunk."""

    def __init__(self, engine: Any):
        self._batch_size, self._bounds, self._last = engine.batch_size, engine.bounds, time.perf_counter()

    def __call__(self, report: Mapping[str, np.ndarray]) -> str:
        now, last = time.perf_counter(), self._last
        self._last = now
        per_second = len(report["loss"]) * self._batch_size / (now - last)
        loss = float(report["loss"].mean())
        said = f"ELBO {-loss:.2f}" if self._bounds else f"loss {loss:.4g}"
        return f"{said}, {per_second:,.0f} examples/s"


def no_guide(*_: Any, **__: Any) -> None:
    """Of a program that has no latents, but for the params."""


def fit(
    engine: Any, target: Target, guide: Callable[..., Any], driver: Driver, seed: int, label: str = ""
) -> Outcome:
    """Params that maximise the bound, mean over rows, and its history.

    Args:
        label: what the run is called; the name of the engine where it is empty.
    """
    made = Fit(engine, target, guide, seed, label)
    outcome = made.outcome(driver)
    outcome.attrs |= {"elbo": made.trainer.bound.kind, "guide": "by hand", "guided": made.trainer.guided}
    return outcome


def steps_at_once(bytes_of_batch: int) -> int:
    """Steps in a compiled call, at most."""
    return int(np.clip(_CHUNK_BYTES // max(bytes_of_batch, 1), 1, _CHUNK))


def feeds(
    engine: Any, bound: Bound, names: tuple[str, ...], size: int, seed: int, adds: Augment | None = None
) -> tuple[Feed | Stream, Feed | None]:
    """What is trained on, in batches of ``size`` rows, and what is looked at each epoch, if anything.

    Raises:
        ValueError: too few rows for one batch.
    """
    host, backend = {n: bound.host[n] for n in names}, bound.backend
    floating = np.asarray(backend.to_numpy(backend.asarray(0.0))).dtype
    process = backend.process_index() if engine.processes else 0
    finish = Finish(seed, AUGMENTS.get(engine.augment, engine.augment), floating, adds, process)
    order = np.random.default_rng([seed, 7]).permutation(len(host[names[0]]))
    kept_back, others = np.split(order, [round(engine.validation * len(order))])
    looks = Feed(host, np.sort(kept_back), size, finish) if len(kept_back) else None
    if engine.stream is None:
        feed: Feed | Stream = Feed(host, np.sort(others), size, finish)
    else:
        feed = Stream(engine.stream, bound, names, size, finish, engine.num_data)
    if size > feed.num_rows or 0 < len(kept_back) < size:
        kept = f", or the {len(kept_back)} kept back by validation={engine.validation:g}: change one" if looks else ""
        raise ValueError(f"batch_size {size} is more than the {feed.num_rows} rows to train on{kept or ': lower it'}")
    return feed, looks


def _dtype_of_networks(engine: Any, target: Target) -> str | None:
    """Where it is another than that of the run.

    Raises:
        ValueError, UnsupportedError: mixed precision with double precision, or on a device that has not got it.
    """
    if not engine.mixed_precision:
        return None
    if target.bound.precision != "float32":
        raise ValueError("mixed_precision halves single precision: pass precision='float32' as well")
    if not target.backend.has_bfloat16():
        raise UnsupportedError("this device does not compute in bfloat16: leave out mixed_precision")
    return "bfloat16"
