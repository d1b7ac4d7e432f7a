"""PyTorch + Pyro: the backend object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from torch.utils import _pytree as pytree

from ppl_gen.backends import activate
from ppl_gen.backends.batching import sparing
from ppl_gen.backends.protocol import Backend
from ppl_gen.backends.pyro import (
    arrays,
    compiling,
    descent,
    devices,
    distributions,
    looping,
    mapping,
    native,
    optimisers,
    processes,
    randomness,
    states,
    tracing,
)

_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def _value_and_grad(f: Callable[..., Any]) -> Callable[..., Any]:
    both = torch.func.grad_and_value(f)

    def value_and_grad(*args: Any) -> Any:
        gradient, value = both(*args)
        return value, gradient

    return value_and_grad


def _vmap(f: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
    return torch.func.vmap(f, in_dims=in_axes, randomness="different")


class PyroBackend:
    """The Pyro side of :class:`ppl_gen.backends.protocol.Backend`."""

    name = "pyro"
    array_library = "torch"
    scope_of_thread = False  # default dtype, parameter store and generators are the process's
    xp = arrays
    dist = distributions

    trace = staticmethod(tracing.trace)
    draws = staticmethod(tracing.draws)
    ahead = staticmethod(compiling.ahead)
    flops = staticmethod(compiling.flops)
    sample = staticmethod(tracing.sample)
    param = staticmethod(tracing.param)
    plate = staticmethod(tracing.plate)
    factor = staticmethod(tracing.factor)
    deterministic = staticmethod(tracing.deterministic)
    module = staticmethod(tracing.module)
    mask = staticmethod(tracing.mask)
    scale = staticmethod(tracing.scale)
    observing = staticmethod(tracing.Observing)
    bijection = staticmethod(distributions.bijection)
    is_unbounded = staticmethod(distributions.is_unbounded)
    divergence = staticmethod(distributions.divergence)

    asarray = staticmethod(compiling.asarray)
    to_numpy = staticmethod(compiling.to_numpy)
    from_numpy = staticmethod(compiling.from_numpy)
    value_and_grad = staticmethod(_value_and_grad)
    grad = staticmethod(torch.func.grad)
    hessian = staticmethod(torch.func.hessian)
    stopped = staticmethod(torch.Tensor.detach)
    vmap = staticmethod(sparing(_vmap, pytree.tree_leaves, pytree.tree_map))
    compile = staticmethod(compiling.compile)
    scan = staticmethod(looping.scan)
    scan_loops = staticmethod(looping.scan_loops)
    sum_over_rows = staticmethod(compiling.sum_over_rows)
    compilations = staticmethod(compiling.compilations)
    map_draws = staticmethod(mapping.map_draws)
    noise = staticmethod(randomness.noise)
    signs = staticmethod(randomness.signs)
    key = staticmethod(randomness.key)
    keys = staticmethod(randomness.keys)
    apart = staticmethod(randomness.apart)
    leaves = staticmethod(states.leaves)
    rebuilt = staticmethod(states.rebuilt)
    generator = staticmethod(states.generator)
    set_generator = staticmethod(states.set_generator)
    on_host = staticmethod(compiling.on_host)
    has_bfloat16 = staticmethod(compiling.has_bfloat16)
    spread = staticmethod(devices.spread)
    share = staticmethod(devices.share)
    num_processes = staticmethod(processes.num_processes)
    process_index = staticmethod(processes.process_index)
    sum_over_processes = staticmethod(processes.sum_over_processes)
    from_first_process = staticmethod(processes.from_first_process)
    minimise = staticmethod(optimisers.minimise)
    descend = staticmethod(descent.descend)
    optimiser = staticmethod(optimisers.optimiser)
    svi = native.PyroSVI
    hmc = native.PyroHMC

    @contextmanager
    def scope(
        self, *, precision: str = "float64", device: str | None = None, seed: int = 0
    ) -> Iterator[Backend]:
        """Precision, device and seed of a run, with a parameter store and generators of its own.

        The caller's default dtype, parameter store, generators and validation flags are put back after it.
        """
        if precision not in _PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}: expected one of {tuple(_PRECISIONS)}")
        with ExitStack() as stack:
            stack.enter_context(_dtype(_PRECISIONS[precision]))
            stack.enter_context(_generators(seed))
            stack.enter_context(pyro.get_param_store().scope())
            stack.enter_context(pyro.validation_enabled(False))
            stack.enter_context(devices.using(device))
            stack.enter_context(activate(self, seed))
            yield self


@contextmanager
def _dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _generators(seed: int) -> Iterator[None]:
    before = pyro.util.get_rng_state()
    with torch.random.fork_rng(enabled=torch.cuda.is_available()):
        pyro.set_rng_seed(seed % 2**32)
        try:
            yield
        finally:
            pyro.util.set_rng_state(before)


backend = PyroBackend()
