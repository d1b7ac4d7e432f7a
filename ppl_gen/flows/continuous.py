"""Continuous flows: along the solutions of an ordinary differential equation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen import backends
from ppl_gen.flows.bijector import Bijector
from ppl_gen.flows.coupling import with_context
from ppl_gen.nets.layers import check_counts
from ppl_gen.nets.mlp import MLP
from ppl_gen.options import one_of

TRACES = ("exact", "hutchinson")


@dataclass(frozen=True)
class Continuous(Bijector):
    """x(0) -> x(1), where dx/dt = v(x, t) and log |det| is the integral of the trace of dv/dx along the way.

    Chen et al. (2018), theorem 1; the velocity v is a network of x and t (FFJORD, Grathwohl et al. 2019). Both are
    integrated by the classical Runge-Kutta method of order 4 in steps of one length, which can be compiled with what is
    around it: the way back leads back, and densities integrate to 1, up to an error that falls as num_steps^-4. It
    starts as the identity.

    Attributes:
        num_steps: from one end to the other; four velocities each.
        trace: "exact", at the price of D derivatives, or "hutchinson": while a minibatch is trained on, e^T (dv/dx) e
            with e of random signs, the same all the way, in its place (FFJORD, equation 8). Importance-weighted
            bounds, which an estimate would bias, and whatever is asked after training are exact.
        num_context: length of a context that v sees, too.
    """

    features: int
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    num_steps: int = 10
    trace: str = "exact"
    num_context: int = 0

    def __post_init__(self) -> None:
        check_counts(features=self.features, hidden=self.hidden, num_steps=self.num_steps)
        one_of("trace", self.trace, TRACES)

    def parts(self) -> Mapping[str, Any]:
        seen = self.features + 1 + self.num_context
        return {"velocity": MLP(seen, self.features, self.hidden, self.activation, gain=0.0)}

    def there(self, f: Any, p: Any, x: Any, context: Any) -> tuple[Any, Any]:
        return self._solved(f, p, x, context, 0.0, 1.0)

    def back(self, f: Any, p: Any, y: Any, context: Any) -> tuple[Any, Any]:
        return self._solved(f, p, y, context, 1.0, 0.0)

    def _solved(self, f: Any, p: Any, x: Any, context: Any, start: float, end: float) -> tuple[Any, Any]:
        signs = backends.signs(tuple(x.shape)) if self.trace == "hutchinson" else None

        def change(state: tuple[Any, Any], t: Any) -> tuple[Any, Any]:
            velocity = lambda x: p.velocity(_at(f.xp, x, t, context, self.num_context))
            if signs is None:
                return f.trace(velocity, state[0])
            along, pushed = f.jvp(velocity, state[0], f.xp.astype(signs, x.dtype))
            return along, f.xp.sum(signs * pushed, axis=-1)

        h = (end - start) / self.num_steps
        step = lambda state, t: (runge_kutta(change, state, t, h), t)
        times = start + h * f.xp.astype(f.xp.arange(self.num_steps), x.dtype)
        return f.xp.scan(step, (x, f.xp.zeros_like(x[..., 0])), times)[0]


def runge_kutta(change: Any, state: tuple[Any, ...], t: Any, h: float) -> tuple[Any, ...]:
    """One step of length h from time t of the classical method of order 4, d state / dt = change(state, t)."""
    moved = lambda by, k: tuple(x + by * d for x, d in zip(state, k, strict=True))
    k1 = change(state, t)
    k2 = change(moved(h / 2, k1), t + h / 2)
    k3 = change(moved(h / 2, k2), t + h / 2)
    k4 = change(moved(h, k3), t + h)
    mean = tuple((a + 2.0 * b + 2.0 * c + d) / 6.0 for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
    return moved(h, mean)


def _at(xp: Any, x: Any, t: Any, context: Any, num_context: int) -> Any:
    """What the velocity sees."""
    return with_context(xp, xp.concatenate([x, xp.zeros_like(x[..., :1]) + t], axis=-1), context, num_context)
