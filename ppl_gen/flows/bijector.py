"""Invertible maps of vectors with their log Jacobian determinants, learned or not: what flows are composed of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.nets.net import Net


class Bijector(Net):
    """A network that maps (..., features) to the same shape and back.

    ``forward(f, p, x, context=None, inverse=False)`` gives the image, or the pre-image, and log |det d out / d in|
    (...,); a subclass writes both ways, ``there`` and ``back``.
    """

    def forward(self, f: Any, p: Any, x: Any, context: Any = None, inverse: bool = False) -> tuple[Any, Any]:
        return self.back(f, p, x, context) if inverse else self.there(f, p, x, context)

    def there(self, f: Any, p: Any, x: Any, context: Any) -> tuple[Any, Any]:
        """The image and its log determinant."""
        raise TypeError(f"{type(self).__name__} defines no way there")

    def back(self, f: Any, p: Any, y: Any, context: Any) -> tuple[Any, Any]:
        """The pre-image and its log determinant."""
        raise TypeError(f"{type(self).__name__} defines no way back")


@dataclass(frozen=True)
class Chain(Bijector):
    """One after the other, the first first."""

    links: tuple[Bijector, ...]

    def parts(self) -> Mapping[str, Any]:
        return {"links": self.links}

    def there(self, f: Any, p: Any, x: Any, context: Any) -> tuple[Any, Any]:
        return self._through(list(p.links), x, context, False)

    def back(self, f: Any, p: Any, y: Any, context: Any) -> tuple[Any, Any]:
        return self._through(list(p.links)[::-1], y, context, True)

    def _through(self, links: list[Any], x: Any, context: Any, inverse: bool) -> tuple[Any, Any]:
        total: Any = 0.0
        for link in links:
            x, log_det = link(x, context, inverse=inverse)
            total = total + log_det
        return x, total


@dataclass(frozen=True)
class Inverse(Bijector):
    """A map the other way round."""

    of: Bijector

    def parts(self) -> Mapping[str, Any]:
        return {"of": self.of}

    def there(self, f: Any, p: Any, x: Any, context: Any) -> tuple[Any, Any]:
        return p.of(x, context, inverse=True)

    def back(self, f: Any, p: Any, y: Any, context: Any) -> tuple[Any, Any]:
        return p.of(y, context)
