"""What is called nobody knows how often: as it is at first, then as a graph, at last as machine code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ppl_gen.backends.pyro import compiling, simplifying

# A graph costs about as much as so many calls. What has been called so often may be called as often again: by counts,
# not by the clock, so that a script gives the same numbers each time.
_CALLS_AS_IT_IS = 50
_TOLERANCE = 1e-3  # of a graph's results, in parts of the largest: fused operations round in another order


def warming(f: Callable[..., Any]) -> Callable[..., Any]:
    """``f`` of trees of tensors, faster the more often it is called with like shapes; no gradients go through it.

    A graph is made of calls that give the same as ``f`` alone: a function that branches on values stays as it is.
    """
    held: dict[Any, _Stages] = {}

    def call(*args: Any) -> Any:
        tensors: list[torch.Tensor] = []
        key = compiling.signature(args, tensors)
        if key not in held:
            held[key] = _Stages(f)
        with torch.no_grad():
            return held[key](args, tensors)

    return call


class _Stages:
    """``f`` at arguments of one signature."""

    def __init__(self, f: Callable[..., Any]):
        self.f, self.calls, self.due = f, 0, math.inf
        self.run: Callable[[list[torch.Tensor]], Any] | None = None
        self.graph: Any = None
        self.before: Any = None

    def __call__(self, args: Any, tensors: list[torch.Tensor]) -> Any:
        self.calls += 1
        if self.calls == _CALLS_AS_IT_IS - 1:
            self.before = args
        if self.calls == _CALLS_AS_IT_IS:
            self._make_graph(args, tensors)
        if self.calls > self.due:
            self._make_code(args, tensors)
        return self.f(*args) if self.run is None else self.run(tensors)

    def _make_graph(self, args: Any, tensors: list[torch.Tensor]) -> None:
        """At the arguments of the call before, so that what it gives at these shows whether it hangs on values."""
        given, self.before = self.before, None
        try:
            self.graph = compiling.traced(self.f, given)
        except Exception:  # of many types: what the program does cannot be said as a graph
            return
        if self._take(simplifying.quick(self.graph[0]), args, tensors):
            self.due = self.calls + compiling.calls_to_repay(self.graph[0])

    def _make_code(self, args: Any, tensors: list[torch.Tensor]) -> None:
        self.due = math.inf
        self._take(compiling.machine_code(*self.graph[:2]), args, tensors)
        self.graph = None

    def _take(self, graph: Callable[..., Any], args: Any, tensors: list[torch.Tensor]) -> bool:
        """Go on with it where it gives what ``f`` gives, with the same randomness."""
        run = compiling.finished(graph, self.graph[2])
        if not _agree(self.f, args, run, tensors):
            return False
        self.run = run
        return True


def _agree(f: Callable[..., Any], args: Any, run: Callable[[list[torch.Tensor]], Any], tensors: Any) -> bool:
    with torch.random.fork_rng():
        expected, after = pytree.tree_leaves(f(*args)), torch.get_rng_state()
    with torch.random.fork_rng():
        found, after_graph = pytree.tree_leaves(run(tensors)), torch.get_rng_state()
    if not torch.equal(after, after_graph) or len(found) != len(expected):
        return False
    return all(map(_is_near, map(torch.as_tensor, found), map(torch.as_tensor, expected)))


def _is_near(x: torch.Tensor, y: torch.Tensor) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if not x.is_floating_point():
        return bool((x == y).all())
    size = torch.nan_to_num(y, 0.0, 0.0, 0.0).abs().max() if y.numel() else 0.0
    return bool(torch.allclose(x, y, rtol=_TOLERANCE, atol=float(_TOLERANCE * size), equal_nan=True))
