"""Coupling: some entries stay, and say how the others are mapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.flows.bijector import Bijector
from ppl_gen.flows.maps import Map
from ppl_gen.nets.layers import check_counts
from ppl_gen.nets.mlp import MLP


@dataclass(frozen=True)
class Coupling(Bijector):
    """The first half of the entries stays, each of the second is mapped as the first says (Dinh et al. 2017).

    With ``swapped`` the second half stays. It starts as the identity.

    Attributes:
        map: of single numbers. num_context: length of a context which says so, too.
    """

    features: int
    map: Map
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "relu"
    swapped: bool = False
    num_context: int = 0

    def __post_init__(self) -> None:
        check_counts(features=self.features, hidden=self.hidden)
        if self.features < 2:
            raise ValueError("a coupling wants at least 2 features: of one, use an autoregressive flow")

    @property
    def _kept(self) -> int:
        return self.features // 2

    def parts(self) -> Mapping[str, Any]:
        stay, moved = self._kept, self.features - self._kept
        if self.swapped:
            stay, moved = moved, stay
        out = moved * self.map.size
        return {"says": MLP(stay + self.num_context, out, self.hidden, self.activation, gain=0.0)}

    def there(self, f: Any, p: Any, x: Any, context: Any) -> tuple[Any, Any]:
        return self._mapped(f, p, x, context, self.map.there)

    def back(self, f: Any, p: Any, y: Any, context: Any) -> tuple[Any, Any]:
        return self._mapped(f, p, y, context, self.map.back)

    def _mapped(self, f: Any, p: Any, x: Any, context: Any, way: Any) -> tuple[Any, Any]:
        xp, halves = f.xp, (x[..., : self._kept], x[..., self._kept :])
        one, other = halves[::-1] if self.swapped else halves
        seen = with_context(xp, one, context, self.num_context)
        says = p.says(seen)
        moved, log_det = way(xp, other, says.reshape((*says.shape[:-1], other.shape[-1], self.map.size)))
        both = [moved, one] if self.swapped else [one, moved]
        return xp.concatenate(both, axis=-1), xp.sum(log_det, axis=-1)


def with_context(xp: Any, x: Any, context: Any, num_context: int) -> Any:
    """x (..., n) with a context (..., num_context) behind it.

    Raises:
        ValueError: a context is missing, or not asked for.
    """
    if (context is None) != (num_context == 0):
        raise ValueError(f"expected {f'a context of {num_context} numbers' if num_context else 'no context'}")
    if context is None:
        return x
    return xp.concatenate([x, xp.broadcast_to(context, (*x.shape[:-1], num_context))], axis=-1)
