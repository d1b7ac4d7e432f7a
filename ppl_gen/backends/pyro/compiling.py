"""Arrays to and from the host, and compilation: a function is traced to a graph, the graph compiled.

Effect handlers, distributions and autograd run once, while the graph is made; a call of the compiled function
runs the graph alone.
"""

from __future__ import annotations

import shutil
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pyro
import torch
import torch._inductor.config
from pyro.infer import trace_elbo, trace_mean_field_elbo
from torch._guards import TracingContext, tracing
from torch._subclasses import fake_tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from ppl_gen.backends.pyro.simplifying import is_loop, quick, simplified

# What an interpreted graph costs more than machine code: so much a node, and so much a byte that a node puts into
# memory, where loops that are fused keep it in registers. And what making machine code costs, once.
_SECONDS_PER_NODE, _SECONDS_PER_BYTE = 5e-6, 3e-11
_SECONDS_TO_COMPILE, _SECONDS_TO_COMPILE_NODE = 6.0, 8e-3

CALLS: ContextVar[int] = ContextVar("calls", default=1)  # that the graph is made for which is being made

_NO_STACKS = SimpleNamespace(extract_stack=list, format_list=traceback.format_list)

# The generator's own stream, as without compilation; no threads for loops so short that starting them costs more.
_INDUCTOR = {"fallback_random": True, "cpp.min_chunk_size": 16384}


def asarray(x: Any, dtype: str | None = None) -> torch.Tensor:
    """``x`` on the active device; floating point in the active precision unless ``dtype`` says otherwise."""
    if isinstance(x, torch.Tensor):
        x = x.detach()
    else:
        x = np.asarray(x)
        x = torch.tensor(np.asarray(x, dtype=dtype or x.dtype.newbyteorder("="), order="C"))  # a copy, aligned
    if dtype is None and x.is_floating_point():
        return x.to(device=torch.get_default_device(), dtype=torch.get_default_dtype())
    return x.to(device=torch.get_default_device())


def to_numpy(tree: Any) -> Any:
    """The same tree with NumPy arrays."""
    return pytree.tree_map(lambda x: x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x, tree)


def on_host() -> bool:
    """Whether the active device is the CPU."""
    return torch.get_default_device().type == "cpu"


def has_bfloat16() -> bool:
    """Whether the active device computes in it; see the mirror."""
    return torch.get_default_device().type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def from_numpy(tree: Any) -> Any:
    """The same tree with tensors on the active device, bits unchanged."""
    return pytree.tree_map(lambda x: torch.tensor(np.asarray(x, order="C"), device=torch.get_default_device()), tree)


def compile(f: Callable[..., Any], *, calls: int = 1) -> Callable[..., Any]:
    """``f`` as a graph for each new shape; compiled to machine code where ``calls`` of it would repay that.

    ``f`` is a function of trees of tensors, without Python branches on values; randomness in it is drawn anew at each
    call from the scope's generator. The tensors handed in must not ask for gradients; others that ``f`` knows are
    constants.
    """
    graphs: dict[Any, Callable[..., Any]] = {}

    def compiled(*args: Any) -> Any:
        tensors: list[torch.Tensor] = []
        key = signature(args, tensors)
        run = graphs.get(key)
        if run is None:
            run = graphs[key] = _graph(f, args, calls)
        return run(tensors)

    return compiled


def signature(tree: Any, tensors: list[torch.Tensor]) -> Any:
    """What a graph is specialised to; collects the tensors in the order of ``pytree``, several times faster."""
    if isinstance(tree, torch.Tensor):
        tensors.append(tree)
        return tree.shape, tree.dtype
    if isinstance(tree, dict):
        return tuple([(name, signature(x, tensors)) for name, x in tree.items()])
    if isinstance(tree, tuple | list):
        return tuple([signature(x, tensors) for x in tree])
    return type(tree), tree


_num_graphs = 0


def compilations() -> int:
    """How many graphs this process has made."""
    return _num_graphs


def _graph(f: Callable[..., Any], args: Any, calls: int) -> Callable[[list[torch.Tensor]], Any]:
    """The graph of ``f`` at arguments like ``args``, as a function of their tensors."""
    graph, tensors, rebuild = traced(f, args, calls)
    return finished(runnable(graph, tensors, calls), rebuild)


def runnable(graph: torch.fx.GraphModule, tensors: list[torch.Tensor], calls: int) -> Callable[..., Any]:
    """The graph as a function, machine code where so many calls repay that."""
    global _num_graphs
    _num_graphs += 1
    whole = not any(map(is_loop, graph.graph.nodes))  # the compiler sees no loops; their steps come to it by themselves
    return machine_code(graph, tensors) if whole and calls > calls_to_repay(graph) else quick(graph)


def finished(run: Callable[..., Any], rebuild: Callable[[Any], Any]) -> Callable[[list[torch.Tensor]], Any]:
    return lambda tensors: rebuild(run(*[x.contiguous() for x in tensors]))  # machine code is made for these strides


def traced(
    f: Callable[..., Any], args: Any, calls: int = 1
) -> tuple[torch.fx.GraphModule, list[torch.Tensor], Callable[[Any], Any]]:
    """The graph itself, the tensors that it was made at, and what makes trees of its results."""
    # a graph draws while it is made; no run must depend on whether it was
    with torch.random.fork_rng(), _unchecked(), _one_fake_mode(), made_for(calls):
        graph, tensors, tree = untouched(f, args)
    return simplified(graph), tensors, tree


