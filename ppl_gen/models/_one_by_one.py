"""Data of parts that come one by one, each given those before it by what a network says of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ppl_gen.models import _discretised_logistic as logistic
from ppl_gen.primitives import dist, xp

_LEAST = -7.0  # of a log scale
_LOG_2_PI = math.log(2.0 * math.pi)


class Part(Protocol):
    """The distribution of a part, ``width`` numbers, of the ``size`` numbers that a network says of it.

    ``log_prob(x, says)`` is of (..., width) and (..., size); ``draw(e, says)`` makes (..., width) of standard normal
    numbers e (..., noise_width). ``support`` is that of one number; ``scaled(x)`` is what the network is shown of x.
    """

    @property
    def width(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def noise_width(self) -> int: ...
    @property
    def support(self) -> Any: ...
    def scaled(self, x: Any) -> Any: ...
    def log_prob(self, x: Any, says: Any) -> Any: ...
    def draw(self, e: Any, says: Any) -> Any: ...


def one_by_one(
    part: Part, says: Callable[[Any], Any], draw: Callable[[Any], Any], rows: int, shape: tuple[int, ...]
) -> Any:
    """The distribution of data of event ``shape`` in parts of ``part.width`` numbers; batch shape (rows,).

    Args:
        says: (..., *shape) -> (..., parts, part.size), where a part depends on those before it alone.
        draw: standard normal numbers (..., parts, part.noise_width) -> (..., *shape), as by :func:`in_turn`.
    """
    count = math.prod(shape) // part.width

    def log_prob(x: Any) -> Any:
        x = 1.0 * x
        of_parts = x.reshape((*x.shape[: x.ndim - len(shape)], count, part.width))
        return xp.sum(part.log_prob(of_parts, says(x)), axis=-1)

    noise = dist.Normal(0.0, 1.0).expand([rows, count, part.noise_width]).to_event(2)
    return dist.FromFunctions(noise, draw, log_prob, shape, part.support)


def in_turn(part: Part, says: Callable[[Any], Any], e: Any, order: tuple[int, ...]) -> Any:
    """Parts (..., parts, part.width) drawn in their order, by a pass of ``says`` for each.

    Args:
        says: of parts as far as they are drawn, zeros elsewhere, (..., parts, part.width) -> (..., parts, part.size).
        e: standard normal numbers (..., parts, part.noise_width).
    """

    def step(x: Any, row: tuple[Any, Any]) -> tuple[Any, Any]:
        at, noise = row
        drawn = part.draw(noise, xp.take(says(x), at, axis=-2))
        return put(x, at, drawn, -2), ()

    start = xp.zeros((*e.shape[:-1], part.width))
    return xp.scan(step, start, (xp.asarray(np.array(order)), xp.moveaxis(e, -2, 0)))[0]


def put(x: Any, at: Any, new: Any, axis: int) -> Any:
    """x with ``new`` in its place ``at`` along an axis, counted from the last one."""
    here = (xp.arange(x.shape[axis]) == at).reshape((-1, *(1 for _ in range(-axis - 1))))
    return xp.where(here, xp.expand_dims(new, axis), x)


@dataclass(frozen=True)
class Binary:
    """Zeros and ones, independent of each other within a part."""

    width: int = 1

    @property
    def size(self) -> int:
        return self.width

    @property
    def noise_width(self) -> int:
        return self.width

    @property
    def support(self) -> Any:
        return dist.constraints.boolean

    def scaled(self, x: Any) -> Any:
        return x

    def log_prob(self, x: Any, says: Any) -> Any:
        return xp.sum(x * says - xp.softplus(says), axis=-1)

    def draw(self, e: Any, says: Any) -> Any:
        return xp.astype(xp.ndtr(e) < xp.sigmoid(says), e.dtype)


@dataclass(frozen=True)
class GaussianMixture:
    """A real number by K Gaussians (Uria, Murray & Larochelle 2013, section 3), their scales at least e^-7."""

    num_components: int

    @property
    def width(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return 3 * self.num_components

    @property
    def noise_width(self) -> int:
        return 2

    @property
    def support(self) -> Any:
        return dist.constraints.real

    def scaled(self, x: Any) -> Any:
        return x

    def log_prob(self, x: Any, says: Any) -> Any:
        logits, means, log_scales = self._read(says)
        z = (x - means) * xp.exp(-log_scales)
        return xp.logsumexp(xp.log_softmax(logits, axis=-1) - log_scales - 0.5 * (z * z + _LOG_2_PI), axis=-1)

    def draw(self, e: Any, says: Any) -> Any:
        logits, means, log_scales = self._read(says)
        chosen = logistic.drawn_component(e[..., 0], logits)
        mean, log_scale = logistic.picked(means, chosen), logistic.picked(log_scales, chosen)
        return (mean + xp.exp(log_scale) * e[..., 1])[..., None]

    def _read(self, says: Any) -> tuple[Any, Any, Any]:
        k = self.num_components
        means = says[..., k : 2 * k] + 2.0 * spread(k)
        return says[..., :k], means, xp.maximum(says[..., 2 * k :], _LEAST)


@dataclass(frozen=True)
class LogisticPixel:
    """Levels of the channels of a pixel by K discretised logistics, a channel's means moved by the channels before it.

    Salimans et al. (2017), section 2.2 and equation 3: the component is that of all channels of the pixel.

    Attributes:
        width: channels.
    """

    width: int
    num_components: int
    num_levels: int = 256

    @property
    def size(self) -> int:
        pairs = self.width * (self.width - 1) // 2
        return self.num_components * (1 + 2 * self.width + pairs)

    @property
    def noise_width(self) -> int:
        return 1 + self.width

    @property
    def support(self) -> Any:
        return logistic.levels(self.num_levels)

    def scaled(self, x: Any) -> Any:
        return logistic.scaled(x, self.num_levels)

    def log_prob(self, x: Any, says: Any) -> Any:
        logits, means, log_scales, slopes = self._read(says)
        y, found = self.scaled(x), xp.log_softmax(logits, axis=-1)
        for c in range(self.width):
            mean = means[..., c, :] + sum(slopes[c][..., d, :] * y[..., d, None] for d in range(c))
            found = found + logistic.log_mass(x[..., c, None], mean, log_scales[..., c, :], self.num_levels)
        return xp.logsumexp(found, axis=-1)

    def draw(self, e: Any, says: Any) -> Any:
        logits, means, log_scales, slopes = self._read(says)
        chosen = logistic.drawn_component(e[..., 0], logits)
        drawn: list[Any] = []
        for c in range(self.width):
            mean = means[..., c, :] + sum(slopes[c][..., d, :] * self.scaled(x)[..., None] for d, x in enumerate(drawn))
            mean, log_scale = (logistic.picked(x, chosen) for x in (mean, log_scales[..., c, :]))
            drawn.append(logistic.level_at(e[..., 1 + c], mean, log_scale, self.num_levels))
        return xp.stack(drawn, axis=-1)

    def _read(self, says: Any) -> tuple[Any, Any, Any, list[Any]]:
        """Logits (..., K), means and log scales (..., channels, K), a channel's slopes (..., channels before, K)."""
        k, c = self.num_components, self.width
        held = says.reshape((*says.shape[:-1], 1 + 2 * c + c * (c - 1) // 2, k))
        slopes = [xp.tanh(held[..., 1 + 2 * c + i * (i - 1) // 2 :, :][..., :i, :]) for i in range(c)]
        return held[..., 0, :], held[..., 1 : 1 + c, :] + spread(k), held[..., 1 + c : 1 + 2 * c, :], slopes


def spread(k: int) -> Any:
    """Where the means of components start (K,): networks that start near 0 would leave them in one place for ever."""
    return xp.asarray((2.0 * np.arange(k) + 1.0) / k - 1.0)
