"""Training of a program and its guide by minibatches: rows of a plate, many epochs, rows kept back to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Plate, UnsupportedError
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.elbo import RowBound
from ppl_gen.inference.engine import Engine, Outcome, between, one_of, positive
from ppl_gen.inference.feed import AUGMENTS, Feed
from ppl_gen.inference.plates import row_arguments
from ppl_gen.target import Target

_CHUNK_BYTES, _CHUNK = 2**26, 250  # of the batches of a compiled call, and how many at most
SCHEDULES = ("constant", "cosine")
_PARTS = ("likelihood", "divergence")


@dataclass(frozen=True, kw_only=True)
class Training(Engine):
    """How an engine trains where it is given a ``batch_size``.

    Attributes:
        batch_size: rows in a minibatch, from the one plate that holds all observations.
        num_epochs: passes over the rows, in the place of ``num_steps``.
        augment: what is done anew to the rows of each batch: "binarize" (numbers in [0, 1] to draws of 0 or 1),
            "dequantize" (0 to 255 to uniform draws within each 256th), or ``(rng, rows) -> rows`` on name -> array.
        schedule: of the learning rate, "constant" or "cosine" (down to 0 at the end).
        num_rising: steps in which the learning rate comes up from 0.
        clip_norm: length to which longer gradients are shortened.
        ema: decay of a moving average of the params, which is what the run ends with.
        beta: what the divergence of guide and prior counts for; ``num_annealing`` steps in which it comes up from 0.
        free_bits: nats of divergence that are free of charge, for each latent, mean over rows.
        validation: share of the rows that is kept back; the params with the best bound there are those of the run,
            and training ends where ``patience`` epochs have brought no better.
    """

    batch_size: int | None = None
    num_epochs: int | None = None
    augment: Any = None
    schedule: str = "constant"
    num_rising: int = 0
    clip_norm: float | None = None
    ema: float | None = None
    beta: float = 1.0
    num_annealing: int = 0
    free_bits: float = 0.0
    validation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_epochs"):
            if getattr(self, name) is not None:
                positive(self, name)
        if self.clip_norm is not None:
            between(self, 0, math.inf, "clip_norm")
        one_of(self, "schedule", SCHEDULES)
        if not callable(self.augment):
            one_of(self, "augment", (None, *AUGMENTS))
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must lie between 0 and 1, got {self.ema!r}")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation must be a share of the rows, at least 0 and less than 1: {self.validation!r}")
        if self.beta < 0 or self.free_bits < 0 or self.num_rising < 0 or self.num_annealing < 0:
            raise ValueError("beta, free_bits, num_rising and num_annealing must be at least 0")

    def rate(self, step: np.ndarray, num_steps: int) -> np.ndarray:
        """What the learning rate is multiplied by."""
        up = np.minimum(1.0, (step + 1.0) / max(self.num_rising, 1))
        if self.schedule == "constant":
            return up
        share = np.clip((step - self.num_rising) / max(num_steps - self.num_rising, 1), 0.0, 1.0)
        return up * 0.5 * (1.0 + np.cos(math.pi * share))

    def charge(self, step: np.ndarray) -> np.ndarray:
        """What divergences count for."""
        return self.beta * np.minimum(1.0, (step + 1.0) / max(self.num_annealing, 1))


@dataclass
class Trainer:
    """A program, its guide and a batch of rows: the loss of a batch.

    Attributes:
        names: arguments that hold rows; ``plate`` that of a batch, every particle of it.
        part: the target of a batch.
    """

    part: Target
    called: Callable[..., Any]
    bound: RowBound
    names: tuple[str, ...]
    plate: Plate
    constraints: dict[str, Any] = field(default_factory=dict)
    guided: bool = False  # latents, and all of them of single rows

    def guide(self, arrays: Any) -> Any:
        """Run the guide."""
        return self.part.bound.call(self.called, arrays)

    def start(self, seed: int) -> dict[str, Any]:
        """Unconstrained starting values of all params, of the model and of the guide."""
        part, key = self.part, self.part.backend.key(seed)
        guided = part.trace_guide(self.guide, part.arrays, key=key)
        latents = {n: s.value for n, s in guided.items() if s.kind == "latent"}
        plates = [{p.name for p in guided[n].plates} for n in latents]
        self.guided = bool(plates) and all(self.plate.name in names for names in plates)
        sites = {**part.trace(part.arrays, values=latents, key=key), **guided}
        params = {n: s for n, s in sites.items() if s.kind == "param"}
        self.constraints = {n: s.constraint for n, s in params.items()}
        return {n: part.backend.bijection(s.constraint).inverse(s.value) for n, s in params.items()}

    def constrained(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The same params as the program sees them."""
        return {n: self.part.backend.bijection(self.constraints[n]).forward(u) for n, u in params.items()}

    def loss(self, params: Any, row: Mapping[str, Any], fixed: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Minus the bound of a batch, mean over its rows, and its parts."""
        xp = self.part.backend.xp
        arrays = {**fixed, **{n: xp.concatenate([row[n]] * self.bound.num_particles) for n in self.names}}
        value, parts = self.bound(self.part, self.guide, self.plate, params, arrays, row.get("key"), row["beta"])
        return -xp.mean(value), {n: xp.mean(x) for n, x in parts.items()}


def rows_of(target: Target, engine: str) -> tuple[tuple[str, ...], Plate]:
    """The arguments that hold rows, and their plate.

    Raises:
        UnsupportedError: there is no one plate that holds all observations, or there are discrete latents.
    """
    if target.discrete or target.counts.names:
        raise UnsupportedError(
            f"{engine} by minibatches draws latents from a guide, and {target.program.name} has discrete ones: leave "
            "out batch_size, then all rows are taken and they are summed out"
        )
    bound = target.bound
    if bound.by_rows:
        names = tuple(n for n in target.program.model.em_rows if n in bound.host)
    else:
        names = row_arguments(target, engine, "takes a few rows at a time")
    count = len(bound.arrays[names[0]])
    return names, next(p for n in target.observed for p in target.sites[n].plates if p.size == count)


def trainer(target: Target, guide: Callable[..., Any], bound: RowBound, batch_size: int) -> Trainer:
    """What trains on batches of so many rows."""
    names, plate = rows_of(target, "svi")
    count = batch_size * bound.num_particles
    rows = np.arange(count) % len(target.bound.host[names[0]])  # again and again where there are fewer
    part = Target(target.bound.part(names, rows))
    return Trainer(part, guide, bound, names, Plate(plate.name, plate.dim, count, count))


class Fit:
    """A run of training, from its options to what it ends with."""

    def __init__(self, engine: Any, target: Target, guide: Callable[..., Any], seed: int):
        self.engine, self.target, self.seed = engine, target, seed
        names, _ = rows_of(target, engine.name)
        self.host = {n: target.bound.host[n] for n in names}
        num_rows, size = len(self.host[names[0]]), engine.batch_size
        order = np.random.default_rng([seed, 7]).permutation(num_rows)
        held_out = round(engine.validation * num_rows)
        self.held_out, self.train = np.sort(order[:held_out]), np.sort(order[held_out:])
        _check_sizes(engine, len(self.train), held_out)
        augment = AUGMENTS.get(engine.augment, engine.augment)
        self.feed = Feed(self.host, self.train, size, seed, augment)
        self.looks = Feed(self.host, self.held_out, size, seed, augment) if held_out else None
        steps = self.feed.steps_per_epoch
        self.num_steps = engine.num_steps if engine.num_epochs is None else engine.num_epochs * steps
        kind = {"auto": "trace"}.get(engine.elbo, engine.elbo)
        bound = RowBound(num_rows, kind, engine.num_particles, engine.free_bits)
        self.trainer = trainer(target, guide, bound, size)
        self.seen = replace(self.trainer, bound=replace(bound, free_bits=0.0))

    def run(self, driver: Driver) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
        """The params, constrained; the history of each step; and why training ended."""
        engine, backend = self.engine, self.target.backend
        start = self.trainer.start(self.seed)
        init, advance = backend.descend(
            self.trainer.loss, optimizer=engine.optimizer, learning_rate=engine.learning_rate,
            clip_norm=engine.clip_norm, ema=engine.ema, calls=self.num_steps,
        )  # fmt: skip
        self.advance, self.look = advance, backend.compile(self._looked, calls=self.num_steps // 10)
        self.fixed = {n: x for n, x in self.trainer.part.arrays.items() if n not in self.trainer.names}
        now = init(start)
        state = {"now": now, "best": self._params(now), "lowest": math.inf, "waited": 0}
        watch = _Watch(engine.patience if self.looks else None)
        backend.key(self.seed)  # whatever was drawn before, which differs where networks had been made already
        with closing(self.feed):
            state, report, reason = driver.run(
                self._chunk, state, self.num_steps, label=engine.name, chunk=self._chunk_size(), stop=watch,
                describe=lambda r: f"ELBO {-r['loss'].mean():.2f}, gradient {r['gradient_norm'].mean():.2g}",
            )  # fmt: skip
        state = watch.last_good or state
        found = state["best"] if self.looks else self._params(state["now"])
        self.bad_step = None if watch.last_good is None else int(np.argmax(~np.isfinite(report["loss"])))
        return self.trainer.constrained(found), report, reason or "num_steps"

    def _params(self, now: Mapping[str, Any]) -> Any:
        return now["params"] if self.engine.ema is None else now["ema"]

    def _chunk_size(self) -> int:
        """Steps in a compiled call: a divisor of those in an epoch, of so many bytes at most."""
        row = sum(x[:1].nbytes for x in self.host.values())
        most = int(np.clip(_CHUNK_BYTES // max(row * self.engine.batch_size, 1), 1, _CHUNK))
        epoch = self.feed.steps_per_epoch
        return max(d for d in range(1, min(most, epoch) + 1) if epoch % d == 0)

    def _chunk(self, state: dict[str, Any], start: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        rows = self._inputs(self.feed.rows(start, count), start, count)
        now, report = self.advance(state["now"], rows, self.fixed)
        state = {**state, "now": now}
        if self.looks is None:
            return state, report
        report = {**report, "validation": np.full(count, np.nan)}
        if (start + count) % self.feed.steps_per_epoch == 0:
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

    def _looked(self, params: Any, row: Any, fixed: Any) -> Any:
        return self.seen.loss(params, row, fixed)[0]

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
    said = ("loss", *_PARTS, "gradient_norm", "validation")
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
        history={n: report[n] for n in said if n in report}, warnings=warnings, attrs=attrs, exact=False,
    )  # fmt: skip


def _check_sizes(engine: Any, num_rows: int, held_out: int) -> None:
    """Raises ValueError: too few rows for one batch."""
    if engine.batch_size > num_rows or 0 < held_out < engine.batch_size:
        raise ValueError(
            f"batch_size {engine.batch_size} is more than the {num_rows} rows to train on"
            + (f", or the {held_out} kept back" if held_out else "")
            + ": lower it"
        )
