"""A run on disk while it goes on: killed at any moment, it continues from its last commit to the same numbers.

The folder, which xarray and ArviZ read as a zarr group once the run is finished, holds beside the groups of draws

* ``journal/about.json``: what is run, see :mod:`ppl_gen.results.resuming`; ``journal/data.npz``: its data in memory;
* ``journal/manifest.json``: how far it has come, phase by phase of the driver. Only what it names counts;
* ``journal/phase-*.npz``: the states at the ends of phases; ``journal/slot-*.npz``, in turn, the running one;
* ``journal/reports/``: what each phase keeps, chunk files that are written once.

A commit writes new chunk files and the slot that the manifest does not name, forces them to the disk, and then renames
the new manifest over the old one. What else a kill leaves behind is written again. Loading runs no code.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Backend, UnsupportedError
from ppl_gen.inference.journal import Phase, Report, joined
from ppl_gen.results.chunked import REMEDY, Rows, Stored, rows_in_chunk
from ppl_gen.results.durable import body_hash, fingerprint, from_json, sync, sync_folder, to_json, write_json
from ppl_gen.results.files import CorruptFileError, read_npz, write_npz

FORMAT, VERSION = "ppl_gen checkpoint", 1
_MANIFEST, _ABOUT, _DATA, _LOCK = "manifest.json", "about.json", "data.npz", "lock"
_SECONDS = 2.0  # between commits
_SHARE = 30  # a commit may take one such part of the time


class CheckpointError(OSError):
    """The disk has refused; says what is safe."""


class Checkpoint:
    """The journal of a run in a folder; see :class:`ppl_gen.inference.journal.Journal`.

    Attributes:
        about: what is run, as it was handed to :meth:`create`.
        backend: whose states it keeps; set within the scope of the run.
        finished: the groups of draws, once they are there, whole: group -> site -> its name and dtype in the file.
    """

    backend: Backend

    def __init__(self, path: Path, about: Mapping[str, Any], phases: list[dict[str, Any]], finished: Any = None):
        self.path, self.folder, self.about = path, path / "journal", about
        self.phases, self.finished = phases, finished
        self._begun, self._slot, self._last, self._cost = 0, 0, -np.inf, 0.0
        self._lock: Any = None
        self._fresh = False

    # Folders --------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Checkpoint:
        """A new one. It is at ``path`` whole, or not at all.

        Raises:
            FileExistsError, OSError: see :func:`check_place`.
        """
        path = check_place(path)
        body = to_json(about, "about")
        new = path.with_name(f".{path.name}.new-{uuid.uuid4().hex[:12]}")
        made = cls(new, from_json(body), [])
        try:
            made.folder.mkdir(parents=True)
            (new / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}\n', "utf-8")
            write_npz(made.folder / _DATA, arrays, "data")
            sync(made.folder / _DATA)
            write_json(made.folder / _ABOUT, {"about": body, "data": fingerprint(made.folder / _DATA)}, **_HEAD)
            made._write_manifest()
            if path.is_dir():
                path.rmdir()  # empty
            os.rename(new, path)
            sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        made.path, made.folder, made._fresh = path, path / "journal", True
        made._take_lock()
        return made

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """The one at ``path``.

        Raises:
            FileNotFoundError: there is nothing.
            CorruptFileError: it is no checkpoint, or a damaged one.
            BlockingIOError: another process is running it.
        """
        path = Path(os.path.realpath(path))
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; pass the folder that infer(checkpoint=) wrote to")
        about = _read_json(path / "journal" / _ABOUT)
        body = _read_json(path / "journal" / _MANIFEST)
        verify(path / "journal" / _DATA, about["data"])
        found = cls(path, from_json(about["about"]), body["phases"], body["finished"])
        found._slot = body["slot"]
        found._take_lock()
        return found

    def data(self) -> dict[str, np.ndarray]:
        """The arrays that it was created with."""
        return read_npz(self.folder / _DATA)

    def _take_lock(self) -> None:
        """Held until the process ends, however it ends."""
        try:
            import fcntl
        except ImportError:  # not POSIX
            return
        try:
            self._lock = open(self.folder / _LOCK, "a")  # noqa: SIM115 (held as long as this object)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EROFS):  # a finished run may be read where nothing can be written
                if self.finished:
                    return
                raise OSError(error.errno, f"{error.strerror}: {self.path} has not ended, and no more can be written "
                              "there; copy it to a folder that can be written to") from error  # fmt: skip
            raise BlockingIOError(f"{self.path} is being run by another process: wait until it has ended") from None

    def close(self) -> None:
        """Let go of the lock; of a run that never began, nothing is left."""
        if self._lock is not None:
            self._lock.close()
        if self._fresh and not self.phases:
            shutil.rmtree(self.path, ignore_errors=True)

    # The journal ----------------------------------------------------------------------------------------------

    def begin(self, phase: Phase, state: Any) -> Record:
        """The record of the next phase.

        Raises:
            UnsupportedError: the state is not one of arrays.
            CorruptFileError: files of it are missing, cut short or altered.
        """
        index, self._begun = self._begun, self._begun + 1
        if index == len(self.phases):
            try:
                self.backend.leaves(state)
            except UnsupportedError as error:
                raise UnsupportedError(
                    f"this run cannot be kept in a checkpoint: {error}. Leave out checkpoint=, or use an engine whose "
                    "state is one of arrays: 'mala', 'chees', 'nuts', 'svi' or 'em'"
                ) from None
            self.phases.append({**asdict(phase), "done": 0, "closed": False, "reason": None, "state": None,
                                "reports": {}, "rows": 0})  # fmt: skip
            if not index:
                self.commit()
        held = self.phases[index]
        if any(held[n] != v for n, v in asdict(phase).items()):
            was = {n: held[n] for n in asdict(phase)}
            raise ValueError(f"{self.path} was written by another release or with other options: phase {index} was "
                             f"{was} and is {asdict(phase)} now")
        return Record(self, index, held, state)

    @property
    def due(self) -> bool:
        """Whether it is time to commit."""
        return time.monotonic() - self._last >= max(_SECONDS, _SHARE * self._cost)

    def commit(self, index: int = 0, arrays: Mapping[str, np.ndarray] | None = None, **changed: Any) -> None:
        """Write a state and name it, and what has ``changed``, in the manifest of phase ``index``."""
        began = time.monotonic()
        with self.writing():
            if arrays is not None:
                slot = 1 - self._slot
                name = f"phase-{index}.npz" if changed.get("closed") else f"slot-{slot}.npz"
                write_npz(self.folder / name, arrays, "state")
                sync(self.folder / name)
                sync_folder(self.folder)
                changed["state"] = {"file": name, **fingerprint(self.folder / name)}
                self._slot = self._slot if changed.get("closed") else slot
            self.phases[index].update(changed)
            self._write_manifest()
        self._last = time.monotonic()
        self._cost = self._last - began

    def finish(self, groups: Mapping[str, Any]) -> None:
        """The groups of draws are there."""
        with self.writing():
            self.finished = dict(groups)
            self._write_manifest()

    def _write_manifest(self) -> None:
        body = {"phases": self.phases, "slot": self._slot, "finished": self.finished}
        write_json(self.folder / _MANIFEST, body, **_HEAD)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Says what is safe where the disk refuses."""
        try:
            yield
        except CheckpointError:
            raise
        except OSError as error:
            body = _read_json(self.folder / _MANIFEST)
            last = body["phases"][-1] if body["phases"] else {"label": "the first phase", "done": 0, "num_steps": 0}
            raise CheckpointError(
                error.errno, f"{error.strerror or error}: the checkpoint {self.path} could not be written. What it "
                f"held before is safe: {last['label']} up to step {last['done']} of {last['num_steps']}. Make room, "
                f"and pg.resume({str(self.path)!r}) goes on from there"
            ) from error  # fmt: skip


