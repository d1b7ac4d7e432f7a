"""Iterations from several starts side by side, each of which stands still from where it has settled on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Backend
from ppl_gen.precision import floats

_NEVER = -np.inf


def begin(backend: Backend, state: Any, num_restarts: int, tolerance: float | None = None) -> dict[str, Any]:
    """What goes through the iterations: the ``state``, a tree of dicts whose arrays have a leading axis of restarts.

    Args:
        tolerance: relative gain below which a restart has settled; rounding where that is more. None: never settled.

    Returns:
        ``state``; ``last`` value (restarts,) and whether ``settled``; ``least`` gain and the ``slack`` of rounding.
    """
    last = backend.asarray(np.full(num_restarts, -np.inf))
    eps = float(floats(last).eps)
    least = _NEVER if tolerance is None else max(tolerance, 4 * eps)
    return {
        "state": state,
        "last": last,
        "settled": last > 0.0,
        "least": backend.asarray(least),
        "slack": backend.asarray(slack(eps)),
    }


def slack(eps: float) -> float:
    """How far, relatively, rounding may let a value fall that theory keeps from falling."""
    return max(1e-8, 64 * eps)


def settling(xp: Any, step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """``step(state, *constants) -> (new state, report)`` as a step, for a scan, of what :func:`begin` returns.

    ``report["value"]`` (restarts,) is what is climbed, at the state before the step. A restart that has gained too
    little, or broken down, keeps the state that has this value. What rounding cannot explain as a fall goes on.
    """

    def guarded(held: Any, _: Any, *constants: Any) -> tuple[Any, Any]:
        new, report = step(held["state"], *constants)
        before, value = held["settled"], report["value"]
        scale = xp.maximum(xp.abs(value), xp.ones_like(value))
        gain = value - held["last"]
        small = (gain <= held["least"] * scale) & (gain >= -held["slack"] * scale)
        settled = before | small | ~xp.isfinite(value)
        value = xp.where(before, held["last"], value)
        kept = {**held, "state": _where(xp, settled, held["state"], new), "last": value, "settled": settled}
        return kept, {**report, "value": value, "settled": settled}

    return guarded


def _where(xp: Any, settled: Any, old: Any, new: Any) -> Any:
    if isinstance(old, dict):
        return {n: _where(xp, settled, x, new[n]) for n, x in old.items()}
    return xp.where(settled.reshape((-1, *(1 for _ in old.shape[1:]))), old, new)


class Steps:
    """What a climbing engine goes by. A subclass brings ``start``, ``step`` (see :func:`settling`) and ``finish``.

    Attributes:
        at_once: many iterations are one compiled call.
    """

    at_once = False
    target: Any

    def step(self, state: Any) -> tuple[Any, Any]:
        raise TypeError(f"{type(self).__name__} defines no step")

    def advance(self, held: Any, count: int) -> tuple[Any, Any]:
        """``count`` iterations on what :func:`begin` returns; reports stacked along a new leading axis."""
        xp, reports = self.target.backend.xp, []
        guarded = settling(xp, self.step)
        for _ in range(count):
            held, report = guarded(held, None)
            reports.append(report)
        return held, {n: xp.stack([r[n] for r in reports]) for n in reports[0]}

    def value(self, held: Any, count: int) -> Any:
        """What is climbed (restarts,) at the state where iterations have ended; ``count`` is how many have compiled."""
        return self.advance(held, count)[1]["value"][0]
