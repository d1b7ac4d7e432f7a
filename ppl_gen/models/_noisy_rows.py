"""What models that learn to take noise away have in common: a network on a path, its program, its data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ppl_gen.diffusion.denoiser import Denoiser
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.objectives import Denoising
from ppl_gen.diffusion.paths import Path, path_of
from ppl_gen.diffusion.predictions import check_prediction
from ppl_gen.diffusion.probability_flow import probability_flow
from ppl_gen.diffusion.regression import Regression
from ppl_gen.models._checks import check_codes, check_images
from ppl_gen.models._options import count
from ppl_gen.nets.net import Net
from ppl_gen.nets.time_mlp import TimeMLP
from ppl_gen.nets.unet import UNet
from ppl_gen.primitives import plate, sample
from ppl_gen.program import DataError


class NoisyRows:
    """A base of dataclasses with the fields named here.

    The program observes ``x`` (N, *shape) where the probability-flow equation carries noise to: log p(x) is exact up to
    the error of its solver.
    """

    shape: tuple[int, ...]
    path: Any
    prediction: str
    net: Net | None
    hidden: tuple[int, ...]
    channels: tuple[int, ...] | None
    num_classes: int
    num_context: int
    sigma_data: float
    num_steps: int

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x", "label", "context")

    def __post_init__(self) -> None:
        for n in self.shape:
            count("shape", n)
        path_of(self.path)
        check_prediction(self.prediction)
        for name in ("num_classes", "num_context"):
            if getattr(self, name):
                count(name, getattr(self, name))
        count("num_steps", self.num_steps)
        if self.channels is not None and len(self.shape) != 3:
            raise ValueError(f"convolutions want a shape (height, width, channels), got {self.shape}")
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be a number above 0, got {self.sigma_data!r}")
        self._net()

    def __call__(self, x: Any = None, label: Any = None, context: Any = None, num_data: int | None = None) -> None:
        """The program; ``x`` has shape (N, *shape)."""
        n = next((len(rows) for rows in (x, label, context) if rows is not None), num_data or 1)
        density = probability_flow(self.field(label, context), self.shape, self.num_steps)
        with plate("data", n):
            sample("x", density, obs=x)

    def field(self, label: Any = None, context: Any = None) -> Field:
        """What the network says, inside of a program."""
        return self.denoiser.field(self.denoiser.network(), label, context)

    def regression(self, objective: Denoising, drop_label: float = 0.0) -> Regression:
        """The program that it is trained by."""
        return Regression(self.denoiser, objective, drop_label, self.num_classes)

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
        classes, context = self.num_classes, self.num_context
        return TimeMLP(math.prod(self.shape), self.hidden, num_classes=classes, num_context=context)

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: rows of another shape; labels or a context missing, out of range, or not asked for."""
        x, label, context = (data.get(n) for n in ("x", "label", "context"))
        name = type(self).__name__
        if x is not None:
            check_images(name, x, self.shape)
        if label is not None:
            if not self.num_classes:
                raise DataError(f"{name} without classes got labels: set num_classes")
            check_codes("label", label, self.num_classes)
        if (context is None) == bool(self.num_context):
            number = "a" if context is None else "no"
            raise DataError(f"{name} with num_context={self.num_context} takes {number} context")
        if context is not None and (context.ndim != 2 or context.shape[1] != self.num_context):
            raise DataError(f"{name} expects context of shape (N, {self.num_context}), got {context.shape}")

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n}
