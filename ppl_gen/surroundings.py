"""What a function reads from around it: compiled pieces of a program hold only as long as that stays the same."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np


def surroundings(function: Callable[..., Any]) -> tuple[Any, ...]:
    """Closure variables and globals that ``function`` names, as a key: numbers and text by value, arrays by content.

    Functions, classes and modules count as fixed; what they read in their turn is not followed.
    """
    try:
        found = inspect.getclosurevars(inspect.unwrap(function))
    except TypeError:  # an object that can be called: a model, whose settings are its own
        return ()
    held = {**found.globals, **found.nonlocals}
    return tuple((name, _key(value)) for name, value in sorted(held.items()))


def settings(function: Callable[..., Any]) -> dict[str, Any]:
    """What of that is the same in another process where it is the same here: numbers, text and arrays, by name."""
    return {name: key for name, key in surroundings(function) if not _is_of_process(key)}


class _Identity(int):
    """Of an object of this process."""


def _is_of_process(key: Any) -> bool:
    return isinstance(key, _Identity) or (isinstance(key, tuple) and any(map(_is_of_process, key)))


def _key(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return type(value).__name__, value
    if callable(value) or isinstance(value, ModuleType):
        return _Identity(id(value))
    if isinstance(value, tuple | list):
        return type(value).__name__, tuple(_key(x) for x in value)
    if isinstance(value, dict):
        return tuple((str(k), _key(v)) for k, v in value.items())
    if hasattr(value, "__array__"):
        return _content(value)
    return _Identity(id(value))


def _content(value: Any) -> Any:
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    return array.shape, str(array.dtype), hashlib.blake2b(np.ascontiguousarray(array).tobytes()).digest()
