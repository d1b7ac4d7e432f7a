"""Draws as NumPy arrays in, what ArviZ reads out.

The result is built as an ``xarray.DataTree``. ArviZ 0.23 works on its own ``InferenceData`` and offers
``from_datatree``; ArviZ 1.x works on the tree itself. ``az.from_dict`` is never called: its meaning changed
between the two.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["add_groups", "arrays_of", "concat", "datasets_of", "to_datatree", "to_idata"]

#: Dimensions that lead every variable of a group of draws.
SAMPLE_DIMS = ("chain", "draw")

#: Groups without (chain, draw).
DATA_GROUPS = ("observed_data", "constant_data", "predictions_constant_data")

_DRAW_GROUPS = ("posterior", "posterior_predictive", "predictions", "log_likelihood", "log_prior",
                "sample_stats", "prior", "prior_predictive", "sample_stats_prior", "prior_sbc",
                "unconstrained_posterior", "unconstrained_prior")

#: Every group that can be written, in the order ArviZ shows them.
GROUPS = (*_DRAW_GROUPS, *DATA_GROUPS, *(f"warmup_{name}" for name in _DRAW_GROUPS))

Arrays = Mapping[str, np.ndarray]
Dims = Mapping[str, Sequence["str | None"]]
Coords = Mapping[str, Sequence[Any] | np.ndarray]


def to_idata(groups: Mapping[str, Arrays], *, dims: Dims | None = None, coords: Coords | None = None,
             attrs: Mapping[str, Any] | None = None) -> Any:
    """Draws and data -> the object the installed ArviZ works on.

    Args:
        groups: group name -> variable name -> array. Variables of ``observed_data`` and ``constant_data``
            have their own shape; those of every other group have shape ``(chain, draw, *shape)``, with one
            (chain, draw) for the whole group. Empty groups are left out.
        dims: variable name -> names of its dimensions, without chain and draw. A list that is too short, or a
            ``None`` in it, leaves ``{variable}_dim_{i}``. A name that another variable of the group already
            uses with a different size also falls back to that.
        coords: dimension name -> its labels. Dimensions without labels are numbered from 0.
        attrs: attributes of the root and of the posterior. What netCDF cannot hold is converted (bool to int,
            mappings to JSON), ``None`` is left out.

    Returns:
        ``arviz.InferenceData`` with ArviZ 0.23, ``xarray.DataTree`` with ArviZ 1.x. A ``/`` in a variable's
        name, which a tree cannot hold, becomes ``.``; the variable keeps it in ``attrs["site"]``.

    Raises:
        ValueError: an unknown group, a variable without (chain, draw), shapes that disagree, more dimension
            names than dimensions, labels whose number is not the size of their dimension.
        TypeError: a text where a list of dimension names belongs.
    """
    return _for_arviz(to_datatree(groups, dims=dims, coords=coords, attrs=attrs))


def to_datatree(groups: Mapping[str, Arrays], *, dims: Dims | None = None, coords: Coords | None = None,
                attrs: Mapping[str, Any] | None = None) -> Any:
    """As :func:`to_idata`, but an ``xarray.DataTree`` whatever ArviZ is installed (none is needed)."""
    dims = {site: _dim_list(site, own) for site, own in (dims or {}).items()}
    labels = {_held(dim): as_labels(dim, values) for dim, values in (coords or {}).items()}
    filled = {group: groups[group] for group in _in_order(groups) if groups[group]}
    names = _variable_names(name for arrays in filled.values() for name in arrays)
    datasets = {group: _dataset(group, arrays, dims, labels, names) for group, arrays in filled.items()}
    _warn_of_unused(labels, dims, datasets)
    return _tree(datasets, netcdf_attrs(attrs or {}))


def add_groups(idata: Any, groups: Mapping[str, Arrays], *, dims: Dims | None = None,
               coords: Coords | None = None, overwrite: bool = False) -> Any:
    """A new object with ``groups`` beside those of ``idata``, which is left as it is.

    Labels that ``idata`` has for a dimension are used again where their number fits and ``coords`` has none.

    Raises:
        ValueError: a group is there already and ``overwrite`` is False, or as :func:`to_idata`.
    """
    old = datasets_of(idata)
    twice = [group for group in groups if group in old and groups[group]]
    if twice and not overwrite:
        raise ValueError(f"group(s) {', '.join(twice)} are there already; overwrite=True replaces them")
    coords = {**_fitting_labels(old, groups, dims or {}), **dict(coords or {})}
    new = datasets_of(to_datatree(groups, dims=dims, coords=coords))
    merged = {**old, **new}
    return _for_arviz(_tree({group: merged[group] for group in _in_order(merged, known=False)}, idata.attrs,
                            copy_to_posterior=False))


def concat(first: Any, second: Any, *, dim: str = "draw") -> Any:
    """Two results joined along ``dim`` (``"draw"``: a run and its continuation; ``"chain"``: more chains).

    Groups of draws that both have are joined and renumbered; groups of data come from ``first``. A group of
    draws that only one of them has is left out, since it would no longer match the rest. Warm-up groups come
    from ``first`` when draws are joined.

    Raises:
        ValueError: ``dim`` is neither "chain" nor "draw".
    """
    import xarray as xr

    if dim not in SAMPLE_DIMS:
        raise ValueError(f"dim must be 'chain' or 'draw', got {dim!r}")
    one, two = datasets_of(first), datasets_of(second)
    joined = {}
    for group, dataset in one.items():
        if group in DATA_GROUPS or (dim == "draw" and group.startswith("warmup_")):
            joined[group] = dataset
        elif group in two:
            whole = xr.concat([dataset, two[group]], dim=dim, join="exact" if dim == "draw" else "override",
                              combine_attrs="override", data_vars="minimal", coords="minimal",
                              compat="override")
            joined[group] = whole.assign_coords({dim: np.arange(whole.sizes[dim])})
    return _for_arviz(_tree(joined, first.attrs, copy_to_posterior=False))


def datasets_of(idata: Any) -> dict[str, Any]:
    """Group name -> ``xarray.Dataset`` of an ``InferenceData`` or a ``DataTree``."""
    if hasattr(idata, "children"):
        return {name: child.to_dataset() for name, child in idata.children.items()}
    return {name: idata[name] for name in idata.groups()}


def arrays_of(idata: Any) -> dict[str, dict[str, np.ndarray]]:
    """Group name -> variable name -> array: the way back from :func:`to_idata`, names included."""
    return {group: {variable.attrs.get("site", name): np.asarray(variable.values)
                    for name, variable in dataset.data_vars.items()}
            for group, dataset in datasets_of(idata).items()}


def as_labels(dim: str, values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Labels of one dimension as a 1-d array that a file can hold: numbers, times, or else text.

    Raises:
        ValueError: the labels are not one-dimensional.
    """
    labels = np.asarray(values)
    if labels.dtype.kind not in "biufUmM":
        labels = np.asarray([str(value) for value in values])
    if labels.ndim != 1:
        raise ValueError(f"coords[{dim!r}] must be one-dimensional, got an array of shape {labels.shape}")
    return labels


