"""The program that a network on a path is trained by: noise is drawn, and what the network says of it is a factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.diffusion.denoiser import Denoiser
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.objectives import Denoising
from ppl_gen.diffusion.predictions import combined
from ppl_gen.primitives import dist, factor, plate, sample, xp


@dataclass(frozen=True)
class Regression:
    """Minus the weighted squared error of a network on noisy rows, one factor for each.

    Times are spread evenly over a batch and turned by one random number, so that each is uniform (Kingma et al. 2021,
    appendix I.1). Its own noise is the guide.

    Attributes:
        drop_label: share of labels that are left out, for classifier-free guidance (Ho & Salimans 2022).
    """

    denoiser: Denoiser
    objective: Denoising
    drop_label: float = 0.0
    num_classes: int = 0

    em_rows: ClassVar[tuple[str, ...]] = ("x", "label", "context", "noise")

    def __call__(self, x: Any, label: Any = None, context: Any = None, noise: Any = None) -> None:
        """``x`` (N, *shape); ``noise`` like it, where it is not to be drawn anew."""
        network, turned = self.denoiser.network(), self._turned()
        with plate("data", len(x)):
            noise = self._noise() if noise is None else noise
            field = self.denoiser.field(network, self._kept(label), context)
            factor("matching", -self.loss(field, x, noise, turned))

    def guide(self, x: Any, label: Any = None, context: Any = None, noise: Any = None) -> None:
        """The noise, as the program draws it."""
        self._turned()
        with plate("data", len(x)):
            if noise is None:
                self._noise()
            self._kept(label)

    def _turned(self) -> Any:
        return sample("turned", dist.Uniform(0.0, 1.0))

    def _noise(self) -> Any:
        shape = list(self.denoiser.shape)
        return sample("noise", dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))

    def _kept(self, label: Any) -> Any:
        """Labels, of some the one that stands for none."""
        if label is None or not self.drop_label:
            return label
        dropped = sample("dropped", dist.Uniform(0.0, 1.0)) < self.drop_label
        return xp.where(dropped, self.num_classes, xp.astype(label, xp.int32))

    def loss(self, field: Field, x: Any, e: Any, turned: Any) -> Any:
        """Of rows x with the noise e: (rows,)."""
        n = len(x)
        spread = turned + xp.astype(xp.arange(n), x.dtype) / n
        t = self.objective.at(xp, field.path, spread - xp.floor(spread))
        at, d = field.at(xp, t), self.denoiser
        noisy = at.alpha * x + at.sigma * e
        error = field.says(noisy, t) - combined(xp, at, field.kind, x, e, d.sigma_data)
        weighted = self.objective.weight(xp, at, field.kind, d.sigma_data) * error * error
        total = xp.sum(weighted.reshape((n, d.size)), axis=-1)
        return total if self.objective.weighting == "likelihood" else total / d.size
