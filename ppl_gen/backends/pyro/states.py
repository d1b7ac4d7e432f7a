"""A state taken apart into arrays on the host, and put together again with the bits unchanged.

Mirror: `numpyro/states.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ppl_gen.backends.protocol import UnsupportedError

_NUMBERS = bool | int | float


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """The arrays and numbers of a tree, by their place in it.

    An object with ``held() -> tree`` and ``restore(tree)`` goes by that tree; one with ``open_held() -> dict`` and
    ``opened(dict)``, whose entries change, by them.

    Raises:
        UnsupportedError: it holds something else, which no file keeps.
    """
    found: dict[str, np.ndarray] = {}
    _collect(tree, "", found)
    return found


def _collect(x: Any, path: str, found: dict[str, np.ndarray]) -> None:
    if isinstance(x, torch.Tensor):
        found[path] = x.detach().cpu().numpy().copy()
    elif isinstance(x, _NUMBERS | np.ndarray | np.generic):
        found[path] = np.asarray(x)
    elif isinstance(x, dict):
        for name, part in x.items():
            _collect(part, f"{path}[{name!r}]", found)
    elif isinstance(x, tuple | list):
        for i, part in enumerate(x):
            _collect(part, f"{path}[{i}]", found)
    elif hasattr(x, "open_held"):
        _collect(x.open_held(), path, found)
    elif hasattr(x, "held") and hasattr(x, "restore"):
        _collect(x.held(), path, found)
    elif x is not None:
        raise UnsupportedError(f"a {type(x).__name__} in the state, at {path or 'its root'}, is no array")


def rebuilt(tree: Any, held: Mapping[str, np.ndarray]) -> Any:
    """A tree like this one, of what :func:`leaves` returned; objects that restore themselves do so in place.

    Raises:
        KeyError, ValueError: those are the leaves of another tree.
    """
    return _put(tree, "", held)


def _put(x: Any, path: str, held: Mapping[str, np.ndarray]) -> Any:
    if isinstance(x, torch.Tensor):
        array = held[path]
        if array.shape != tuple(x.shape):
            raise ValueError(f"{path}: {array.shape} for {tuple(x.shape)}")
        # a copy: memory of PyTorch's own is aligned, and sums over it come out the same
        return torch.from_numpy(np.array(array)).clone().to(x.device).requires_grad_(x.requires_grad)
    if isinstance(x, _NUMBERS):
        return type(x)(held[path].item())
    if isinstance(x, np.ndarray | np.generic):
        return held[path]
    if isinstance(x, dict):
        return {name: _put(part, f"{path}[{name!r}]", held) for name, part in x.items()}
    if isinstance(x, tuple | list):
        parts = [_put(part, f"{path}[{i}]", held) for i, part in enumerate(x)]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if hasattr(x, "open_held"):
        mine = {n.removeprefix(f"{path}['").removesuffix("']"): a for n, a in held.items() if n.startswith(f"{path}['")}
        return x.opened({n: torch.from_numpy(np.array(a)).clone() for n, a in mine.items()})
    if hasattr(x, "restore"):
        x.restore(_put(x.held(), path, held))
    return x


def generator() -> dict[str, np.ndarray]:
    """The state of the scope's generator, of the active device's too."""
    device = torch.get_default_device()
    own = {"cuda": torch.cuda.get_rng_state(device).numpy()} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state().numpy(), **own}


def set_generator(held: Mapping[str, np.ndarray]) -> None:
    """The generator as it was."""
    torch.set_rng_state(torch.from_numpy(np.array(held["cpu"])))
    if "cuda" in held:
        torch.cuda.set_rng_state(torch.from_numpy(np.array(held["cuda"])), torch.get_default_device())
