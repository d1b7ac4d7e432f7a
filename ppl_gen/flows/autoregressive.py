"""Autoregressive maps: the entries before say how an entry is mapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.flows.bijector import Bijector
from ppl_gen.flows.maps import Map
from ppl_gen.nets.masked_mlp import MaskedMLP


@dataclass(frozen=True)
class Autoregressive(Bijector):
    """y_i = map(x_i; what the x before i say), all at once; the way back takes the entries in turn.

    So that y is noise and x data: MAF (Papamakarios et al. 2017), whose density is quick; the other way round IAF
    (Kingma et al. 2016), whose draws are. It starts as the identity.

    Attributes:
        order: place of each entry; as they come where None. num_context: length of a context that says so, too.
    """

    features: int
    map: Map
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "relu"
    order: tuple[int, ...] | None = None
    num_context: int = 0

    def parts(self) -> Mapping[str, Any]:
        net = MaskedMLP(
            self.features, self.map.size, self.hidden, self.activation, self.order, self.num_context, gain=0.0
        )
        return {"says": net}

    def there(self, f: Any, p: Any, x: Any, context: Any) -> tuple[Any, Any]:
        y, log_det = self.map.there(f.xp, x, p.says(x, context))
        return y, f.xp.sum(log_det, axis=-1)

    def back(self, f: Any, p: Any, y: Any, context: Any) -> tuple[Any, Any]:
        """Entry by entry in their order, each when those before it are known."""
        xp, places = f.xp, range(self.features)
        turns = [*places] if self.order is None else sorted(places, key=self.order.__getitem__)

        def turn(at: Any, known: Any) -> Any:
            x, log_det = known
            entry, slope = self.map.back(xp, y[..., at], p.says(x, context, entry=at))
            return xp.where(xp.arange(self.features) == at, entry[..., None], x), log_det + slope

        return f.in_turn(turns, turn, (y, xp.zeros_like(y[..., 0])))
