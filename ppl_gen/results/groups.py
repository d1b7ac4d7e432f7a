"""The groups of draws of a checkpoint, as ArviZ and xarray read them: written and read a block at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen.inference.engine import Outcome
from ppl_gen.results import naming, predicting
from ppl_gen.results.arviz import to_datatree
from ppl_gen.results.checkpoint import Checkpoint
from ppl_gen.results.chunked import Stored, checked, opened, read
from ppl_gen.results.predicting import Draws
from ppl_gen.target import Target


class Group(Mapping[str, np.ndarray]):
    """Variables of a group in a file, name -> (chain, draw, ...); each is read when it is asked for."""

    def __init__(self, folder: Path, index: Mapping[str, Mapping[str, str]]):
        self._folder, self._index = folder, index

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._index[name]
        folder = self._folder / entry["name"]
        array = opened(folder)
        found, size = np.empty(array.shape, np.dtype(entry["dtype"])), array.chunks[1]
        for i, start in enumerate(range(0, array.shape[1], size)):
            part = (slice(None), slice(start, min(start + size, array.shape[1])))
            file = folder.joinpath("c", "0", str(i), *("0" for _ in array.shape[2:]))
            found[part] = read(array, file, part)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, name: object) -> bool:  # without reading the variable
        return name in self._index

    def __repr__(self) -> str:
        return f"<{', '.join(self._index)} in {self._folder}>"


def keeping(journal: Checkpoint) -> Callable[[Target, Outcome], tuple[Draws, Draws, Draws]]:
    """A way to make draws of an outcome, as :func:`ppl_gen.results.predicting.drawn`, in the file of a checkpoint."""

    def keep(target: Target, outcome: Outcome) -> tuple[Draws, Draws, Draws]:
        _, params = predicting.relabelled(target, {}, outcome.params)
        index = journal.finished
        if not index:
            with journal.writing():
                index = _write(journal.path, target, outcome)
        groups = {n: Group(journal.path / n, own) for n, own in index.items()}
        return groups.get("posterior", {}), groups.get("sample_stats", {}), params

    return keep


def finish(journal: Checkpoint, run: Any) -> None:
    """Write what else ArviZ reads of a run, and that it is finished."""
    if journal.finished:
        return
    import zarr

    found = {n: g._index for n, g in (("posterior", run.posterior), ("sample_stats", run.stats)) if len(g)}
    data = {"observed_data": run.observed, "constant_data": run.constants}
    with journal.writing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels that only draws have; what zarr says of texts and of its own format
        held = {n: g for n, g in data.items() if g}
        tree = to_datatree(held, dims=run.dims, coords=run.coords, attrs=run.idata_attrs())
        for name, node in tree.children.items():
            node.to_dataset().to_zarr(journal.path, group=name, mode="w", consolidated=False, zarr_format=3)
        attrs = {n: x.tolist() if isinstance(x, np.ndarray) else x for n, x in tree.attrs.items()}
        zarr.open_group(str(journal.path), mode="r+").attrs.put(attrs)
        zarr.consolidate_metadata(str(journal.path))
    journal.finish(found)


def _write(path: Path, target: Target, outcome: Outcome) -> dict[str, Any]:
    """Group -> site -> its name in the file and its dtype."""
    dims, coords = naming.dims(target), {k: list(v) for k, v in target.program.coords.items()}
    index: dict[str, Any] = {}
    done = 0
    for draws, stats in _blocks(target, outcome):
        groups = {n: g for n, g in (("posterior", draws), ("sample_stats", stats)) if g}
        if not groups:  # a run of params alone
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = to_datatree(groups, dims=dims, coords=coords)
            for name, node in tree.children.items():
                own = _append(path, name, node.to_dataset(), done)
                index.setdefault(name, {site: own[site] for site in groups[name]})
        done += next(iter(draws.values())).shape[1]
    return index


def _blocks(target: Target, outcome: Outcome) -> Iterator[tuple[Draws, Draws]]:
    """The draws and their statistics, all at once unless they lie on disk."""
    if not isinstance(outcome.positions, Stored):
        draws, stats, _ = predicting.drawn(target, outcome)
        yield draws, {n: np.asarray(x) for n, x in stats.items()}
        return
    start = 0
    held = {n: x.blocks() if isinstance(x, Stored) else None for n, x in outcome.stats.items()}
    for positions in outcome.positions.blocks():
        stop = start + positions.shape[1]
        draws, _, _ = predicting.drawn(target, replace(outcome, positions=np.ascontiguousarray(positions)))
        yield draws, {n: outcome.stats[n][:, start:stop] if x is None else next(x) for n, x in held.items()}
        start = stop


def _append(path: Path, group: str, data: Any, done: int) -> dict[str, Any]:
    """Write a block of draws behind ``done`` that are there; site -> its name and dtype."""
    if done:
        data.assign_coords(draw=data["draw"] + done).to_zarr(
            path, group=group, append_dim="draw", consolidated=False, zarr_format=3, write_empty_chunks=True
        )
    else:
        encoding = {n: {"chunks": x.shape, "compressors": checked(), "_FillValue": None}
                    for n, x in data.data_vars.items() if x.size}  # fmt: skip
        data.to_zarr(path, group=group, mode="w", consolidated=False, zarr_format=3, write_empty_chunks=True,
                     encoding=encoding)  # fmt: skip
    return {x.attrs.get("site", n): {"name": n, "dtype": x.dtype.str} for n, x in data.data_vars.items()}
