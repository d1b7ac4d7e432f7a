"""Time to import the package, beside that of the libraries it stands on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

TITLE = "Import"
PEER = "import numpyro"
CASES = {"import": "`import ppl_gen` in a new process, interpreter start included"}


def _import(name: str) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        subprocess.run([sys.executable, "-W", "ignore", "-c", f"import {name}"], check=True)
        return {}

    return run


def ours(case: str) -> Callable[[], dict[str, float]]:
    return _import("ppl_gen")


def peer(case: str) -> Callable[[], dict[str, float]]:
    return _import("numpyro")