def netcdf_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of types that netCDF holds: text, numbers, 1-d arrays of numbers. ``None`` is left out."""
    return {str(name): _netcdf_value(value) for name, value in attrs.items() if value is not None}


def _netcdf_value(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)  # netCDF's widest integer has 64 bits
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple, np.ndarray)):
        array = np.asarray(value)
        if array.ndim == 1 and array.size and array.dtype.kind in "biuf":
            return array.astype(np.int64) if array.dtype.kind == "b" else array
        value = array.tolist() if isinstance(value, np.ndarray) else value
    return json.dumps(value, default=str)


def _for_arviz(tree: Any) -> Any:
    """The tree itself for ArviZ 1.x, its ``InferenceData`` for ArviZ 0.23."""
    import arviz as az

    return az.from_datatree(tree) if hasattr(az, "from_datatree") else tree


def _tree(datasets: Mapping[str, Any], attrs: Mapping[str, Any], *, copy_to_posterior: bool = True) -> Any:
    import xarray as xr

    if copy_to_posterior and "posterior" in datasets:
        datasets = {**datasets, "posterior": datasets["posterior"].assign_attrs(attrs)}
    tree = xr.DataTree.from_dict(dict(datasets))
    tree.attrs = dict(attrs)
    return tree


def _in_order(groups: Iterable[str], *, known: bool = True) -> list[str]:
    """Names of groups in ArviZ's order; those it does not know are refused, or come last."""
    unknown = [group for group in groups if group not in GROUPS]
    if unknown and known:
        raise ValueError(f"unknown group(s) {', '.join(map(repr, unknown))}; there are {', '.join(GROUPS)}")
    return [group for group in GROUPS if group in set(groups)] + unknown


def _held(name: str) -> str:
    """A name as a tree can hold it: there ``/`` separates the levels."""
    return name.replace("/", ".")


def _dim_list(site: str, own: Sequence[str | None]) -> list[str | None]:
    if isinstance(own, str):
        raise TypeError(f"dims[{site!r}] must be a list of names, got the text {own!r}")
    return [None if dim is None else _held(dim) for dim in own]


def _variable_names(sites: Iterable[str]) -> dict[str, str]:
    """Site name -> a name that a tree can hold: no ``/``, not ``chain`` or ``draw``, no two alike."""
    names: dict[str, str] = {}
    # Names that need no change go first, so that "a.b" stays "a.b" and "a/b" gives way.
    for site in sorted(dict.fromkeys(sites), key=lambda site: "/" in site or site in SAMPLE_DIMS):
        name = _held(site)
        while name in names.values() or name in SAMPLE_DIMS:
            name += "_"
        names[site] = name
    return names


