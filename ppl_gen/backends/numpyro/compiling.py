"""Arrays to and from the host, and compilation: ``jit``, ``scan``, batches of draws."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def asarray(x: Any, dtype: str | None = None) -> jax.Array:
    """``x`` on the active device; floating point in the active precision unless ``dtype`` says otherwise."""
    x = np.asarray(x)
    if dtype is None and np.issubdtype(x.dtype, np.floating):
        dtype = jax.dtypes.canonicalize_dtype(np.float64)
    return jnp.asarray(x, dtype=dtype)


def to_numpy(tree: Any) -> Any:
    """The same tree with NumPy arrays, in one transfer."""
    return jax.device_get(tree)


def on_host() -> bool:
    """Whether the active device is the CPU."""
    return (jax.config.jax_default_device or jax.local_devices()[0]).platform == "cpu"


def has_bfloat16() -> bool:
    """Whether the active device computes in it; a CPU always does, faster than in float32 where it has the means."""
    device = jax.config.jax_default_device or jax.local_devices()[0]
    return device.platform != "gpu" or float(device.compute_capability) >= 8.0


def from_numpy(tree: Any) -> Any:
    """The same tree with arrays on the active device, bits unchanged."""
    return jax.tree.map(jnp.asarray, tree)


@functools.cache
def use_persistent_cache() -> None:
    """Compiled programs outlive the process, in the user's cache folder, unless the caller set a place."""
    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "ppl_gen" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


_num_compilations = 0


def _count(event: str, _: float, **__: Any) -> None:
    global _num_compilations
    _num_compilations += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)


def compilations() -> int:
    """How many times XLA compiled in this process; what it found in the persistent cache counts too."""
    return _num_compilations


def compile(f: Callable[..., Any], *, calls: int = 1) -> Callable[..., Any]:
    """``f`` compiled for each new shape; ``calls`` (how often it will run) matters to PyTorch only."""
    del calls
    return jax.jit(f)


def flops(f: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of a call, about: those of the program before XLA makes it better."""
    return float((jax.jit(f).lower(*args).cost_analysis() or {}).get("flops", 0.0))


def ahead(compiled: Callable[..., Any], args: Callable[[], tuple[Any, ...]]) -> Callable[[], None]:
    """Begin to compile for the arguments that ``args`` makes, beside other work; what comes back waits for the end.

    Nothing is done where something has been compiled already. Tracing is done here, since effect handlers are shared by
    the threads of a process.
    """
    jitted: Any = compiled
    if jitted._cache_size():
        return lambda: None
    lowered = jitted.lower(*args())
    wide, device = jax.config.jax_enable_x64, jax.config.jax_default_device

    def run() -> None:
        with jax.enable_x64(wide), jax.default_device(device), suppress(Exception):  # the call itself will raise it
            lowered.compile()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread.join


def scan(step: Callable[..., Any], *, calls: int = 1) -> Callable[..., Any]:
    """``advance(state, inputs, *constants)``: ``step`` once for each row of ``inputs``, compiled whole.

    Returns:
        the last state, and what the steps reported, stacked along a new leading axis.
    """
    del calls

    @jax.jit
    def advance(state: Any, inputs: Any, *constants: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda s, x: step(s, x, *constants), state, inputs)

    return advance


def scan_loops(
    begin: Callable[..., Any], repeat: Callable[..., Any], end: Callable[..., Any], *, calls: int = 1
) -> Callable[..., Any]:
    """``advance(state, inputs, *constants)`` as of :func:`scan`, for a step with a loop inside.

    ``begin(state, row, *constants) -> (carry, count)``, then so many times ``repeat(carry, *constants) -> carry``, then
    ``end(carry, row, *constants) -> (state, report)``.
    """

    def step(state: Any, row: Any, *constants: Any) -> tuple[Any, Any]:
        carry, count = begin(state, row, *constants)
        carry = jax.lax.fori_loop(0, count, lambda _, c: repeat(c, *constants), carry)
        return end(carry, row, *constants)

    return scan(step, calls=calls)


def map_draws(f: Callable[..., Any], *, random: bool = False, batch_size: int = 256) -> Callable[..., Any]:
    """``mapped(draws, seed, *constants)``: ``f(draw, key, *constants)`` over the leading axis, batch by batch.

    The batches bound the memory; ``key`` is None unless ``random``.
    """

    @jax.jit
    def mapped(draws: Any, seed: int, *constants: Any) -> Any:
        count = len(jax.tree.leaves(draws)[0])
        if count == 1:  # without an axis of draws inside of it, which makes products slower
            key = jax.random.split(jax.random.PRNGKey(seed), 1)[0] if random else None
            return jax.tree.map(lambda x: jnp.asarray(x)[None], f(jax.tree.map(lambda x: x[0], draws), key, *constants))
        keys = jax.random.split(jax.random.PRNGKey(seed), count) if random else None
        return jax.lax.map(lambda x: f(x[0], x[1], *constants), (draws, keys), batch_size=min(batch_size, count))

    return mapped


# Rows that a core works on at a time stay in its cache; the GPU wants more of them.
_CPU_ROWS, _GPU_ROWS = 2048, 65536


def sum_over_rows(f: Callable[..., Any], *, calls: int = 1) -> Callable[..., Any]:
    """``total(args, rows)``: the sum of ``f(*args, rows)`` over blocks of the leading axis of the tree ``rows``.

    A step of the loop holds one block for each core: XLA runs those side by side, and most of one block by one core.
    """
    del calls

    @jax.jit
    def total(args: tuple[Any, ...], rows: Any) -> Any:
        count = len(jax.tree.leaves(rows)[0])
        lanes, size = (min(os.cpu_count() or 1, 8), _CPU_ROWS) if on_host() else (1, _GPU_ROWS)
        steps = count // (lanes * size)
        whole = steps * lanes * size
        rest = [f(*args, jax.tree.map(lambda x: x[whole:], rows))] if whole < count else []
        if not steps:
            return rest[0]
        blocks = jax.tree.map(lambda x: x[:whole].reshape(steps, lanes, size, *x.shape[1:]), rows)

        def step(carry: Any, block: Any) -> tuple[Any, None]:
            parts = [f(*args, jax.tree.map(lambda x, i=i: x[i], block)) for i in range(lanes)]
            return jax.tree.map(lambda *xs: sum(xs), carry, *parts), None

        shapes = jax.eval_shape(lambda b: f(*args, jax.tree.map(lambda x: x[0, 0], b)), blocks)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.tree.map(lambda *xs: sum(xs), jax.lax.scan(step, zeros, blocks)[0], *rest)

    return total
