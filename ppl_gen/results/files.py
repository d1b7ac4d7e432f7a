"""The binary files of a saved run: named arrays in ``.npz``, groups of draws in netCDF, both to the bit."""

from __future__ import annotations

import itertools
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from ppl_gen.results.arviz import to_datatree

__all__ = ["CorruptFileError", "read_draws", "read_npz", "write_draws", "write_npz"]

RESAVE = "restore it from a copy, or run again and save the result"
_PLAIN_NAME = re.compile(r"[^\W\d][\w.\-]*")
_CF_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


class CorruptFileError(ValueError):
    """A file of a saved run is missing, cut short, altered, or of another version.

    Attributes: ``path`` (the file), ``expected``, ``found``, ``remedy`` (texts).
    """

    def __init__(self, path: Path | str, expected: str, found: str, remedy: str = RESAVE) -> None:
        self.path, self.expected, self.found, self.remedy = Path(path), expected, found, remedy
        super().__init__(f"{path}: expected {expected}, found {found}. To go on: {remedy}.")


def write_draws(path: Path, groups: Mapping[str, Mapping[str, np.ndarray]],
                dims: Mapping[str, Sequence[str | None]], labels: Mapping[str, np.ndarray],
                attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Write the groups; return, per group and variable, its name in the file and its dtype."""
    for group, arrays in groups.items():
        for name, values in arrays.items():
            _check_dtype(np.asarray(values), f"groups[{group!r}][{name!r}]")
    tree = to_datatree(groups, dims=dims, coords=labels, attrs=attrs)
    index: dict[str, Any] = {group: {} for group in groups}
    datasets = {}
    for group, node in tree.children.items():
        datasets[group], names = _writable(node.to_dataset())
        index[group] = {site: {"name": names[site], "dtype": np.asarray(values).dtype.str}
                        for site, values in groups[group].items()}
    written = type(tree).from_dict(datasets)
    written.attrs = tree.attrs
    # Without a fill value NaNs are stored as they are, bit by bit.
    encoding = {f"/{group}": {name: {"_FillValue": None} for name, variable in dataset.variables.items()
                              if variable.dtype.kind == "f"} for group, dataset in datasets.items()}
    written.to_netcdf(path, engine="h5netcdf", format="NETCDF4", encoding=encoding)
    return index


def read_draws(path: Path, index: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """What :func:`write_draws` wrote and returned -> group -> variable -> array.

    Raises:
        CorruptFileError: the file cannot be read, or lacks a variable.
    """
    import xarray as xr

    try:
        with xr.open_datatree(path, engine="h5netcdf", mask_and_scale=False, decode_times=False) as tree:
            return {group: {site: _as_saved(tree[group][entry["name"]], np.dtype(entry["dtype"]))
                            for site, entry in variables.items()} for group, variables in index.items()}
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise CorruptFileError(path, "the groups of draws that run.json lists",
                               f"something unreadable ({error})") from error


def _writable(dataset: Any) -> tuple[Any, dict[str, str]]:
    """A dataset that netCDF can hold, and site name -> name in it. Odd names become ``name_0``, ..."""
    import xarray as xr

    taken = {str(name) for name in (*dataset.variables, *dataset.dims)}
    fresh = (name for i in itertools.count() if (name := f"name_{i}") not in taken)
    new = {name: name if _PLAIN_NAME.fullmatch(str(name)) else next(fresh)
           for name in (*dataset.data_vars, *dataset.dims)}
    variables, names = {}, {}
    for name, variable in dataset.variables.items():
        stored = _stored(xr.Variable([new[dim] for dim in variable.dims], variable.values, variable.attrs))
        if name in dataset.data_vars:
            site = variable.attrs.get("site", name)
            names[site] = new[name]
            if site != new[name]:
                stored.attrs["site"] = site
        variables[new[name]] = stored
    return xr.Dataset(variables, attrs=dataset.attrs), names


def _stored(variable: Any) -> Any:
    """Times as whole numbers with their unit, complex numbers with a last axis (real, imaginary)."""
    import xarray as xr

    kind, values = variable.dtype.kind, variable.values
    if kind == "c":
        parts = np.stack([values.real, values.imag], axis=-1)
        return xr.Variable((*variable.dims, "real_imaginary"), parts, variable.attrs)
    if kind in "mM":
        unit = _CF_UNITS[np.datetime_data(values.dtype)[0]] + (" since 1970-01-01" if kind == "M" else "")
        # netCDF's own mark for "no time" is a fill value; NumPy's NaT is this very number.
        attrs = {**variable.attrs, "units": unit, "_FillValue": np.int64(np.iinfo(np.int64).min)}
        return xr.Variable(variable.dims, values.astype(np.int64), attrs)
    return variable


def _as_saved(variable: Any, dtype: np.dtype) -> np.ndarray:
    """The way back from :func:`_stored`."""
    values = variable.values
    if dtype.kind == "c":
        return np.ascontiguousarray(values).view(dtype.newbyteorder("="))[..., 0].astype(dtype, copy=False)
    if dtype.kind in "mM":
        unit = next(short for short, word in _CF_UNITS.items() if variable.attrs["units"].split()[0] == word)
        values = values.view(f"{dtype.kind}8[{unit}]")
    return np.asarray(values).astype(dtype, copy=False)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], what: str) -> None:
    """As ``numpy.savez``, but for names of any characters, and the same bytes for the same arrays.

    Raises:
        TypeError: an array whose type needs pickle or is none of NumPy's.
    """
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, values in arrays.items():
            array = np.asarray(values)
            _check_dtype(array, f"{what}[{name!r}]")
            entry = zipfile.ZipInfo(f"{quote(name, safe='')}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """What :func:`write_npz` wrote. Nothing is unpickled.

    Raises:
        CorruptFileError: not an archive of plain arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {unquote(name.removesuffix(".npy")): _read_npy(archive, name)
                    for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise CorruptFileError(path, "an archive of NumPy arrays", f"something else ({error})") from error


def _read_npy(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_dtype(array: np.ndarray, what: str) -> None:
    """Object arrays need pickle, and types from outside NumPy (bfloat16) come back as nameless bytes."""
    if array.dtype.hasobject or np.dtype(array.dtype.str) != array.dtype:
        raise TypeError(f"{what} has dtype {array.dtype}, which cannot be saved; convert it, e.g. to float32")
