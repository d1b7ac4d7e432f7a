"""DPM-Solver++."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.samplers._sampler import Plan, Sampler


@dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """The linear part of the probability-flow equation solved exactly, the expected datum by two steps (2M).

    Lu et al. (2022b), algorithm 2: of order 2 in log(alpha / sigma), one evaluation a step. The first step is of order
    1, and so is the last where it takes all noise away.
    """

    num_steps: int = 20
    grid: Any = "log_snr"

    def plan(self, path: Path, kind: str) -> Plan:
        """Beside the times: ``beyond``, how far the datum is extrapolated from the last two, h_i / (2 h_(i - 1))."""
        times = self.times(path, kind)
        with np.errstate(divide="ignore", invalid="ignore"):
            h = -np.diff(np.log(path.ratio(times)))
            beyond = np.append(0.0, 0.5 * h[1:] / h[:-1])
        return {"t": times[:-1], "s": times[1:], "beyond": np.where(np.isfinite(beyond), beyond, 0.0)}

    def begin(self, xp: Any, x: Any) -> Any:
        """Rows, and the datum that was expected a step before."""
        return x, xp.zeros_like(x)

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        x, before = state
        at, to = field.at(xp, row["t"]), field.at(xp, row["s"])
        datum = field(xp, "data", x, row["t"])
        ahead = datum + row["beyond"] * (datum - before)
        left = to.sigma / at.sigma
        return left * x + (to.alpha - left * at.alpha) * ahead, datum
