"""The stochastic sampler of EDM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.samplers._sampler import Plan, Sampler, Spec
from ppl_gen.options import not_below


@dataclass(frozen=True)
class EDMStochastic(Sampler):
    """Noise is put back before each step of Heun's method on the probability-flow equation (Karras et al. 2022).

    Algorithm 2 on the path "edm"; on others the same steps in their own time and scale, as of algorithm 1. Without
    ``S_churn`` it is the deterministic sampler, of order 2; a last step to no noise at all is Euler's.

    Attributes:
        S_churn: noise that is put back on the whole way; S_tmin, S_tmax: where sigma / alpha is between them;
            S_noise: its deviation, over what it should be.
    """

    num_steps: int = 40
    grid: Any = "karras"
    S_churn: float = 0.0
    S_tmin: float = 0.0
    S_tmax: float = math.inf
    S_noise: float = 1.0

    evaluations: ClassVar[int] = 2
    off_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("S_churn", "S_tmin", "S_tmax", "S_noise"):
            not_below(name, getattr(self, name), 0.0)

    def plan(self, path: Path, kind: str) -> Plan:
        """Beside the times: ``hat``, the time with noise put back; ``put``, that noise's deviation in x_hat / alpha."""
        times = self.times(path, kind)
        t, s = times[:-1], times[1:]
        ratio = path.ratio(t)
        churned = (ratio >= self.S_tmin) & (ratio <= self.S_tmax)
        gamma = np.where(churned, min(self.S_churn / len(t), math.sqrt(2.0) - 1.0), 0.0)
        most = float(path.ratio(path.inside(np.asarray(path.end))))
        raised = np.maximum(ratio, np.minimum(ratio * (1.0 + gamma), most))  # never past the end of the path
        hat = np.where(raised > ratio, path.time_of(raised), t)
        put = self.S_noise * np.sqrt(np.maximum(raised**2 - ratio**2, 0.0))
        noisy = path.at(np, s).sigma > 0.0
        return {"t": t, "s": s, "hat": hat, "put": put, "check": np.where(noisy, s, hat), "weight": 0.5 * noisy}

    def noise(self, shape: tuple[int, ...]) -> Spec:
        return {"z": ("normal", shape)} if self.S_churn else {}

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        (x,), t, h, weight = state, row["hat"], row["s"] - row["hat"], row["weight"]
        if self.S_churn:
            hat = field.at(xp, t).alpha
            x = hat / field.at(xp, row["t"]).alpha * x + hat * row["put"] * row["z"]
        slope = field(xp, "velocity", x, t)
        again = field(xp, "velocity", x + h * slope, row["check"])
        return (x + h * ((1.0 - weight) * slope + weight * again),)
