"""Contrastive divergence, from the data or from chains that persist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.inference.energies import Energies
from ppl_gen.inference.energy_fitting import LEFT_OUT, EnergyFit, EnergyTrainer, EnergyTraining
from ppl_gen.inference.engine import between, one_of, positive
from ppl_gen.inference.fitting import steps_at_once
from ppl_gen.inference.negative_phase import Gibbs, Langevin, NegativePhase
from ppl_gen.options import is_number, not_below
from ppl_gen.target import Target

_MORE = 2**28  # what is added to seeds for the chains' own noise


@dataclass(frozen=True, kw_only=True)
class ContrastiveDivergence(EnergyTraining):
    """Learns an energy from where its chains go: down at the data, up at the ends of chains (Hinton 2002).

    The gradient of log p is -grad E(data) + <grad E> under the model, the latter at chains of ``num_negative_steps``
    moves from the data; with ``persistent=True`` from where chains of the steps before have ended, kept in a replay
    buffer (Tieleman 2008; Du & Mordatch 2019). Models that bring block Gibbs moves are moved by these, others by
    unadjusted Langevin steps. A bias of short chains stays; ``persistent`` has less of it.

    A chain that runs off stops the run, which says at which step, and ends with the last good state.

    Attributes:
        num_negative_steps: moves of a chain in each step, k of CD-k.
        persistent: chains go on from step to step.
        buffer_size: chains that are kept, a multiple of the rows of a batch, of which each step moves as many, at
            random; as many as these where None.
        restart: share of them that begin anew each time, from noise with the data's moments.
        step_size: of Langevin steps, in standard deviations of the data.
        noise_scale: what their noise is multiplied by; less than 1 draws from a colder energy, as is usual for images.
        energy_penalty: alpha of alpha (E(data)^2 + E(chains)^2), which keeps energies near 0 (Du & Mordatch 2019).
    """

    name: ClassVar[str] = "contrastive_divergence"
    needs: ClassVar[str] = "a model that is known by an energy"
    left_out: ClassVar[tuple[str, ...]] = (*LEFT_OUT, "validation")  # its loss is no measure of the fit

    num_negative_steps: int = 10
    persistent: bool = False
    buffer_size: int | None = None
    restart: float = 0.0
    step_size: float = 0.1
    noise_scale: float = 1.0
    energy_penalty: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_negative_steps")
        one_of(self, "persistent", (True, False))
        between(self, 0, math.inf, "step_size")
        for name in ("noise_scale", "energy_penalty"):
            not_below(name, getattr(self, name), 0)
        if not (is_number(self.restart) and 0 <= self.restart <= 1):
            raise ValueError(f"restart must be a share of the chains, from 0 to 1, got {self.restart!r}")
        if self.buffer_size is not None:
            positive(self, "buffer_size")
            if self.buffer_size % self._rows:
                raise ValueError(
                    f"buffer_size must be a multiple of batch_size, {self._rows}, since each step moves as many "
                    f"chains, got {self.buffer_size}"
                )
        if not self.persistent and (self.buffer_size is not None or self.restart):
            raise ValueError("buffer_size and restart are options of persistent chains: set persistent=True")

    @property
    def _rows(self) -> int:
        return self.batch_size or 1

    def fit(self, target: Target, seed: int) -> EnergyFit:
        return _Fit(self, target, _Contrast, seed)


class _Contrast(EnergyTrainer):
    """Mean energy of the rows minus that of the ends of chains."""

    def __init__(self, target: Target, engine: ContrastiveDivergence):
        energies = Energies(target)
        count, h = engine.num_negative_steps, engine.step_size
        self.engine, self.groups = engine, (engine.buffer_size or engine._rows) // engine._rows
        self.chains: NegativePhase = (
            Gibbs.of(energies, count)
            if energies.is_binary
            else Langevin.of(energies, count, h, engine.noise_scale)
        )
        options = (engine.persistent, self.groups, engine.restart, engine.energy_penalty)
        super().__init__(target, (self.chains, *options))

    def loss(self, params: Any, row: Mapping[str, Any], carried: Any, fixed: Any) -> tuple[Any, Any]:
        backend, xp, chains = self.part.backend, self.part.backend.xp, self.chains
        x = xp.astype(row["x"], xp.zeros(()).dtype)
        stopped = {"unconstrained": {n: backend.stopped(p) for n, p in params.items()}}
        start, chosen = self._start(x, row, carried)
        ends = backend.stopped(chains.moved(self.energies, stopped, start, row))
        if self.engine.persistent:
            carried = xp.where(chosen, ends[None], carried)
        both = self.energies.energy({"unconstrained": params}, xp.concatenate([x, ends]))
        low, high = both[: x.shape[0]], both[x.shape[0] :]
        penalty = self.engine.energy_penalty * (xp.mean(low * low) + xp.mean(high * high))
        lost = chains.lost(backend, ends) | ~xp.isfinite(backend.stopped(high))
        number = xp.astype(xp.arange(1, x.shape[0] + 1), x.dtype)
        report = {"energy": xp.mean(low), "chain_energy": xp.mean(high), "lost": xp.max(xp.where(lost, number, 0.0))}
        value = xp.mean(low) - xp.mean(high) + penalty
        return xp.where(report["lost"] > 0.0, xp.nan, value), (report, carried)

    def _start(self, x: Any, row: Any, carried: Any) -> tuple[Any, Any]:
        """Where chains begin, and where among all they are kept."""
        if not self.engine.persistent:
            return x, None
        xp, ones = self.part.backend.xp, (1,) * (x.ndim - 1)
        chosen = (xp.arange(self.groups) == row["group"]).reshape((-1, 1, *ones))
        start = xp.sum(xp.where(chosen, carried, 0.0), axis=0)
        if self.engine.restart:
            anew = (row["restart"] < self.engine.restart).reshape((-1, *ones))
            start = xp.where(anew, self.chains.fresh(self.part.backend, row), start)
        return start, chosen


class _Fit(EnergyFit):
    """Steps take the chains' noise, and hand on chains that persist."""

    carries = True
    unsaid = ("lost",)

    @property
    def _spec(self) -> dict[str, Any]:
        """Noise of a step."""
        rows, made = self.engine._rows, self.trainer
        spec = dict(made.chains.moves(rows))
        if self.engine.restart:
            spec |= {**made.chains.starts(rows), "restart": ("uniform", (rows,))}
        return spec

    def _chunk_size(self) -> int:
        numbers = sum(math.prod(shape) for _, shape in self._spec.values())
        return min(super()._chunk_size(), steps_at_once(8 * numbers))

    def _of_steps(self, start: int, count: int) -> dict[str, Any]:
        backend, seed = self.target.backend, (self.seed + _MORE) % 2**31
        noise = backend.noise(seed, start, self._spec, count)
        group = np.random.default_rng([self.seed, 3, start]).integers(0, self.trainer.groups, count)
        return {**super()._of_steps(start, count), **noise, "group": backend.asarray(group)}

    def _carried(self) -> Any:
        """Chains of all groups (groups, rows, *shape), from noise."""
        engine, made, backend = self.engine, self.trainer, self.target.backend
        if not engine.persistent:
            return ()
        noise = backend.noise((self.seed + _MORE) % 2**31, 2**30, made.chains.starts(engine._rows), made.groups)
        return made.chains.fresh(backend, noise)

    def said_of(self, step: int, report: Mapping[str, np.ndarray]) -> str:
        chain = int(report["lost"][step])
        if not chain:
            return super().said_of(step, report)
        return (
            f"{self.engine.name} stopped at step {step + 1}: chain {chain - 1} of {self.engine.batch_size} diverged. "
            "The result is the last good state before it. Lower step_size or learning_rate, set clip_norm or an "
            "energy_penalty, or give the model a base_scale, without which the energy may fall without bound"
        )
