"""Classes by the folder whose files define them: what is there is found, no list is kept."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def classes(package: str, path: Iterable[str], skipped: Callable[[str], bool]) -> dict[str, type]:
    """Every public class that a file of a package defines, but for the files whose name is to be ``skipped``."""
    found: dict[str, type] = {}
    for name in (m.name for m in pkgutil.iter_modules(path) if not skipped(m.name)):
        held = vars(importlib.import_module(f"{package}.{name}"))
        found.update({n: c for n, c in held.items() if isinstance(c, type) and c.__module__ == f"{package}.{name}"})
    return {n: c for n, c in found.items() if not n.startswith("_")}


def attribute(package: str, name: str, public: Callable[[], Mapping[str, Any]]) -> Any:
    """What a package's ``__getattr__`` answers.

    Raises:
        AttributeError: there is nothing of that name; says what there is.
    """
    if name.startswith("_"):  # a file that is about to be imported, or nothing
        raise AttributeError(f"{package} has no {name!r}")
    if name not in (found := public()):
        raise AttributeError(f"{package} has no {name!r}: expected one of {', '.join(sorted(found))}")
    return found[name]
