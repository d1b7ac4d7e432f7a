"""What was fitted to what: so that another model or other features are not taken for them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ppl_gen.program import Program
from ppl_gen.target import Target

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def options(program: Program | None) -> dict[str, Any]:
    """Options of a dataclass model, name -> what JSON can hold; empty for any other program."""
    model = None if program is None else program.model
    if not dataclasses.is_dataclass(model):
        return {}
    return {f.name: plain(getattr(model, f.name)) for f in dataclasses.fields(model)}


def plain(value: Any) -> Any:
    """Numbers, text, lists and dicts as they are; of anything else how it is written, less its place in memory."""
    if hasattr(value, "__array__") and not isinstance(value, type):  # numbers and arrays of any library
        value = np.asarray(value.detach() if hasattr(value, "detach") else value).tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return _ADDRESS.sub("", repr(value))


def require_same(program: Program, name: str, saved: Mapping[str, Any], path: Any) -> None:
    """``program`` has the ``name`` and the options that a run was saved with.

    An option that the file does not know yet must have its default.

    Raises:
        ValueError: it has not; says which option differs.
    """
    if program.name != name:
        raise ValueError(f"{path} is a run of the program {name!r}, and {program.name!r} was passed")
    if not saved:
        return
    came = options(program)
    fields = dataclasses.fields(program.model) if came else ()
    known = {f.name: plain(f.default) for f in fields if f.default is not dataclasses.MISSING} | dict(saved)
    off = [n for n in {**came, **saved} if n not in came or (n in known and not _equal(known[n], came[n]))]
    if off:
        differ = ", ".join(f"{n}={known[n]!r}, not {came.get(n, 'an option of it')!r}" for n in off)
        raise ValueError(f"{path} is a run of {name} with {differ}: pass the model that was fitted")


def _equal(one: Any, other: Any) -> bool:
    return one == other or repr(one) == repr(other)  # NaN equals itself here


def require_sites(target: Target, names: Iterable[str]) -> None:
    """Every site that a file holds draws of is one of the program.

    Raises:
        ValueError: not so, with the names.
    """
    lost = [n for n in names if n not in target.sites]
    if lost:
        raise ValueError(
            f"the run holds draws of {', '.join(map(repr, lost))}, and {target.program.name} as it was passed has no "
            f"such site (it has {', '.join(map(repr, target.sites))}): pass the program that was fitted"
        )


def arguments(program: Program, data: Any) -> dict[str, Any]:
    """Data in the form that ``infer`` takes as arguments of the program, by name."""
    if isinstance(data, Mapping):
        return dict(data)
    values = data if isinstance(data, tuple) else () if data is None else (data,)
    return dict(zip(program.signature.parameters, values, strict=False))


def other_features(fitted: Mapping[str, Any], came: Mapping[str, np.ndarray]) -> str:
    """What is wrong with data whose rows have another shape than the fitted ones; empty where none has."""
    for name, x in came.items():
        own, new = np.shape(fitted.get(name, x))[1:], x.shape[1:]
        if own != new:
            one_axis = len(own) == len(new) == 1
            were, are = (f"{s[0]} features" if one_axis else f"rows of shape {s}" for s in (own, new))
            return f"{name!r} came with {are}, and the run was fitted to {were}: pass the same ones in the same order"
    return ""
