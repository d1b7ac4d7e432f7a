"""Rows drawn along a path from noise to data: any sampler on any field, by the driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Backend
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.samplers import Sampler
from ppl_gen.inference.driver import Driver

_CHUNK = 10  # steps in a compiled call, whose noise is in memory at once


def steps(backend: Backend, sampler: Sampler, field_of: Callable[..., Field], keep: bool) -> Callable[..., Any]:
    """Compiled ``advance(state, rows of steps, *constants)`` of what ``field_of(*constants)`` says.

    Args:
        keep: report the rows of each step as ``x``.
    """
    xp = backend.xp

    def step(state: Any, row: Any, *constants: Any) -> tuple[Any, Any]:
        state = sampler.step(xp, field_of(*constants), state, row)
        entries = state[0].reshape((len(state[0]), -1))
        report = {"finite": xp.all(xp.isfinite(entries), axis=-1)}
        return state, {**report, "x": state[0]} if keep else report

    return backend.scan(step, calls=max(sampler.num_steps, _CHUNK))


def draw(
    backend: Backend, driver: Driver, sampler: Sampler, path: Path, advance: Callable[..., Any], shape: tuple[int, ...],
    seed: int, constants: tuple[Any, ...] = (), keep: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
    """Rows of this shape, from noise; and where they were after each step, (num_steps, *shape), where ``keep``.

    Args:
        advance: of :func:`steps`.

    Raises:
        FloatingPointError: rows that are not finite; names them and the time.
    """
    times = sampler.times(path)
    spec = sampler.noise(shape)
    first = backend.noise(2 * seed, 0, {"x": ("normal", shape)}, 1)["x"][0]
    state = sampler.begin(backend.xp, path.noise_scale * first)

    def run(state: Any, start: int, count: int) -> tuple[Any, Any]:
        index = np.arange(start, start + count)
        rows = {"t": times[index], "s": times[index + 1], "index": index.astype(float)}
        noise = backend.noise(2 * seed + 1, start, spec, count)
        return advance(state, {**{n: backend.asarray(x) for n, x in rows.items()}, **noise}, *constants)

    done: list[int] = []

    def stop(before: Any, after: Any, report: Mapping[str, np.ndarray]) -> None:
        bad = np.argwhere(~report["finite"])
        if len(bad):
            done.append(bad[0, 0])
            rows = ", ".join(map(str, sorted(set(bad[:, 1]))[:5]))
            raise FloatingPointError(
                f"{type(sampler).__name__} is not finite from step {sum(done) + 1} on, at time {times[sum(done)]:.3g}, "
                f"in {len(set(bad[:, 1]))} of {shape[0]} rows, first {rows}: use more num_steps, or train for longer"
            )
        done.append(len(report["finite"]))

    state, report, _ = driver.run(
        run, state, len(times) - 1, label=type(sampler).__name__, chunk=_CHUNK, keep=keep, stop=stop
    )
    return np.asarray(backend.to_numpy(state[0])), report.get("x")