class Record:
    """One phase in a checkpoint; see :class:`ppl_gen.inference.journal.Record`."""

    def __init__(self, journal: Checkpoint, index: int, held: dict[str, Any], state: Any):
        self._journal, self._index, self._held = journal, index, held
        self.done, self.reason = held["done"], held["reason"]
        self._rows: int = held["rows"]
        self._tail: list[Report] = []
        self._arrays: dict[str, Rows] = {}
        self.state = self.before = state
        if held["state"] is not None:
            self._restore(state)

    def _restore(self, like: Any) -> None:
        backend, file = self._journal.backend, self._journal.folder / self._held["state"]["file"]
        verify(file, self._held["state"])
        arrays = read_npz(file)
        parts = {kind: _under(kind, arrays) for kind in ("state", "before", "random", "tail")}
        try:
            self.before = backend.rebuilt(like, parts["before"]) if parts["before"] else like
            self.state = backend.rebuilt(like, parts["state"])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{self._journal.path} holds a state of other shapes ({error}): pass the program and data of the run"
            ) from error
        backend.set_generator(parts["random"])
        self._tail = [parts["tail"]] if parts["tail"] else []

    def add(self, state: Any, report: Report, done: int, last: bool) -> None:
        """Chunk files as they fill up; a commit where it is due."""
        self.done = done
        if report:
            self._tail.append(report)
            if sum(len(next(iter(r.values()))) for r in self._tail) >= self._size(report):
                self._write_full()
        if self._journal.due and not last:
            self._commit(state)

    def _size(self, report: Report) -> int:
        """Rows of a chunk; the first time, the arrays are made."""
        if not self._held["reports"]:
            size = min(rows_in_chunk(report), self._most)
            self._held["reports"] = {n: {"shape": list(x.shape[1:]), "dtype": x.dtype.str, "size": size}
                                     for n, x in report.items()}  # fmt: skip
        return next(iter(self._held["reports"].values()))["size"]

    @property
    def _most(self) -> int:
        """Rows that are kept if the phase runs to its end."""
        return max(1, self._held["num_steps"] // self._held["thinning"])

    def _rows_of(self, name: str) -> Rows:
        if name not in self._arrays:
            folder = self._journal.folder / "reports" / str(self._index) / name
            held = self._held["reports"][name]
            if self._rows:
                self._arrays[name] = Rows.open(folder)
            else:
                shape = (self._most, *held["shape"])
                self._arrays[name] = Rows.new(folder, shape, np.dtype(held["dtype"]), held["size"])
        return self._arrays[name]

    def _write_full(self, also_last: bool = False) -> None:
        """Chunks that are full, and at the end the last one: no later commit writes to their files."""
        tail, size = joined(self._tail), self._size(self._tail[0])
        count = len(next(iter(tail.values())))
        written = count if also_last else count // size * size
        with self._journal.writing():
            for name, x in tail.items():
                rows = self._rows_of(name)
                for start in range(0, written, size):
                    rows.write((self._rows + start) // size, x[start : min(start + size, written)])
        self._rows += written
        # A copy: a view would keep the whole chunk in memory.
        self._tail = [{n: x[written:].copy() for n, x in tail.items()}] if written < count else []

    def _commit(self, state: Any, **changed: Any) -> None:
        backend, tail = self._journal.backend, joined(self._tail)
        with self._journal.writing():
            for rows in self._arrays.values():
                rows.sync()
        before = changed.pop("before", None)
        arrays = {"state": backend.leaves(state), "random": backend.generator(), "tail": tail,
                  "before": {} if before is None else backend.leaves(before)}  # fmt: skip
        flat = {f"{kind}/{name}": x for kind, held in arrays.items() for name, x in held.items()}
        reports = self._held["reports"]
        self._journal.commit(self._index, flat, done=self.done, rows=self._rows, reports=reports, **changed)

    def close(self, before: Any, state: Any, reason: str | None) -> None:
        if self._held["closed"]:
            return
        if self._tail:
            self._write_full(also_last=True)
        self._commit(state, before=before if reason else None, closed=True, reason=reason)

    def reports(self) -> Report:
        """Of a phase that has ended, what reads them from their files; else arrays."""
        tail = joined(self._tail)
        held = {n: Stored(self._rows_of(n), self._rows) for n in self._held["reports"]} if self._rows else {}
        if not tail:
            return held  # type: ignore[return-value]
        return {n: np.concatenate([np.asarray(held[n]), x]) if held else x for n, x in tail.items()}


_HEAD = {"format": FORMAT, "version": VERSION}


def check_place(path: str | Path) -> Path:
    """Where a new checkpoint may be written.

    Raises:
        FileExistsError: something is there: a checkpoint that goes on by ``pg.resume``, a finished one, or other files.
        OSError: the folder above cannot be written to.
    """
    path = Path(os.path.realpath(path))
    if (path / "journal" / _MANIFEST).is_file():
        if _read_json(path / "journal" / _MANIFEST)["finished"]:
            raise FileExistsError(f"{path} holds a finished run: pg.resume({str(path)!r}) returns it; choose another "
                                  "path for a new one")
        raise FileExistsError(f"{path} holds a run that has not ended: pg.resume({str(path)!r}) goes on with it; "
                              "choose another path for a new one, or delete the folder")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} holds something other than a checkpoint; choose another path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.probe-{uuid.uuid4().hex[:12]}")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: no checkpoint can be written to {path.parent}; choose a folder "
                      "that can be written to") from error  # fmt: skip
    return path


