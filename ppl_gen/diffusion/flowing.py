"""Log densities by the probability-flow equation, of many rows: step by step under the driver."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Backend
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.probability_flow import change, places, scale
from ppl_gen.flows.continuous import TRACES, runge_kutta
from ppl_gen.inference.driver import Driver
from ppl_gen.options import count, one_of

_CHUNK = 10  # steps in a compiled call
_NUMBERS = 2**22  # of rows and of what their traces take, side by side


@dataclass(frozen=True)
class Flow:
    """How the equation is solved.

    Attributes:
        trace: "exact", by one derivative for each entry of a row, or "hutchinson", by ``num_probes`` random ones.
    """

    num_steps: int = 50
    trace: str = "exact"
    num_probes: int = 10

    def __post_init__(self) -> None:
        count("num_steps", self.num_steps)
        one_of("trace", self.trace, TRACES)
        count("num_probes", self.num_probes, 2)

    def rows(self, shape: tuple[int, ...]) -> int:
        """How many rows of this shape go side by side."""
        size = math.prod(shape)
        return max(1, _NUMBERS // (size * (size if self.trace == "exact" else self.num_probes)))

    def steps(self, backend: Backend, field_of: Callable[..., Field], event_dim: int) -> Callable[..., Any]:
        """Compiled ``advance(state, rows of steps, signs, *constants)`` of what ``field_of(*constants)`` says."""
        xp = backend.xp

        def step(state: Any, row: Any, signs: Any, *constants: Any) -> tuple[Any, Any]:
            slope = change(xp, field_of(*constants), event_dim, signs if self.trace == "hutchinson" else None)
            state = runge_kutta(slope, state, row["u"], row["h"])
            return state, {"finite": xp.all(xp.isfinite(state[0]))}

        return backend.scan(step, calls=_CHUNK)

    def solve(
        self, backend: Backend, driver: Driver, path: Path, sigma_data: float, advance: Callable[..., Any],
        data: np.ndarray | None, shape: tuple[int, ...], seed: int, constants: tuple[Any, ...] = (),
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Rows (n, *event), their log densities (n,) and the standard errors of these, 0 of exact traces.

        Args:
            data: float rows whose density is asked for; draws from noise, of this ``shape``, where None.
            advance: of :meth:`steps`.

        Raises:
            FloatingPointError: the way is not finite.
        """
        u = places(path, sigma_data, self.num_steps)
        near = float(scale(np, sigma_data, u[0]))
        if data is None:
            begun, plan = backend.noise(2 * seed, 0, {"z": ("normal", shape)}, 1)["z"][0], u[::-1]
        else:
            begun, plan = backend.asarray(data / near), u
        signs = backend.asarray(self._signs(shape, seed))

        def run(state: Any, first: int, number: int) -> tuple[Any, Any]:
            here = plan[first : first + number + 1]
            rows = {"u": backend.asarray(here[:-1]), "h": backend.asarray(np.diff(here))}
            return advance(state, rows, signs, *constants)

        lead = shape[:1] if self.trace == "exact" else (self.num_probes, shape[0])
        state, _, _ = driver.run(
            run, (begun, backend.asarray(np.zeros(lead))), self.num_steps, label="probability flow", chunk=_CHUNK,
            keep=False, stop=_stop,
        )  # fmt: skip
        start, end, gained = (np.asarray(x, float) for x in backend.to_numpy((begun, *state)))
        rows, noise, sign = (near * end, start, -1.0) if data is None else (data, end, 1.0)
        constant = math.prod(shape[1:]) * math.log(math.sqrt(2.0 * math.pi) * near)
        values = sign * gained - 0.5 * np.square(noise.reshape(shape[0], -1)).sum(-1) - constant
        if self.trace == "exact":
            return rows, values, np.zeros(shape[0])
        return rows, values.mean(0), values.std(0, ddof=1) / math.sqrt(self.num_probes)

    def _signs(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        """(probes, rows, entries); the same on every backend."""
        if self.trace == "exact":
            return np.zeros(1)
        rng = np.random.default_rng([seed, 39])
        return 2.0 * rng.integers(0, 2, (self.num_probes, shape[0], math.prod(shape[1:]))) - 1.0


def _stop(before: Any, after: Any, report: Mapping[str, np.ndarray]) -> None:
    if not report["finite"].all():
        raise FloatingPointError("the probability flow is not finite: use more num_steps, or train for longer")

