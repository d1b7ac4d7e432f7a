"""The energy of a bound model, at any params, as engines ask for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.protocol import Request, UnsupportedError
from ppl_gen.capabilities import EnergyBased, GibbsSampled, Starts
from ppl_gen.target import Target

_MOST_ROWS = 10_000  # of the data that moments are taken of
_EDGE = 0.02  # shares of ones keep away from 0 and 1


class Energies:
    """The model's energy, score and natural parameters; inside of compiled functions too.

    Where a method takes ``held``, that are the params as a :class:`Request` has them: ``{"values": constrained}`` or
    ``{"unconstrained": ...}``.
    """

    def __init__(self, target: Target):
        self.target, self.backend, self.model = target, target.backend, target.program.model

    def energy(self, held: Mapping[str, Any], x: Any) -> Any:
        """E of rows x (rows, *shape), (rows,)."""
        return self._said(lambda: self.model.energy(x), held)

    def score(self, held: Mapping[str, Any], x: Any) -> Any:
        """grad log p of rows x, like x."""
        total = lambda x: self.backend.xp.sum(self.energy(held, x))
        return -self.backend.value_and_grad(total)(x)[1]

    def natural(self, held: Mapping[str, Any]) -> dict[str, Any]:
        """Natural parameters, of a model that is ``GibbsSampled``."""
        return self._said(self.model.natural, held)

    def _said(self, statement: Callable[[], Any], held: Mapping[str, Any]) -> Any:
        found: list[Any] = []
        with backends.keeping(self.target.bound.networks):
            self.backend.trace(lambda: found.append(statement()), Request(**held))
        return found[0]

    @property
    def is_binary(self) -> bool:
        """Whether the model brings block Gibbs moves."""
        return isinstance(self.model, GibbsSampled)

    def start(self, seed: int) -> dict[str, Any]:
        """Starting values of all params; where the model says, or as it declares them."""
        target, backend = self.target, self.backend
        values = {n: target.sites[n].value for n in target.params.names}
        if isinstance(self.model, Starts):
            drawn = self.model.starts(target.bound.host, 1, np.random.default_rng(seed))
            values.update({n: backend.asarray(x[0]) for n, x in drawn.items() if n in values})
        return values

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the data, each of the shape of a datum; 1 where a feature does not vary."""
        x = np.asarray(self.target.bound.host["x"][:_MOST_ROWS], dtype=float)
        spread = x.std(axis=0)
        return x.mean(axis=0), np.where(spread > 0.0, spread, 1.0)

    def covariance(self) -> np.ndarray:
        """Of the data, (numbers in a datum, numbers in a datum)."""
        x = np.asarray(self.target.bound.host["x"][:_MOST_ROWS], dtype=float)
        return np.cov(x.reshape(len(x), -1).T, ddof=0).reshape(2 * (math.prod(x.shape[1:]),))

    def share(self) -> np.ndarray:
        """How often each binary variable is high in the data, away from never and always."""
        low, high = self.model.values
        return np.clip((self.moments()[0] - low) / (high - low), _EDGE, 1.0 - _EDGE)


def require_energy(target: Target, engine: str) -> None:
    """The program is a model that is known by its energy.

    Raises:
        UnsupportedError: it is not; names engines that would work.
    """
    if not isinstance(target.program.model, EnergyBased):
        raise UnsupportedError(
            f"{engine} asks a model of rows for its energy, and {target.program.name} has none (energy(x)): use "
            "engine='svi', 'nuts' or 'em', or declare it as pg.models.EnergyModel(potential, shape)"
        )


def require_learnable(target: Target, engine: str) -> None:
    """It has params, and none of the energy's latents.

    Raises:
        UnsupportedError: nothing to learn.
    """
    require_energy(target, engine)
    if not target.params.names:
        raise UnsupportedError(
            f"{engine} learns the params of an energy, and that of {target.program.name} has none: declare them by "
            "pg.param or pg.module in its potential; engine='nuts' draws from a known energy, pg.factor on a dist.Flat"
        )
