"""Sums over the processes of ``torch.distributed``, as ``torchrun`` starts them."""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch
import torch.distributed as group
from torch.utils import _pytree as pytree


def num_processes() -> int:
    """How many processes there are; joins those that ``torchrun`` started."""
    if not group.is_available():
        return 1
    if not group.is_initialized() and "TORCHELASTIC_RUN_ID" in os.environ:
        group.init_process_group("gloo")
        atexit.register(_leave)
    return group.get_world_size() if group.is_initialized() else 1


def process_index() -> int:
    """Which of them this one is."""
    return group.get_rank() if num_processes() > 1 else 0


def _leave() -> None:
    """Ends the group that was joined: a process that ends with its threads still running may be aborted."""
    if group.is_initialized():
        group.destroy_process_group()


def sum_over_processes(tree: Any) -> Any:
    """The sum of each tensor over all processes, on each of them."""
    return pytree.tree_map(lambda x: _in_place(group.all_reduce, x), tree)


def mean_over_processes(tree: Any) -> Any:
    """The mean of each tensor over all processes, on each of them; sent as one."""
    leaves, spec = pytree.tree_flatten(tree)
    mean = _in_place(group.all_reduce, torch.cat([x.reshape(-1) for x in leaves])) / group.get_world_size()
    parts = mean.split([x.numel() for x in leaves])
    return pytree.tree_unflatten([p.reshape(x.shape) for p, x in zip(parts, leaves, strict=True)], spec)


def from_first_process(tree: Any) -> Any:
    """The tensors of process 0, on each process."""
    return pytree.tree_map(lambda x: _in_place(group.broadcast, x, 0), tree)


def _in_place(collective: Any, x: torch.Tensor, *args: Any) -> torch.Tensor:
    x = x.detach().clone(memory_format=torch.contiguous_format)
    collective(x, *args)
    return x
