"""One algorithm, one file; engines are found by name, no list is kept."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Engine classes by name, e.g. ``ppl_gen.inference.NUTS``."""
    if not name[:1].isupper():  # a module of this folder: found by the import system
        raise AttributeError(f"module 'ppl_gen.inference' has no attribute {name!r}")
    engine = importlib.import_module("ppl_gen.inference.engine")
    engine._load_all()
    for cls in engine._engines.values():
        if cls.__name__ == name:
            return cls
    raise AttributeError(f"module 'ppl_gen.inference' has no attribute {name!r}")


def __dir__() -> list[str]:
    engine = importlib.import_module("ppl_gen.inference.engine")
    engine._load_all()
    return sorted(cls.__name__ for cls in engine._engines.values())