def _read_json(path: Path) -> dict[str, Any]:
    """The checked body of a file of :func:`write_json`."""
    if not path.is_file():
        remedy = "pass the folder that infer(checkpoint=) wrote to"
        raise CorruptFileError(path, "a file of a checkpoint", "no such file", remedy)
    try:
        held = json.loads(path.read_text("utf-8"))
        if held["format"] != FORMAT or held["version"] != VERSION:
            raise CorruptFileError(path, f"{FORMAT}, version {VERSION}", f"{held['format']}, {held['version']}",
                                   "resume it with the release of ppl_gen that wrote it")  # fmt: skip
        body = held["body"]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CorruptFileError):
            raise
        raise CorruptFileError(path, "JSON of a checkpoint", f"something else ({error})", REMEDY) from error
    if held.get("sha256") != body_hash(body):
        raise CorruptFileError(path, "content that matches its SHA-256", "altered content", REMEDY)
    return body


def verify(path: Path, stated: Mapping[str, Any]) -> None:
    """A file is what the manifest says.

    Raises:
        CorruptFileError: it is missing, cut short or altered.
    """
    if not path.is_file():
        raise CorruptFileError(path, f"a file of {stated['size']} bytes", "no such file", REMEDY)
    found = fingerprint(path)
    if found["size"] != stated["size"]:
        raise CorruptFileError(path, f"{stated['size']} bytes", f"{found['size']} bytes", REMEDY)
    if found["sha256"] != stated["sha256"]:
        raise CorruptFileError(path, f"SHA-256 {stated['sha256']}", "altered content", REMEDY)


def _under(kind: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(kind + "/"): x for name, x in arrays.items() if name.startswith(kind + "/")}