def _dataset(group: str, arrays: Arrays, dims: Dims, labels: Arrays, names: Mapping[str, str]) -> Any:
    import xarray as xr

    lead = () if group in DATA_GROUPS else SAMPLE_DIMS
    arrays = {site: np.asarray(values) for site, values in arrays.items()}
    if lead:
        _check_sample_dims(group, arrays)
    shapes = {site: values.shape[len(lead):] for site, values in arrays.items()}
    sizes = _labelled_sizes(group, shapes, dims, labels)
    variables = {}
    for site, values in arrays.items():
        declared = dims.get(site, ())
        if group.endswith("log_likelihood"):  # one number a datum: the event's own dimensions, the last, are gone
            declared = declared[: len(shapes[site])]
        own = _dim_names(site, names[site], shapes[site], declared, sizes, set(names.values()))
        attrs = {"site": site} if names[site] != site else {}
        variables[names[site]] = xr.Variable((*lead, *own), values, attrs)
    return xr.Dataset(variables).pipe(lambda data: data.assign_coords(_coords(group, data.sizes, labels)))


def _check_sample_dims(group: str, arrays: Arrays) -> None:
    """Every variable has (chain, draw), and the same one."""
    first = next(iter(arrays))
    for site, values in arrays.items():
        if values.ndim < 2:
            raise ValueError(f"{group}[{site!r}] needs shape (chain, draw, ...), got {values.shape}")
        if values.shape[:2] != arrays[first].shape[:2]:
            raise ValueError(f"{group}[{site!r}] has (chain, draw) = {values.shape[:2]} "
                             f"but {group}[{first!r}] has {arrays[first].shape[:2]}")


def _labelled_sizes(group: str, shapes: Mapping[str, tuple[int, ...]], dims: Dims,
                    labels: Arrays) -> dict[str, int]:
    """Sizes fixed by labels. A variable of another size falls back, unless no variable has this one."""
    asked: dict[str, dict[int, str]] = {}
    for site, shape in shapes.items():
        for name, size in zip(dims.get(site, ()), shape, strict=False):
            asked.setdefault(str(name), {}).setdefault(size, site)
    for dim in asked.keys() & labels.keys():
        if len(labels[dim]) not in asked[dim]:
            size, site = next(iter(asked[dim].items()))
            raise ValueError(_wrong_number(dim, labels, size, f"in {group}[{site!r}]"))
    return {dim: len(labels[dim]) for dim in asked.keys() & labels.keys()}


def _dim_names(site: str, name: str, shape: tuple[int, ...], declared: Sequence[str | None],
               sizes: dict[str, int], variables: set[str]) -> list[str]:
    """Names of a variable's dimensions. ``sizes`` collects what the group's dimensions measure."""
    if len(declared) > len(shape):
        raise ValueError(f"dims[{site!r}] names {len(declared)} dimensions {list(declared)}, "
                         f"the variable has {len(shape)} (shape {shape} without chain and draw)")
    own: list[str] = []
    for axis, size in enumerate(shape):
        dim = declared[axis] if axis < len(declared) else None
        dim = f"{name}_dim_{axis}" if dim is None else dim
        # A dimension cannot be named as a variable is, nor occur twice in one, nor have two sizes.
        while dim in own or dim in variables or dim in SAMPLE_DIMS or sizes.get(dim, size) != size:
            dim = f"{name}_dim_{axis}" if not dim.startswith(f"{name}_dim_{axis}") else dim + "_"
        sizes[dim] = size
        own.append(dim)
    return own


def _coords(group: str, sizes: Mapping[Any, int], labels: Arrays) -> dict[str, np.ndarray]:
    """Labels of every dimension of a group, 0, 1, ... where none are given."""
    for dim, size in sizes.items():
        if dim in labels and len(labels[dim]) != size:
            raise ValueError(_wrong_number(dim, labels, size, f"in {group}"))
    return {dim: labels.get(dim, np.arange(size)) for dim, size in sizes.items()}


def _wrong_number(dim: str, labels: Arrays, size: int, where: str) -> str:
    return f"coords[{dim!r}] has {len(labels[dim])} labels but the dimension has size {size} {where}"


def _warn_of_unused(labels: Arrays, dims: Dims, datasets: Mapping[str, Any]) -> None:
    """Labels for a dimension that is nowhere are most likely a slip; an error would cost a finished run."""
    declared = {dim for own in dims.values() for dim in own}
    used = {dim for dataset in datasets.values() for dim in dataset.sizes}
    for dim in labels:
        if dim not in declared and dim not in used:
            known = ", ".join(sorted(map(repr, used - set(SAMPLE_DIMS)))) or "none"
            warnings.warn(f"coords[{dim!r}] is not used: the dimensions are {known}", stacklevel=4)


def _fitting_labels(datasets: Mapping[str, Any], groups: Mapping[str, Arrays],
                    dims: Dims) -> dict[str, np.ndarray]:
    """Labels already there for the dimensions that ``groups`` will have, where their number fits."""
    sizes: dict[str, set[int]] = {}
    for group, arrays in groups.items():
        lead = 0 if group in DATA_GROUPS else 2
        for site, values in arrays.items():
            for name, size in zip(_dim_list(site, dims.get(site, ())), np.shape(values)[lead:], strict=False):
                sizes.setdefault(str(name), set()).add(size)
    found: dict[Any, np.ndarray] = {}
    for dataset in datasets.values():
        for dim in sizes.keys() & set(dataset.coords):
            if sizes[dim] == {dataset.sizes[dim]}:
                found.setdefault(dim, dataset.coords[dim].values)
    return found
