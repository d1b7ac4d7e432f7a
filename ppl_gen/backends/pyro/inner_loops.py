"""``xp.scan``: a loop of Python; in a graph that is being made, one node for many steps in the place of their copies.

A solver of 32 steps of order 4 asks its network 128 times. As copies that is a graph of tens of thousands of nodes,
which takes minutes and gigabytes to make; as a node it is the graph of one step, which :class:`~.looping.Body` runs.
The first step is always a copy: it tells what is carried, and whether autograd follows it, of which a loop knows
nothing. Python sees two steps of them all: one that appends to a list, or counts, is no step for a scan.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import fx
from torch.autograd import forward_ad
from torch.fx.experimental import proxy_tensor
from torch.utils import _pytree as pytree

from ppl_gen.backends.pyro.compiling import CALLS, like, made_for, untouched
from ppl_gen.backends.pyro.hoisting import results
from ppl_gen.backends.pyro.looping import Body, Tensors
from ppl_gen.backends.pyro.simplifying import simplified, writes

_COPIED = 16  # steps up to which copies are made, which machine code can be made of

# Of the graphs that are being made around a step, outermost first: a loop in a loop may see tensors of any of them.
_TRACERS: ContextVar[tuple[Any, ...]] = ContextVar("tracers", default=())

Step = Callable[[Any, Any], tuple[Any, Any]]


def scan(f: Step, init: Any, xs: Any, stack: Callable[..., torch.Tensor]) -> tuple[Any, Any]:
    """Fold ``f(carry, x) -> (carry, y)`` over the leading axis of the tree ``xs``; ``(carry, ys by stack)``."""
    leaves, spec = pytree.tree_flatten(xs)
    count, row = len(leaves[0]), lambda i: pytree.tree_unflatten([leaf[i] for leaf in leaves], spec)
    carry, y = f(init, row(0))
    if count > _COPIED and _can_loop((carry, y, xs)):
        steps = _Steps(f, carry, row(1), y, count - 1)
        if steps.can_loop:
            carry, later = steps.node([leaf[1:] for leaf in leaves])
            return carry, pytree.tree_map(lambda one, more: torch.cat([one[None], more]), y, later)
    found = [y]
    for i in range(1, count):
        carry, y = f(carry, row(i))
        found.append(y)
    return carry, pytree.tree_map(stack, *found)


def _can_loop(seen: Any) -> bool:
    """Whether a graph is being made, in which nobody asks for slopes or maps over axes, of steps of tensors."""
    follows = torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    if proxy_tensor.get_proxy_mode() is None or follows:
        return False
    return all(isinstance(x, torch.Tensor) and not x.requires_grad for x in pytree.tree_leaves(seen))


class _Steps:
    """Steps that follow a first one, in the graph that is being made.

    Attributes:
        can_loop: whether they carry what they are given, alike, and neither draw nor write.
    """

    def __init__(self, f: Step, carry: Any, row: Any, y: Any, count: int):
        mode = proxy_tensor.get_proxy_mode()
        assert mode is not None
        self.tracer, self.carry, self.y, self.calls = mode.tracer, carry, y, count * CALLS.get()
        around = (*_TRACERS.get(), mode.tracer)
        token = _TRACERS.set(around)
        try:
            with proxy_tensor.disable_proxy_modes_tracing(), made_for(self.calls):
                graph, _, tree = untouched(f, (carry, row))
                self.outer = _lifted(graph, around)
                self.graph = simplified(graph)
        finally:
            _TRACERS.reset(token)
        before, spec = pytree.tree_flatten((carry, y))
        after = results(self.graph)
        alike = [(x.shape, x.dtype) for x in before] == [(x.shape, x.dtype) for x in after]
        called = [n for n in self.graph.graph.nodes if n.op == "call_function"]
        same = alike and pytree.tree_structure(tree(after)) == spec
        self.can_loop = same and not any(writes(n) or n.is_impure() for n in called)

    def node(self, rows: Tensors) -> tuple[Any, Any]:
        """All of them as one node; what is carried after them, and their ys, stacked."""
        tracer, carried, ys = self.tracer, pytree.tree_leaves(self.carry), pytree.tree_leaves(self.y)
        run, given = _loop(self.graph, len(carried), len(rows), self.calls), [*carried, *rows, *self.outer]
        proxy = tracer.create_proxy("call_function", run, tuple(map(tracer.unwrap_proxy, given)), {})
        with proxy_tensor.disable_proxy_modes_tracing():  # numbers of the first step, which others may be computed of
            after = [x.clone(memory_format=torch.contiguous_format) for x in carried]
            stacked = [x.expand(len(rows[0]), *x.shape).contiguous() for x in ys]
        proxy_tensor.track_tensor_tree([*after, *stacked], proxy, constant=None, tracer=tracer)
        return like(self.carry)(after), like(self.y)(stacked)


def _lifted(graph: fx.GraphModule, around: tuple[Any, ...]) -> Tensors:
    """Makes inputs of the tensors that belong to graphs around it; those tensors, in the order of the inputs."""
    known = lambda x: any(isinstance(tracer.unwrap_proxy(x), fx.Proxy) for tracer in around)
    found: dict[int, tuple[torch.Tensor, fx.Node]] = {}
    names: set[str] = set()
    last = graph.graph.find_nodes(op="placeholder")[-1]
    for node in graph.graph.find_nodes(op="get_attr"):
        held = getattr(graph, str(node.target))
        if not isinstance(held, torch.Tensor) or not known(held):
            continue
        if id(held) not in found:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"outer{len(found)}")
            last.meta["val"] = node.meta.get("val", proxy_tensor.extract_val(held))
            found[id(held)] = held, last
        names.add(str(node.target))
        node.replace_all_uses_with(found[id(held)][1])
        graph.graph.erase_node(node)
    for name in names:  # else the numbers that the graph was made at would stay in memory with it
        delattr(graph, name)
    return [held for held, _ in found.values()]


def _loop(graph: fx.GraphModule, num_carried: int, num_rows: int, calls: int) -> Callable[..., Tensors]:
    """The step over all rows, as a function of tensors; its first call makes the graph ready.

    What is carried, rows and results are contiguous, as they were when graphs were made; tensors from around come as
    they did then.
    """
    bodies: list[Body] = []
    halves = lambda leaves: (leaves[:num_carried], leaves[num_carried:])

    def loop(*tensors: torch.Tensor) -> Tensors:
        held, outer = [x.contiguous() for x in tensors[: num_carried + num_rows]], tensors[num_carried + num_rows :]
        carried, rows = held[:num_carried], held[num_carried:]
        if not bodies:
            one = [*carried, *(x[0] for x in rows), *outer]
            bodies.append(Body(graph, one, halves, carried, num_rows, calls))
        carried, ys = bodies[0].over_all(carried, rows, list(outer))
        return [x.contiguous() for x in (*carried, *ys)]

    loop.is_loop = True  # type: ignore[attr-defined]
    return loop
