"""JAX + NumPyro: the backend object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import jax
import numpyro

from ppl_gen.backends import activate
from ppl_gen.backends.batching import sparing
from ppl_gen.backends.numpyro import (
    arrays,
    compiling,
    descent,
    devices,
    distributions,
    first_run,
    native,
    optimisers,
    processes,
    randomness,
    states,
    tracing,
)
from ppl_gen.backends.protocol import Backend

_PRECISIONS = ("float32", "float64")


class NumPyroBackend:
    """The NumPyro side of :class:`ppl_gen.backends.protocol.Backend`."""

    name = "numpyro"
    array_library = "jax"
    scope_of_thread = True
    xp = arrays
    dist = distributions

    trace = staticmethod(tracing.trace)
    draws = staticmethod(first_run.draws)
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
    value_and_grad = staticmethod(jax.value_and_grad)
    grad = staticmethod(jax.grad)
    hessian = staticmethod(jax.hessian)
    stopped = staticmethod(jax.lax.stop_gradient)
    vmap = staticmethod(sparing(jax.vmap, jax.tree.leaves, jax.tree.map))
    compile = staticmethod(compiling.compile)
    scan = staticmethod(compiling.scan)
    scan_loops = staticmethod(compiling.scan_loops)
    sum_over_rows = staticmethod(compiling.sum_over_rows)
    compilations = staticmethod(compiling.compilations)
    map_draws = staticmethod(compiling.map_draws)
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
    svi = native.NumPyroSVI
    hmc = native.NumPyroHMC

    @contextmanager
    def scope(
        self, *, precision: str = "float64", device: str | None = None, seed: int = 0
    ) -> Iterator[Backend]:
        """Precision and device of a run; the caller's x64 flag, default device and validation are put back.

        ``seed`` is that of networks alone: JAX is handed its keys.
        """
        if precision not in _PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}: expected one of {_PRECISIONS}")
        compiling.use_persistent_cache()
        wide = precision == "float64"
        with ExitStack() as stack:
            stack.enter_context(jax.enable_x64(wide))
            stack.enter_context(devices.using(device))
            stack.enter_context(numpyro.validation_enabled(False))
            stack.enter_context(activate(self, seed))
            yield self


backend = NumPyroBackend()
