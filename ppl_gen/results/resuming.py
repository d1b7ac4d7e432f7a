"""What a checkpoint says of the run that it belongs to: program, data, engine and options, without any code."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from ppl_gen.inference.engine import Engine, resolve
from ppl_gen.program import Bound, Program, as_program, declared
from ppl_gen.results import identity

_LIBRARIES = ("jax", "jaxlib", "numpyro", "numpy", "torch", "pyro-ppl")  # that make the numbers
_SAMPLE = 2**20  # bytes of a file that are looked at in one place


def about(program: Program, engine: Engine, setting: Mapping[str, Any], bound: Bound) -> tuple[dict, dict]:
    """All that tells this run from others, for JSON; and the arrays of its data."""
    form, arguments, arrays = _data(bound.data)
    said = {
        "program": program.name,
        "model": identity.options(program),
        "code": code(program),
        "python": list(sys.version_info[:2]),
        "engine": engine.name,
        "options": options(engine),
        "setting": dict(setting),
        "data": {"form": form, "arguments": arguments},
        "versions": versions(),
    }
    return said, arrays


def versions() -> dict[str, str]:
    """Of the libraries that make the numbers."""
    from importlib.metadata import version

    return {name: version(name) for name in _LIBRARIES}


# Engines ------------------------------------------------------------------------------------------------------


def options(engine: Engine) -> dict[str, Any]:
    """Of an engine, name -> what JSON can hold."""
    return {f.name: identity.plain(getattr(engine, f.name)) for f in dataclasses.fields(engine) if f.init}


def engine_of(said: Mapping[str, Any], given: Engine | None) -> Engine:
    """The engine of a checkpoint.

    Raises:
        ValueError: ``given`` is another one; or nothing is given, and options of the run were functions or objects.
    """
    if given is None:
        chosen = _chosen(said["engine"], said["options"])
        try:
            found = resolve(said["engine"], chosen)
        except (TypeError, ValueError) as error:  # texts that describe an object are no options
            raise ValueError(f"the options of the run, {chosen}, hold what no file does ({error}): pass the engine "
                             "object again, pg.resume(path, engine=...)") from error  # fmt: skip
        off = _differing(said["options"], options(found))
        if off:
            was = said["options"][off[0]]
            raise ValueError(f"the option {off[0]!r} of {said['engine']!r} was {was}, which no file holds: "
                             "pass the engine object again, pg.resume(path, engine=...)")
        return found
    off = _differing(said["options"], options(given)) if given.name == said["engine"] else ["engine"]
    if off:
        was, came = ({"engine": said["engine"], **said["options"]}, {"engine": given.name, **options(given)})
        raise ValueError(f"the checkpoint was begun with {off[0]}={was.get(off[0])!r}, not {came.get(off[0])!r}: a run "
                         "goes on with the options that it was begun with")
    return given


def _chosen(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are not at their defaults; texts that only describe an object stay as they are."""
    plain = resolve(name, {})
    return {n: v for n, v in said.items() if v != identity.plain(getattr(plain, n, None))}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [n for n in {**one, **other} if repr(one.get(n)) != repr(other.get(n))]


# Programs -----------------------------------------------------------------------------------------------------


def program_of(said: Mapping[str, Any], given: Any, path: Path) -> Program:
    """The program of a checkpoint: the one given, or one declared in this process, or a model of ``pg.models``.

    Raises:
        ValueError: another one was given, or none is known.
    """
    if given is not None:
        found = as_program(given)
        identity.require_same(found, said["program"], said["model"], path)
        if _other_code(said, found):
            raise ValueError(f"{path} is a run of another {found.name!r}: its code, or what it reads from around it, "
                             "was different: pass the program as it was")
        return found
    for known in declared(said["program"]):
        if identity.options(known) == said["model"] and not _other_code(said, known):
            return known
    rebuilt = _model(said)
    if rebuilt is None:
        raise ValueError(f"{path} is a run of {said['program']!r}, and a file holds no code: pass the program, "
                         "pg.resume(path, program)")
    return rebuilt


def _model(said: Mapping[str, Any]) -> Program | None:
    """A model of pg.models, found by its name among those that are there, with the options that were saved."""
    import ppl_gen.models as models

    if said["program"] not in dir(models):
        return None
    try:
        program = as_program(getattr(models, said["program"])(**said["model"]))
    except (TypeError, ValueError):
        return None
    return program if identity.options(program) == said["model"] else None


def _other_code(said: Mapping[str, Any], program: Program) -> bool:
    """Known for one release of Python only: others compile a function to other instructions."""
    return list(sys.version_info[:2]) == said["python"] and code(program) != said["code"]


def code(program: Program) -> str:
    """A hash of the functions of a program, those of the same module that they call by name, and what they read.

    That is defaults, and numbers, texts and arrays from around them; functions of other modules count by their name.
    """
    found = hashlib.sha256()
    for function in (program.model, program.guide):
        inner = getattr(function, "__wrapped__", function)
        if isinstance(inner, FunctionType):
            _add_function(found, inner, set())
        else:
            found.update(_described(function).encode())
    return found.hexdigest()


def _described(function: Any) -> str:
    """The name of an autoguide, a guide with its options, or the kind of a model, whose options are told apart."""
    if isinstance(function, str):
        return function
    from ppl_gen.flows.guide import FlowGuide  # which `import ppl_gen` does without

    return repr(function) if isinstance(function, FlowGuide) else type(function).__name__


