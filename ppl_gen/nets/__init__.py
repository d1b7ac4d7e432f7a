"""Networks: one description of sizes, a flax.nnx module on JAX and a torch.nn module on PyTorch, with equal weights.

A network is one file; it is found by name, no list is kept.
"""

from __future__ import annotations

import importlib
from typing import Any

from ppl_gen.folders import attribute, classes


def _public() -> dict[str, Any]:
    """Every network and layer that a file of this folder defines, and what is done with weights."""
    found = classes(__name__, __path__, lambda file: file.endswith("_home"))  # those load their library
    net = importlib.import_module(f"{__name__}.net")
    return {**found, "load": net.load, "weights": net.weights}


def __getattr__(name: str) -> Any:
    """Classes by name, e.g. ``ppl_gen.nets.MLP``."""
    return attribute(__name__, name, _public)


def __dir__() -> list[str]:
    return sorted(_public())
