"""Keys, and the noise of a chunk of steps."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends.numpyro.compiling import on_host

_SIGNS = 2**30  # the first number that their keys are made with
_DRAW = {"normal": jax.random.normal, "uniform": jax.random.uniform}

Spec = Mapping[str, tuple[str, tuple[int, ...]]]


def key(seed: int) -> jax.Array:
    """The key of a seed."""
    return jax.random.PRNGKey(seed)


def apart(seed: int) -> AbstractContextManager[Any]:
    """What runs here is computed at once, though the program around it be compiled; JAX has no generator to set."""
    del seed
    return jax.ensure_compile_time_eval()


def keys(seed: int, start: int, count: int) -> dict[str, jax.Array]:
    """A ``key`` for each of ``count`` steps from ``start``."""
    return {"key": jax.vmap(functools.partial(jax.random.fold_in, jax.random.PRNGKey(seed)))(start + jnp.arange(count))}


def signs(key: jax.Array, index: int, shape: tuple[int, ...]) -> jax.Array:
    """1 or -1, each as likely, of the ``index``-th such call with this key, which may have other uses."""
    return jax.random.rademacher(jax.random.fold_in(key, _SIGNS + index), shape, jnp.zeros(()).dtype)


def noise(seed: int, index: int, spec: Spec, num_steps: int) -> dict[str, Any]:
    """The noise of chunk ``index``: name -> array (num_steps, *shape) of standard normals or uniforms.

    On a CPU it is NumPy's: XLA takes seconds to compile its own for each new shape, and then draws more slowly.
    """
    if on_host():
        return _noise_on_host(seed, index, spec, num_steps)
    return _noise(seed, index, tuple((name, kind, tuple(shape)) for name, (kind, shape) in spec.items()), num_steps)


def _noise_on_host(seed: int, index: int, spec: Spec, num_steps: int) -> dict[str, Any]:
    dtype, wanted = jax.dtypes.canonicalize_dtype(np.float64), tuple(spec.items())
    draw = functools.partial(_drawn, seed, spec=wanted, num_steps=num_steps, dtype=dtype)
    if num_steps * sum(math.prod(shape) for _, shape in spec.values()) < _MANY:
        return {name: jnp.asarray(x) for name, x in draw(index).items()}
    at = (seed, index, wanted, num_steps, dtype)
    pending = getattr(_ahead, "pending", None)
    found = pending[1].result() if pending and pending[0] == at else draw(index)
    _ahead.pending = ((seed, index + num_steps, *at[2:]), _drawing().submit(draw, index + num_steps))
    return {name: jnp.asarray(x) for name, x in found.items()}


def _drawn(seed: int, index: int, spec: tuple, num_steps: int, dtype: Any) -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.SFC64([seed, index]))
    draw: dict[str, Any] = {"normal": rng.standard_normal, "uniform": rng.random}
    return {name: draw[kind]((num_steps, *shape), dtype) for name, (kind, shape) in spec}


_MANY = 100_000  # numbers that take longer to draw than to hand to another thread
_ahead = threading.local()  # ``pending``: what this thread will ask for next, and its future


@functools.cache
def _drawing() -> ThreadPoolExecutor:
    """Draws the next chunk's noise while XLA works on this one's."""
    return ThreadPoolExecutor(1, "ppl_gen noise")


@functools.partial(jax.jit, static_argnums=(2, 3))
def _noise(seed: int, index: int, spec: tuple, num_steps: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.fold_in(jax.random.PRNGKey(seed), index), max(len(spec), 1))
    dtype = jnp.zeros(()).dtype
    return {
        name: _DRAW[kind](k, (num_steps, *shape), dtype)
        for k, (name, kind, shape) in zip(keys, spec, strict=False)
    }
