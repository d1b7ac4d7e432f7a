"""Keys, and the noise of a chunk of steps."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends import host_noise
from ppl_gen.backends.host_noise import Spec
from ppl_gen.backends.numpyro.compiling import on_host

_SIGNS = 2**30  # the first number that their keys are made with
_DRAW = {"normal": jax.random.normal, "uniform": jax.random.uniform}


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
    """Of ``num_steps`` steps from step ``index`` on: name -> array (num_steps, *shape) of normals or uniforms.

    On a CPU it is NumPy's: XLA takes seconds to compile its own for each new shape, and then draws more slowly.
    """
    if on_host():
        dtype = jax.dtypes.canonicalize_dtype(np.float64)
        return {name: jnp.asarray(x) for name, x in host_noise.noise(seed, index, spec, num_steps, dtype).items()}
    return _noise(seed, index, tuple((name, kind, tuple(shape)) for name, (kind, shape) in spec.items()), num_steps)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _noise(seed: int, index: int, spec: tuple, num_steps: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.fold_in(jax.random.PRNGKey(seed), index), max(len(spec), 1))
    dtype = jnp.zeros(()).dtype
    return {
        name: _DRAW[kind](k, (num_steps, *shape), dtype)
        for k, (name, kind, shape) in zip(keys, spec, strict=False)
    }
