"""Increasing maps of single numbers, given by numbers that a network says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from ppl_gen.nets.layers import check_counts

_MOST = 5.0  # of a log scale, either way
_LEAST_BIN, _LEAST_SLOPE = 1e-3, 1e-3  # of the box; of knots


class Map(Protocol):
    """Attributes: ``size``, how many numbers say one map; all zeros say the identity."""

    @property
    def size(self) -> int: ...
    def there(self, xp: Any, x: Any, says: Any) -> tuple[Any, Any]: ...
    def back(self, xp: Any, y: Any, says: Any) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class Affine:
    """y = e^s x + t; ``says`` (..., 2) holds t, and s before it is bounded smoothly (Dinh et al. 2017, equation 8)."""

    @property
    def size(self) -> int:
        return 2

    def there(self, xp: Any, x: Any, says: Any) -> tuple[Any, Any]:
        shift, log_scale = self._read(xp, says)
        return x * xp.exp(log_scale) + shift, log_scale

    def back(self, xp: Any, y: Any, says: Any) -> tuple[Any, Any]:
        shift, log_scale = self._read(xp, says)
        return (y - shift) * xp.exp(-log_scale), -log_scale

    def _read(self, xp: Any, says: Any) -> tuple[Any, Any]:
        return says[..., 0], _MOST * xp.tanh(says[..., 1] / _MOST)


@dataclass(frozen=True)
class Spline:
    """A monotone rational-quadratic spline on [-bound, bound], the identity outside (Durkan et al. 2019).

    ``says`` (..., 3 num_bins - 1) holds widths and heights of bins before a softmax, and the slopes at inner knots.

    Attributes:
        num_bins: K. bound: half the side of the box.
    """

    num_bins: int = 8
    bound: float = 5.0

    def __post_init__(self) -> None:
        check_counts(num_bins=self.num_bins)
        if not 0 < self.bound < math.inf:
            raise ValueError(f"bound must be a finite number above 0, got {self.bound!r}")

    @property
    def size(self) -> int:
        return 3 * self.num_bins - 1

    def there(self, xp: Any, x: Any, says: Any) -> tuple[Any, Any]:
        inside = xp.abs(x) < self.bound
        left, low, width, height, d0, d1 = self._bin(xp, xp.clip(x, -self.bound, self.bound), says, of_images=False)
        share = xp.clip((x - left) / width, 0.0, 1.0)
        y, log_slope = _rational_quadratic(xp, share, height / width, height, d0, d1)
        return xp.where(inside, low + y, x), xp.where(inside, log_slope, 0.0)

    def back(self, xp: Any, y: Any, says: Any) -> tuple[Any, Any]:
        inside = xp.abs(y) < self.bound
        left, low, width, height, d0, d1 = self._bin(xp, xp.clip(y, -self.bound, self.bound), says, of_images=True)
        rise, slope = xp.clip(y - low, 0.0, height), height / width
        bend = rise * (d0 + d1 - 2.0 * slope)
        a, b, c = bend + height * (slope - d0), height * d0 - bend, -slope * rise  # equations 6 to 8
        share = 2.0 * c / (-b - xp.sqrt(xp.maximum(b * b - 4.0 * a * c, 1e-30)))
        _, log_slope = _rational_quadratic(xp, share, slope, height, d0, d1)
        return xp.where(inside, left + share * width, y), xp.where(inside, -log_slope, 0.0)

    def _bin(self, xp: Any, at: Any, says: Any, of_images: bool) -> tuple[Any, ...]:
        """Left end, lower end, width, height and the two slopes of the bin that a number lies in."""
        k = self.num_bins
        widths, heights = self._lengths(xp, says[..., :k]), self._lengths(xp, says[..., k : 2 * k])
        inner = says[..., 2 * k :]
        knots = xp.cumsum((heights if of_images else widths)[..., :-1], axis=-1) - self.bound
        passed = xp.astype(at[..., None] >= knots, at.dtype)
        none = xp.zeros_like(passed[..., :1])
        own = xp.concatenate([none + 1.0, passed], axis=-1) - xp.concatenate([passed, none], axis=-1)  # 1 at the bin
        left, low = (xp.sum(passed * x[..., :-1], axis=-1) - self.bound for x in (widths, heights))
        width, height = (xp.sum(own * x, axis=-1) for x in (widths, heights))
        d0, d1 = (self._slope(xp, xp.sum(x * inner, axis=-1)) for x in (own[..., 1:], own[..., :-1]))
        return left, low, width, height, d0, d1

    def _lengths(self, xp: Any, says: Any) -> Any:
        """Of the bins."""
        free = 1.0 - _LEAST_BIN * self.num_bins
        return 2.0 * self.bound * (_LEAST_BIN + free * xp.softmax(says, axis=-1))

    def _slope(self, xp: Any, says: Any) -> Any:
        """1 where nothing is said, as at the ends of the box."""
        return _LEAST_SLOPE + xp.softplus(says + math.log(math.expm1(1.0 - _LEAST_SLOPE)))


def _rational_quadratic(xp: Any, share: Any, slope: Any, height: Any, d0: Any, d1: Any) -> tuple[Any, Any]:
    """Rise within a bin at a ``share`` of its width, and the log of the slope there (equations 4 and 5)."""
    rest = share * (1.0 - share)
    below = slope + (d0 + d1 - 2.0 * slope) * rest
    rise = height * (slope * share * share + d0 * rest) / below
    above = d1 * share * share + 2.0 * slope * rest + d0 * (1.0 - share) * (1.0 - share)
    return rise, 2.0 * xp.log(slope) + xp.log(above) - 2.0 * xp.log(below)
