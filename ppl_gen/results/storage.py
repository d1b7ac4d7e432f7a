"""A run in a folder, written whole or not at all and read back to the bit.

The folder holds

* ``run.json``: the format's version, what the caller says of the run, size and SHA-256 of the other files;
* ``draws.nc``: the groups of draws and data, as ArviZ and xarray read them (netCDF 4);
* ``params.npz``, ``history.npz``: learned parameters and what was recorded per iteration (``numpy.load``).

A run is first written to a folder beside its place and forced to the disk; two renames then put it there.
Loading runs no code: JSON, plain ``.npy`` arrays, netCDF.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen.results.arviz import as_labels
from ppl_gen.results.durable import body_hash, fingerprint, from_json, sync, sync_folder, to_json
from ppl_gen.results.files import RESAVE, CorruptFileError, read_draws, read_npz, write_draws, write_npz

__all__ = ["CorruptFileError", "load_result", "save_result"]

FORMAT = "ppl_gen run"
VERSION = 1
_MANIFEST = "run.json"
_DRAWS, _PARAMS, _HISTORY = "draws.nc", "params.npz", "history.npz"
_FILES = (_DRAWS, _PARAMS, _HISTORY)


def save_result(path: Path | str, *, meta: Mapping[str, Any], params: Mapping[str, np.ndarray],
                groups: Mapping[str, Mapping[str, np.ndarray]], history: Mapping[str, np.ndarray],
                dims: Mapping[str, Sequence[str | None]] | None = None,
                coords: Mapping[str, Sequence[Any]] | None = None) -> Path:
    """Write a run to the folder ``path``. A run already there is replaced once the new one is whole.

    Args:
        path: the folder. Files in it that are not the run's own are kept.
        meta: text, numbers, booleans, ``None``, and lists and mappings of them. ``meta["attrs"]``, if there,
            also becomes the attributes of ``draws.nc``.
        params, history: name -> array of any shape.
        groups, dims, coords: as :func:`ppl_gen.results.arviz.to_idata` takes them.

    Returns:
        The folder.

    Raises:
        FileExistsError: ``path`` is a file, or a folder that holds something other than a run.
        TypeError: something that no file of the run can hold, such as an array of Python objects.
        ValueError: shapes, dims and coords that disagree.
        OSError: the disk refused; what was at ``path`` is there still.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _put_back_interrupted(path)
    _refuse_foreign(path)
    new = _beside(path, "new")
    new.mkdir()
    try:
        _write_files(new, meta, params, groups, history, dims or {}, coords or {})
        _keep_other_files(path, new)
        _swap(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # gone already if it was put in place
    return path


def load_result(path: Path | str) -> dict[str, Any]:
    """Read what :func:`save_result` wrote: its arguments, by name. Labels in ``coords`` come as 1-d arrays.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        CorruptFileError: a file is missing, cut short, altered, of another version, or not a run's.
    """
    folder = _existing(Path(os.path.realpath(path)))
    body = _read_manifest(folder / _MANIFEST)
    for name in _FILES:
        _verify(folder / name, body["files"][name])
    return {
        "meta": from_json(body["meta"]),
        "params": read_npz(folder / _PARAMS),
        "groups": read_draws(folder / _DRAWS, body["groups"]),
        "history": read_npz(folder / _HISTORY),
        "dims": body["dims"],
        "coords": {dim: np.array(from_json(entry["labels"]), dtype=entry["dtype"])
                   for dim, entry in body["coords"].items()},
    }


# --- folders -----------------------------------------------------------------------------------------------


def _beside(path: Path, role: str) -> Path:
    return path.with_name(f".{path.name}.{role}-{uuid.uuid4().hex[:12]}")


def _refuse_foreign(path: Path) -> None:
    """Only an earlier run, or an empty folder, may be replaced."""
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is not a folder; choose another path for the run")
    if path.is_dir() and any(path.iterdir()) and not _is_run(path):
        raise FileExistsError(f"{path} holds files but no saved run; choose another path, or empty it first")


def _is_run(path: Path) -> bool:
    """A run's folder, damaged or not. Another program's ``run.json`` does not make one."""
    try:
        return FORMAT in (path / _MANIFEST).read_text("utf-8", errors="replace")[:200]
    except OSError:
        return False


def _keep_other_files(old: Path, new: Path) -> None:
    """Files that the user laid beside the run's own, such as a report, move with the folder."""
    for entry in old.iterdir() if old.is_dir() else ():
        if entry.name in (_MANIFEST, *_FILES):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, new / entry.name, follow_symlinks=False)


