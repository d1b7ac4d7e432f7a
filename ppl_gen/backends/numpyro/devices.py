"""The device of a run, and rows laid along all of its kind. Mirror: `pyro/devices.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ppl_gen.backends.protocol import Share

_several: ContextVar[tuple[jax.Device, ...]] = ContextVar("ppl_gen_devices", default=())


@contextmanager
def using(name: str | None) -> Iterator[None]:
    """The default device, "cpu" where None; a bare platform stands for all of its devices where rows are spread."""
    devices = _devices(name)
    token = _several.set(devices if ":" not in (name or "") else ())
    try:
        with jax.default_device(devices[0]):
            yield
    finally:
        _several.reset(token)


def _devices(name: str | None) -> tuple[jax.Device, ...]:
    """The devices of a platform, or the one whose number comes after a colon."""
    platform, _, index = (name or "cpu").partition(":")
    try:
        found = jax.local_devices(backend=platform)
        return (found[int(index)],) if index else tuple(found)
    except (RuntimeError, IndexError, ValueError) as error:
        have = ", ".join(sorted({d.platform for d in jax.local_devices()} | {"cpu"}))
        raise ValueError(f"JAX has no device {name!r}: expected one of {have}") from error


def spread(count: int) -> Callable[[Any, int | None], Any]:
    """``place(tree, axis)``: ``count`` rows along ``axis`` over as many devices as divide them; on each where None.

    Nothing is moved where there is one device, or none but one divides.
    """
    several = _several.get()
    number = max((n for n in range(1, len(several) + 1) if count % n == 0), default=1)
    if number == 1:
        return lambda tree, axis: tree
    mesh = Mesh(np.array(several[:number]), "row")
    return lambda tree, axis: jax.device_put(tree, _along(mesh, axis))


def share(count: int, processes: bool) -> Share:
    """Of a batch: over the devices of this process, or over those of all of them, which see all of its rows."""
    if not processes:
        return Share(count, count, spread(count))
    number = jax.process_count()
    mesh = Mesh(np.array(jax.devices()), "row")

    def place(tree: Any, axis: int | None) -> Any:
        def one(x: Any) -> Any:
            there = isinstance(x, jax.Array) and not x.is_fully_addressable
            return x if there else jax.make_array_from_process_local_data(_along(mesh, axis), np.asarray(x))

        return jax.tree.map(one, tree)

    return Share(count // number, count, place)


def _along(mesh: Mesh, axis: int | None) -> NamedSharding:
    """Rows along ``axis`` over the devices of a mesh; the same on each where None."""
    return NamedSharding(mesh, PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "row"))
