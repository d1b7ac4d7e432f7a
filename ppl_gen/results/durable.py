"""What files that must not be lost are made of: forced to the disk, in JSON's types, known by their hash."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    if os.name != "posix":
        return  # other systems do not open folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_json(value: Any, where: str) -> Any:
    """``value`` in JSON's types. NaN and infinities, which JSON lacks, become ``{"$float": "nan"}``."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"{where} has the key {wrong[0]!r}; only text can be a key in JSON")
        return {key: to_json(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, which cannot be saved; "
                    "text, numbers, lists and dicts can")


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"$float"}:
            return float(value["$float"])
        return {key: from_json(item) for key, item in value.items()}
    return value


def body_hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_json(path: Path, body: Mapping[str, Any], **head: Any) -> None:
    """A JSON file of ``head`` and ``body`` with its hash; after a kill at any moment it is the old one or the new."""
    text = json.dumps({**head, "sha256": body_hash(body), "body": body}, ensure_ascii=False) + "\n"
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, "utf-8")
    sync(new)
    os.replace(new, path)
    sync_folder(path.parent)
