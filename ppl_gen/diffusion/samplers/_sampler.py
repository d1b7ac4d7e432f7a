"""What a sampler is: a grid of times from noise to data, and a step between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.samplers._grids import IN_RATIO, IN_TIME, check_inside, own_times
from ppl_gen.options import count, one_of

Spec = dict[str, tuple[str, tuple[int, ...]]]
Plan = dict[str, np.ndarray]

_SILENT = ("noise", "score", "edm")  # predictions that say nothing of the datum where no signal is left


@dataclass(frozen=True)
class Sampler:
    """Takes noise back to data along the times of a grid, in steps that are pure and batched over rows.

    A new one is a subclass in a file of its own with ``step``, and whatever else differs from what is here.

    Attributes:
        num_steps: between the end of the path and its start.
        grid: where times are: "uniform", "quadratic" (closer together near the data), "karras" (even in
            (sigma / alpha)^(1/7)), "log_snr" (even in log(sigma / alpha)), or times of one's own that decrease, which
            then say what ``num_steps`` is.
        evaluations: of the network, in a step.
        off_start: whether it asks what has no bound at the very data, such as the score there; times then stop a
            little before, at ``path.inside(path.start)``. off_end: the same of the noise.
    """

    num_steps: int = 100
    grid: Any = "uniform"

    evaluations: ClassVar[int] = 1
    off_start: ClassVar[bool] = False
    off_end: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.grid, str):
            one_of("grid", self.grid, (*IN_TIME, *IN_RATIO))
        else:
            object.__setattr__(self, "grid", own_times(self.grid))
            object.__setattr__(self, "num_steps", len(self.grid) - 1)
        count("num_steps", self.num_steps)

    def times(self, path: Path, kind: str = "velocity") -> np.ndarray:
        """(num_steps + 1,), from the end of the path down to its start.

        Args:
            kind: of the field's prediction; some say nothing of the data where no signal is left.

        Raises:
            ValueError: times of one's own that are outside the path, or where it has no bound.
        """
        off_end = self.off_end or kind in _SILENT
        if not isinstance(self.grid, str):
            return self._own(path, off_end)
        low, high = (float(t) for t in path.inside(np.asarray([path.start, path.end])))
        if self.grid in IN_TIME:
            ends = high if off_end else path.end, low if self.off_start else path.start
            return IN_TIME[self.grid](path, *ends, self.num_steps)
        make = IN_RATIO[self.grid]
        if self.off_start or low == path.start:
            return make(path, high, low, self.num_steps)
        whole = make(path, high, low, self.num_steps - 1) if self.num_steps > 1 else np.asarray([high])
        return np.append(whole, path.start)  # the last step takes all noise away (Karras et al. 2022, equation 5)

    def _own(self, path: Path, off_end: bool) -> np.ndarray:
        times = np.asarray(self.grid)
        check_inside(path, times)
        at = path.at(np, times if self.off_start else times[:-1])
        bad = (at.sigma <= 0.0) | ((at.alpha <= 1e-12) & off_end)
        if bad.any():
            low, high = path.inside(np.asarray([path.start, path.end]))
            raise ValueError(
                f"{type(self).__name__} asks for what has no bound at time {times[: len(bad)][bad][0]:g} of "
                f"{type(path).__name__}: expected times between {low:g} and {high:g}"
            )
        return times

    def plan(self, path: Path, kind: str) -> Plan:
        """What steps are told, name -> one number for each: from time ``t`` to ``s``, and what else the host knows."""
        times = self.times(path, kind)
        return {"t": times[:-1], "s": times[1:]}

    def noise(self, shape: tuple[int, ...]) -> Spec:
        """What randomness a step takes, of rows of this shape, name -> (kind, shape)."""
        return {}

    def begin(self, xp: Any, x: Any) -> Any:
        """The state at the end of the path, of noise x; its first entry are always the rows."""
        return (x,)

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        """From time ``row["t"]`` to ``row["s"]`` before it; ``row`` holds the rest of the plan and the noise, too."""
        raise TypeError(f"{type(self).__name__} defines no step")

    def share(self, xp: Any, state: Any) -> Any:
        """How much of the way lies behind, 1 at its end, of samplers that find their steps themselves; else None."""
        return None
