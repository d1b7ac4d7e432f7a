"""``pg.infer`` and its companions: from a program, data and the name of an engine to a run."""

from __future__ import annotations

import time
import warnings
from contextlib import ExitStack
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from ppl_gen import backends
from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, resolve
from ppl_gen.inference.engine import engines as engines
from ppl_gen.inference.spreading import Spread, check_executor
from ppl_gen.options import checked_seed
from ppl_gen.program import Program, as_program
from ppl_gen.results import groups, resuming
from ppl_gen.results.checkpoint import Checkpoint, check_place
from ppl_gen.results.comparison import gradients
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
    checkpoint: str | Path | None = None,
    executor: Any = None,
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
        device: "cpu" (where None), "cuda", "cuda:1", ... Of a platform without a number, JAX lays chains along as
            many of its devices in this process as divide ``num_chains``, but for ``nuts`` and ``hmc``, and the rows of
            a batch along as many as divide ``batch_size``. The numbers are
            those of one device to rounding, which grows along a chain.
        checkpoint: a folder, ``run.zarr``, that draws and state are written to as they come: memory stays bounded for
            any number of draws, and :func:`resume` goes on after a kill at any moment. ArviZ and xarray read it once
            the run is finished.
        executor: any ``concurrent.futures.Executor``: a pool of threads or of processes that do not fork
            (``mp_context=multiprocessing.get_context("spawn")``), Dask's, mpi4py's. Warm-up, which learns from all
            chains, is done here; then groups of chains are its jobs, with NumPyro's ``nuts`` and ``hmc`` their warm-up
            too. The groups depend on the number of chains alone, so that any executor with any number of workers gives
            the same draws to the bit; a run without one has them to rounding. It pays where a gradient is dear: each
            process compiles for itself. In one process JAX's jobs run side by side, Pyro's by turns.
        engine_options: hyperparameters of the engine, when it is given by name.

    Raises:
        ValueError, TypeError: an unknown name or a wrong option, or data that do not fit (DataError, ProgramError).
        UnsupportedError: the program lacks what the engine needs; says which engines would work. Also where the engine
            cannot be kept in a checkpoint, or its chains or the program cannot be sent to an executor.
        RuntimeError: a job of the executor failed, or a worker died.
        FileExistsError, OSError: ``checkpoint`` is there already, or cannot be written.
    """
    seed = checked_seed(seed)
    chosen = resolve(engine, engine_options)
    setting = Setting(backend, precision, device, seed)
    place = None if checkpoint is None else check_place(checkpoint)
    if executor is not None:
        check_executor(executor, checkpoint)
    return _run(as_program(program), data, chosen, setting, progress, place, executor)


def resume(
    path: str | Path, program: Any = None, data: Any = None, engine: Engine | None = None, progress: bool = True
) -> Run:
    """Go on with a run that ``infer(checkpoint=path)`` began, from its last commit and to the same numbers.

    A run that has ended is returned. The same numbers to the bit come on the same kind of machine with the same
    versions of the libraries; a warning says where these have changed.

    Args:
        program: the one of the run, since a file holds no code; found by itself where this process has declared it, or
            where it is a model of ``pg.models``.
        data: those of the run; needed only where other things than arrays and numbers are among them.
        engine: the engine object; needed only where its options are functions or objects.
        progress: show a bar on what takes more than two seconds.

    Raises:
        FileNotFoundError, CorruptFileError: there is no checkpoint, or one that is damaged; names the file.
        ValueError: the program, data or options are not those of the run, or must be passed.
    """
    journal = Checkpoint.open(path)
    said = journal.about
    try:
        found = resuming.program_of(said, program, journal.path)
        chosen = resuming.engine_of(said, engine)
        held = resuming.data_of(said, journal.data()) if data is None else data
        if said["versions"] != resuming.versions():
            warnings.warn(_other_versions(said["versions"]), RuntimeWarning, stacklevel=2)
        return _run(found, held, chosen, Setting(**said["setting"]), progress, journal)
    finally:
        journal.close()


def _other_versions(was: dict[str, str]) -> str:
    now = resuming.versions()
    off = ", ".join(f"{n} {v}, now {now.get(n)}" for n, v in was.items() if now.get(n) != v)
    return f"the checkpoint was begun with other libraries ({off}): the rest of the run may differ in the last digits"


def _run(
    declared: Program, data: Any, chosen: Engine, setting: Setting, progress: bool, place: Path | Checkpoint | None,
    executor: Any = None,
) -> Run:  # fmt: skip
    room = backends.get(setting.backend)
    began = time.perf_counter()
    with room.scope(precision=setting.precision, device=setting.device, seed=setting.seed), ExitStack() as stack:
        rows = chosen.rows_at_once(declared), chosen.rows_of_files
        target = Target(chosen.stated(declared).bind(data, room, (setting.precision, setting.device), *rows))
        chosen, why = chosen.pick(target)
        if place is not None:
            _require_resumes(chosen)
        chosen.admit(target)
        if place is None:
            spread = None if executor is None else Spread(executor, chosen, target, astuple(setting), progress)
            outcome = chosen.run(target, Driver(room.to_numpy, progress, spread=spread), setting.seed)
            run = Run.of(target, setting, chosen, outcome)
        else:
            journal = _journal(place, declared, target, chosen, setting, stack)
            outcome = chosen.run(target, Driver(room.to_numpy, progress, journal), setting.seed)
            run = Run.of(target, setting, chosen, outcome, groups.keeping(journal))
            groups.finish(journal, run)
    _as_declared(run, declared)
    run.attrs.update({"chosen": why} if why else {})
    run.attrs.update(gradients(run.stats, chosen), inference_time=time.perf_counter() - began)
    for message in run.warnings:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return run


def _as_declared(run: Run, program: Program) -> None:
    """The run of ``program``, where another stood for it while it was trained, which observes nothing."""
    run.program = program
    for name in getattr(program.model, "outputs", ()):
        if name in run.constants:
            run.observed[name] = run.constants.pop(name)


def _require_resumes(chosen: Engine) -> None:
    """What the engine carries along goes through the driver, and one process does all of the work."""
    if not chosen.resumes or getattr(chosen, "processes", False):
        where = f"{chosen.name} with processes=True" if chosen.resumes else chosen.name
        able = ", ".join(repr(n) for n in engines() if resolve(n, {}).resumes)
        raise UnsupportedError(f"{where} cannot be kept in a checkpoint: leave out checkpoint=, or use one of {able}")


def _journal(
    place: Path | Checkpoint, declared: Program, target: Target, chosen: Engine, setting: Setting, stack: ExitStack
) -> Checkpoint:
    """The checkpoint of a run, made if it is new."""
    if isinstance(place, Checkpoint):
        resuming.require_data(place.about, target.bound, place.path)
        journal = place
    else:
        said, arrays = resuming.about(declared, chosen, asdict(setting), target.bound)
        journal = Checkpoint.create(place, said, arrays)
        stack.callback(journal.close)
    journal.backend = target.backend
    return journal


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

    return compare(as_program(program), data, checked_seed(seed))
