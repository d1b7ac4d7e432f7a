"""The walk of annealed importance sampling: through fixed temperatures, weighing and moving at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.inference.chees import ChEES
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.journal import Report
from ppl_gen.inference.trajectories import Info, Path
from ppl_gen.inference.trajectories import State as Kernel

CHUNK = 10
_STEEPNESS = 4.0  # of the sigmoid that inverse temperatures are taken from
_RATE, _GAIN = 0.7, 0.3  # of acceptance, and of the log step size by it


class State(NamedTuple):
    """Carried from temperature to temperature: position (particles, dim), log_weight (particles,)."""

    position: Any
    log_weight: Any


class Schedule(NamedTuple):
    """A fixed path, on the host: inverse temperatures (temperatures,) above 0, and a kernel for each."""

    beta: np.ndarray
    step_size: np.ndarray
    scale: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """How far each inverse temperature is from the one before."""
        return np.diff(self.beta, prepend=0.0)


def advance(
    backend: Any,
    tempered: Callable[[Any, Any], Any],
    begin: Callable[[Kernel, Any], tuple[Path, Any]],
    report: Callable[[Kernel, Info], dict[str, Any]],
    calls: int,
) -> Callable[..., tuple[State, Any]]:
    """Compiled ``(state, rows, constants) -> (state, report)``: weigh, then move, at the temperature of each row.

    Args:
        tempered: ``(constants, beta) -> density`` as :class:`~ppl_gen.target.Tempered`.
        begin: ``(kernel, row) -> (path, number of leapfrog steps)``.
    """
    xp = backend.xp

    def start(state: State, row: Any, constants: Any) -> tuple[Any, Any]:
        value, gradient, likelihood = tempered(constants, row["beta"]).evaluate(state.position)
        gain = xp.where(row["step"] > 0.0, row["step"] * likelihood, 0.0)
        kernel = Kernel(state.position, value, gradient, row["step_size"], row["scale"], xp.zeros(()))
        path, count = begin(kernel, row)
        return (path, state.log_weight + gain, row["beta"]), count

    def repeat(carry: Any, constants: Any) -> Any:
        path, log_weight, beta = carry
        return ChEES.leap(xp, tempered(constants, beta), path), log_weight, beta

    def finish(carry: Any, row: Any, constants: Any) -> tuple[State, Any]:
        moved, info = ChEES.end(xp, carry[0], row)
        return State(moved.position, carry[1]), report(moved, info)

    return backend.scan_loops(start, repeat, finish, calls=calls)


def walk(
    driver: Driver,
    backend: Any,
    compiled: Callable[..., tuple[State, Any]],
    noise: Callable[[int, int], dict[str, Any]],
    start: Any,
    schedule: Schedule,
    constants: Any,
    label: str,
    forth: bool = True,
    chunk: int = CHUNK,
    stop: Callable[[Any, Any, Report], str | None] = lambda before, after, report: None,
) -> tuple[State, Mapping[str, np.ndarray]]:
    """To the posterior, or back to the prior, where one more step is to be weighed: by ``steps[0]`` at its end.

    Log weights are sum_k (beta_k - beta_{k-1}) log p(data | x_{k-1}), where x_{k-1} is before the move at beta_k on the
    way forth and after it on the way back (Neal 2001, equations 8 and 9).

    Args:
        compiled: of :func:`advance`. noise: ``(moves done, moves) -> `` what they take.
        chunk: moves in a compiled call. stop: as of the driver.
    """
    steps = schedule.steps
    order = np.arange(len(steps)) if forth else np.arange(len(steps))[::-1]
    gained = steps if forth else np.append(0.0, steps[:0:-1])  # by the position before each move

    def moves(state: State, done: int, count: int) -> tuple[State, Any]:
        rows = order[done : done + count]
        held = {"step": gained[done : done + count], **schedule._asdict()}
        fixed = {n: backend.asarray(x if n == "step" else x[rows]) for n, x in held.items()}
        return compiled(state, {**noise(done, count), **fixed}, constants)

    state = State(start, backend.xp.zeros((len(start),)))
    state, report, _ = driver.run(moves, state, len(steps), label=label, chunk=chunk, stop=stop)
    return state, report


def sigmoidal(count: int) -> np.ndarray:
    """Inverse temperatures (count,) from above 0 to 1, close together at both ends."""
    along = 1.0 / (1.0 + np.exp(-_STEEPNESS * np.linspace(-1.0, 1.0, count + 1)))
    return ((along - along[0]) / (along[-1] - along[0]))[1:]


def learned_steps(
    driver: Driver,
    backend: Any,
    compiled: Callable[..., tuple[State, Any]],
    noise: Callable[[int, int], dict[str, Any]],
    start: Any,
    beta: np.ndarray,
    first: np.ndarray,
    scale: np.ndarray,
    constants: Any,
    rate_of: Callable[[np.ndarray], Any],
) -> np.ndarray:
    """Step sizes (temperatures, *first.shape) of pilot chains that go through the temperatures beta, from ``first`` on.

    Args:
        compiled: of :func:`advance`, whose report has the ``acceptance_rate`` of each chain.
        scale: of the kernel. rate_of: ``acceptance rates (chains,) -> like first``.
    """
    log_step, used = np.log(first), []

    def move(state: State, done: int, _: int) -> tuple[State, Any]:
        nonlocal log_step
        used.append(log_step)
        held = {"step": np.zeros(1), "beta": beta[done : done + 1], "step_size": np.exp(log_step)[None]}
        fixed = {n: backend.asarray(x) for n, x in {**held, "scale": scale[None]}.items()}
        state, report = compiled(state, {**noise(done, 1), **fixed}, constants)
        log_step = log_step + _GAIN * (rate_of(backend.to_numpy(report["acceptance_rate"])[0]) - _RATE)
        return state, {}

    driver.run(
        move, State(start, backend.xp.zeros((len(start),))), len(beta), label="annealing, pilot", chunk=1, keep=False
    )
    return np.exp(np.stack(used))
