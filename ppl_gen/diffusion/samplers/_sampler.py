"""What a sampler is: a grid of times from noise to data, and a step between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.options import count

Spec = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Sampler:
    """Takes noise back to data along the times of a grid, in steps that are pure and batched over rows.

    A new one is a subclass in a file of its own with ``step``, and whatever else differs from what is here.

    Attributes:
        num_steps: between the end of the path and its start.
        evaluations: of the network, in a step.
        needs_margin: whether it asks for drift, diffusion or score, which have no bound at the ends of some paths.
    """

    num_steps: int = 100

    evaluations: ClassVar[int] = 1
    needs_margin: ClassVar[bool] = False

    def __post_init__(self) -> None:
        count("num_steps", self.num_steps)

    def times(self, path: Path) -> np.ndarray:
        """(num_steps + 1,), from the end of the path down to its start."""
        ends = np.asarray([path.end, path.start])
        first, last = path.inside(ends) if self.needs_margin else ends
        return np.linspace(first, last, self.num_steps + 1)

    def noise(self, shape: tuple[int, ...]) -> Spec:
        """What randomness a step takes, of rows of this shape, name -> (kind, shape)."""
        return {}

    def begin(self, xp: Any, x: Any) -> Any:
        """The state at the end of the path, of noise x; its first entry are always the rows."""
        return (x,)

    def step(self, xp: Any, field: Field, state: Any, row: Any) -> Any:
        """From time ``row["t"]`` to ``row["s"]`` before it; ``row`` holds the noise, too, and the step's ``index``."""
        raise TypeError(f"{type(self).__name__} defines no step")
