"""One model, one file; each is a program like any user's. Found by name, no list is kept."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def _classes() -> dict[str, type]:
    """Every public class that a file of this folder defines."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            names = vars(importlib.import_module(f"{__name__}.{module.name}"))
            found.update({n: c for n, c in names.items() if isinstance(c, type) and c.__module__.endswith(module.name)})
    return {n: c for n, c in found.items() if not n.startswith("_")}


def __getattr__(name: str) -> Any:
    """Model classes by name, e.g. ``ppl_gen.models.GaussianMixture``."""
    if name.startswith("_"):  # a file that is about to be imported, or nothing
        raise AttributeError(f"ppl_gen.models has no {name!r}")
    if name not in (classes := _classes()):
        raise AttributeError(f"ppl_gen.models has no {name!r}: expected one of {', '.join(_classes())}")
    return classes[name]


def __dir__() -> list[str]:
    return sorted(_classes())
