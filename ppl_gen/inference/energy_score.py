"""Score matching of an energy, whose score is minus its gradient, by minibatches of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.capabilities import GibbsSampled
from ppl_gen.diffusion import score_objectives
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.energies import require_learnable
from ppl_gen.inference.energy_fitting import EnergyFit, EnergyTrainer
from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.training import rows_of
from ppl_gen.nets.net import home
from ppl_gen.target import Target

OBJECTIVES = ("denoising", "implicit", "sliced")
_LEFT_OUT = {
    "validation": 0, "mixed_precision": False, "processes": False, "drop_label": 0, "weighting": "simple", "times": None
}  # fmt: skip
_MORE = 2**28  # what is added to seeds for the noise of objectives
_SIGMA = 0.1  # of the noise, in standard deviations of the data


def check_energy_score(engine: Any, target: Target) -> None:
    """The energy is of real numbers, and has params.

    Raises:
        UnsupportedError: it has no gradient in x, or nothing to learn. ValueError: an objective that it has not.
    """
    require_learnable(target, engine.name)
    rows_of(target, engine.name)
    if engine.objective not in OBJECTIVES:
        raise ValueError(
            f"objective={engine.objective!r} is none of an energy: expected one of {', '.join(map(repr, OBJECTIVES))}"
        )
    chosen = [n for n, plain in _LEFT_OUT.items() if getattr(engine, n) != plain]
    if chosen:
        raise ValueError(f"{chosen[0]} goes with networks along a path, not with an energy: leave it out")
    if isinstance(target.program.model, GibbsSampled):
        raise UnsupportedError(
            f"{engine.name} asks for the gradient of log p(x) in x, and {target.program.name} is of binary x: use "
            "engine='contrastive_divergence' or 'noise_contrastive'"
        )


def match_energy(engine: Any, target: Target, driver: Driver, seed: int) -> Outcome:
    """Params whose score matches that of the data by ``engine.objective``."""
    return _Fit(engine, target, _Matched, seed).outcome(driver)


class _Matched(EnergyTrainer):
    """The mean objective of a batch."""

    def __init__(self, target: Target, engine: Any):
        self.objective, self.num_slices = engine.objective, engine.num_slices
        super().__init__(target, (engine.objective, engine.num_slices, engine.sigma))
        scale = self.energies.moments()[1]
        self.sigma = np.full(scale.shape, engine.sigma) if engine.sigma else _SIGMA * scale
        self.key = (*self.key, self.sigma.tobytes())

    def noise(self, rows: int) -> dict[str, Any]:
        """What a step takes."""
        shape = tuple(self.part.program.model.event_shape)
        held = {"denoising": {"normal": ("normal", (rows, *shape))}}
        held["sliced"] = {"normal": ("normal", (self.num_slices, rows, *shape))}
        return held.get(self.objective, {})

    def loss(self, params: Any, row: Mapping[str, Any], *fixed: Any) -> tuple[Any, Any]:
        backend, xp = self.part.backend, self.part.backend.xp
        x = xp.astype(row["x"], xp.zeros(()).dtype)
        score = lambda y: self.energies.score({"unconstrained": params}, y)
        f = home(backend.array_library).Functions
        if self.objective == "denoising":
            values = score_objectives.denoising(xp, score, x, row["normal"], backend.asarray(self.sigma))
        elif self.objective == "sliced":
            values = score_objectives.sliced(f, score, x, row["normal"])
        else:
            values = score_objectives.implicit(f, score, x)
        return xp.mean(values), {}


class _Fit(EnergyFit):
    """Steps take the objective's noise."""

    def _of_steps(self, start: int, count: int) -> dict[str, Any]:
        spec = self.trainer.noise(self.engine.batch_size)
        noise = self.target.backend.noise((self.seed + _MORE) % 2**31, start, spec, count) if spec else {}
        return {**super()._of_steps(start, count), **noise}
