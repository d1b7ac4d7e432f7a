"""The program that a network on a path is trained by: noise is drawn, and what the network says of it is a factor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.diffusion.denoiser import Denoiser
from ppl_gen.diffusion.objectives import Objective
from ppl_gen.intake import DataError
from ppl_gen.primitives import dist, factor, plate, sample, xp


@dataclass(frozen=True)
class Regression:
    """Minus the loss of a network on noisy rows, one factor for each.

    Times are spread evenly over a batch and turned by one random number, so that each is uniform (Kingma et al. 2021,
    appendix I.1). Its own noise is the guide.

    Attributes:
        drop_label: share of labels that are left out, for classifier-free guidance (Ho & Salimans 2022).
        check: what the model has against its data, ``data -> None``, on the host.
        needs_noise: whether data must come with noise, which is not Gaussian.
    """

    denoiser: Denoiser
    objective: Objective
    drop_label: float = 0.0
    num_classes: int = 0
    check: Callable[[Mapping[str, np.ndarray]], None] = lambda data: None
    needs_noise: bool = False

    em_rows: ClassVar[tuple[str, ...]] = ("x", "label", "context", "noise")

    def __post_init__(self) -> None:
        self.objective.check(self.denoiser.path, self.denoiser.prediction)

    def __call__(self, x: Any, label: Any = None, context: Any = None, noise: Any = None) -> None:
        """``x`` (N, *shape); ``noise`` like it, where it is not to be drawn anew."""
        network, turned = self.denoiser.network(), self._turned()
        with plate("data", len(x)):
            drawn = self._noises(noise)
            field = self.denoiser.field(network, self._kept(label), context)
            factor("matching", -self.objective.loss(xp, field, x, drawn, self._spread(turned, x)))

    def guide(self, x: Any, label: Any = None, context: Any = None, noise: Any = None) -> None:
        """The noise, as the program draws it."""
        self._turned()
        with plate("data", len(x)):
            self._noises(noise)
            self._kept(label)

    def _turned(self) -> Any:
        return sample("turned", dist.Uniform(0.0, 1.0))

    def _spread(self, turned: Any, x: Any) -> Any:
        """Quantiles of the rows' times."""
        spread = turned + xp.astype(xp.arange(len(x)), x.dtype) / len(x)
        return spread - xp.floor(spread)

    def _noises(self, noise: Any) -> dict[str, Any]:
        """What the objective takes; ``noise`` as it came, where it did."""
        shape = list(self.denoiser.shape)
        normal = dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))
        given = {} if noise is None else {"noise": noise}
        return {n: given[n] if n in given else sample(n, normal) for n in self.objective.noises}

    def _kept(self, label: Any) -> Any:
        """Labels, of some the one that stands for none."""
        if label is None or not self.drop_label:
            return label
        dropped = sample("dropped", dist.Uniform(0.0, 1.0)) < self.drop_label
        return xp.where(dropped, self.num_classes, xp.astype(label, xp.int32))

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: what the model has against them, or rows without the noise that they are to come with."""
        self.check(data)
        if self.needs_noise and "x" in data and "noise" not in data:
            raise DataError("source='data' draws no noise of its own: pass it beside x, {'x': ..., 'noise': ...}")
