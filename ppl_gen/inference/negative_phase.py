"""Chains that draw from an energy while it is trained: what they start from, and how they move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ppl_gen.inference.energies import Energies

_FAR = 100.0  # standard deviations of the data from their mean: there a chain is lost

Spec = dict[str, tuple[str, tuple[int, ...]]]


class NegativePhase(Protocol):
    """``moved`` takes noise of ``moves(rows)``, ``fresh`` that of ``starts(rows)``, one array of each name.

    ``moved(energies, held, x, row)`` moves chains x (rows, *shape) by some steps at params ``held``; ``fresh(row)`` are
    new ones. ``lost(x)`` (rows,) says which have run off.
    """

    def starts(self, rows: int) -> Spec: ...

    def moves(self, rows: int) -> Spec: ...

    def fresh(self, row: Any) -> Any: ...

    def moved(self, energies: Energies, held: Any, x: Any, row: Any) -> Any: ...

    def lost(self, xp: Any, x: Any) -> Any: ...


@dataclass(frozen=True)
class Langevin:
    """x <- x - (h s)^2 / 2 grad E(x) + h s a N(0, I), unadjusted, in ``num_steps`` of length h.

    Attributes:
        step_size: h, in standard deviations s of the data; noise_scale: a, 1 for draws from exp(-E).
        shape: of a datum. mean, scale: of the data, as nested tuples would hold them: their bytes, for the hash.
    """

    num_steps: int
    step_size: float
    noise_scale: float
    shape: tuple[int, ...]
    mean: bytes
    scale: bytes

    @classmethod
    def of(cls, energies: Energies, num_steps: int, step_size: float, noise_scale: float) -> Langevin:
        """For the data that an energy is bound to."""
        moments = (np.ascontiguousarray(x, dtype=float).tobytes() for x in energies.moments())
        return cls(num_steps, step_size, noise_scale, tuple(energies.model.event_shape), *moments)

    def _moments(self, backend: Any) -> tuple[Any, Any]:
        read = lambda held: np.frombuffer(held, dtype=float).reshape(self.shape)
        return backend.asarray(read(self.mean)), backend.asarray(read(self.scale))

    def starts(self, rows: int) -> Spec:
        return {"start": ("normal", (rows, *self.shape))}

    def moves(self, rows: int) -> Spec:
        return {"normal": ("normal", (self.num_steps, rows, *self.shape))}

    def fresh(self, backend: Any, row: Any) -> Any:
        """Draws of a Gaussian with the data's means and variances."""
        mean, scale = self._moments(backend)
        return mean + scale * row["start"]

    def moved(self, energies: Energies, held: Any, x: Any, row: Any) -> Any:
        h = self.step_size * self._moments(energies.backend)[1]

        def step(x: Any, xi: Any) -> tuple[Any, Any]:
            score = energies.score(held, x)
            return x + 0.5 * h * h * score + h * self.noise_scale * xi, energies.backend.xp.zeros(())

        return energies.backend.xp.scan(step, x, row["normal"])[0]

    def lost(self, backend: Any, x: Any) -> Any:
        xp, (mean, scale) = backend.xp, self._moments(backend)
        away = xp.abs((x - mean) / scale).reshape((x.shape[0], math.prod(self.shape)))
        return ~(xp.max(away, axis=-1) <= _FAR)


@dataclass(frozen=True)
class Gibbs:
    """``num_steps`` block Gibbs sweeps of a binary model.

    Attributes:
        shape: of a datum. num_uniforms: of a sweep of a row. share: of high values in the data, its bytes.
    """

    num_steps: int
    shape: tuple[int, ...]
    num_uniforms: int
    values: tuple[float, float]
    share: bytes

    @classmethod
    def of(cls, energies: Energies, num_steps: int) -> Gibbs:
        """For the data that an energy is bound to."""
        model, share = energies.model, np.ascontiguousarray(energies.share(), dtype=float).tobytes()
        return cls(num_steps, tuple(model.event_shape), model.num_uniforms, model.values, share)

    def starts(self, rows: int) -> Spec:
        return {"start": ("uniform", (rows, *self.shape))}

    def moves(self, rows: int) -> Spec:
        return {"uniform": ("uniform", (self.num_steps, rows, self.num_uniforms))}

    def fresh(self, backend: Any, row: Any) -> Any:
        """Independent variables, high as often as in the data."""
        share = backend.asarray(np.frombuffer(self.share, dtype=float).reshape(self.shape))
        low, high = self.values
        return low + (high - low) * backend.xp.astype(row["start"] < share, row["start"].dtype)

    def moved(self, energies: Energies, held: Any, x: Any, row: Any) -> Any:
        natural, xp = energies.natural(held), energies.backend.xp
        step = lambda x, u: (energies.model.sweep(natural, x, u), xp.zeros(()))
        return xp.scan(step, x, row["uniform"])[0]

    def lost(self, backend: Any, x: Any) -> Any:
        """None ever is."""
        return backend.xp.zeros((x.shape[0],)) > 0.0
