"""``xp.scan``: a loop of Python; in a graph that is being made, one node for many steps in the place of their copies.

A solver of 32 steps of order 4 asks its network 128 times. As copies that is a graph of tens of thousands of nodes,
which takes minutes and gigabytes to make; as a node it is the graph of one step, which :class:`~.looping.Body` runs.
The first step is always a copy: it tells what is carried, and whether slopes are asked for, of which a loop knows none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.experimental import proxy_tensor
from torch.utils import _pytree as pytree

from ppl_gen.backends.pyro.compiling import CALLS, like
from ppl_gen.backends.pyro.looping import Body, Tensors
from ppl_gen.backends.pyro.simplifying import said, simplified, writes

_COPIED = 16  # steps up to which copies are made, which machine code can be made of

Step = Callable[[Any, Any], tuple[Any, Any]]


def scan(f: Step, init: Any, xs: Any, stack: Callable[..., torch.Tensor]) -> tuple[Any, Any]:
    """Fold ``f(carry, x) -> (carry, y)`` over the leading axis of the tree ``xs``; ``(carry, ys by stack)``."""
    leaves, spec = pytree.tree_flatten(xs)
    count, row = len(leaves[0]), lambda i: pytree.tree_unflatten([leaf[i] for leaf in leaves], spec)
    carry, y = f(init, row(0))
    if count > _COPIED and _can_loop((carry, y, xs)):
        steps = _Steps(f, carry, row(1), y)
        if steps.can_loop:
            carry, later = steps.node(carry, [leaf[1:] for leaf in leaves])
            return carry, pytree.tree_map(lambda one, more: torch.cat([one[None], more]), y, later)
    found = [y]
    for i in range(1, count):
        carry, y = f(carry, row(i))
        found.append(y)
    return carry, pytree.tree_map(stack, *found)


def _can_loop(seen: Any) -> bool:
    """Whether a graph is being made, in which nobody asks for slopes or maps over axes, of steps of tensors."""
    if proxy_tensor.get_proxy_mode() is None or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return all(isinstance(x, torch.Tensor) and not x.requires_grad for x in pytree.tree_leaves(seen))


class _Steps:
    """Steps that follow a first one, in the graph that is being made.

    Attributes:
        can_loop: whether they carry what they are given, alike, and neither draw nor write.
    """

    def __init__(self, f: Step, carry: Any, row: Any, y: Any):
        mode = proxy_tensor.get_proxy_mode()
        assert mode is not None
        self.tracer, self.like = mode.tracer, (like(carry), like(y))
        with proxy_tensor.disable_proxy_modes_tracing():
            graph = _graph(f, carry, row)
            self.outer = _lifted(graph, self.tracer)
            self.graph = simplified(graph)
        self._vals = [_val(self.graph, x) for x in next(iter(self.graph.graph.find_nodes(op="output"))).args[0]]
        before = pytree.tree_leaves((carry, y))
        self._num_carried = len(pytree.tree_leaves(carry))
        alike = [(x.shape, x.dtype) for x in before] == [(x.shape, x.dtype) for x in self._vals]
        called = [n for n in self.graph.graph.nodes if n.op == "call_function"]
        self.can_loop = alike and not any(writes(n) or n.is_impure() for n in called)

    def node(self, carry: Any, rows: Tensors) -> tuple[Any, Any]:
        """All of them as one node; what is carried after them, and their ys, stacked."""
        n, tracer = self._num_carried, self.tracer
        given = [*pytree.tree_leaves(carry), *rows, *self.outer]
        run = _loop(self.graph, n, len(rows))
        proxy = tracer.create_proxy("call_function", run, tuple(map(tracer.unwrap_proxy, given)), {})
        with proxy_tensor.disable_proxy_modes_tracing():  # of the shapes that it gives: numbers are no graph's concern
            leads = [()] * n + [(len(rows[0]),)] * (len(self._vals) - n)
            found = [torch.zeros((*a, *x.shape), dtype=x.dtype, device=x.device) for a, x in zip(leads, self._vals)]
        proxy_tensor.track_tensor_tree(found, proxy, constant=None, tracer=tracer)
        return self.like[0](found[:n]), self.like[1](found[n:])


def _graph(f: Step, carry: Any, row: Any) -> fx.GraphModule:
    """Of a step, as a function of the tensors of what is carried and of a row; others that it sees are attributes."""
    leaves, spec = pytree.tree_flatten((carry, row))

    def flat(*tensors: torch.Tensor) -> list[torch.Tensor]:
        return [torch.as_tensor(x) for x in pytree.tree_leaves(f(*pytree.tree_unflatten(list(tensors), spec)))]

    return proxy_tensor.make_fx(flat)(*(x.detach().clone() for x in leaves))


def _lifted(graph: fx.GraphModule, tracer: Any) -> Tensors:
    """Tensors of the graph around it, in the order of the inputs that they become."""
    found: dict[int, tuple[torch.Tensor, fx.Node]] = {}
    last = graph.graph.find_nodes(op="placeholder")[-1]
    for node in graph.graph.find_nodes(op="get_attr"):
        held = getattr(graph, str(node.target))
        if not isinstance(held, torch.Tensor) or not isinstance(tracer.unwrap_proxy(held), fx.Proxy):
            continue
        if id(held) not in found:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"outer{len(found)}")
            last.meta["val"] = node.meta.get("val", proxy_tensor.extract_val(held))
            found[id(held)] = held, last
        node.replace_all_uses_with(found[id(held)][1])
        graph.graph.erase_node(node)
    return [held for held, _ in found.values()]


def _val(graph: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """A tensor like what a node gives."""
    val = said(node)
    return getattr(graph, str(node.target)) if val is None else val


def _loop(graph: fx.GraphModule, num_carried: int, num_rows: int) -> Callable[..., Tensors]:
    """The step over all rows, as a function of tensors; its first call makes the graph ready."""
    calls, bodies = CALLS.get(), list[Body]()

    def loop(*tensors: torch.Tensor) -> Tensors:
        held = [x.contiguous() for x in tensors]
        carried, rows, outer = held[:num_carried], held[num_carried:][:num_rows], held[num_carried + num_rows :]
        if not bodies:
            one = [*carried, *(x[0] for x in rows), *outer]
            bodies.append(Body(graph, one, _halves(num_carried), carried, num_rows, calls * len(rows[0])))
        carried, ys = bodies[0].over_all(carried, rows, outer)
        return [*carried, *ys]

    loop.is_loop = True  # type: ignore[attr-defined]
    return loop


def _halves(count: int) -> Callable[[Any], tuple[Tensors, Tensors]]:
    def halves(leaves: Any) -> tuple[Tensors, Tensors]:
        held = list(leaves)
        return held[:count], held[count:]

    return halves
