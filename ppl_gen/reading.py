"""Data from CSV and JSON files, checked; used by the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class FileError(ValueError):
    """A file that holds no data that can be used; says which and why."""


def read_data(path: str | Path, names: Sequence[str]) -> Any:
    """What a program takes as data, from a file.

    JSON: an object is the program's arguments by name, a list its one argument. CSV: the columns named like the
    arguments ``names`` where all of the first, required ones are there, else one matrix of all numeric columns.

    Raises:
        FileError: not there, not readable, or nothing numeric in it.
    """
    if Path(path).suffix.lower() == ".json":
        return _read_json(Path(path))
    columns, _ = read_columns(path)
    if names and names[0] in columns:
        return {n: columns[n] for n in names if n in columns}
    return np.stack(list(columns.values()), axis=1)


def _read_json(path: Path) -> Any:
    try:
        held = json.loads(_text(path))
    except ValueError as error:
        raise FileError(f"{path} is not JSON: {error}") from None
    if isinstance(held, Mapping):
        return {name: np.asarray(v) if isinstance(v, list) else v for name, v in held.items()}
    if isinstance(held, list):
        return np.asarray(held)
    raise FileError(f"{path} holds {type(held).__name__}: expected an object (arguments by name) or a list (one array)")


def read_columns(path: str | Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The numeric columns of a CSV file, and a note on each thing that was left out.

    A first row that is not all numbers is the header. Columns with text are left out, and then rows with gaps.

    Raises:
        FileError: not there, ragged, or without a numeric column of at least two rows.
    """
    path = Path(path)
    rows = [row for row in csv.reader(_text(path).splitlines()) if any(cell.strip() for cell in row)]
    if not rows:
        raise FileError(f"{path} is empty: expected rows of comma-separated numbers")
    head = [cell.strip() for cell in rows[0]]
    named = any(_number(cell) is None for cell in head if cell)
    numbered = [f"column {i}" for i in range(len(head))]
    names = [cell or number for cell, number in zip(head, numbered, strict=True)] if named else numbered
    body = rows[1:] if named else rows
    for number, row in enumerate(body, start=1 + named):
        if len(row) != len(names):
            raise FileError(f"{path}, row {number}: {len(row)} cells, expected {len(names)} as in the first row")
    return _numeric(path, names, body)


def _numeric(path: Path, names: list[str], body: list[list[str]]) -> tuple[dict[str, np.ndarray], list[str]]:
    columns: dict[str, np.ndarray] = {}
    notes = []
    for name, cells in zip(names, zip(*body, strict=True), strict=False):
        values = [float("nan") if not cell.strip() else _number(cell) for cell in cells]
        if None in values or np.isnan(np.asarray(values, float)).all():
            notes.append(f"column {name!r} is not numeric and was left out")
        else:
            columns[name] = np.asarray(values, float)
    if not columns:
        raise FileError(f"{path} has no numeric column: expected numbers, separated by commas")
    whole = np.isfinite(np.stack(list(columns.values()))).all(axis=0)
    if not whole.all():
        notes.append(f"{int((~whole).sum())} of {len(whole)} rows have gaps and were left out")
    if whole.sum() < 2:
        raise FileError(f"{path} has {int(whole.sum())} complete rows: expected at least 2")
    return {name: values[whole] for name, values in columns.items()}, notes


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FileError(f"{path} is not text in UTF-8") from None
