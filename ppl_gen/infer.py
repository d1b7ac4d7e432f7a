"""``pg.infer`` and its companions: from a program, data and the name of an engine to a run."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from ppl_gen import backends
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, resolve
from ppl_gen.inference.engine import engines as engines
from ppl_gen.program import as_program
from ppl_gen.results.run import Run, Setting
from ppl_gen.target import Target


def infer(
    program: Any,
    data: Any = None,
    engine: str | Engine = "nuts",
    backend: str = "numpyro",
    seed: int = 0,
    progress: bool = True,
    precision: str = "float64",
    device: str | None = None,
    **engine_options: Any,
) -> Run:
    """Infer the unknowns of ``program`` from ``data``.

    Args:
        program: a program, a function of data, or a model of ``pg.models``.
        data: a dict goes in as keyword arguments, a tuple as positional ones, a single array as the one argument.
        engine: a name (:func:`engines` lists them) or an engine object, e.g. ``pg.inference.NUTS(num_chains=4)``.
        backend: "numpyro" or "pyro".
        seed: gives the same numbers again on the same backend and device.
        progress: show a bar on what takes more than two seconds.
        precision: "float64" or "float32".
        device: "cpu" (where None), "cuda", "cuda:1", ...
        engine_options: hyperparameters of the engine, when it is given by name.

    Raises:
        ValueError, TypeError: an unknown name or a wrong option, or data that do not fit (DataError, ProgramError).
        UnsupportedError: the program lacks what the engine needs; says which engines would work.
    """
    seed = _checked_seed(seed)
    chosen = resolve(engine, engine_options)
    room = backends.get(backend)
    declared = as_program(program)
    setting = Setting(backend, precision, device, seed)
    began = time.perf_counter()
    with room.scope(precision=precision, device=device, seed=seed):
        rows = chosen.rows_at_once(declared)
        target = Target(declared.bind(data, room, (setting.precision, setting.device), rows))
        chosen.check(target)
        outcome = chosen.run(target, Driver(room.to_numpy, progress), seed)
        run = Run.of(target, setting, chosen, outcome)
    run.attrs["inference_time"] = time.perf_counter() - began
    for message in run.warnings:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return run


def _checked_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed.__index__() < 2**31:
        raise ValueError(f"seed must be a whole number from 0 to 2**31 - 1, got {seed!r}")
    return seed.__index__()


def load(path: str | Path, program: Any = None, data: Any = None) -> Run:
    """The run that ``run.save(path)`` wrote.

    Args:
        program: pass it again to use ``predict``, ``sample`` and ``log_prob``; a file holds no code.
        data: that the run was fitted to, for ``predict`` without new data.
    """
    return Run.load(path, None if program is None else as_program(program), data)


def check(program: Any, data: Any = None, seed: int = 0) -> Any:
    """Run ``program`` on both backends and compare; see :class:`ppl_gen.checking.Report`."""
    from ppl_gen.checking import compare

    return compare(as_program(program), data, _checked_seed(seed))
