"""The probability-flow equation by steps that are as long as a tolerance allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.samplers._sampler import Plan, Sampler
from ppl_gen.options import count, not_below

# Dormand & Prince (1980): nodes, stages, and what the method of order 5 has more than that of order 4.
_NODES = np.asarray([1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0])
_STAGES = np.asarray(
    [
        [1 / 5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [3 / 40, 9 / 40, 0.0, 0.0, 0.0, 0.0, 0.0],
        [44 / 45, -56 / 15, 32 / 9, 0.0, 0.0, 0.0, 0.0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0.0, 0.0, 0.0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0.0, 0.0],
        [35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0],
    ]
)
_ERROR = np.asarray([71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])
_PLACES = np.eye(7)[1:]  # of the slopes of the stages
_SAFETY, _LEAST, _MOST = 0.9, 0.2, 10.0
_FIRST = 1e-3  # length of the first step, of a way of length 1


@dataclass(frozen=True)
class Adaptive(Sampler):
    """dx / dt = velocity(x, t) by Dormand and Prince's pair of orders 5 and 4; all rows take the same steps.

    A step is taken where the root mean square of each row's error, over ``atol + rtol |x|``, is at most 1, and done
    again, shorter, where it is not; the way is from one end of the grid to the other. The first call of ``step`` has
    length 0 and finds the slope. Diffrax and torchdiffeq do the same for one library each: this is one text, compiled
    with the field, whose steps the driver counts.

    Attributes:
        num_steps: tries at most.
        rtol, atol: what a step may be off by.
    """

    num_steps: int = 10_000
    rtol: float = 1e-5
    atol: float = 1e-5

    evaluations: ClassVar[int] = 6
    off_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        tries = self.num_steps
        count("num_steps", tries)
        super().__post_init__()
        object.__setattr__(self, "num_steps", tries)
        for name in ("rtol", "atol"):
            not_below(name, getattr(self, name), 0.0)
        if not self.rtol + self.atol > 0:
            raise ValueError("one of rtol and atol must be above 0")

    def plan(self, path: Path, kind: str) -> Plan:
        times = self.times(path, kind)
        return {"t": np.full(self.num_steps, times[0]), "s": np.full(self.num_steps, times[-1])}

    def begin(self, xp: Any, x: Any) -> Any:
        """Rows, the share of the way behind them, the length of the next step, the slope."""
        zero = xp.zeros_like(x[(0,) * x.ndim])
        return x, zero, zero, xp.zeros_like(x)

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        x, done, wanted, slope = state
        t, way = row["t"], row["s"] - row["t"]
        last = wanted >= 1.0 - done
        h = xp.where(last, 1.0 - done, wanted)
        table = [xp.astype(xp.asarray(z), x.dtype) for z in (_NODES, _STAGES, _PLACES, _ERROR)]

        def stage(carry: Any, at: Any) -> tuple[Any, Any]:
            node, weights, place = at
            there = x + h * xp.tensordot(weights, carry[0], axes=1)
            found = way * field(xp, "velocity", there, t + (done + node * h) * way)
            return (carry[0] + place[(..., *(None,) * x.ndim)] * found, there), node

        begun = xp.concatenate([slope[None], xp.zeros_like(xp.broadcast_to(slope, (6, *slope.shape)))])
        (slopes, new), _ = xp.scan(stage, (begun, x), tuple(table[:3]))  # a loop: six networks would compile for long
        error = h * xp.tensordot(table[3], slopes, axes=1)
        off = self._worst(xp, error, x, new)
        taken = off <= 1.0
        factor = xp.where(xp.isfinite(off), _SAFETY * xp.maximum(off, 1e-10) ** -0.2, _LEAST)
        length = xp.where(h > 0.0, h * xp.clip(factor, _LEAST, _MOST), xp.zeros_like(h) + _FIRST)
        behind = xp.where(last, xp.ones_like(done), done + h)
        return (
            xp.where(taken, new, x),
            xp.where(taken, behind, done),
            length,
            xp.where(taken, slopes[-1], slope),
        )

    def _worst(self, xp: Any, error: Any, x: Any, new: Any) -> Any:
        """The largest error of a row, over what is allowed."""
        share = error / (self.atol + self.rtol * xp.maximum(xp.abs(x), xp.abs(new)))
        return xp.max(xp.sqrt(xp.mean(xp.square(share).reshape((len(x), -1)), axis=-1)))

    def share(self, xp: Any, state: Any) -> Any:
        return state[1]
