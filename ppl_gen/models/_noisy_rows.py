"""What models that learn to take noise away have in common: a network on a path, its program, its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.diffusion.denoiser import Denoiser
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.latent_chain import LatentChain
from ppl_gen.diffusion.objectives import Objective
from ppl_gen.diffusion.paths import Path, path_of
from ppl_gen.diffusion.predictions import check_prediction
from ppl_gen.diffusion.probability_flow import probability_flow
from ppl_gen.diffusion.regression import Regression
from ppl_gen.models._checks import check_codes, check_images
from ppl_gen.models._options import count, datum_shape, one_of, positive
from ppl_gen.nets.net import Net
from ppl_gen.nets.time_mlp import TimeMLP
from ppl_gen.nets.time_residual import TimeResidual
from ppl_gen.nets.unet import UNet
from ppl_gen.primitives import plate, sample
from ppl_gen.program import DataError

_LEAST, _MOST = 64, 512  # width of the network that is made where none is asked for: four times that of the data


class NoisyRows:
    """A base of dataclasses with the fields named here.

    The program observes ``x`` (N, *shape) where the probability-flow equation carries noise to: log p(x) is exact up to
    the error of its solver.
    """

    shape: tuple[int, ...]
    path: Any
    prediction: str
    net: Net | None
    hidden: tuple[int, ...] | None
    channels: tuple[int, ...] | None
    num_classes: int
    num_context: int
    sigma_data: float
    num_steps: int
    source: str = "gaussian"

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x", "label", "context", "noise")
    learned_by: ClassVar[tuple[str, ...]] = ("score_matching", "flow_matching")

    def __post_init__(self) -> None:
        datum_shape(self.shape)
        path_of(self.path)
        check_prediction(self.prediction)
        for name in ("num_classes", "num_context"):
            if getattr(self, name):
                count(name, getattr(self, name))
        count("num_steps", self.num_steps)
        if self.channels is not None and len(self.shape) != 3:
            raise ValueError(f"convolutions want a shape (height, width, channels), got {self.shape}")
        if self.channels is not None and self.net is None and self.num_context:
            raise ValueError("a U-Net is told labels and no context: leave num_context out, or pass net")
        one_of("source", self.source, ("gaussian", "data"))
        positive("sigma_data", self.sigma_data)
        self._net()

    def __call__(
        self, x: Any = None, label: Any = None, context: Any = None, noise: Any = None, num_data: int | None = None
    ) -> None:
        """The program; ``x`` has shape (N, *shape), and ``noise``, which it was trained with and which is not seen."""
        if self.source == "data":
            raise UnsupportedError(
                f"{type(self).__name__} with source='data' knows its noise by draws alone, and no density: run.sample "
                "takes them to data; run.log_prob needs source='gaussian'"
            )
        n = next((len(rows) for rows in (x, label, context) if rows is not None), num_data or 1)
        density = probability_flow(self.field(label, context), self.shape, self.num_steps)
        with plate("data", n):
            sample("x", density, obs=x)

    def field(self, label: Any = None, context: Any = None) -> Field:
        """What the network says, inside of a program."""
        return self.denoiser.field(self.denoiser.network(), label, context)

    def regression(self, objective: Objective, drop_label: float = 0.0) -> Regression:
        """The program that it is trained by.

        Raises:
            ValueError: an objective that is not of this path or prediction, or labels left out where there are none.
        """
        if drop_label and not self.num_classes:
            raise ValueError("drop_label leaves out labels, and the model has none: set num_classes")
        asks = self.check_data, self.source == "data"
        return Regression(self.denoiser, objective, drop_label, self.num_classes, *asks)

    def latent_variable(self, num_steps: int = 100, grid: str = "log_snr") -> LatentChain:
        """The same network as a deep latent-variable program with a fixed guide, so many latents deep.

        Its ``engine="svi"`` trains by the variational bound itself; ``run.latent_variable`` puts what another objective
        has trained into it. Args: of :class:`~ppl_gen.diffusion.latent_chain.LatentChain`.
        """
        if self.source == "data":
            raise ValueError("source='data': the noise of a latent-variable program is Gaussian")
        return LatentChain(self, num_steps, grid)

    @property
    def denoiser(self) -> Denoiser:
        return Denoiser(self._net(), self.shape, self.along, self.prediction, self.sigma_data)

    @property
    def along(self) -> Path:
        """The path itself."""
        return path_of(self.path)

    def _net(self) -> Net:
        if self.net is not None:
            return self.net
        if self.channels is not None:
            height, width, features = self.shape
            return UNet((height, width, features), features, self.channels, num_classes=self.num_classes)
        if len(self.shape) != 1:
            raise ValueError(f"rows of shape {self.shape} want a network with convolutions: set channels, or net")
        (size,) = self.shape
        told: dict[str, Any] = {"num_classes": self.num_classes, "num_context": self.num_context}
        if self.hidden is not None:
            return TimeMLP(size, self.hidden, **told)
        return TimeResidual(size, min(max(_LEAST, 4 * size), _MOST), **told)

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: rows of another shape; labels or a context missing, out of range, or not asked for."""
        x, label, context, noise = (data.get(n) for n in ("x", "label", "context", "noise"))
        name = type(self).__name__
        for said, rows in ((name, x), (f"{name}, for its noise,", noise)):
            if rows is not None:
                check_images(said, rows, self.shape)
        if label is not None:
            if not self.num_classes:
                raise DataError(f"{name} without classes got labels: set num_classes")
            check_codes("label", label, self.num_classes)
        lengths = {n: len(data[n]) for n in self.em_rows if data.get(n) is not None}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{name} expects rows of the same number, got {lengths}")
        if (context is None) == bool(self.num_context):
            number = "a" if context is None else "no"
            raise DataError(f"{name} with num_context={self.num_context} takes {number} context")
        if context is not None and (context.ndim != 2 or context.shape[1] != self.num_context):
            raise DataError(f"{name} expects context of shape (N, {self.num_context}), got {context.shape}")

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n}
