"""Steps that follow each other, each a graph: what a step carries to the next goes there without being a tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from ppl_gen.backends.pyro.compiling import compile, like, runnable, signature, traced
from ppl_gen.backends.pyro.hoisting import CARRIED, FIXED, ROW, hoisted, results

_REPEATS = 10  # of an inner loop in a step, of the order of

Tensors = list[torch.Tensor]


def scan(step: Callable[..., Any], *, calls: int = 1) -> Callable[..., Any]:
    """``advance(state, inputs, *constants)``: ``step``, compiled, once for each row of ``inputs``.

    Returns:
        the last state, and what the steps reported, stacked along a new leading axis.
    """
    loop = _Loop(step, calls)

    def advance(state: Any, inputs: Any, *constants: Any) -> tuple[Any, Any]:
        return loop(state, like(inputs), pytree.tree_leaves(inputs), constants)

    return advance


def scan_loops(
    begin: Callable[..., Any], repeat: Callable[..., Any], end: Callable[..., Any], *, calls: int = 1
) -> Callable[..., Any]:
    """``advance(state, inputs, *constants)`` as of :func:`scan`, for a step with a loop inside.

    ``begin(state, row, *constants) -> (carry, count)``, then so many times ``repeat(carry, *constants) -> carry``, then
    ``end(carry, row, *constants) -> (state, report)``.
    """
    begin, end = compile(begin, calls=calls), compile(end, calls=calls)
    inner = _Loop(lambda carry, row, *constants: (repeat(carry, *constants), ()), _REPEATS * calls)

    def advance(state: Any, inputs: Any, *constants: Any) -> tuple[Any, Any]:
        row_of, reports = like(inputs), []
        once: dict[Body, Tensors] = {}
        for row in _rows(pytree.tree_leaves(inputs)):
            carry, count = begin(state, row_of(row), *constants)
            carry = inner.repeat(carry, int(count), constants, once)
            state, report = end(carry, row_of(row), *constants)
            reports.append(report)
        return state, pytree.tree_map(lambda *xs: torch.stack(xs), *reports)

    return advance


class _Loop:
    """A step ``(state, row, *constants) -> (state, report)`` at arguments of any signature."""

    def __init__(self, step: Callable[..., Any], calls: int):
        self.step, self.calls = step, calls
        self.bodies: dict[Any, Body] = {}

    def __call__(self, state: Any, row_of: Callable[[Any], Any], inputs: Tensors, constants: Any) -> tuple[Any, Any]:
        """The last state and the stacked reports of a step for each row."""
        inputs = [x.contiguous() for x in inputs]
        rows, done, parts = _rows(inputs), 0, list[Tensors]()
        while done < len(rows):
            body, carried, fixed = self._body(state, row_of(rows[done]), constants)
            now = slice(done, done + body.reach(len(rows) - done))
            carried, found = body.over_all(carried, [x[now] for x in inputs], fixed)
            done = now.stop
            parts.append(found)
            state, _ = body.tree([*carried, *found])
        return body.tree([*carried, *(x[0] if len(x) == 1 else torch.cat(x) for x in zip(*parts, strict=True))])

    def repeat(self, carry: Any, count: int, constants: Any, once: dict[Body, Tensors]) -> Any:
        """``count`` steps that have no rows; ``once`` remembers what the constants came to."""
        while count > 0:
            body, carried, fixed = self._body(carry, (), constants)
            if body not in once:
                once[body] = body.of_constants(fixed)
            none: list[Any] = [()] * body.reach(count)
            carried, _ = body.over(carried, none, none, fixed, once[body])
            count -= len(none)
            carry, _ = body.tree(carried)
        return carry

    def _body(self, state: Any, row: Any, constants: Any) -> tuple[Body, Tensors, Tensors]:
        """The step for arguments like these, and the tensors of the state and of the constants."""
        carried: Tensors = []
        fixed: Tensors = []
        key = signature(state, carried), signature(row, []), signature(constants, fixed)
        if key not in self.bodies:
            graph, tensors, tree = traced(self.step, (state, row, *constants), self.calls)
            self.bodies[key] = Body(graph, tensors, tree, state, _count(row), self.calls)
        return self.bodies[key], carried, [x.contiguous() for x in fixed]  # machine code is made for these strides


class Body:
    """A step at arguments of one signature, from its graph: of what is carried, a row, and constants.

    Attributes:
        each: of the stacked rows, what steps see a row of beside them; None where there is nothing.
        tree: of the tensors that come out, state and report.
    """

    def __init__(
        self, graph: fx.GraphModule, tensors: Tensors, tree: Callable[[Any], Any], state: Any, num_rows: int, calls: int
    ):
        """``tensors``: like those that go in, of which those of ``state`` are carried."""
        self.tree, num_carried = tree, _count(state)
        rows, fixed = tensors[num_carried:][:num_rows], tensors[num_carried + num_rows :]
        after, _ = tree(results(graph))
        self._steady = signature(after, []) == signature(state, [])
        self._num_after = len(pytree.tree_leaves(after))
        roles = [CARRIED] * num_carried + [ROW] * num_rows + [FIXED] * len(fixed)
        made = hoisted(graph, roles, self._num_after)
        self._of_constants, self.each, self._late = made.once, made.each, made.late
        each = [x[0] for x in made.each(*(x[None] for x in rows))] if made.each else []
        self._run = runnable(made.step, [*tensors, *self.of_constants(fixed), *each], calls)

    def of_constants(self, fixed: Tensors) -> Tensors:
        """What hangs on the constants alone."""
        return self._of_constants(*fixed) if self._of_constants else []

    def reach(self, count: int) -> int:
        """How many of ``count`` steps it does: one, where what is carried does not come out as it went in."""
        return count if self._steady else 1

    def over_all(self, carried: Tensors, inputs: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """What is carried after a step for each of the stacked rows, and the stacked reports."""
        rows = _rows(inputs)
        each = _rows(self.each(*inputs)) if self.each else [()] * len(rows)
        return self.over(carried, rows, each, fixed, self.of_constants(fixed))

    def over(
        self, carried: Tensors, rows: Sequence[Any], each: Sequence[Any], fixed: Tensors, once: Tensors
    ) -> tuple[Tensors, Tensors]:
        """What is carried after a step for each row, and the stacked reports."""
        kept: list[Tensors] = []
        for row, seen in zip(rows, each, strict=True):
            made = self._run(*(x.contiguous() for x in carried), *row, *fixed, *once, *seen)
            carried = made[: self._num_after]
            kept.append(made[self._num_after :])
        return carried, self._late(*map(torch.stack, zip(*kept, strict=True)))


def _rows(stacked: Tensors) -> list[Any]:
    return list(zip(*(x.unbind(0) for x in stacked), strict=True))


def _count(tree: Any) -> int:
    """Of its tensors."""
    tensors: Tensors = []
    signature(tree, tensors)
    return len(tensors)
