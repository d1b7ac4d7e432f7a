"""Stochastic gradient descent: a loss, its minibatches along an axis of steps, loss and gradient compiled."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ppl_gen.backends.pyro.compiling import compile
from ppl_gen.backends.pyro.kernel_state import Remembered
from ppl_gen.backends.pyro.optimisers import optimiser
from ppl_gen.backends.pyro.processes import mean_over_processes


def _slope(f: Callable[..., Any], params: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Any, Any]:
    """Gradient, value and report of ``f(params) -> (value, report)``.

    Not by `torch.func`, which asks for a gradient that has one itself: activations and norms then lose their kernels.
    """
    held = {n: x.detach().requires_grad_() for n, x in params.items()}
    with torch.enable_grad():
        value, report = f(held)
    if value.requires_grad:
        found = torch.autograd.grad(value, list(held.values()), materialize_grads=True)
    else:  # it hangs on no parameter, and autograd has nothing to go back along
        found = tuple(torch.zeros_like(x) for x in params.values())
    report, value = pytree.tree_map(lambda x: x.detach() if isinstance(x, torch.Tensor) else x, (report, value))
    return dict(zip(held, found, strict=True)), value, report


def descend(
    loss: Callable[..., Any],
    *,
    optimizer: Any = "adam",
    learning_rate: float = 1e-3,
    clip_norm: float | None = None,
    ema: float | None = None,
    processes: bool = False,
    carries: bool = False,
    calls: int = 1,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``advance(state, rows, *constants)`` descends ``loss(params, row, *constants) -> (value, report)``.

    Args:
        clip_norm: to which a gradient is shortened where it is longer.
        ema: decay of the moving average of params that the state has beside them; None for none.
        processes: the loss is the mean of those of all processes, each of which has rows of its own.
        carries: the loss is ``loss(params, row, carried, *constants) -> (value, (report, carried))``, and the state has
            what it ``carried`` from the step before, such as chains.

    Returns:
        ``init(params, carried=()) -> state``, a dict with ``params``, ``ema`` (the params themselves where there is
        none), ``carried`` and the optimiser's own; ``advance``, where each row has the ``rate`` that the step's move is
        multiplied by, and whatever the loss wants; the report has the ``loss`` and the length of the gradient,
        ``gradient_norm``.
    """

    def evaluate(params: Any, row: Any, carried: Any, *constants: Any) -> tuple[Any, ...]:
        given = (carried, *constants) if carries else constants
        gradient, value, report = _slope(lambda params: loss(params, row, *given), params)
        report, carried = report if carries else (report, ())
        return gradient, {**report, "loss": value}, carried

    def clipped(gradient: Any, report: Any, carried: Any) -> tuple[Any, ...]:
        norm = torch.sqrt(sum((g.square().sum() for g in gradient.values()), start=torch.zeros(())))
        if clip_norm is not None:
            factor = (clip_norm / norm.clamp(min=1e-30)).clamp(max=1.0)
            gradient = {n: g * factor for n, g in gradient.items()}
        return gradient, {**report, "gradient_norm": norm}, carried

    if processes:
        alone = compile(evaluate, calls=calls)
        step = lambda *args: clipped(*mean_over_processes(alone(*args)))
    else:
        step = compile(lambda *args: clipped(*evaluate(*args)), calls=calls)

    def init(params: dict[str, torch.Tensor], carried: Any = ()) -> dict[str, Any]:
        held = {n: x.detach().clone(memory_format=torch.contiguous_format) for n, x in params.items()}
        solver = optimiser(optimizer, learning_rate)(list(held.values()))
        if inspect.signature(solver.step).parameters["closure"].default is inspect.Parameter.empty:
            raise ValueError(
                f"{type(solver).__name__} asks for the loss more than once a step, and by minibatches it is another "
                "each time: use one that takes a gradient alone, such as torch.optim.Adam"
            )
        average = () if ema is None else {n: x.clone() for n, x in held.items()}
        return {"params": held, "ema": average, "solver": Remembered(solver.state_dict()), "carried": carried}

    def advance(state: dict[str, Any], rows: dict[str, torch.Tensor], *constants: Any) -> tuple[Any, Any]:
        params = {n: x.clone() for n, x in state["params"].items()}
        solver = optimiser(optimizer, learning_rate)(list(params.values()))
        solver.load_state_dict(state["solver"].of_solver())
        rates = [group["lr"] for group in solver.param_groups]
        average: Any = () if ema is None else {n: x.clone() for n, x in state["ema"].items()}
        reports, carried = [], state["carried"]
        for row in (dict(zip(rows, parts, strict=True)) for parts in zip(*rows.values(), strict=True)):
            gradient, report, carried = step(params, row, carried, *constants)
            for name, x in params.items():
                x.grad = gradient[name].contiguous()  # fused steps go through memory, and heed no strides
            for group, rate in zip(solver.param_groups, rates, strict=True):
                group["lr"] = rate * float(row["rate"])
            solver.step()
            if ema is not None:
                torch._foreach_lerp_(list(average.values()), list(params.values()), 1.0 - ema)
            reports.append(report)
        for group, rate in zip(solver.param_groups, rates, strict=True):
            group["lr"] = rate
        for x in params.values():
            x.grad = None
        new = {"params": params, "ema": average, "solver": Remembered(solver.state_dict()), "carried": carried}
        return new, {n: torch.stack([r[n] for r in reports]) for n in reports[0]}

    return init, advance
