"""PixelCNN: images pixel by pixel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models._checks import check_binary, check_codes, check_images, check_levels
from ppl_gen.models._one_by_one import Binary, LogisticPixel, Part, in_turn, one_by_one, put
from ppl_gen.models._options import count, datum_shape, one_of
from ppl_gen.nets import pixel_cnn
from ppl_gen.primitives import module, plate, sample, xp
from ppl_gen.program import DataError

_LIKELIHOODS = ("bernoulli", "discretised_logistic")
_MOST_NUMBERS = 2**24  # that a layer holds, outside of training


@dataclass(frozen=True)
class PixelCNN:
    """p(x) = prod_i p(x_i | pixels above and to the left), said by a gated convolutional network: log p(x) is exact.

    Van den Oord et al. (2016), "Conditional image generation with PixelCNN decoders", and with levels Salimans et al.
    (2017), "PixelCNN++". Sites: ``x`` (N, height, width, channels); params: the weights of ``net``. Train it by
    ``engine="svi"`` with a ``batch_size``. A density takes one pass of the network, a draw one for each pixel.

    Attributes:
        shape: height, width and channels.
        likelihood: "bernoulli" of zeros and ones, independent between channels of a pixel; "discretised_logistic" of
            whole numbers 0 to ``num_levels`` - 1, ``num_components`` logistics for each pixel, whose channels follow
            each other.
        width, num_layers, kernel_size: of the network.
        num_classes: of ``label`` (N,), whole numbers that the density is conditional on; 0 for no labels.
    """

    shape: tuple[int, int, int]
    likelihood: str = "discretised_logistic"
    num_components: int = 5
    num_levels: int = 256
    width: int = 64
    num_layers: int = 6
    kernel_size: int = 5
    num_classes: int = 0

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x", "label")

    def __post_init__(self) -> None:
        datum_shape(self.shape, num_axes=3)
        count("num_components", self.num_components)
        one_of("likelihood", self.likelihood, _LIKELIHOODS)
        if self.num_levels < 2:
            raise ValueError(f"num_levels must be at least 2, got {self.num_levels}")
        self._net()

    def __call__(self, x: Any = None, label: Any = None, num_data: int | None = None) -> None:
        """The program; ``x`` has shape (N, height, width, channels)."""
        n = (num_data or 1) if x is None else x.shape[0]
        net = functools.partial(module("net", self._net()), label=label)
        with plate("data", n):
            pixels = one_by_one(
                self._part(), functools.partial(self._says, net), functools.partial(self._draw, net), n, self.shape
            )
            sample("x", pixels, obs=x)

    def _says(self, net: Callable[..., Any], x: Any, above: Any = None) -> Any:
        """What the network says of each pixel of images, or of rows, (..., pixels, size)."""
        said = net(self._part().scaled(x), above=above)
        return said.reshape((*said.shape[:-3], -1, said.shape[-1]))

    def _draw(self, net: Callable[..., Any], e: Any) -> Any:
        """Images row by row: the vertical stack sees each row once, the horizontal one runs along the row alone."""
        part, (height, width, _) = self._part(), self.shape

        def row(x: Any, given: tuple[Any, Any]) -> tuple[Any, Any]:
            at, noise = given
            above = [xp.take(a, at, axis=-3)[..., None, :, :] for a in net(part.scaled(x), only_above=True)]
            along = in_turn(part, lambda r: self._says(net, r[..., None, :, :], above), noise, tuple(range(width)))
            return put(x, at, along, -3), ()

        rows = e.reshape((*e.shape[:-2], height, width, e.shape[-1]))
        start = xp.zeros((*e.shape[:-2], *self.shape))
        return xp.scan(row, start, (xp.arange(height), xp.moveaxis(rows, -3, 0)))[0]

    def _part(self) -> Part:
        channels = self.shape[2]
        if self.likelihood == "bernoulli":
            return Binary(channels)
        return LogisticPixel(channels, self.num_components, self.num_levels)

    def _net(self) -> pixel_cnn.PixelCNN:
        return pixel_cnn.PixelCNN(
            self.shape, self._part().size, self.width, self.num_layers, self.kernel_size, self.num_classes
        )

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: another shape, numbers outside of the support, or labels that are no classes."""
        x, label = data.get("x"), data.get("label")
        if x is not None:
            check_images("PixelCNN", x, self.shape)
            check_binary(x) if self.likelihood == "bernoulli" else check_levels(x, self.num_levels)
        if (label is None) != (not self.num_classes):
            takes = "a label (N,)" if label is None else "no label"
            raise DataError(f"PixelCNN with num_classes={self.num_classes} takes {takes}")
        if label is not None:
            check_codes("label", label, self.num_classes)

    def most_rows(self, data: Mapping[str, np.ndarray]) -> int:
        """Images that go through the network together."""
        return max(_MOST_NUMBERS // (2 * self.width * self.shape[0] * self.shape[1]), 1)

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, Any]:
        """Arguments that make n new rows, of the classes by turns."""
        return {"num_data": n} | ({"label": np.arange(n) % self.num_classes} if self.num_classes else {})
