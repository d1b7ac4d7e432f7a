"""``xp.jit``, and ``xp.routine``: a function with loops and branches on values that is one node of a graph.

Mirror: `numpyro/routines.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils import _pytree as pytree

from ppl_gen.backends.protocol import UnsupportedError


def _scan(f: Callable[..., Any], init: Any, xs: Any, reverse: bool = False) -> tuple[Any, Any]:
    leaves = pytree.tree_leaves(xs)
    count, carry = len(leaves[0]), init
    stacks: list[torch.Tensor] = []
    shape = None
    for i in range(count - 1, -1, -1) if reverse else range(count):
        carry, y = f(carry, _row(xs, i))
        if shape is None:
            found, shape = pytree.tree_flatten(y)
            stacks = [torch.empty((count, *part.shape), dtype=part.dtype, device=part.device) for part in found]
        if stacks:
            for stack, part in zip(stacks, pytree.tree_leaves(y), strict=True):
                stack[i] = part
    return carry, pytree.tree_unflatten(stacks, shape)


def _row(tree: Any, i: int) -> Any:
    """Entry i of each array of a tree; faster than ``pytree``."""
    if isinstance(tree, torch.Tensor):
        return tree[i]
    if isinstance(tree, dict):
        return {name: _row(x, i) for name, x in tree.items()}
    return tuple([_row(x, i) for x in tree])


def _cond(pred: Any, true_f: Callable[..., Any], false_f: Callable[..., Any], *operands: Any) -> Any:
    return true_f(*operands) if pred else false_f(*operands)


def _while_loop(test: Callable[[Any], Any], body: Callable[[Any], Any], init: Any) -> Any:
    state = init
    while test(state):
        state = body(state)
    return state


flow = SimpleNamespace(scan=_scan, cond=_cond, while_loop=_while_loop)


def jit(f: Callable[..., Any], static: tuple = ()) -> Callable[..., Any]:
    """``f(*static, *trees)`` as a function of trees of tensors; PyTorch runs it step by step as fast."""
    return functools.partial(f, *static)


@functools.cache
def routine(f: Callable[..., Any], static: tuple = (), differentiable: bool = False) -> Callable[..., Any]:
    """``f(flow, *static, *trees)`` as a function of trees of tensors, which may loop and branch on values.

    ``flow`` has JAX's ``scan(f, init, xs, reverse=False)``, ``cond(pred, true_f, false_f, *operands)`` and
    ``while_loop(test, body, init)``. Where the routine is mapped by vmap, ``f`` is called once, with tensors that have
    one more leading axis, of size 1 for those that are not mapped over; its results have it in full.

    Args:
        f: a function that does not depend on anything but its arguments; ``static`` are those that are not tensors.
        differentiable: ``f`` returns ``(value, gradients)``, one for each argument and of its shape, where the axes of
            ``value`` are the first ones of every argument, independent of each other; the routine is ``value`` alone.
    """
    call = functools.partial(f, flow, *static)
    held: dict[str, int] = {}

    def run(*trees: Any) -> Any:
        leaves, spec = pytree.tree_flatten(trees)
        if str(spec) not in held:
            held[str(spec)] = len(_nodes)
            _nodes.append(_Node(call, spec))
        index = held[str(spec)]
        if differentiable:
            return _Differentiable.apply(index, *leaves)[0]
        return pytree.tree_unflatten(_node(index, leaves), _nodes[index].out)

    return run


class _Node:
    """A function of the leaves of trees; remembers the structure and, by those of the leaves, the shapes it gives."""

    def __init__(self, call: Callable[..., Any], spec: Any):
        self.call, self.spec = call, spec
        self.out: Any = None
        self.shapes: dict[Any, list[Any]] = {}

    def __call__(self, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad(), _one_thread():
            results, self.out = pytree.tree_flatten(self.call(*pytree.tree_unflatten(leaves, self.spec)))
        taken = {x.untyped_storage().data_ptr() for x in leaves}
        for i, x in enumerate(results):  # the results of an operator must not share memory
            results[i] = x.clone() if x.untyped_storage().data_ptr() in taken else x
            taken.add(x.untyped_storage().data_ptr())
        self.shapes[_shapes(leaves)] = [(x.shape, x.dtype) for x in results]
        return results

    def empty(self, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        """Results without numbers, for a compiler that asks for their shapes alone."""
        if _shapes(leaves) not in self.shapes:
            with unset_fake_temporarily():
                self([torch.ones(x.shape, dtype=x.dtype) for x in leaves])
        return [leaves[0].new_empty(shape, dtype=dtype) for shape, dtype in self.shapes[_shapes(leaves)]]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Steps of a loop are so short that waking threads for them costs more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _shapes(leaves: list[torch.Tensor]) -> Any:
    return tuple((tuple(x.shape), x.dtype) for x in leaves)


_nodes: list[_Node] = []


@torch.library.custom_op("ppl_gen::routine", mutates_args=())
def _node(index: int, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    return _nodes[index](leaves)


@_node.register_fake
def _(index: int, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    return _nodes[index].empty(leaves)


@_node.register_vmap
def _(_: Any, is_mapped: Any, index: int, leaves: list[torch.Tensor]) -> Any:
    wide = [x[None] if at is None else x.movedim(at, 0) for x, at in zip(leaves, is_mapped[1], strict=True)]
    results = _node(index, wide)
    return results, [0] * len(results)


class _Differentiable(torch.autograd.Function):
    """The first result of a node; the others are its gradients by the leaves."""

    generate_vmap_rule = True

    @staticmethod
    def forward(index: int, *leaves: torch.Tensor) -> Any:
        return tuple(_node(index, list(leaves)))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, weight: torch.Tensor, *further: torch.Tensor | None) -> Any:
        if any(x is not None for x in further):
            raise UnsupportedError("PyTorch has first derivatives of this function only: use backend='numpyro'")
        gradients = ctx.saved_tensors
        return None, *(weight.reshape(weight.shape + (1,) * (g.dim() - weight.dim())) * g for g in gradients)
