"""What is known of noisy rows at any time, asked for as any kind of prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ppl_gen.diffusion.paths import Path, Point
from ppl_gen.diffusion.predictions import converted


@dataclass(frozen=True)
class Field:
    """A network's prediction, a program's score or a closed form along a path.

    Attributes:
        says: ``(x (..., *event), t (...)) -> like x``, a prediction of this ``kind``.
        event_dim: how many trailing axes a row has.
        sigma_data: standard deviation of the data, of kind "edm".
        one_time: whether ``says`` takes a time that all rows share as (1,), too.
    """

    path: Path
    kind: str
    says: Callable[[Any, Any], Any]
    event_dim: int = 1
    sigma_data: float = 1.0
    one_time: bool = False

    def __call__(self, xp: Any, into: str, x: Any, t: Any) -> Any:
        """The prediction ``into`` of the rows x at times t, one number or one for each row."""
        t = self.times(xp, x, t)
        at = self.at(xp, t)
        return converted(xp, at, self.kind, into, x, self.says(x, t), self.sigma_data)

    def both(self, xp: Any, x: Any, t: Any) -> tuple[Any, Any]:
        """The datum and the noise that are expected behind x, of one evaluation."""
        t = self.times(xp, x, t)
        at, says = self.at(xp, t), self.says(x, t)
        return tuple(converted(xp, at, self.kind, into, x, says, self.sigma_data) for into in ("data", "noise"))

    def saying(self, says: Callable[[Any, Any], Any], kind: str | None = None, one_time: bool = False) -> Field:
        """The same with another prediction."""
        return replace(self, says=says, kind=self.kind if kind is None else kind, one_time=one_time)

    def times(self, xp: Any, x: Any, t: Any) -> Any:
        """One time for each row, or one of all rows where that is enough."""
        if self.one_time and getattr(t, "ndim", None) == 0 and x.ndim == self.event_dim + 1:
            return t[None]
        return xp.zeros_like(x[(..., *(0,) * self.event_dim)]) + t

    def at(self, xp: Any, t: Any) -> Point:
        """The path at times of rows, to be multiplied with rows."""
        return Point(*(z[(..., *(None,) * self.event_dim)] for z in self.path.at(xp, t)))
