"""The folder of real data, which PPL_GEN_DATA names."""

from __future__ import annotations

import os
from pathlib import Path


def at(path: str) -> Path:
    """A file or folder of it.

    Raises:
        SystemExit: it is not there.
    """
    given = os.environ.get("PPL_GEN_DATA")
    found = Path(given or ".") / path
    if given is None or not found.exists():
        raise SystemExit(f"this benchmark needs {path}: PPL_GEN_DATA is {given!r}, expected a folder that has it")
    return found
