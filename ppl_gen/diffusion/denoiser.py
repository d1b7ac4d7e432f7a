"""A network as a field: what it is shown, and what it says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.nets.net import Net
from ppl_gen.primitives import module, xp


@dataclass(frozen=True)
class Denoiser:
    """A network that sees noisy rows, scaled to unit variance, the time, and labels or a context where there are any.

    Attributes:
        net: ``(x (rows, *shape), time (rows,), label, context) -> like x``; label and context only where it has them;
            with ``one_time`` it takes times (1,), too.
        prediction: what it says. sigma_data: standard deviation of the data.
    """

    net: Net
    shape: tuple[int, ...]
    path: Path
    prediction: str
    sigma_data: float = 1.0

    def network(self, name: str = "net") -> Any:
        """Inside of a program, outside of its plates: the weights are params ``{name}.{path}``."""
        return module(name, self.net)

    def field(self, network: Any, label: Any = None, context: Any = None) -> Field:
        """What :meth:`network` says.

        Args:
            label: (rows,), whole numbers; ``num_classes`` of the network stands for none. context: (rows, features).
        """
        ndim, given = len(self.shape), {}
        if label is not None:
            given["label"] = xp.astype(label, xp.int32)
        if context is not None:
            given["context"] = context

        def says(x: Any, t: Any) -> Any:
            at = self.path.at(xp, t)
            scale = 1.0 / xp.sqrt(at.alpha * at.alpha * self.sigma_data**2 + at.sigma * at.sigma)
            return network(scale[(..., *(None,) * ndim)] * x, self.path.clock(xp, t), **given)

        return Field(self.path, self.prediction, says, ndim, self.sigma_data, self.net.one_time)

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return math.prod(self.shape)
