"""Maximum likelihood in closed form, where a model brings it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.capabilities import ClosedForm
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome
from ppl_gen.program import Program
from ppl_gen.target import Target

_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class ClosedFormML(Engine):
    """The global maximum of the likelihood, by the formula that the model brings."""

    name: ClassVar[str] = "closed_form"
    needs: ClassVar[str] = "a model with a closed form (ProbabilisticPCA)"

    def rows_at_once(self, program: Program) -> int | None:
        return _ROWS  # the formula works on the host: the device need not hold them all

    def check(self, target: Target) -> None:
        if not isinstance(target.program.model, ClosedForm):
            raise UnsupportedError(
                f"{target.program.name} brings no closed form: use engine='map' with objective='likelihood'"
            )

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        values = {n: np.asarray(v) for n, v in target.program.model.closed_form(target.bound.host).items()}
        return Outcome(draws={n: v[None, None] for n, v in values.items()}, params=values, exact=False)
