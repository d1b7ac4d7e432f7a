"""The planar flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.flows.bijector import Bijector
from ppl_gen.nets.layers import Weight, check_counts

_HALVINGS = 60


@dataclass(frozen=True)
class Planar(Bijector):
    """y = x + u tanh(w . x + b) with w . u > -1, which makes it invertible (Rezende & Mohamed 2015, equation 10, A.1).

    The way back finds the one number w . x + b by bisection.
    """

    features: int

    def __post_init__(self) -> None:
        check_counts(features=self.features)

    def parts(self) -> Mapping[str, Any]:
        d = self.features
        return {"along": Weight((d,), gain=0.1), "normal": Weight((d,), gain=1.0), "shift": Weight(())}

    def there(self, f: Any, p: Any, x: Any, context: Any) -> tuple[Any, Any]:
        along, normal, push = self._read(f.xp, p)
        height = f.xp.tanh(x @ normal + p.shift())
        return x + height[..., None] * along, self._log_det(f.xp, height, push)

    def back(self, f: Any, p: Any, y: Any, context: Any) -> tuple[Any, Any]:
        xp, (along, normal, push) = f.xp, self._read(f.xp, p)
        image = y @ normal + p.shift()  # of a: a + push tanh(a), which rises in a
        low, high = f.stopped(image - xp.abs(push)), f.stopped(image + xp.abs(push))
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            above = middle + f.stopped(push) * xp.tanh(middle) > f.stopped(image)
            low, high = xp.where(above, low, middle), xp.where(above, middle, high)
        a = 0.5 * (low + high)
        height = xp.tanh(a)
        a = a - (a + push * height - image) / f.stopped(1.0 + push * (1.0 - height * height))  # with its gradient
        height = xp.tanh(a)
        return y - height[..., None] * along, -self._log_det(xp, height, push)

    def _log_det(self, xp: Any, height: Any, push: Any) -> Any:
        return xp.log1p(push * (1.0 - height * height))

    def _read(self, xp: Any, p: Any) -> tuple[Any, Any, Any]:
        """u made invertible, w, and their product."""
        along, normal = p.along(), p.normal()
        product = xp.sum(along * normal)
        push = xp.softplus(product) - 1.0
        return along + (push - product) * normal / xp.sum(normal * normal), normal, push
