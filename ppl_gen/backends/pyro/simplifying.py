"""Graphs made smaller, to the bit the same but for the sign of zeros: what hangs on no input is computed once, nothing
is said twice.

Autograd and distributions leave much behind them that changes nothing (`expand` to the shape that is there, products
with ones, powers of one, parts of constants), and a graph that is interpreted pays for each of these in every call.
Results stay tensors of their own, which whoever has them may write into. Tensors that a function has captured are
constants, must not be written into, and are read once; parameters of modules are read in every call.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

aten = torch.ops.aten

_LARGE = 2**21  # bytes of a constant that are computed in each call rather than kept
_KNOWN = ("aten", "prims", "ppl_gen")  # whose operations say so where they draw
_OF_SHAPE = (aten.zeros_like, aten.ones_like, aten.full_like, aten.fill, aten.new_zeros, aten.new_ones, aten.new_full)
_IN_PLACE = ("fill_", "add_", "sub_", "mul_", "div_", "neg_", "exp_", "sqrt_", "reciprocal_")
_VIEWS = (aten.view, aten.reshape, aten.unsqueeze, aten.squeeze, aten.expand, aten.slice, aten.alias, aten.detach)


def simplified(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph itself, made smaller; as it was where it writes into tensors."""
    graph.graph.eliminate_dead_code()
    for node in graph.graph.nodes:
        if writes(node) and _is_fresh(node.args[0]) and not _cloned(node):
            node.target = _made_anew(node)
    if any(map(writes, graph.graph.nodes)):
        graph.recompile()
        return graph
    stays = leaving(graph)
    constants = _folded(graph, stays)
    seen: dict[Any, fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function":
            _merge(node, _same_as(node, constants) or seen.setdefault(_key(node), node), stays)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _merge(node: fx.Node, other: fx.Node, stays: set[fx.Node]) -> None:
    """Use the other in the place of a node, but for what is a result."""
    if other is not node:
        node.replace_all_uses_with(other, delete_user_cb=lambda user: user not in stays)


def leaving(graph: fx.GraphModule) -> set[fx.Node]:
    """The output, and what may share its memory."""
    found: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        if node.op == "output" or (_may_share(node) and any(user in found for user in node.users)):
            found.add(node)
    return found


def _may_share(node: fx.Node) -> bool:
    """Whether what it gives may lie in the memory of what it is given."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    return any(x.alias_info is not None for x in target._schema.returns) or target is aten._unsafe_view.default


def writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def is_loop(node: fx.Node) -> bool:
    """Whether it stands for many steps, see :mod:`ppl_gen.backends.pyro.inner_loops`."""
    return getattr(node.target, "is_loop", False)


def _is_fresh(x: Any) -> bool:
    """Whether a node's result is a tensor of its own that one other node alone sees."""
    return isinstance(x, fx.Node) and x.op == "call_function" and len(x.users) == 1 and not _may_share(x)


def _cloned(node: fx.Node) -> bool:
    """Whether it has become a clone, in the place of a copy into a tensor of the same shape and type."""
    src, val = node.args[1] if len(node.args) > 1 else None, said(node)
    copied = said(src)
    if node.target is not aten.copy_.default or val is None or copied is None or not val.is_contiguous():
        return False
    if (copied.shape, copied.dtype, copied.device) != (val.shape, val.dtype, val.device):
        return False
    node.target, node.args, node.kwargs = aten.clone.default, (src,), {"memory_format": torch.contiguous_format}
    return True


def _made_anew(node: fx.Node) -> Any:
    """``add`` in the place of ``add_``, where the result is of the same type."""
    target: Any = node.target
    name, val = target.overloadpacket.__name__, said(node)
    held = [said(x) for x in node.all_input_nodes]
    if name not in _IN_PLACE or val is None or any(x is None or x.dtype != val.dtype for x in held):
        return target
    if torch.empty_like(val).stride() != val.stride():
        return target
    return getattr(getattr(aten, name.rstrip("_")), target._overloadname)


def is_pure(node: fx.Node) -> bool:
    """Whether it gives the same whenever it is called with the same."""
    target = node.target
    if target is operator.getitem:
        return True
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    if target._schema.is_mutable:
        return False
    if target.namespace not in _KNOWN or "batch_norm" in target._schema.name:  # others may write or draw unsaid
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags and "empty" not in target._schema.name


def _is_a(node: fx.Node, *packets: Any) -> bool:
    return node.op == "call_function" and getattr(node.target, "overloadpacket", None) in packets


def _key(node: fx.Node) -> Any:
    """Equal for calls that give the same."""
    if not is_pure(node):
        return node
    try:
        key = (node.target, _hashable(node.args), _hashable(tuple(sorted(node.kwargs.items()))))
        hash(key)
    except TypeError:
        return node
    return key


def _hashable(x: Any) -> Any:
    """2, 2.0 and True are different arguments, as are 0.0 and -0.0."""
    if isinstance(x, list | tuple):
        return tuple(map(_hashable, x))
    return (type(x), repr(x)) if isinstance(x, bool | int | float | complex) else x


def _folded(graph: fx.GraphModule, stays: set[fx.Node]) -> dict[fx.Node, Any]:
    """What hangs on no input is computed; the values by their nodes, tensors and tuples of them."""
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in list(graph.graph.nodes):
            value = _value(graph, node, values)
            if value is not None:
                values[node] = value
    for node, value in list(values.items()):
        inside = all(user in values or user.op == "output" for user in node.users)
        if node.op == "get_attr" or inside or not isinstance(value, torch.Tensor):
            continue
        with graph.graph.inserting_before(node):
            held = graph.graph.create_node("get_attr", _keep(graph, value))
        held.meta = dict(node.meta)
        values[held] = value
        _merge(node, held, stays)
    return values


def _value(graph: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """The value of a node that hangs on no input, None of others."""
    if node.op == "get_attr":
        held = getattr(graph, str(node.target), None)
        if not isinstance(held, torch.Tensor) or isinstance(held, torch.nn.Parameter) or held.requires_grad:
            return None
        return held
    if not is_pure(node):
        return None
    if _is_a(node, *_OF_SHAPE) and len(node.all_input_nodes) == 1:  # hang on the shape of their first argument alone
        like = _like(node.args[0])
        return None if like is None else _if_small(node.target(like, *node.args[1:], **node.kwargs), [])
    given = node.all_input_nodes
    if not all(x in values for x in given):
        return None
    made = node.target(*map_arg(node.args, values.__getitem__), **map_arg(node.kwargs, values.__getitem__))
    return _if_small(made, [values[x] for x in given])


def _if_small(value: Any, given: list[Any]) -> Any:
    """The value where it takes little memory of its own; None of what are no tensors."""
    shared = {x.untyped_storage().data_ptr() for x in pytree.tree_leaves(given)}
    made = [x.untyped_storage() for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]
    small = sum(x.nbytes() for x in made if x.data_ptr() not in shared) <= _LARGE
    return value if made and small else None


def _like(node: Any) -> torch.Tensor | None:
    """A tensor without values, of the shape, strides and type of what a node gives."""
    val = said(node)
    return None if val is None else torch.empty_strided(val.shape, val.stride(), dtype=val.dtype, device=val.device)


def _keep(graph: fx.GraphModule, value: torch.Tensor) -> str:
    number = getattr(graph, "_num_folded", 0)
    graph._num_folded = number + 1  # type: ignore[assignment]
    setattr(graph, f"_folded{number}", value)
    return f"_folded{number}"


def said(node: Any) -> torch.Tensor | None:
    """A tensor like what a node gives, of which the values are not known."""
    val = node.meta.get("val") if isinstance(node, fx.Node) else None
    return val if isinstance(val, torch.Tensor) else None


def _same_as(node: fx.Node, constants: dict[fx.Node, Any]) -> fx.Node | None:
    """An earlier node that gives the same, where this one changes nothing."""
    val = said(node)
    if val is None:
        return None
    if _is_view(node):
        return _viewed(node, val)
    if len(node.args) == 2 and not node.kwargs and getattr(node.target, "overloadpacket", None) in _NEUTRAL:
        swaps, number = _NEUTRAL[node.target.overloadpacket]  # type: ignore[union-attr]
        for x, other in (node.args, node.args[::-1]) if swaps else (node.args,):
            if _is(other, number, constants) and _are_alike(x, val):
                return x  # type: ignore[return-value]
    if _is_a(node, aten._to_copy, aten.slice_backward) and _are_alike(node.args[0], val):
        return node.args[0]  # type: ignore[return-value]
    return None


# An operation, whether its arguments may change places, and the number that changes nothing as its last one.
_NEUTRAL: dict[Any, tuple[bool, float]] = {
    aten.mul: (True, 1.0),
    aten.div: (False, 1.0),
    aten.pow: (False, 1.0),
    aten.add: (True, 0.0),
    aten.sub: (False, 0.0),
}


def _viewed(node: fx.Node, val: torch.Tensor) -> fx.Node | None:
    """What is looked at, where all views between it and this one come to nothing."""
    x, found = node, None
    while _is_view(x) and isinstance(x.args[0], fx.Node):
        x = x.args[0]
        if _are_alike(x, val):
            found = x
    return found


def _is_view(node: fx.Node) -> bool:
    """Whether it gives numbers of its first argument, of which shape and strides tell which."""
    return _is_a(node, *_VIEWS) or _sums_nothing(node)


def _sums_nothing(node: fx.Node) -> bool:
    """Whether it is a sum over axes of length 1, laid out as without these."""
    if not _is_a(node, aten.sum) or len(node.args) != 2 or node.kwargs:
        return False
    dims, val, made = node.args[1], said(node.args[0]), said(node)
    if not isinstance(dims, list) or not dims or val is None or made is None or not val.shape:
        return False
    return all(val.shape[d] == 1 for d in dims) and made.stride() == val.squeeze(tuple(dims)).stride()


def _is(x: Any, number: float, constants: dict[fx.Node, Any]) -> bool:
    if isinstance(x, fx.Node):
        value = constants.get(x)
        return isinstance(value, torch.Tensor) and value.numel() > 0 and bool((value == number).all())
    return isinstance(x, int | float) and not isinstance(x, bool) and x == number


def _are_alike(x: Any, val: torch.Tensor) -> bool:
    """Whether a node gives a tensor of the same layout and type."""
    held = said(x)
    return held is not None and (
        (held.shape, held.stride(), held.dtype, held.device) == (val.shape, val.stride(), val.dtype, val.device)
    )


# Their functions in `torch` take what they take in `torch.ops.aten`, in the same order.
_PLAIN = frozenset(
    """mul add sub div rsub pow exp exp2 log log1p log2 expm1 sqrt rsqrt neg abs sign sin cos tan tanh sinh cosh sigmoid
    reciprocal square erf erfc lgamma digamma maximum minimum where isnan isfinite eq ne lt le gt ge logical_and
    logical_or logical_not bitwise_and bitwise_or bitwise_not bitwise_xor sum mean prod amax amin all any argmax cumsum
    cat stack mm bmm addmm mv dot select unsqueeze squeeze t transpose permute clamp clamp_min clamp_max gather
    index_select flip floor triu tril diagonal atan2 clone masked_fill fmod remainder convolution""".split()
)
_OF_TENSORS = frozenset({"expand", "view"})
_OF_NETWORKS = frozenset({"silu", "gelu", "softplus"})
_WITH_NUMBERS = (aten.mul.Tensor, aten.mul.Scalar, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)


def quick(graph: fx.GraphModule) -> Callable[..., Any]:
    """The graph to be interpreted: operations by PyTorch's own functions, called in half of the time of ``torch.ops``.

    A number beside a tensor is a tensor already, where PyTorch would make one of it in each call.
    """
    copied, held = fx.Graph(), SimpleNamespace()
    numbers: dict[Any, str] = {}
    copied.output(copied.graph_copy(graph.graph, {}))
    for node in list(copied.nodes):
        if node.op == "get_attr":
            setattr(held, str(node.target), getattr(graph, str(node.target)))
        if node.op != "call_function":
            continue
        number = _number(node)
        if number is not None:
            name = numbers.setdefault((number.dtype, repr(number.item())), f"_number{len(numbers)}")
            setattr(held, name, number)
            with copied.inserting_before(node):
                node.args = (node.args[0], copied.create_node("get_attr", name))
        node.target = _plain(node.target)
    code = copied.python_code("self")
    exec(code.src, code.globals)
    return functools.partial(code.globals["forward"], held)


def _number(node: fx.Node) -> torch.Tensor | None:
    """The number that stands beside a tensor of the type of the result, as a tensor on the host."""
    val = said(node)
    if node.target not in _WITH_NUMBERS or val is None or len(node.args) != 2 or node.kwargs:
        return None
    x, number = node.args
    beside, is_plain = said(x), isinstance(number, int | float) and not isinstance(number, bool)
    if not is_plain or beside is None or beside.dtype != val.dtype or val.dtype not in (torch.float32, torch.float64):
        return None
    return torch.tensor(number, dtype=val.dtype, device="cpu")


def _plain(target: Any) -> Any:
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return target
    name = target.overloadpacket.__name__
    for names, holder in ((_PLAIN, torch), (_OF_TENSORS, torch.Tensor), (_OF_NETWORKS, torch._C._nn)):
        if name in names:
            return getattr(holder, name)
    return target
