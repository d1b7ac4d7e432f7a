"""Training of an energy by minibatches of rows: what the engines that learn energies share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.inference.driver import Driver
from ppl_gen.inference.energies import Energies, require_learnable
from ppl_gen.inference.engine import Outcome, between, positive
from ppl_gen.inference.fitting import Fit
from ppl_gen.inference.starts import of_params
from ppl_gen.inference.training import OF_BOUNDS, Training, rows_of
from ppl_gen.target import Target

LEFT_OUT = (*OF_BOUNDS, "mixed_precision", "processes")


@dataclass(frozen=True, kw_only=True)
class EnergyTraining(Training):
    """An engine that learns the params of an energy, such as an ``EnergyModel``, from minibatches of rows."""

    num_steps: int = 5000
    optimizer: Any = "adam"
    learning_rate: float = 1e-3
    patience: int = 5

    resumes: ClassVar[bool] = True
    left_out: ClassVar[tuple[str, ...]] = LEFT_OUT
    bounds: ClassVar[bool] = False
    takes_energies: ClassVar[bool] = True
    usual_batch: ClassVar[int] = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_steps", "patience")
        between(self, 0, np.inf, "learning_rate")

    def check(self, target: Target) -> None:
        require_learnable(target, self.name)
        rows_of(target, self.name)

    def fit(self, target: Target, seed: int) -> EnergyFit:
        raise TypeError(f"{type(self).__name__} defines no fit")

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        return self.fit(target, seed).outcome(driver)


class EnergyTrainer:
    """The params of an energy, and the loss of a batch; see :class:`ppl_gen.inference.training.Trainer`.

    Attributes:
        part: the target, which rows are put on the device by. extra: names of params of the engine's, real numbers.
    """

    names = ("x",)

    def __init__(self, target: Target, key: tuple[Any, ...], extra: tuple[str, ...] = ()):
        self.part, self.energies, self.extra = target, Energies(target), extra
        self.key = (type(self), *key)

    def start(self, seed: int, init: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Unconstrained starting values of all params but the extra ones; ``init``: a user's, constrained."""
        return of_params(self.part.backend, self.energies.start(seed), self.constraints, init)

    @property
    def constraints(self) -> dict[str, Any]:
        return {n: self.part.sites[n].constraint for n in self.part.params.names}

    def constrained(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The same params as the program sees them."""
        target = self.part
        held = {n: target.backend.bijection(c).forward(params[n]) for n, c in self.constraints.items()}
        return {**held, **{n: params[n] for n in self.extra}}

    def loss(self, params: Any, row: Mapping[str, Any], *rest: Any) -> tuple[Any, Any]:
        """Of a batch, and a report."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def looked_at(self, *args: Any) -> Any:
        """The loss of rows kept back."""
        return self.loss(*args)[0]


class EnergyFit(Fit):
    """A run of training of an energy; subclasses hand steps what more they take."""

    exact = True

    def _trainer(self, guide: Any, num_rows: int) -> EnergyTrainer:
        return guide(self.target, self.engine)
