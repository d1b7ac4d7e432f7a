"""MNIST and Fashion-MNIST from the data folder."""

from __future__ import annotations

import gzip
import struct

import numpy as np

from benchmarks import _data


def _read(name: str, folder: str) -> tuple[tuple[int, ...], bytes]:
    """Shape and bytes of an idx file, compressed or not."""
    path = next(_data.at(folder).glob(f"{name}*"))
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        dimensions = struct.unpack(">4B", file.read(4))[3]
        return struct.unpack(f">{dimensions}I", file.read(4 * dimensions)), file.read()


def images(part: str, folder: str = "mnist") -> np.ndarray:
    """Pixels (n, 784) in [0, 1] of ``part``, "train" or "t10k", of "mnist" or "fashion"."""
    shape, held = _read(f"{part}-images", folder)
    return np.frombuffer(held, np.uint8).reshape(shape[0], -1) / 255


def labels(part: str, folder: str = "mnist") -> np.ndarray:
    """Classes (n,) of ``part``."""
    return np.frombuffer(_read(f"{part}-labels", folder)[1], np.uint8).astype(int)
