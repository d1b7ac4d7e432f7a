"""A run of training: its batches, its steps in compiled chunks, the rows kept back, and what it ends with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from ppl_gen.inference.driver import Driver, chunk_size
from ppl_gen.inference.elbo import RowBound
from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.feed import AUGMENTS, Ahead, Feed
from ppl_gen.inference.training import rows_of, trainer
from ppl_gen.target import Target

_CHUNK_BYTES, _CHUNK = 2**24, 250  # of the batches of a compiled call, and how many at most
_SAID = ("loss", "likelihood", "divergence", "gradient_norm", "validation")


class Fit:
    """A run of training, from its options to what it ends with."""

    def __init__(self, engine: Any, target: Target, guide: Callable[..., Any], seed: int):
        self.engine, self.target, self.seed = engine, target, seed
        names, _ = rows_of(target, engine.name)
        host = {n: target.bound.host[n] for n in names}
        num_rows, size, backend = len(host[names[0]]), engine.batch_size, target.backend
        order = np.random.default_rng([seed, 7]).permutation(num_rows)
        held_out = round(engine.validation * num_rows)
        _check_sizes(engine, num_rows - held_out, held_out)
        floating = np.asarray(backend.to_numpy(backend.asarray(0.0))).dtype
        augment = AUGMENTS.get(engine.augment, engine.augment)
        kept_back, train = np.sort(order[:held_out]), np.sort(order[held_out:])
        self.feed = Feed(host, train, size, seed, augment, floating)
        self.looks = Feed(host, kept_back, size, seed, augment, floating) if held_out else None
        steps = self.feed.steps_per_epoch
        self.num_steps = engine.num_steps if engine.num_epochs is None else engine.num_epochs * steps
        kind = {"auto": "trace"}.get(engine.elbo, engine.elbo)
        bound = RowBound(num_rows, kind, engine.num_particles, engine.free_bits)
        self.trainer = trainer(target, guide, bound, size)
        self.fixed = {n: x for n, x in target.arrays.items() if n not in names}
        self.init, self.advance, self.look = self._compiled(guide)

    def _compiled(self, guide: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
        """Where training starts, many steps of it, and the loss of rows kept back: compiled once for like runs."""
        engine, made, backend = self.engine, self.trainer, self.target.backend
        options = {n: getattr(engine, n) for n in ("optimizer", "learning_rate", "clip_norm", "ema")}
        calls = 10 ** math.ceil(math.log10(self.num_steps))  # coarse: runs of like length share what is compiled

        def build() -> tuple[Callable[..., Any], ...]:
            seen = replace(made, bound=replace(made.bound, free_bits=0.0))
            look = backend.compile(lambda *args: seen.loss(*args)[0], calls=calls // 10)
            return *backend.descend(made.loss, **options, calls=calls), look

        if not isinstance(engine.optimizer, str):
            return build()
        key = ("training", guide, made.bound, engine.batch_size, calls, *options.values())
        return self.target.compiled(key, build)

    def run(self, driver: Driver) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
        """The params, constrained; the history of each step; and why training ended."""
        now = self.init(self.trainer.start(self.seed))
        state = {"now": now, "best": self._params(now), "lowest": math.inf, "waited": 0}
        watch = _Watch(self.engine.patience if self.looks else None)
        self.target.backend.key(self.seed)
        with closing(Ahead(self.feed.rows)) as self.ready:
            state, report, reason = driver.run(
                self._chunk, state, self.num_steps, label=self.engine.name, chunk=self._chunk_size(), stop=watch,
                describe=lambda r: f"ELBO {-r['loss'].mean():.2f}, gradient {r['gradient_norm'].mean():.2g}",
            )  # fmt: skip
        state = watch.last_good or state
        found = state["best"] if self.looks else self._params(state["now"])
        self.bad_step = None if watch.last_good is None else int(np.argmax(~np.isfinite(report["loss"])))
        return self.trainer.constrained(found), report, reason or "num_steps"

    def _params(self, now: Mapping[str, Any]) -> Any:
        return now["params"] if self.engine.ema is None else now["ema"]

    def _chunk_size(self) -> int:
        """Steps in a compiled call: of so many bytes at most; where rows are kept back, within an epoch."""
        row = sum(x.nbytes for x in self.feed.rows(0, 1).values())
        most = int(np.clip(_CHUNK_BYTES // max(row, 1), 1, _CHUNK))
        return most if self.looks is None else chunk_size(self.feed.steps_per_epoch, most)

    def _chunk(self, state: dict[str, Any], start: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        rows = self._inputs(self.ready(start, count), start, count)
        now, report = self.advance(state["now"], rows, self.fixed)
        state = {**state, "now": now}
        if self.looks is None:
            return state, report
        report = {**report, "validation": np.full(count, np.nan)}
        if (start + count) // self.feed.steps_per_epoch > start // self.feed.steps_per_epoch:
            loss = self._validation(self._params(now))
            report["validation"][-1] = -loss
            better = loss < state["lowest"]
            best = {"best": self._params(now), "lowest": loss, "waited": 0}
            state = {**state, **(best if better else {"waited": state["waited"] + 1})}
        return state, report

    def _inputs(self, rows: Mapping[str, np.ndarray], start: int, count: int) -> dict[str, Any]:
        """What ``count`` steps from ``start`` are handed, on the device."""
        backend, steps, bound = self.target.backend, np.arange(start, start + count), self.trainer.part.bound
        factors = {"rate": self.engine.rate(steps, self.num_steps), "beta": self.engine.charge(steps)}
        on_device = {n: bound.on_device(n, x) for n, x in rows.items()}
        return {
            **on_device,
            **{n: backend.asarray(x) for n, x in factors.items()},
            **backend.keys(self.seed, start, count),
        }

    def _validation(self, params: Any) -> float:
        """Mean loss of the rows kept back, their batches and draws the same each time."""
        assert self.looks is not None
        backend, bound, losses = self.target.backend, self.trainer.part.bound, []
        for i in range(self.looks.steps_per_epoch):
            row = {n: bound.on_device(n, x[0]) for n, x in self.looks.rows(i, 1).items()}
            keys = {n: k[0] for n, k in backend.keys(self.seed, 2**30 + i, 1).items()}
            row = {**row, **keys, "beta": backend.asarray(np.array(1.0))}
            losses.append(float(backend.to_numpy(self.look(params, row, self.fixed))))
        return float(np.mean(losses))


class _Watch:
    """Ends a run whose loss is not finite, or that has not come to better params for ``patience`` epochs."""

    def __init__(self, patience: int | None):
        self.patience, self.last_good = patience, None

    def __call__(self, before: Any, after: Any, report: Mapping[str, np.ndarray]) -> str | None:
        if not np.isfinite(report["loss"]).all():
            self.last_good = before
            return "loss not finite"
        return "settled" if self.patience is not None and after["waited"] >= self.patience else None


def fit(engine: Any, target: Target, guide: Callable[..., Any], driver: Driver, seed: int) -> Outcome:
    """Params that maximise the bound, mean over rows, and its history."""
    made = Fit(engine, target, guide, seed)
    params, report, reason = made.run(driver)
    backend = target.backend
    warnings: list[str] = []
    if made.bad_step is not None:
        warnings.append(
            f"{engine.name} stopped at step {made.bad_step + 1}: the loss is not finite. The result is the last good "
            "state before it. Lower learning_rate, set clip_norm, or look at the scale of the data and the supports"
        )
    attrs = {"elbo": made.trainer.bound.kind, "guide": "by hand", "stopped": reason, "batch_size": engine.batch_size}
    attrs["guided"] = made.trainer.guided
    attrs["num_epochs"] = round(len(report["loss"]) / made.feed.steps_per_epoch, 3)
    return Outcome(
        params={n: np.asarray(v) for n, v in backend.to_numpy(params).items()},
        history={n: report[n] for n in _SAID if n in report}, warnings=warnings, attrs=attrs, exact=False,
    )  # fmt: skip


def _check_sizes(engine: Any, num_rows: int, held_out: int) -> None:
    """Raises ValueError: too few rows for one batch."""
    if engine.batch_size > num_rows or 0 < held_out < engine.batch_size:
        raise ValueError(
            f"batch_size {engine.batch_size} is more than the {num_rows} rows to train on"
            + (f", or the {held_out} kept back" if held_out else "")
            + ": lower it"
        )
