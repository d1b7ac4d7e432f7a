"""The radial flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.flows.bijector import Bijector
from ppl_gen.nets.layers import Weight, check_counts


@dataclass(frozen=True)
class Radial(Bijector):
    """y = x + b (x - c) / (a + |x - c|) with b > -a, so that it is invertible (Rezende & Mohamed 2015, eq. 14, A.2)."""

    features: int

    def __post_init__(self) -> None:
        check_counts(features=self.features)

    def parts(self) -> Mapping[str, Any]:
        return {"centre": Weight((self.features,)), "width": Weight(()), "pull": Weight((), gain=0.1)}

    def there(self, f: Any, p: Any, x: Any, context: Any) -> tuple[Any, Any]:
        a, b = self._read(f.xp, p)
        off = x - p.centre()
        r = self._length(f.xp, off)
        return x + off * (b / (a + r))[..., None], self._log_det(f.xp, r, a, b)

    def back(self, f: Any, p: Any, y: Any, context: Any) -> tuple[Any, Any]:
        """The distance of the pre-image solves r^2 + (a + b - s) r - a s = 0, s that of the image."""
        xp, (a, b) = f.xp, self._read(f.xp, p)
        off = y - p.centre()
        s = self._length(xp, off)
        half = 0.5 * (s - a - b)
        r = half + xp.sqrt(half * half + a * s)
        return p.centre() + off / (1.0 + b / (a + r))[..., None], -self._log_det(xp, r, a, b)

    def _log_det(self, xp: Any, r: Any, a: Any, b: Any) -> Any:
        across, outwards = 1.0 + b / (a + r), 1.0 + a * b / (a + r) ** 2
        return (self.features - 1) * xp.log(across) + xp.log(outwards)

    def _length(self, xp: Any, off: Any) -> Any:
        return xp.sqrt(xp.sum(off * off, axis=-1) + 1e-30)

    def _read(self, xp: Any, p: Any) -> tuple[Any, Any]:
        a = xp.softplus(p.width() + 0.5413)  # 1 to begin with
        return a, xp.softplus(p.pull() + 0.5413) - a
