"""Programs: a model, its guide, and what binds them to data on a backend."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.protocol import Backend, Site
from ppl_gen.capabilities import ChecksData, LargeRows
from ppl_gen.intake import DataError, as_array, check_finite, check_range, copied, is_finite
from ppl_gen.missing import Missing, split
from ppl_gen.surroundings import surroundings

GUIDES = ("normal", "diagonal", "multivariate_normal", "low_rank", "delta", "laplace", "flow")


_declared: weakref.WeakSet[Program] = weakref.WeakSet()


def declared(name: str) -> list[Program]:
    """The programs of a name that this process has declared and not forgotten."""
    return [p for p in _declared if p.name == name]


class Program:
    """A declared generative model.

    Args:
        model: a function of data that says how they arise.
        guide: a function of the same arguments, the name of an autoguide, or a :class:`ppl_gen.flows.FlowGuide`.
        backend: None for a portable program, "numpyro" or "pyro" for an unchanged function of that library.
        coords: labels of plates, name -> sequence.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Any = None,
        backend: str | None = None,
        coords: Mapping[str, Sequence[Any]] | None = None,
    ):
        if not callable(model):
            raise TypeError(f"a program is a function of data, got {type(model).__name__}: {model!r}")
        if backend is not None and backend not in backends.NAMES:
            raise ValueError(f"unknown backend {backend!r}: expected one of {backends.NAMES} or None (portable)")
        if isinstance(guide, str) and guide not in GUIDES:
            raise ValueError(f"unknown guide {guide!r}: expected a function or one of {', '.join(GUIDES)}")
        self.model: Any = model
        self.guide: Any = guide
        self.backend = backend
        self.coords = dict(coords or getattr(model, "coords", None) or {})
        self.name = getattr(model, "__name__", type(model).__name__)
        self.__doc__ = getattr(model, "__doc__", None)
        self.compiled: dict[Any, Any] = {}
        _declared.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def once(self, key: Any, build: Callable[[], Any]) -> Any:
        """What ``build`` makes, kept with the program; of two threads, both get what the first has made."""
        if key not in self.compiled:
            self.compiled.setdefault(key, build())
        return self.compiled[key]

    def __repr__(self) -> str:
        kind = f"native to {self.backend}" if self.backend else "portable"
        return f"<program {self.name}{self.signature}, {kind}>"

    @property
    def signature(self) -> inspect.Signature:
        """What data the model takes."""
        return inspect.signature(self.model)

    def bind(
        self,
        data: Any,
        backend: Backend,
        setting: tuple[Any, ...] = (),
        block_rows: int | None = None,
        rows_of_files: bool = False,
    ) -> Bound:
        """Check ``data``, put them on the active device, and hold them together with the program.

        Args:
            block_rows: for an engine that goes by rows (see :mod:`ppl_gen.rows`): longer data stay on the host, and
                the program sees only the first block.
            rows_of_files: where the model does not name what holds rows (``em_rows``), that are the memory-mapped
                arguments and all that are as long.

        Raises:
            DataError: data that are empty, not numbers, not finite, or not what the model's signature says.
        """
        if self.backend not in (None, backend.name):
            raise ValueError(
                f"{self.name} is a native {self.backend} program and cannot run on {backend.name}: pass "
                f"backend={self.backend!r}, or write it with pg.sample, pg.plate, dist and xp to run it on both"
            )
        return Bound(self, backend, *_arguments(self, data), setting, block_rows, rows_of_files)

    def arrays(self, data: Any) -> dict[str, np.ndarray]:
        """Data of any form that :meth:`bind` takes as arrays by argument; their numbers are not looked at.

        Raises:
            DataError: data that are no arrays of numbers, or not what the model's signature says.
        """
        args, kwargs = _arguments(self, data)
        found = {n: as_array(n, x) for n, x in (*args, *kwargs.items())}
        return {n: x for n, x in found.items() if x is not None}


