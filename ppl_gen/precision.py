"""What floating point can tell apart, for arrays of either backend."""

from __future__ import annotations

from typing import Any

import numpy as np


def floats(x: Any) -> np.finfo:
    """Limits of the numbers that the array ``x`` holds: ``eps``, ``tiny`` and so on."""
    return np.finfo(str(x.dtype).rpartition(".")[2])  # torch writes "torch.float32"