def _add_function(found: Any, function: FunctionType, seen: set[FunctionType]) -> None:
    seen.add(function)
    _add_code(found, function.__code__)
    defaults = {"defaults": function.__defaults__, **(function.__kwdefaults__ or {})}
    for name, value in (*defaults.items(), *_around(function)):
        inner = value.model if isinstance(value, Program) else value
        if isinstance(inner, FunctionType) and inner.__module__ == function.__module__:
            if inner not in seen:
                _add_function(found, inner, seen)
        else:
            _add_value(found, name, value)


def _add_code(found: Any, code: CodeType) -> None:
    found.update(code.co_code + repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add_code(found, constant)
        elif isinstance(constant, frozenset):
            found.update(repr(sorted(map(repr, constant))).encode())
        else:
            found.update(repr(constant).encode())


def _around(function: FunctionType) -> list[tuple[str, Any]]:
    """Globals and closure variables that a function names."""
    names = function.__code__.co_names
    held = {n: function.__globals__[n] for n in names if n in function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return sorted(held.items())


def _add_value(found: Any, name: str, value: Any) -> None:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        found.update(f"{name}={value!r}".encode())
    elif callable(value) or isinstance(value, ModuleType):
        found.update(name.encode())  # functions, classes, modules: by name alone
    elif hasattr(value, "__array__"):
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        found.update(f"{name}={_hash(array)}".encode())
    elif isinstance(value, tuple | list):
        for i, x in enumerate(value):
            _add_value(found, f"{name}[{i}]", x)
    elif isinstance(value, dict):
        for key, x in value.items():
            _add_value(found, f"{name}[{key!r}]", x)
    else:
        found.update(name.encode())


# Data ---------------------------------------------------------------------------------------------------------


def _data(data: Any) -> tuple[str, list[dict[str, Any]], dict[str, np.ndarray]]:
    """How the data came, what each argument was, and those that are arrays in memory."""
    named = isinstance(data, Mapping)
    items = data.items() if named else [(str(i), x) for i, x in enumerate(data)]
    arguments, arrays = [], {}
    for name, value in items:
        entry, array = _argument(value)
        arguments.append({"name": name, **entry})
        if array is not None:
            arrays[name] = array
    return ("named" if named else "positional"), arguments, arrays


def _argument(value: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    if isinstance(value, np.memmap):
        where = {"path": str(value.filename), "offset": int(value.offset)}
        return {"kind": "file", "dtype": value.dtype.str, "shape": list(value.shape), **where,
                "sha256": _hash_of_file(value)}, None  # fmt: skip
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return {"kind": "array" if isinstance(value, np.ndarray) else "number", "sha256": _hash(array)}, array
    if value is None or isinstance(value, bool | int | float | str):
        return {"kind": "value", "value": value}, None
    return {"kind": "object", "value": identity.plain(value)}, None


def _hash(array: np.ndarray) -> str:
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def _hash_of_file(array: np.memmap) -> str:
    """Of an array in a file: of its first and last part and some in the middle, since all of it may be long to read."""
    flat = array.reshape(-1).view(np.uint8)
    starts = np.linspace(0, max(flat.size - _SAMPLE, 0), 16).astype(int)
    found = hashlib.sha256(str(flat.size).encode())
    for start in dict.fromkeys(starts.tolist()):
        found.update(flat[start : start + _SAMPLE].tobytes())
    return found.hexdigest()


def data_of(said: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """The data of a checkpoint.

    Raises:
        ValueError: objects were among them, or a file that is not there any more or is another now.
    """
    values = {a["name"]: _value(a, arrays) for a in said["data"]["arguments"]}
    return values if said["data"]["form"] == "named" else tuple(values.values())


def _value(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    name = entry["name"]
    if entry["kind"] in ("array", "number"):
        return arrays[name] if entry["kind"] == "array" else arrays[name][()]
    if entry["kind"] == "value":
        return entry["value"]
    if entry["kind"] == "object":
        raise ValueError(f"the argument {name!r} of the run was {entry['value']}, which no file holds: pass the data "
                         "again, pg.resume(path, program, data)")
    shape, where = tuple(entry["shape"]), entry["path"]
    try:
        found = np.memmap(where, entry["dtype"], "r", entry["offset"], shape)
    except (OSError, ValueError) as error:
        raise ValueError(f"the argument {name!r} of the run lay in {where}, which cannot be read now ({error}): pass "
                         "the data again, pg.resume(path, program, data)") from error
    if _hash_of_file(found) != entry["sha256"]:
        raise ValueError(f"{where}, which holds the argument {name!r} of the run, has changed since: restore it")
    return found


def require_data(said: Mapping[str, Any], bound: Bound, path: Path) -> None:
    """The data are those of the checkpoint.

    Raises:
        ValueError: they are not; names the argument.
    """
    _, came, _ = _data(bound.data)
    known = {a["name"]: _content(a) for a in said["data"]["arguments"]}
    new = {a["name"]: _content(a) for a in came}
    off = [n for n in {**known, **new} if known.get(n) != new.get(n)]
    if off:
        raise ValueError(f"{path} is a run on other data: {off[0]!r} differs; pass the data that it was begun with, or "
                         "none for those that the checkpoint holds")


def _content(entry: Mapping[str, Any]) -> Any:
    return repr({n: v for n, v in entry.items() if n not in ("path", "offset")})