def program(
    model: Callable[..., Any] | None = None,
    guide: Any = None,
    backend: str | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """Declare a program; also a decorator, with or without arguments. See :class:`Program`."""
    if model is None:
        return lambda function: Program(function, guide, backend, coords)
    return Program(model, guide, backend, coords)


_ATTRIBUTE = "__ppl_gen_program__"
_models: dict[Any, Program] = {}


def as_program(model: Any) -> Program:
    """The program of a function or model; the same one each time, so that it is compiled once."""
    if isinstance(model, Program):
        return model
    if not callable(model):
        raise TypeError(
            f"expected a program, a function of data or a model of pg.models, got {type(model).__name__}: {model!r}"
        )
    if inspect.isfunction(model):  # kept on the function, so that both are forgotten together
        if not hasattr(model, _ATTRIBUTE):
            setattr(model, _ATTRIBUTE, Program(model))
        return getattr(model, _ATTRIBUTE)
    if type(model).__hash__ in (None, object.__hash__):
        return Program(model, getattr(model, "guide", None))
    if model not in _models:
        _models[model] = Program(model, getattr(model, "guide", None))
    return _models[model]


@dataclass(frozen=True)
class _Slot:
    """Where an array goes in the arguments of a model."""

    name: str


class Bound:
    """A program with its data on a backend's device.

    Attributes:
        arrays: argument name -> the backend's array; the rest of the arguments are fixed.
        missing: arguments with entries that were not observed.
        observed: observed site -> name in ``arrays`` of the value in its place, see :meth:`observing`.
        seen: the same on the host; by_rows: these are the first rows only of the arguments ``rows``, ``host`` has all.
        key: equal for two that can share compiled functions.
    """

    def __init__(
        self,
        program: Program,
        backend: Backend,
        args: tuple,
        kwargs: dict,
        setting: tuple,
        block_rows: int | None = None,
        rows_of_files: bool = False,
    ):
        self.program, self.backend, self._setting = program, backend, setting
        self.host: dict[str, np.ndarray] = {}
        self._gaps: list[str] = []
        self.networks: dict[tuple[str, int], Any] = {}
        self.observed: dict[str, str] = {}  # see observing
        self._same: dict[str, str] = {}
        self._args = tuple(self._slot(name, value) for name, value in args)
        self._kwargs = {name: self._slot(name, value) for name, value in kwargs.items()}
        self._block_rows, self._rows_of_files = block_rows, rows_of_files
        if isinstance(program.model, ChecksData):
            program.model.check_data(self.host)
        if block_rows and isinstance(program.model, LargeRows):
            self._block_rows = min(block_rows, program.model.most_rows(self.host))
        self._place(tuple(self._gaps))

    def _place(self, missing: tuple[str, ...]) -> None:
        """Put the arrays on the device."""
        program, block_rows, self.missing = self.program, self._block_rows, missing
        self.rows = self._names_of_rows() if block_rows else ()
        self.by_rows = any(len(self.host[n]) > (block_rows or 0) for n in self.rows)
        self.seen = {n: x[:block_rows] if self.by_rows and n in self.rows else x for n, x in self.host.items()}
        self.arrays = {n: self.on_device(n, x) for n, x in self.seen.items()}
        shapes = tuple((n, x.shape, str(x.dtype), n in self.missing) for n, x in self.seen.items())
        held = (*enumerate(self._args), *self._kwargs.items())
        statics = tuple((name, type(value), _hashable(value)) for name, value in held)
        read = tuple(surroundings(f) for f in (program.model, program.guide) if inspect.isfunction(f))
        self.key: tuple[Any, ...] = (self.backend.name, self._setting, shapes, statics, read)

    def _names_of_rows(self) -> tuple[str, ...]:
        if hasattr(self.program.model, "em_rows") or not self._rows_of_files:
            return tuple(n for n in getattr(self.program.model, "em_rows", ()) if n in self.host)
        lengths = {len(x) for x in self.host.values() if isinstance(x, np.memmap) and x.ndim}
        return tuple(n for n, x in self.host.items() if x.ndim and len(x) in lengths)

    def with_gaps(self) -> Bound:
        """The same data, held as if entries were missing wherever the model allows for that.

        For data that go with others which this process does not see, and which may lack entries.
        """
        allowed, other = getattr(self.program.model, "missing", ()), copy.copy(self)
        other._place(tuple(n for n, x in self.host.items() if n in allowed and x.dtype.kind == "f"))
        return other

    def observing(self, values: Mapping[str, np.ndarray], arguments: Mapping[str, str]) -> Bound:
        """The same program and data, with other values of observed sites; they are data of what is compiled, too.

        Args:
            values: observed site -> what stands in its place. What else the program makes of its data stays as it is.
            arguments: observed site -> the argument that it is, where it is one: guides see the value there.
        """
        other = copy.copy(self)
        other.host = {**self.host, **{a: values[n] for n, a in arguments.items()}}
        other.observed, other._same = {n: f"observed {n}" for n in values}, dict(arguments)
        held = {other.observed[n]: self.backend.from_numpy(np.asarray(x, order="C")) for n, x in values.items()}
        other.arrays = {**self.arrays, **held}
        shapes = tuple((n, x.shape, str(x.dtype)) for n, x in values.items())
        other.key = (*self.key, shapes, tuple(arguments.items()))
        return other

    def _slot(self, name: str, value: Any) -> Any:
        array = as_array(name, value)
        if array is None:
            return value
        # a copy: JAX may share memory with it, and the caller may write to theirs; files stay where they are
        self.host[name], finite = (array, is_finite(array)) if isinstance(array, np.memmap) else copied(array)
        if self._setting[:1] == ("float32",):
            check_range(name, array)
        if not finite:
            check_finite(name, array, name in getattr(self.program.model, "missing", ()))
            self._gaps.append(name)
        return _Slot(name)

    def on_device(self, name: str, x: np.ndarray) -> Any:
        """An argument, or some rows of it, as the model sees it: a pair where entries are missing."""
        if name not in self.missing:
            return self.backend.asarray(x)
        values, observed = split(np.asarray(x))
        return Missing(self.backend.asarray(values), self.backend.asarray(observed))

    def _fill(self, value: Any, arrays: Mapping[str, Any]) -> Any:
        return arrays[value.name] if isinstance(value, _Slot) else value

    def call(self, function: Callable[..., Any], arrays: Mapping[str, Any]) -> Any:
        """``function`` on the data, with ``arrays`` in the place of the bound ones."""
        if function is not self.program.model:  # a guide has no observed sites: it sees values in their arguments
            arrays = {**arrays, **{a: arrays[self.observed[n]] for n, a in self._same.items()}}
        args = (self._fill(a, arrays) for a in self._args)
        with backends.keeping(self.networks):
            return function(*args, **{k: self._fill(v, arrays) for k, v in self._kwargs.items()})

    def without_data(self) -> Bound:
        """The same, to run the program on arrays that are handed in, without those that are held here."""
        other = copy.copy(self)
        other.host, other.seen, other.arrays = {}, {}, {}
        return other

    @property
    def precision(self) -> str | None:
        """Of the run that it was bound for, where it was for one."""
        return next(iter(self._setting), None)

    @property
    def data(self) -> Any:
        """The data as they came in, with copies of the arrays."""
        return self._arguments(self.host)

    @property
    def num_rows(self) -> int:
        """Rows of a model that names what holds them (``em_rows``); 0 of any other program."""
        names = getattr(self.program.model, "em_rows", ())
        return next((len(self.host[n]) for n in names if n in self.host), 0)

    def blocks(self) -> Iterator[Any]:
        """The data in blocks of rows, each as data of their own; only where they are held ``by_rows``."""
        names, size = [n for n in self.host if n in self.program.model.em_rows], self._block_rows or self.num_rows
        for i in range(0, self.num_rows, size):
            yield self._rows(names, slice(i, i + size))

    def at(self, data: Any) -> Bound:
        """The same program on other data."""
        return self.program.bind(data, self.backend, self._setting)

    def part(self, names: Collection[str], rows: slice | np.ndarray) -> Bound:
        """The same program on some rows of the arguments ``names``."""
        return self.at(self._rows(names, rows))

    def of(self, program: Program, block_rows: int | None, data: Any = None) -> Bound:
        """Another program, on the same data where none are given."""
        return program.bind(self.data if data is None else data, self.backend, self._setting, block_rows)

    def _rows(self, names: Collection[str], rows: slice | np.ndarray) -> Any:
        """The data with some rows of the arguments ``names`` in the place of all."""
        return self._arguments({**self.host, **{n: np.array(self.host[n][rows]) for n in names}})

    def _arguments(self, arrays: Mapping[str, Any]) -> Any:
        args = tuple(self._fill(a, arrays) for a in self._args)
        return args or {k: self._fill(v, arrays) for k, v in self._kwargs.items()}

    def model(self, arrays: Mapping[str, Any]) -> Any:
        """Run the model."""
        if not self.observed:
            return self.call(self.program.model, arrays)
        with self.backend.observing({n: arrays[held] for n, held in self.observed.items()}):
            return self.call(self.program.model, arrays)

    def guide(self, arrays: Mapping[str, Any]) -> Any:
        """Run the guide, where it is a function."""
        return self.call(self.program.guide, arrays)


class Drawn:
    """Runs of a bound program with latents from the prior, on any data of its shapes.

    They are compiled once; where the program makes networks, which start by the seed of a run, once for each seed.
    """

    def __init__(self, bound: Bound):
        self._bound = bound.without_data()
        self._by_seed: dict[int, Callable[..., dict[str, Site]]] = {}

    def __call__(self, arrays: Mapping[str, Any], seed: int) -> dict[str, Site]:
        """The sites, in order."""
        sown = backends.seed() if self._bound.networks else next(iter(self._by_seed), backends.seed())
        if sown not in self._by_seed:
            self._by_seed[sown] = self._bound.backend.draws(self._bound.model)
        return self._by_seed[sown](arrays, seed)


def _hashable(value: Any) -> Any:
    """``value``, or what equals nothing else where it may change in place: then nothing compiled is shared."""
    try:
        hash(value)
    except TypeError:
        return object()
    return value


def _arguments(program: Program, data: Any) -> tuple[tuple, dict]:
    if isinstance(data, Mapping):
        args: tuple = ()
        kwargs = dict(data)
    elif isinstance(data, tuple):
        args, kwargs = data, {}
    else:
        args, kwargs = (() if data is None else (data,)), {}
    try:
        bound = program.signature.bind(*args, **kwargs)
    except TypeError as error:
        came = ", ".join(map(repr, kwargs)) or (f"{len(args)} positional" if args else "no data")
        raise DataError(
            f"the data do not fit {program.name}{program.signature}: {error}; the data came as {came}. Pass a dict "
            "with the argument names as keys, a tuple in their order, or one array"
        ) from None
    positional = list(bound.signature.parameters)
    return tuple((_name(positional, i), a) for i, a in enumerate(args)), kwargs


def _name(parameters: list[str], index: int) -> str:
    return parameters[index] if index < len(parameters) else f"argument {index}"
