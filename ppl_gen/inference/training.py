"""Training of a program and its guide by minibatches: rows of a plate, many epochs, rows kept back to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from ppl_gen.backends import computing, estimating
from ppl_gen.backends.protocol import Plate, UnsupportedError
from ppl_gen.inference.elbo import WEIGHING, RowBound
from ppl_gen.inference.engine import Engine, between, one_of, positive
from ppl_gen.inference.feed import AUGMENTS, Augment
from ppl_gen.inference.plates import row_arguments
from ppl_gen.inference.starts import of_params, require_names
from ppl_gen.options import is_number, not_below
from ppl_gen.program import Bound, Program
from ppl_gen.target import Target

SCHEDULES = ("constant", "cosine")
OF_BOUNDS = ("beta", "num_annealing", "free_bits")  # options of what trains by a bound
_BLOCK = 1024  # rows that the program is looked at with


@dataclass(frozen=True, kw_only=True)
class Training(Engine):
    """How an engine trains where it is given a ``batch_size``.

    Attributes:
        batch_size: rows in a minibatch, from the one plate that holds all observations; where None, engines that go by
            minibatches only take as many as is usual, or all that there are.
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
        mixed_precision: networks compute in bfloat16; their weights, all densities and the optimiser stay in float32.
        stream: batches, each in the form of ``data`` and of any length, that are trained on instead of data; gone
            through anew each epoch, such as a DataLoader of PyTorch or Grain. ``data`` are then some rows of the same
            kind, of which those of ``validation``, all of them where it is 1, are what is looked at each epoch. Its
            order is its own; to resume bit by bit, the stream must be the same each time through.
        num_data: rows in the stream; counted by going through it once where None.
        init: param -> value (constrained) at which it starts, such as some of another run's ``params``; elsewhere where
            the program says.
        processes: data or stream are this process's part of the rows, and the others of ``jax.distributed`` or of
            ``torchrun`` hold the rest: each has its share of every batch, and all get the same params.
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
    mixed_precision: bool = False
    stream: Iterable[Any] | None = None
    num_data: int | None = None
    init: Mapping[str, Any] | None = None
    processes: bool = False

    rows_of_files: ClassVar[bool] = True
    bounds: ClassVar[bool] = True  # whether minus its loss bounds log p(x)
    left_out: ClassVar[tuple[str, ...]] = ()  # which of these options an engine has not
    usual_batch: ClassVar[int | None] = None  # rows in a minibatch where none are asked for; None: all at once

    def __post_init__(self) -> None:
        require_names(self.init)
        for name in ("batch_size", "num_epochs", "num_data"):
            if getattr(self, name) is not None:
                positive(self, name)
        if self.clip_norm is not None:
            between(self, 0, math.inf, "clip_norm")
        one_of(self, "schedule", SCHEDULES)
        if not callable(self.augment):
            one_of(self, "augment", (None, *AUGMENTS))
        if self.ema is not None and not (is_number(self.ema) and 0 < self.ema < 1):
            raise ValueError(f"ema must lie between 0 and 1, got {self.ema!r}")
        for name in ("beta", "free_bits", "num_rising", "num_annealing"):
            not_below(name, getattr(self, name), 0)
        is_share = is_number(self.validation) and 0 <= self.validation <= 1
        if not is_share or (self.validation == 1 and self.stream is None):
            raise ValueError(f"validation must be a share of the rows, at least 0 and less than 1: {self.validation!r}")
        if isinstance(self.stream, Iterator) or not isinstance(self.stream, Iterable | None):
            raise ValueError(
                f"stream must be what can be gone through once for each epoch, got a {type(self.stream).__name__}: "
                "pass a DataLoader, a list of batches, or an object whose __iter__ begins anew"
            )
        own = {f.name: (getattr(self, f.name), f.default) for f in fields(Training)}
        del own["init"]  # which svi has without a batch_size, too
        chosen = [n for n, (x, default) in own.items() if x is not default and not (is_number(x) and x == default)]
        for name in self.left_out:
            if name in chosen:
                why = ", which has a loss of its own and no bound" if name in OF_BOUNDS else ""
                raise ValueError(f"{name} is no option of {self.name}{why}: leave it out")
        if self.batch_size is None and self.usual_batch is None and chosen:
            raise ValueError(f"{chosen[0]} is an option of training by minibatches: set batch_size as well")

    def rows_at_once(self, program: Program) -> int | None:
        """By minibatches those of a block stand for all of a model that names its rows."""
        return None if self.batch_size is None and self.usual_batch is None else _BLOCK

    def sized(self, num_rows: int) -> Self:
        """With a ``batch_size``: what is asked for, else the usual one, or all rows where data have fewer.

        Both the rows to train on and those kept back must make a batch.
        """
        if self.batch_size is not None or self.usual_batch is None:
            return self
        kept = round(self.validation * num_rows)
        trained = 0 if self.processes or self.stream is not None else num_rows - kept  # 0: not known here
        return replace(self, batch_size=min(n for n in (self.usual_batch, kept, trained) if n > 0))

    def adds(self, target: Target) -> Augment | None:
        """What puts arguments of the program beside the rows of each batch that the data do not hold, if anything."""
        return None

    def rate(self, step: np.ndarray, num_steps: int, schedule: str | None = None) -> np.ndarray:
        """What the learning rate is multiplied by; ``schedule`` is that of the options where None."""
        up = np.minimum(1.0, (step + 1.0) / max(self.num_rising, 1))
        if (schedule or self.schedule) == "constant":
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
        computes_in: the dtype that networks do, where that is another than the run's.
    """

    part: Target
    called: Callable[..., Any]
    bound: RowBound
    names: tuple[str, ...]
    plate: Plate
    computes_in: str | None = None
    constraints: dict[str, Any] = field(default_factory=dict)
    guided: bool = False  # latents, and all of them of single rows

    def guide(self, arrays: Any) -> Any:
        """Run the guide."""
        return self.part.bound.call(self.called, arrays)

    def start(self, seed: int, init: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Unconstrained starting values of all params, of model and guide; ``init``: a user's, constrained."""
        part, key = self.part, self.part.backend.key(seed)
        guided = part.trace_guide(self.guide, part.arrays, key=key)
        latents = {n: s.value for n, s in guided.items() if s.kind == "latent"}
        plates = [{p.name for p in guided[n].plates} for n in latents]
        self.guided = bool(plates) and all(self.plate.name in names for names in plates)
        sites = {**part.trace(part.arrays, values=latents, key=key), **guided}
        params = {n: s for n, s in sites.items() if s.kind == "param"}
        self.constraints = {n: s.constraint for n, s in params.items()}
        return of_params(part.backend, {n: s.value for n, s in params.items()}, self.constraints, init)

    def constrained(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The same params as the program sees them."""
        return {n: self.part.backend.bijection(self.constraints[n]).forward(u) for n, u in params.items()}

    def loss(self, params: Any, row: Mapping[str, Any], fixed: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Minus the bound of a batch, mean over its rows, and its parts."""
        xp = self.part.backend.xp
        arrays = {**fixed, **{n: xp.concatenate([row[n]] * self.bound.num_particles) for n in self.names}}
        linear = self.bound.kind not in WEIGHING  # a logarithm of estimates would lift the bound, maybe above log p(x)
        with computing(self.computes_in), estimating(row.get("key")) if linear else nullcontext():
            value, parts = self.bound(self.part, self.guide, self.plate, params, arrays, row.get("key"), row["beta"])
        return -xp.mean(value), {n: xp.mean(x) for n, x in parts.items()}

    def looked_at(self, *args: Any) -> Any:
        """The loss of rows kept back, where no bits are free."""
        return replace(self, bound=replace(self.bound, free_bits=0.0)).loss(*args)[0]

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for two whose losses are compiled once."""
        return self.called, self.bound, self.names, self.computes_in


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
    names = row_arguments(target, engine, "takes a few rows at a time")
    if bound.by_rows:
        odd = [n for n in bound.rows if n not in names]
        if odd:
            raise UnsupportedError(
                f"{engine} takes what lies in files for rows of the data, and {odd[0]!r} of {target.program.name} "
                "holds something else: read it into memory by np.array"
            )
        names = bound.rows
    count = len(bound.seen[names[0]])
    told = [s for s in target.sites.values() if s.kind in ("observed", "factor")]
    return names, next(p for s in told for p in s.plates if p.size == count)


def trainer(
    target: Target, guide: Callable[..., Any], bound: RowBound, batch_size: int, computes_in: str | None = None,
    adds: Augment | None = None,
) -> Trainer:  # fmt: skip
    """What trains on batches of so many rows, with the arguments that ``adds`` puts beside them."""
    names, plate = rows_of(target, "svi")
    count = batch_size * bound.num_particles
    rows = np.arange(count) % len(target.bound.host[names[0]])  # again and again where there are fewer
    part = target.bound.part(names, rows)
    if adds is not None:
        few = adds(np.random.default_rng(0), {n: part.host[n][:2] for n in names})
        new = {n: np.zeros((count, *x.shape[1:]), x.dtype) for n, x in few.items() if n not in names}
        part, names = _with(part, new), (*names, *new)
    return Trainer(Target(part), guide, bound, names, Plate(plate.name, plate.dim, count, count), computes_in)


def _with(bound: Bound, arrays: Mapping[str, np.ndarray]) -> Bound:
    """The same program and data with more arguments."""
    held = bound.data
    named = held if isinstance(held, Mapping) else dict(zip(bound.program.signature.parameters, held, strict=False))
    return bound.at({**named, **arrays})
