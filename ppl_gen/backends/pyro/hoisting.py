"""What need not be computed in each step of a loop, taken out of it.

A step sees what it carries, a row of the inputs, and constants; it carries on, and reports. Parts of its graph that
hang on the constants alone are computed once; numbers that hang on the row alone, such as where on its path a diffusion
stands, for all rows at once, before the loop; and what is made for the report alone, for all steps at once, after it.
All is to the bit what the step, interpreted, would compute. A graph that writes into tensors stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import fx

from ppl_gen.backends.pyro.simplifying import aten, is_pure, leaving, quick, said, writes

CARRIED, ROW, FIXED = "carried", "row", "fixed"  # what an input is

_LARGE = 2**26  # bytes of a tensor that is not kept for a loop
_FEW = 256  # entries of what is computed for all rows at once
# Entry by entry, or no computation at all, and the same bits whether there is one entry or many: sigmoid, for one, is
# computed by other code where entries fill a register of the processor.
_EACH = frozenset(
    """mul add sub div rsub exp log log1p log2 expm1 sqrt rsqrt neg abs sign sin cos tan tanh reciprocal square erf erfc
    maximum minimum where isnan isfinite eq ne lt le gt ge logical_and logical_or logical_not bitwise_and bitwise_or
    bitwise_not clamp clamp_min clamp_max cat stack""".split()
)
_VIEWS = frozenset({"unsqueeze", "squeeze", "select", "view", "expand"})
_POWERS = (2, 3, 0.5, -0.5, -1, -2)  # which are the same, too


class Hoisted(NamedTuple):
    """A step in four parts.

    Attributes:
        step: the graph that is left; after its own inputs it takes what ``once`` and ``each`` give, in this order. It
            gives what is carried on, and what ``late`` wants.
        once: of the fixed inputs; None where there is nothing. each: of the inputs of rows, stacked and contiguous;
            likewise. late: of what the steps gave it, stacked: the reports.
    """

    step: fx.GraphModule
    once: Callable[..., list[torch.Tensor]] | None
    each: Callable[..., list[torch.Tensor]] | None
    late: Callable[..., list[torch.Tensor]]


def hoisted(graph: fx.GraphModule, roles: list[str], num_carried: int) -> Hoisted:
    """The graph of a step taken apart.

    Args:
        graph: a simplified one. roles: of its inputs, in their order. num_carried: how many of its results are carried
            on; the others are reports.
    """
    if any(map(writes, graph.graph.nodes)):
        return Hoisted(graph, None, None, lambda *stacked: list(stacked))
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    of, outputs = _roles(graph, dict(zip(inputs, roles, strict=True))), _outputs(graph)
    kept, late, waiting = _late(graph, of, outputs[:num_carried], outputs[num_carried:])
    outside = {n for n in of if n in inputs or n in waiting}
    seams = {role: [n for n in of if of[n] == role and n not in outside and _seam(n, of)] for role in (FIXED, ROW)}
    given = {role: [x for x in inputs if of[x] == role] for role in (FIXED, ROW)}
    once = quick(_part(graph, given[FIXED], seams[FIXED])) if seams[FIXED] else None
    each = torch.vmap(quick(_part(graph, given[ROW], seams[ROW]))) if seams[ROW] else None
    step = _part(graph, [*inputs, *seams[FIXED], *seams[ROW]], [*outputs[:num_carried], *kept], whole=True)
    return Hoisted(step, once, each, late)


def results(graph: fx.GraphModule) -> list[torch.Tensor]:
    """Tensors like those that come out."""
    nodes = _outputs(graph)
    return [getattr(graph, str(n.target)) if said(n) is None else said(n) for n in nodes]  # type: ignore[misc]


def _outputs(graph: fx.GraphModule) -> list[fx.Node]:
    return list(next(n for n in graph.graph.nodes if n.op == "output").args[0])  # type: ignore[arg-type]


def _late(
    graph: fx.GraphModule, of: dict[fx.Node, str], carried: list[fx.Node], reports: list[fx.Node]
) -> tuple[list[fx.Node], Callable[..., list[torch.Tensor]], set[fx.Node]]:
    """Nodes whose values are kept of each step, what makes the reports of these, stacked, and all that it computes."""
    late = _waiting(graph, of, carried)
    ends = list(dict.fromkeys(x for x in reports if x in late))
    inputs = [x for node in graph.graph.nodes if node in late for x in node.all_input_nodes if x.op != "get_attr"]
    seeds = list(dict.fromkeys(x for x in inputs if x not in late))
    kept = list(dict.fromkeys([*(x for x in reports if x not in late), *seeds]))
    if not ends or _nbytes(x for x in seeds if x not in reports) > _nbytes(ends):
        return reports, lambda *stacked: list(stacked), set()
    made = torch.vmap(quick(_part(graph, seeds, ends)))

    def of_stacked(*stacked: torch.Tensor) -> list[torch.Tensor]:
        values = dict(zip(kept, stacked, strict=True))
        values |= zip(ends, made(*(values[x] for x in seeds)), strict=True)
        again = [x in reports[:i] for i, x in enumerate(reports)]  # which has memory of its own, too
        return [values[x].clone() if twice else values[x] for x, twice in zip(reports, again, strict=True)]

    return kept, of_stacked, late


def _waiting(graph: fx.GraphModule, of: dict[fx.Node, str], carried: list[fx.Node]) -> set[fx.Node]:
    """What is made for reports alone, and is the same for all steps at once."""
    late: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        for_reports = node.op == "call_function" and node not in carried and bool(node.users)
        if for_reports and all(x in late or x.op == "output" for x in node.users) and _can_wait(node, of):
            late.add(node)
    return late


def _can_wait(node: fx.Node, of: dict[fx.Node, str]) -> bool:
    """Whether all steps at once give the same; what hangs on constants would have to be kept of each of them."""
    hangs = [of.get(x, CARRIED) for x in node.all_input_nodes if x.op != "get_attr"]
    return is_pure(node) and bool(hangs) and FIXED not in hangs and _entry_by_entry(node)


def _nbytes(nodes: Iterable[fx.Node]) -> int:
    return sum(val.nbytes for val in map(said, nodes) if val is not None)


def _roles(graph: fx.GraphModule, of: dict[fx.Node, str]) -> dict[fx.Node, str]:
    """What every node hangs on; what is given out is CARRIED, which stays in the loop."""
    stays = leaving(graph)
    for node in graph.graph.nodes:
        if node.op == "call_function":
            movable = is_pure(node) and node not in stays and not any(user.op == "output" for user in node.users)
            of[node] = _role(node, of) if movable else CARRIED
    for node in reversed(graph.graph.nodes):  # what is large or no tensor cannot be handed on
        if node.op == "call_function" and of[node] != CARRIED and _seam(node, of):
            val = said(node)
            if val is None or val.nbytes > _LARGE:
                of[node] = CARRIED
    return of


def _role(node: fx.Node, of: dict[fx.Node, str]) -> str:
    """What a node hangs on that is a function of its inputs alone; captured tensors do not change in a loop."""
    found = {of[x] for x in node.all_input_nodes if x.op != "get_attr"}
    if found == {FIXED}:
        return FIXED
    return ROW if found == {ROW} and _for_all_rows(node) else CARRIED


def _for_all_rows(node: fx.Node) -> bool:
    """Whether it is a few numbers, which rows together give as each of them does."""
    val = said(node)
    return val is not None and val.numel() <= _FEW and (_name(node) in _VIEWS or _entry_by_entry(node))


def _entry_by_entry(node: fx.Node) -> bool:
    """Whether many at once give what each of them gives."""
    beside = [said(x) for x in node.all_input_nodes]
    if said(node) is None or any(x is None for x in beside):
        return False
    if len({x.dtype for x in beside if x is not None and x.dtype != torch.bool}) > 1:
        return False  # of several types a number, which has no axes, would yield; a row of them does not
    is_power = node.target is aten.pow.Tensor_Scalar and node.args[1] in _POWERS
    return is_power or _name(node) in _EACH


def _name(node: fx.Node) -> str:
    return getattr(getattr(node.target, "overloadpacket", None), "__name__", "")


def _seam(node: fx.Node, of: dict[fx.Node, str]) -> bool:
    """Whether the loop looks at a node outside of it."""
    return any(of.get(user, CARRIED) != of[node] for user in node.users)


def _part(
    graph: fx.GraphModule, inputs: list[fx.Node], wanted: list[fx.Node], whole: bool = False
) -> fx.GraphModule:
    """A function of some nodes, which gives others; ``whole`` with draws that nobody reads, for the sake of others."""
    made = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        copies[node] = made.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    drawn = [n for n in graph.graph.nodes if n.op == "call_function" and n.is_impure()] if whole else []
    needed = _before([*wanted, *drawn], set(inputs))
    for node in graph.graph.nodes:
        if node in needed:
            copies[node] = made.node_copy(node, copies.__getitem__)
    made.output([copies[node] for node in wanted])
    return fx.GraphModule(graph, made)


def _before(ends: list[fx.Node], known: set[fx.Node]) -> set[fx.Node]:
    """What must be computed for some nodes, themselves among it, where others are known."""
    found: set[fx.Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node not in found and node not in known:
            found.add(node)
            waiting += node.all_input_nodes
    return found