def _swap(new: Path, path: Path) -> None:
    """Put ``new`` at ``path``. After an error or a kill, at any point, the old run or the new one loads."""
    sync_folder(new)
    old = None
    if path.exists():
        old = _beside(path, "old")
        os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        if old is not None:
            os.rename(old, path)
        raise
    sync_folder(path.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _interrupted(path: Path) -> Path | None:
    """The earlier run, set aside by a save that was killed between its two renames."""
    if path.exists() or not path.parent.is_dir():
        return None
    aside = [entry for entry in path.parent.iterdir() if entry.name.startswith(f".{path.name}.old-")]
    return next((entry for entry in sorted(aside) if _is_run(entry)), None)


def _put_back_interrupted(path: Path) -> None:
    aside = _interrupted(path)
    if aside is not None:
        os.rename(aside, path)


def _existing(path: Path) -> Path:
    """The folder to read; nothing is moved, since reading may be all that is allowed."""
    if path.is_dir():
        return path
    if path.exists():
        raise CorruptFileError(path, "a run's folder", "a file", "pass the folder that the run was saved to")
    aside = _interrupted(path)
    if aside is None:
        raise FileNotFoundError(f"{path} does not exist; pass the folder that the run was saved to")
    return aside


# --- writing -----------------------------------------------------------------------------------------------


def _write_files(folder: Path, meta: Mapping[str, Any], params: Mapping[str, np.ndarray],
                 groups: Mapping[str, Mapping[str, np.ndarray]], history: Mapping[str, np.ndarray],
                 dims: Mapping[str, Sequence[str | None]], coords: Mapping[str, Sequence[Any]]) -> None:
    labels = {dim: as_labels(dim, values) for dim, values in coords.items()}
    body: dict[str, Any] = {
        "meta": to_json(meta, "meta"),
        "dims": {name: list(own) for name, own in dims.items()},
        "coords": {dim: {"dtype": own.dtype.str, "labels": to_json(_json_numbers(own), f"coords[{dim!r}]")}
                   for dim, own in labels.items()},
    }
    body["groups"] = write_draws(folder / _DRAWS, groups, dims, labels, meta.get("attrs") or {})
    write_npz(folder / _PARAMS, params, "params")
    write_npz(folder / _HISTORY, history, "history")
    for name in _FILES:
        sync(folder / name)
    body["files"] = {name: fingerprint(folder / name) for name in _FILES}
    manifest = {"format": FORMAT, "version": VERSION, "sha256": body_hash(body), "run": body}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
    sync(folder / _MANIFEST)


def _json_numbers(labels: np.ndarray) -> list[Any]:
    """Times as the whole numbers that they are counted in, everything else as it is."""
    return (labels.astype(np.int64) if labels.dtype.kind in "mM" else labels).tolist()


# --- reading -----------------------------------------------------------------------------------------------


def _read_manifest(path: Path) -> dict[str, Any]:
    """The checked content of ``run.json``."""
    expected = f"the description of a saved run, version {VERSION}"
    if not path.is_file():
        raise CorruptFileError(path, expected, "no such file", f"pass the folder of a saved run, or {RESAVE}")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except ValueError as error:  # not text, or not JSON
        raise CorruptFileError(path, "JSON", f"something else ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorruptFileError(path, expected, "JSON of another kind", "pass the folder of a saved run")
    if manifest.get("version") != VERSION:
        raise CorruptFileError(path, f"version {VERSION}", f"version {manifest.get('version')!r}",
                               "load it with the release of ppl_gen that wrote it")
    body = manifest.get("run")
    if not isinstance(body, dict) or manifest.get("sha256") != body_hash(body):
        raise CorruptFileError(path, "content that matches its SHA-256", "altered content")
    return body


def _verify(path: Path, stated: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise CorruptFileError(path, f"a file of {stated['size']} bytes", "no such file")
    found = fingerprint(path)
    if found["size"] != stated["size"]:
        raise CorruptFileError(path, f"{stated['size']} bytes", f"{found['size']} bytes")
    if found["sha256"] != stated["sha256"]:
        raise CorruptFileError(path, f"SHA-256 {stated['sha256']}", f"{found['sha256']} (altered content)")
