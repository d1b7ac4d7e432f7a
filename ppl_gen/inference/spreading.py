"""Chains as jobs of an executor: in groups, whose number hangs on that of the chains alone."""

from __future__ import annotations

import concurrent.futures as futures
import importlib
import itertools
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.protocol import Backend, UnsupportedError
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, engines, resolve
from ppl_gen.inference.journal import Report
from ppl_gen.inference.progress import progress_bar
from ppl_gen.program import Program, as_program
from ppl_gen.surroundings import settings
from ppl_gen.target import Target

_GROUPS, _LARGE = 8, 32  # groups where there are so many chains; more of them once each holds so many
_TARGETS = 2  # that a worker keeps, so that the second job of a run finds what the first has compiled

Setting = tuple[str, str, str | None, int]  # backend, precision, device, seed
Token = tuple[int, str]  # of a run: the process that it was begun in, and a name of its own

_here: dict[Token, Target] = {}  # of runs of this process, for jobs that are threads of it
_came: dict[Token, Target] = {}  # of runs of other processes
_lock = threading.RLock()


def groups(num_chains: int) -> list[slice]:
    """Chains in groups of nearly one size: each by itself up to 8, 8 groups up to 256, then about 32 in each.

    How many workers there are does not matter, so that the numbers are the same with any number of them.
    """
    count = min(num_chains, max(_GROUPS, num_chains // _LARGE))
    ends = [num_chains * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


# In the worker ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a worker is handed.

    Attributes:
        sent: where the program is found, or what it is made of, and data; None in a thread.
        engine: that moves the chains; ``extra`` what it has found out before, see :meth:`Sampler.extra`.
        held: what the group begins with, on the host; ``rows`` which of all chains it is.
    """

    token: Token
    setting: Setting
    sent: Any
    engine: Any
    extra: Any = None
    held: Any = None
    rows: slice = field(default_factory=lambda: slice(0))


def arrive(job: Job) -> str:
    """Whether program and data can be had in a worker; the program's name."""
    with _setting(job.setting) as room, _lock:
        return _target(job, room).program.name


def work(job: Job) -> tuple[Any, Report]:
    """What a group of chains ends with, on the host, and its draws."""
    with _setting(job.setting) as room:
        with _lock:
            target = job.engine.received(_target(job, room), job.extra)
        driver = InTurn(room.to_numpy, progress=False)
        held, report = job.engine.group(target, driver, job.setting[-1], job.held, job.rows)
        return room.to_numpy(held), report


@contextmanager
def _setting(setting: Setting) -> Iterator[Backend]:
    """The scope of a run. Where it is one of the whole process, its threads take turns."""
    name, precision, device, seed = setting
    room = backends.get(name)
    turn = nullcontext() if room.scope_of_thread else _lock
    with turn, room.scope(precision=precision, device=device, seed=seed):
        yield room


def _target(job: Job, room: Backend) -> Target:
    """The target of a job's run: the one that is here, or one made of what was sent, once."""
    if job.token in _here and job.token[0] == os.getpid():  # a fork has its parent's tables
        return _here[job.token]
    if job.token not in _came:
        program, data, read = job.sent
        made = program.found() if isinstance(program, _ByName) else Program(*program)
        _require_same(made, read)
        while len(_came) >= _TARGETS:
            del _came[next(iter(_came))]
        _came[job.token] = Target(made.bind(data, room, job.setting[1:3]))
    return _came[job.token]


def _require_same(made: Program, read: dict[str, Any]) -> None:
    """The program reads the same from around it, here in a worker, as where the run was begun."""
    here = settings(made.model)
    off = sorted(n for n in {**here, **read} if here.get(n) != read.get(n))
    if off:
        raise ValueError(f"{', '.join(off)}, which {made.name} reads from around it, has another value in the worker, "
                         "which imports its module anew: pass it as data")


class InTurn(Driver):
    """A driver whose first calls wait for each other, since effect handlers are shared by the threads of a process."""

    def alone(self) -> AbstractContextManager[Any]:
        return _lock

    def run(self, advance: Callable[..., Any], state: Any, num_steps: int, **options: Any) -> Any:
        traced: set[int] = set()

        def first_alone(state: Any, start: int, count: int) -> Any:
            with nullcontext() if count in traced else _lock:
                traced.add(count)
                return advance(state, start, count)

        return super().run(first_alone, state, num_steps, **options)


# In the caller ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ByName:
    """A program that a module holds, by where it is."""

    module: str
    name: str

    def found(self) -> Program:
        held: Any = importlib.import_module(self.module)
        for part in self.name.split("."):
            held = getattr(held, part)
        return as_program(held)


def _forms(program: Program) -> list[Any]:
    """Where ``program`` is found, if it is; and what it is made of."""
    where = _ByName(*(str(getattr(program.model, n, None)) for n in ("__module__", "__qualname__")))
    parts = program.model, program.guide, program.backend, program.coords
    try:
        return [where, parts] if where.found() is program else [parts]
    except (ImportError, AttributeError, TypeError, ValueError):
        return [parts]


class Spread:
    """The chains of one run as jobs of an executor, groups of them at a time.

    Raises:
        UnsupportedError: the engine's chains hang together, or program and data cannot be had in a worker.
        RuntimeError: a job failed, or a worker died.
    """

    def __init__(self, executor: Any, engine: Engine, target: Target, setting: Setting, progress: bool):
        require(engine, target)
        self._executor, self._setting, self._progress = executor, setting, progress
        self._kind, self._program = type(executor).__name__, target.program
        self._token: Token = (os.getpid(), uuid.uuid4().hex)
        threads = isinstance(executor, futures.ThreadPoolExecutor)
        self._sent = None if threads else self._sendable(engine, target)

    def _sendable(self, engine: Engine, target: Target) -> Any:
        """Program and data in a form that has arrived in a worker."""
        data, failures = target.bound.data, []
        for form in _forms(target.program):
            try:
                job = Job(self._token, self._setting, (form, data, settings(target.program.model)), engine)
                with self._at_hand(target):
                    self._executor.submit(arrive, job).result()
                return job.sent
            except futures.BrokenExecutor as error:
                raise self._broken() from error
            except Exception as error:  # of any type: the serialiser's, or of an import in the worker
                failures.append(error)
        name = target.program.name
        raise UnsupportedError(
            f"{name} with its data and {engine.name} cannot be sent to the workers of the {self._kind} "
            f"({_words(failures[0])}): declare {name} at the top of a module that they can import, use a "
            "ThreadPoolExecutor, or an executor that sends functions by value, as Dask's and loky's do"
        ) from failures[0]

    def __call__(self, engine: Any, target: Target, held: Any) -> tuple[Any, Report]:
        """What all chains end with, on the host, and their draws (steps, chains, ...); they begin with ``held``."""
        extra = None if self._sent is None else engine.extra(target)
        parts = groups(engine.num_chains)
        jobs = [Job(self._token, self._setting, self._sent, engine, extra, engine.part(held, r), r) for r in parts]
        with self._at_hand(target):
            found = self._results(jobs)
        reports = [report for _, report in found]
        joined = {k: np.concatenate([r[k] for r in reports], axis=1) for k in reports[0]}
        return engine.joined([held for held, _ in found]), joined

    def _results(self, jobs: list[Job]) -> list[Any]:
        """Of the jobs, in their order; where one fails, those that have not begun are cancelled."""
        found: list[Any] = [None] * len(jobs)
        index: dict[Any, int] = {}
        label = f"{jobs[0].engine.name} by {self._kind}"
        bar = progress_bar(total=jobs[-1].rows.stop, desc=label, unit="chain", disable=not self._progress)
        try:
            index.update((self._executor.submit(work, job), i) for i, job in enumerate(jobs))
            for future in _as_they_come(index):
                found[index[future]] = future.result()
                rows = jobs[index[future]].rows
                bar.update(rows.stop - rows.start)
        except futures.BrokenExecutor as error:
            raise self._broken() from error
        except Exception as error:
            what = f"a job of the {self._kind} with chains of {self._program.name} failed: {_words(error)}"
            raise RuntimeError(what) from error
        finally:
            bar.close()
            for future in index:
                future.cancel()
            if self._sent is None:  # a thread that ran on would put back settings of the process after us
                futures.wait(index)
        return found

    @contextmanager
    def _at_hand(self, target: Target) -> Iterator[None]:
        """Jobs that come to be run in this process find the target there."""
        _here[self._token] = target
        try:
            yield
        finally:
            del _here[self._token]

    def _broken(self) -> RuntimeError:
        return RuntimeError(
            f"a worker of the {self._kind} died while it had chains of {self._program.name}, and the executor cannot "
            "be used again. It was killed, as where memory runs out, or could not start, as where a script begins its "
            "work outside of `if __name__ == '__main__':`"
        )


def _as_they_come(submitted: dict[Any, int]) -> Any:
    """Futures of the standard library as they end; others in their order."""
    standard = all(isinstance(f, futures.Future) for f in submitted)
    return futures.as_completed(submitted) if standard else list(submitted)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def check_executor(executor: Any, checkpoint: Any = None) -> None:
    """It has ``submit`` and is no pool that forks; and nothing is to be written that only one process could write.

    Raises:
        TypeError, UnsupportedError: otherwise.
    """
    if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        raise TypeError(
            "executor must have submit() as those of concurrent.futures have, e.g. ThreadPoolExecutor(), got "
            + (f"the class {executor.__name__}" if isinstance(executor, type) else f"{type(executor).__name__}")
        )
    if checkpoint is not None:
        raise UnsupportedError(
            "a checkpoint is written by the process that draws, and the jobs of an executor draw elsewhere: leave out "
            "checkpoint= or executor="
        )
    method = getattr(getattr(executor, "_mp_context", None), "get_start_method", lambda: None)()
    if method == "fork":
        raise UnsupportedError(
            f"the {type(executor).__name__} forks this process, and the threads of JAX and PyTorch do not live on in a "
            "fork, which would wait for them for ever: pass mp_context=multiprocessing.get_context('spawn') to it"
        )


def require(engine: Engine, target: Target) -> None:
    """The engine's chains can be split into jobs.

    Raises:
        UnsupportedError: they cannot; names the engines whose chains can.
    """
    why = engine.undivided(target)
    if why:
        able = ", ".join(repr(n) for n in engines() if not resolve(n, {}).undivided(target))
        raise UnsupportedError(
            f"{engine.name} on {target.backend.name} {why}: leave out executor=, or use one of {able}"
        )
