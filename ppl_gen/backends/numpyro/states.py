"""A state taken apart into arrays on the host, and put together again with the bits unchanged.

Mirror: `pyro/states.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends.protocol import UnsupportedError


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """The arrays and numbers of a tree, by their place in it.

    Raises:
        UnsupportedError: it holds something else, which no file keeps.
    """
    return {jax.tree_util.keystr(path): _host(path, x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _host(path: Any, x: Any) -> np.ndarray:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    array = np.asarray(x) if isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float) else None
    if array is None or array.dtype.kind not in "biufc":
        raise UnsupportedError(f"a {type(x).__name__} in the state, at {jax.tree_util.keystr(path)}, is no array")
    return array


def rebuilt(tree: Any, held: Mapping[str, np.ndarray]) -> Any:
    """A tree like this one, of what :func:`leaves` returned.

    Raises:
        KeyError, ValueError: those are the leaves of another tree.
    """

    def put(path: Any, x: Any) -> Any:
        array = held[jax.tree_util.keystr(path)]
        if isinstance(x, bool | int | float):
            return type(x)(array.item())
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(x))
        if array.shape != np.shape(x) or array.dtype != x.dtype:
            raise ValueError(f"{jax.tree_util.keystr(path)}: {array.dtype} {array.shape} for {x.dtype} {np.shape(x)}")
        return array if isinstance(x, np.ndarray | np.generic) else jnp.asarray(array)

    return jax.tree_util.tree_map_with_path(put, tree)


def generator() -> dict[str, np.ndarray]:
    """Nothing: JAX has no generator with a state, its keys are in the states themselves."""
    return {}


def set_generator(held: Mapping[str, np.ndarray]) -> None:
    """Nothing to set."""
    del held
