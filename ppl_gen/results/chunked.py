"""Arrays on disk in zarr: rows come in whole chunk files, each written once, and are read a block at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen.results.durable import sync, sync_folder
from ppl_gen.results.files import CorruptFileError

REMEDY = "restore the folder from a copy, or run again to a new one; nothing was deleted"
_CHUNK_BYTES = 2**24  # of all the arrays that go together: few files, and little memory


def rows_in_chunk(report: dict[str, np.ndarray]) -> int:
    """How many rows of these arrays make a chunk of some MiB."""
    row = sum(x.dtype.itemsize * int(np.prod(x.shape[1:])) for x in report.values())
    return max(1, min(65536, _CHUNK_BYTES // max(row, 1)))


def checked() -> list[Any]:
    """What follows the numbers of a chunk file: a checksum. Draws hardly shrink, so they are not compressed."""
    from zarr.codecs import Crc32cCodec

    return [Crc32cCodec()]


class Rows:
    """An array (rows, ...) of which chunks of ``size`` rows are written one after the other."""

    def __init__(self, folder: Path, array: Any):
        self.folder, self._array = folder, array
        self.size: int = array.chunks[0]
        self._unsynced: list[Path] = []

    @classmethod
    def new(cls, folder: Path, shape: tuple[int, ...], dtype: np.dtype, size: int) -> Rows:
        """An empty one; what was there goes."""
        import zarr

        array = zarr.create_array(
            str(folder), shape=shape, chunks=(size, *(max(n, 1) for n in shape[1:])), dtype=dtype, fill_value=0,
            compressors=checked(), overwrite=True, config={"write_empty_chunks": True},
            chunk_key_encoding={"name": "default", "separator": "."},
        )  # fmt: skip
        return cls(folder, array)

    @classmethod
    def open(cls, folder: Path) -> Rows:
        """One that is there.

        Raises:
            CorruptFileError: it is not, or cannot be read.
        """
        return cls(folder, opened(folder))

    def write(self, index: int, rows: np.ndarray) -> None:
        """Chunk ``index``; fewer rows than ``size`` in the last one only."""
        start = index * self.size
        self._array[start : start + len(rows)] = rows
        self._unsynced.append(self._file(index))

    def sync(self) -> None:
        """Force to the disk what has been written since the last time."""
        for file in self._unsynced:
            if file.exists():  # none is there of rows without entries
                sync(file)
        if self._unsynced:
            sync_folder(self.folder)
        self._unsynced.clear()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows from ``start`` up to ``stop``."""
        found = np.empty((stop - start, *self._array.shape[1:]), self._array.dtype)
        for index in range(start // self.size, -(-stop // self.size)):
            low, high = max(start, index * self.size), min(stop, (index + 1) * self.size)
            found[low - start : high - start] = read(self._array, self._file(index), slice(low, high))
        return found

    def _file(self, index: int) -> Path:
        return self.folder / ".".join(["c", str(index), *("0" for _ in self._array.shape[1:])])


def opened(folder: Path) -> Any:
    """The zarr array in a folder.

    Raises:
        CorruptFileError: there is none that can be read.
    """
    import zarr

    try:
        mode = "r+" if os.access(folder, os.W_OK) else "r"
        with zarr.config.set({"array.write_empty_chunks": True}):  # zeros too: a chunk that is missing is an error
            return zarr.open_array(str(folder), mode=mode)
    except (OSError, ValueError, KeyError) as error:
        raise CorruptFileError(folder / "zarr.json", "a zarr array", f"none ({error})", REMEDY) from error


def read(array: Any, file: Path, part: Any) -> np.ndarray:
    """A ``part`` of a zarr array that lies in one ``file``.

    Raises:
        CorruptFileError: the file is not there, or its checksum is another: zarr itself takes missing ones for zeros.
    """
    if array.size and not file.is_file():
        raise CorruptFileError(file, "a chunk of draws", "no such file", REMEDY)
    try:
        return np.asarray(array[part])
    except (OSError, ValueError) as error:
        raise CorruptFileError(file, "a whole chunk with its checksum", f"something else ({error})", REMEDY) from error


class Stored(np.lib.mixins.NDArrayOperatorsMixin):
    """Rows on disk that pass for an array (rows, ...), or (chains, rows, ...) once its first axes are swapped.

    What reads ``blocks`` takes a bounded memory; anything else reads all of it.
    """

    def __init__(self, rows: Rows, count: int, swapped: bool = False):
        self.rows, self._count, self._swapped = rows, count, swapped
        self.dtype = rows._array.dtype
        rest = rows._array.shape[1:]
        self.shape = (rest[0], count, *rest[1:]) if swapped else (count, *rest)
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))

    def swapaxes(self, one: int, other: int) -> Stored:
        """The same rows with their first two axes swapped."""
        if {one, other} != {0, 1}:
            raise ValueError("rows on disk swap their first two axes only")
        return Stored(self.rows, self._count, not self._swapped)

    def blocks(self) -> Iterator[np.ndarray]:
        """Chunk after chunk, each with the axes as they are here."""
        for start in range(0, self._count, self.rows.size):
            found = self.rows.read(start, min(start + self.rows.size, self._count))
            yield found.swapaxes(0, 1) if self._swapped else found

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self.rows.read(0, self._count)
        found = found.swapaxes(0, 1) if self._swapped else found
        return found if dtype is None else found.astype(dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, method)(*(np.asarray(x) if isinstance(x, Stored) else x for x in inputs), **options)

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)