def untouched(
    f: Callable[..., Any], args: Any
) -> tuple[torch.fx.GraphModule, list[torch.Tensor], Callable[[Any], Any]]:
    """What :func:`traced` gives, before the graph is made smaller, for whoever has seen to the rest."""
    leaves, spec = pytree.tree_flatten(args)
    is_tensor = [isinstance(x, torch.Tensor) for x in leaves]
    out: list[Any] = []

    def flat(*tensors: torch.Tensor) -> list[torch.Tensor]:
        given = iter(tensors)
        full = [next(given) if t else x for t, x in zip(is_tensor, leaves, strict=True)]
        made = f(*pytree.tree_unflatten(full, spec))
        out[:] = [like(made)]
        return [torch.as_tensor(r) for r in pytree.tree_leaves(made)]

    # copies: the tracer would take two inputs that are one tensor now for one input for ever
    contiguous = torch.contiguous_format
    tensors = [x.detach().clone(memory_format=contiguous) for x in leaves if isinstance(x, torch.Tensor)]
    return make_fx(flat)(*tensors), tensors, out[0]


@contextmanager
def made_for(calls: int) -> Iterator[None]:
    """What is traced inside is to be called so often."""
    token = CALLS.set(calls)
    try:
        yield
    finally:
        CALLS.reset(token)


def _one_fake_mode() -> Any:
    """In which the tracer says what nodes are like; it would make one anew for each of them, in half of its time."""
    return tracing(TracingContext(fake_tensor.FakeTensorMode(allow_fallback_kernels=True)))


def like(tree: Any) -> Callable[[Iterable[Any]], Any]:
    """What makes trees of this one's shape of their leaves: ``pytree.tree_unflatten``, several times faster."""
    make = _part_like(tree)
    return lambda leaves: make(iter(leaves))


def _part_like(tree: Any) -> Callable[[Iterator[Any]], Any]:
    """What takes the leaves of such a tree, in the order of ``pytree``, from those that are still to come."""
    if type(tree) is dict:
        by_name = [(name, _part_like(x)) for name, x in tree.items()]
        return lambda leaves: {name: part(leaves) for name, part in by_name}
    if type(tree) in (tuple, list) or (isinstance(tree, tuple) and hasattr(tree, "_fields")):
        kind, parts = getattr(tree, "_make", type(tree)), [_part_like(x) for x in tree]
        return lambda leaves: kind([part(leaves) for part in parts])
    if pytree.tree_is_leaf(tree):
        return next
    spec = pytree.tree_structure(tree)
    return lambda leaves: pytree.tree_unflatten([next(leaves) for _ in range(spec.num_leaves)], spec)


def _kept(x: Any) -> Any:
    """A number of which Pyro wants the value only: in a graph, the tensor without its gradient."""
    return x.detach() if isinstance(x, torch.Tensor) else x


@contextmanager
def _unchecked() -> Iterator[None]:
    """Pyro as it is under ``torch.jit.trace``: without its checks and shortcuts that look at values.

    And without the stack trace that PyTorch takes for each node of a graph, in nearly half of the time.
    """
    with (
        warnings.catch_warnings(),
        mock.patch.object(pyro.util, "torch_isnan", lambda x: False),
        mock.patch.object(trace_elbo, "torch_item", _kept),
        mock.patch.object(trace_mean_field_elbo, "torch_item", _kept),
        mock.patch.object(torch._C, "_get_tracing_state", lambda: True),
        mock.patch.object(fake_tensor, "traceback", _NO_STACKS),
    ):
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield


def calls_to_repay(graph: torch.fx.GraphModule) -> float:
    """About how many calls it takes until machine code has saved the time that it takes to make."""
    nodes = graph.graph.nodes
    size = sum(x.nbytes for x in (node.meta.get("val") for node in nodes) if isinstance(x, torch.Tensor))
    saved = len(nodes) * _SECONDS_PER_NODE + size * _SECONDS_PER_BYTE
    return (_SECONDS_TO_COMPILE + len(nodes) * _SECONDS_TO_COMPILE_NODE) / saved


def machine_code(graph: torch.fx.GraphModule, tensors: list[torch.Tensor]) -> Callable[..., Any]:
    """The graph through TorchInductor; interpreted where no C++ compiler is at hand."""
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        return quick(graph)
    try:
        with torch.random.fork_rng(), torch.no_grad(), torch._inductor.config.patch(_INDUCTOR):
            compiled = torch._inductor.compile(graph, tensors)
            compiled(*tensors)
        return compiled
    except Exception as error:  # the compiler's failures are of many types, and the graph is right without it
        warnings.warn(f"TorchInductor could not compile a graph, it runs uncompiled: {error}", stacklevel=2)
        return quick(graph)


def flops(f: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of the matrix products and convolutions of a call."""
    with FlopCounterMode(display=False) as counted:
        f(*args)
    return float(counted.get_total_flops())


def ahead(compiled: Callable[..., Any], args: Callable[[], tuple[Any, ...]]) -> Callable[[], None]:
    """PyTorch compiles when it is called; see the mirror."""
    return lambda: None


# Rows that the cores work on at a time stay in their cache; the GPU wants more of them.
_CPU_ROWS, _GPU_ROWS = 8192, 65536


def sum_over_rows(f: Callable[..., Any], *, calls: int = 1) -> Callable[..., Any]:
    """``total(args, rows)``: the sum of ``f(*args, rows)`` over blocks of the leading axis of the tree ``rows``."""
    run = compile(f, calls=calls)

    def total(args: tuple[Any, ...], rows: Any) -> Any:
        leaves, spec = pytree.tree_flatten(rows)
        held = next(x for x in leaves if x is not None)
        size = _CPU_ROWS if held.device.type == "cpu" else _GPU_ROWS
        found = None
        for i in range(0, len(held), size):
            block = pytree.tree_unflatten([None if x is None else x[i : i + size] for x in leaves], spec)
            part = run(*args, block)
            found = part if found is None else pytree.tree_map(torch.add, found, part)
        return found

    return total
