"""Sums over the processes of ``jax.distributed``, by arrays that are sharded over them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def num_processes() -> int:
    """How many processes ``jax.distributed.initialize`` has joined."""
    return jax.process_count()


def process_index() -> int:
    """Which of them this one is."""
    return jax.process_index()


def sum_over_processes(tree: Any) -> Any:
    """The sum of each array over all processes, on each of them."""
    return _over_processes(lambda x: x.sum(0), tree)


def from_first_process(tree: Any) -> Any:
    """The arrays of process 0, on each process."""
    return _over_processes(lambda x: x[0], tree)


def _over_processes(f: Any, tree: Any) -> Any:
    first = {d.process_index: d for d in reversed(jax.devices())}  # one device of each process
    mesh = Mesh(np.array([first[i] for i in sorted(first)]), "process")
    split, whole = NamedSharding(mesh, PartitionSpec("process")), NamedSharding(mesh, PartitionSpec())
    shape = jax.process_count()

    def joined(x: Any) -> Any:
        x = np.asarray(x)
        return jax.make_array_from_process_local_data(split, x[None], (shape, *x.shape))

    result = jax.jit(lambda t: jax.tree.map(f, t), out_shardings=whole)(jax.tree.map(joined, tree))
    return jax.tree.map(lambda x: x.addressable_data(0), result)
