"""The device of a run. Mirror: `numpyro/devices.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ppl_gen.backends.protocol import Share
from ppl_gen.backends.pyro import processes as processes_of


@contextmanager
def using(name: str | None) -> Iterator[None]:
    """The default device, "cpu" where None."""
    if name in (None, "cpu"):  # the device context slows every call, and the default is the CPU
        yield
        return
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"PyTorch has no device {name!r}: expected 'cpu' or a device it can use") from error
    with device:
        yield


def spread(count: int) -> Callable[[Any, int | None], Any]:
    """``place(tree, axis)``, which moves nothing: PyTorch does not split what it compiles over devices."""
    del count
    return lambda tree, axis: tree


def share(count: int, processes: bool) -> Share:
    """Of a batch: over the processes, each of which sees its own rows alone."""
    here = count // processes_of.num_processes() if processes else count
    return Share(here, here, spread(here))
