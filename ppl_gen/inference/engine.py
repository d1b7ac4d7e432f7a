"""What an engine is, how one is found by name, and what it hands back."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.inference.driver import Driver
from ppl_gen.options import count, is_number
from ppl_gen.options import one_of as is_one_of
from ppl_gen.program import Program
from ppl_gen.target import Target

_engines: dict[str, type[Engine]] = {}


@dataclass
class Outcome:
    """What an engine hands back, as NumPy arrays.

    Attributes:
        positions: unconstrained draws (chain, draw, dim) of a sampler; the caller constrains them.
        draws: constrained draws, name -> (chain, draw, ...), where the engine makes them itself.
        stats: sample statistics, name -> (chain, draw).
        params: learned parameters or the point estimate, name -> constrained value.
        history: name -> one number an iteration.
        exact: False where the draws are of an approximation.
        observed: values of sites that the engine took for data, beside those that the program observes.
    """

    positions: np.ndarray | None = None
    draws: dict[str, np.ndarray] = field(default_factory=dict)
    stats: dict[str, np.ndarray] = field(default_factory=dict)
    params: dict[str, np.ndarray] = field(default_factory=dict)
    history: dict[str, np.ndarray] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    attrs: dict[str, Any] = field(default_factory=dict)
    exact: bool = True
    observed: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Hyperparameters of an algorithm, checked when made.

    A new engine is a subclass in a file of its own in this folder, with a ``name``, what it ``needs`` in words,
    ``check`` (raise before work starts) and ``run``. No list is edited.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[str] = ""
    resumes: ClassVar[bool] = False  # True where all that it carries along goes through the driver, as states
    rows_of_files: ClassVar[bool] = False  # True where it reads rows from files for any program, see Program.bind
    takes_energies: ClassVar[bool] = False  # True where densities need not be normalised

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("name"):
            _engines[cls.name] = cls

    def check(self, target: Target) -> None:
        """Raise UnsupportedError where the program lacks what the engine needs."""

    def admit(self, target: Target) -> None:
        """:meth:`check`, and no density that is known up to a constant only, unless the engine takes such.

        Raises:
            UnsupportedError: naming the site, what is wrong, and the engines that would work.
        """
        energies = [n for n, s in target.sites.items() if not s.normalised]
        if energies and not self.takes_energies:
            able = ", ".join(repr(n) for n, cls in sorted(_engines.items()) if cls.takes_energies)
            raise UnsupportedError(
                f"{self.name} takes log densities as they are, and that of {', '.join(map(repr, energies))} of "
                f"{target.program.name} is not normalised: its normaliser hangs on the params, which would run off to "
                f"lower energies everywhere. Use engine={able}, or say what log Z is (log_normalizer=)"
            )
        self.check(target)

    def pick(self, target: Target) -> tuple[Engine, str]:
        """The engine that does the work, this one unless it is there to choose; and why, in words."""
        return self, ""

    def stated(self, program: Program) -> Program:
        """The program that it works on: another than the declared one where a model brings one for its training."""
        return program

    def undivided(self, target: Target) -> str:
        """Why its chains on this target cannot be jobs of an executor; empty where they can."""
        return "does all of its work in one process"

    def rows_at_once(self, program: Program) -> int | None:
        """Rows in a block, where the engine goes by rows of this program; None where it needs them all at once."""
        return None

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        """Do the work."""
        raise TypeError(f"{type(self).__name__} defines no run")


def engines() -> dict[str, str]:
    """Name of every engine -> what it needs and does."""
    _load_all()
    return {name: f"{cls.needs}: {_first_line(cls)}" for name, cls in sorted(_engines.items())}


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").splitlines()[0]


def _load_all() -> None:
    import ppl_gen.inference as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def resolve(engine: str | Engine, options: Mapping[str, Any]) -> Engine:
    """The engine of a name and options, or the object itself.

    Raises:
        ValueError: unknown name or option, with close matches.
        TypeError: options beside an engine object, or something that is no engine.
    """
    _load_all()
    if isinstance(engine, Engine):
        if options:
            raise TypeError(
                f"options {_listed(options)} came beside an engine object, which holds its own: write "
                f"{type(engine).__name__}({', '.join(f'{k}=...' for k in options)})"
            )
        return engine
    if isinstance(engine, type) and issubclass(engine, Engine):
        raise TypeError(
            f"engine must be a name or an engine object, got the class {engine.__name__}: {engine.__name__}()"
        )
    if not isinstance(engine, str):
        raise TypeError(f"engine must be a name or an engine object, got {type(engine).__name__}")
    if engine not in _engines:
        raise ValueError(f"unknown engine {engine!r}{_close(engine, _engines)}: expected one of {_listed(_engines)}")
    known = [f.name for f in fields(_engines[engine]) if f.init]
    if options and not known:
        raise ValueError(f"{engine!r} takes no options, got {_listed(options)}: name the engine that has them")
    for name in options:
        if name not in known:
            raise ValueError(f"{engine!r} has no option {name!r}{_close(name, known)}: expected among {_listed(known)}")
    return _engines[engine](**options)


def _close(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _listed(names: Any) -> str:
    return ", ".join(map(repr, sorted(names)))


def require_processes(target: Target) -> None:
    """Raises ValueError: this is the only process there is, where ``processes=True``."""
    if target.backend.num_processes() < 2:
        by_jax = target.backend.array_library == "jax"
        first = "call jax.distributed.initialize(...) first" if by_jax else "start the script with torchrun"
        raise ValueError(f"processes=True and there is only one process, which would fit its own rows: {first}")


def positive(engine: Any, *names: str) -> None:
    """Each named option is a whole number of at least 1."""
    for name in names:
        count(name, getattr(engine, name))


def not_negative(engine: Engine, *names: str) -> None:
    """Each named option is a whole number of at least 0."""
    for name in names:
        count(name, getattr(engine, name), least=0)


def between(engine: Engine, low: float, high: float, *names: str) -> None:
    """Each named option is a number strictly between ``low`` and ``high``."""
    for name in names:
        value = getattr(engine, name)
        if not is_number(value) or not low < value < high:
            raise ValueError(f"{name} must be a number between {low} and {high} (exclusive), got {value!r}")


def one_of(engine: Engine, name: str, choices: tuple[Any, ...]) -> None:
    """The named option is one of ``choices``."""
    is_one_of(name, getattr(engine, name), choices)
