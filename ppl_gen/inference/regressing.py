"""Training by a loss of its own: the program of an objective, whose guide is the noise that it draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.capabilities import LearnsByRegression
from ppl_gen.diffusion.objectives import Objective
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome, between, positive, require_processes
from ppl_gen.inference.fitting import fit
from ppl_gen.inference.training import OF_BOUNDS, Training
from ppl_gen.options import is_number
from ppl_gen.program import Program
from ppl_gen.target import Target

_BOUND = ("divergence", "likelihood")  # parts of a bound that this is none of


@dataclass(frozen=True, kw_only=True)
class Regressing(Training):
    """An engine that trains by the program that a model makes of the objective that it :meth:`learns`.

    Attributes:
        num_steps: updates at most. optimizer, learning_rate: a name or an optax / torch optimiser.
        drop_label: share of labels left out while training, so that draws may be guided by their difference.
        patience: epochs without a better loss on rows kept back, after which it ends.
    """

    resumes: ClassVar[bool] = True
    left_out: ClassVar[tuple[str, ...]] = OF_BOUNDS
    bounds: ClassVar[bool] = False
    elbo: ClassVar[str] = "trace"
    num_particles: ClassVar[int] = 1
    usual_batch: ClassVar[int] = 256

    schedule: str = "cosine"  # a rate that stays leaves a network that wavers, and with it the draws
    num_steps: int = 10_000
    optimizer: Any = "adam"
    learning_rate: float = 1e-3
    drop_label: float = 0.0
    patience: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_steps", "patience")
        between(self, 0, float("inf"), "learning_rate")
        if not (is_number(self.drop_label) and 0 <= self.drop_label < 1):
            raise ValueError(f"drop_label must be a share, at least 0 and less than 1, got {self.drop_label!r}")

    def learns(self) -> Objective:
        """What the model is to be trained on."""
        raise TypeError(f"{type(self).__name__} defines no objective")

    def stated(self, program: Program) -> Program:
        model = program.model
        if not isinstance(model, LearnsByRegression):
            raise UnsupportedError(
                f"{self.name} trains models along a path from data to noise, such as pg.models.Diffusion and "
                f"FlowMatching, and {program.name} brings no such training (regression): use engine='svi'"
            )
        objective = self.learns()

        def build() -> Program:
            made = model.regression(objective, self.drop_label)
            found = Program(made, made.guide)
            found.name = program.name
            return found

        return program.once(("stated", objective, self.drop_label), build)

    def check(self, target: Target) -> None:
        if self.processes:
            require_processes(target)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        outcome = fit(self, target, target.program.guide, driver, seed)
        outcome.attrs.update(guided=False, elbo="", objective=repr(self.learns()))
        if target.program.model.num_classes:  # the share of rows that it saw without their label
            outcome.attrs["unlabelled"] = self.drop_label if "label" in target.bound.host else 1.0
        outcome.history = {n: x for n, x in outcome.history.items() if n not in _BOUND}
        return outcome
