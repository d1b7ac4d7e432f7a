"""Networks: one description of sizes, a flax.nnx module on JAX and a torch.nn module on PyTorch, with equal weights.

A network is one file; it is found by name, no list is kept.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def _public() -> dict[str, Any]:
    """Every network and layer that a file of this folder defines, and what is done with weights."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.endswith("_home"):  # those load their library
            names = vars(importlib.import_module(f"{__name__}.{module.name}"))
            found.update({n: c for n, c in names.items() if isinstance(c, type) and c.__module__.endswith(module.name)})
    net = importlib.import_module(f"{__name__}.net")
    return {n: c for n, c in found.items() if not n.startswith("_")} | {"load": net.load, "weights": net.weights}


def __getattr__(name: str) -> Any:
    """Classes by name, e.g. ``ppl_gen.nets.MLP``."""
    if name.startswith("_"):  # a file that is about to be imported, or nothing
        raise AttributeError(f"ppl_gen.nets has no {name!r}")
    if name not in (found := _public()):
        raise AttributeError(f"ppl_gen.nets has no {name!r}: expected one of {', '.join(sorted(found))}")
    return found[name]


def __dir__() -> list[str]:
    return sorted(_public())
