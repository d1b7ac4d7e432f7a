"""Optimisers from torch.optim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ppl_gen.backends.pyro.compiling import compile

_BY_NAME = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
_FUSED = ("adam", "adamw", "adagrad", "sgd")


def optimiser(name: Any, learning_rate: float) -> Callable[[list[torch.Tensor]], torch.optim.Optimizer]:
    """A constructor of a torch optimiser by name or by its class; another function is one already.

    Raises:
        ValueError: something else.
    """
    if isinstance(name, type) and issubclass(name, torch.optim.Optimizer):
        return lambda tensors: name(tensors, lr=learning_rate)
    if callable(name):
        return name
    if not isinstance(name, str) or name not in _BY_NAME:
        raise ValueError(
            f"unknown optimizer {name!r} on Pyro: expected one of {', '.join(_BY_NAME)}, a class of torch.optim, or a "
            "function that makes an optimiser from a list of tensors"
        )
    fused = {"fused": True} if name in _FUSED else {}  # one pass over the memory, where there are six
    return lambda tensors: _BY_NAME[name](tensors, lr=learning_rate, **fused)


def minimise(
    f: Callable[..., Any], *, method: Any = "lbfgs", learning_rate: float = 0.01, calls: int = 1
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``advance(state, num_steps, batched, *constants)`` descends ``f(u, batched_row, *constants)`` for rows of u.

    ``f`` is scalar. State: dict with ``position`` (rows, dim), ``best`` (rows, dim), ``value`` (rows,) of the best,
    and the optimisers' own; ``init(position)`` makes it. Every step reports the value of each row.

    Returns:
        init, advance
    """
    both = torch.func.grad_and_value(f)
    compiled = compile(lambda *args: both(*args), calls=calls)

    def init(position: torch.Tensor) -> dict[str, Any]:
        rows = [row.clone() for row in position]
        if method == "lbfgs":
            solvers = [torch.optim.LBFGS([r], max_iter=1, max_eval=25, line_search_fn="strong_wolfe") for r in rows]
        else:
            solvers = [optimiser(method, learning_rate)([r]) for r in rows]
        value = position.new_full(position.shape[:1], torch.inf)
        return {"position": position, "best": position, "value": value, "rows": rows, "solver": solvers}

    def advance(state: dict[str, Any], num_steps: int, batched: Any, *constants: Any) -> tuple[Any, Any]:
        best, lowest = state["best"].clone(), state["value"].clone()
        values = best.new_empty(num_steps, len(best))
        for i, (row, solver) in enumerate(zip(state["rows"], state["solver"], strict=True)):
            part = torch.utils._pytree.tree_map(lambda x, i=i: x[i], batched)
            for t in range(num_steps):
                before = row.detach().clone()
                values[t, i] = solver.step(lambda row=row, part=part: _closure(compiled, row, part, constants))
                if values[t, i] < lowest[i]:
                    best[i], lowest[i] = before, values[t, i]
        position = torch.stack([r.detach() for r in state["rows"]])
        return {**state, "position": position, "best": best, "value": lowest}, values

    return init, advance


def _closure(compiled: Any, row: torch.Tensor, part: Any, constants: tuple) -> torch.Tensor:
    row.grad, value = compiled(row.detach(), part, *constants)
    return value
