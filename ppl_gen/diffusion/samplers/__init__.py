"""Samplers: one algorithm, one file; found by name, no list is kept."""

from __future__ import annotations

from typing import Any

from ppl_gen.diffusion.samplers._sampler import Sampler
from ppl_gen.folders import attribute, classes


def _public() -> dict[str, type]:
    return classes(__name__, __path__, lambda file: file.startswith("_"))


def __getattr__(name: str) -> Any:
    """Samplers by name, e.g. ``ppl_gen.diffusion.samplers.DDIM``."""
    return attribute(__name__, name, _public)


def __dir__() -> list[str]:
    return sorted(_public())
