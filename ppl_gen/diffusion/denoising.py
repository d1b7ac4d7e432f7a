"""Rows drawn along a path from noise to data: any sampler on any field, by the driver."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Backend
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.samplers import Sampler
from ppl_gen.inference.driver import Driver

_CHUNK, _MOST = 10, 100  # steps in a compiled call: ten, and up to a hundred of small rows,
_NUMBERS = 2**20  # whose entries over all of these steps come to so many


def blocks(n: int, size: int, seed: int) -> Iterator[tuple[slice, int]]:
    """``n`` rows by so many that go side by side, and a seed for each of these blocks."""
    for number, start in enumerate(range(0, n, size)):
        yield slice(start, min(start + size, n)), seed + 7919 * number


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
        share = sampler.share(xp, state)
        if share is not None:
            report["share"] = share
        return state, {**report, "x": state[0]} if keep else report

    return backend.scan(step, calls=max(sampler.num_steps, _CHUNK))


def draw(
    backend: Backend, driver: Driver, sampler: Sampler, path: Path, kind: str, sigma_data: float,
    advance: Callable[..., Any], shape: tuple[int, ...], seed: int, constants: tuple[Any, ...] = (), keep: bool = False,
    noise: Any = None,
) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
    """Rows of this shape, from noise; and where they were after each step, (num_steps, *shape), where ``keep``.

    Memory holds the noise of the steps of one compiled call, and of the next where that is little, however many steps
    there are.

    Args:
        kind: of the field's prediction. sigma_data: standard deviation of the data, which at the start counts beside
            the noise. advance: of :func:`steps`.
        noise: of this shape, to begin with; standard normal where None.

    Raises:
        ValueError: times outside the path.
        FloatingPointError: rows that are not finite, by name, and the time; or no way to the end of the path.
    """
    plan, spec, label = sampler.plan(path, kind), sampler.noise(shape), type(sampler).__name__
    tries = len(plan["t"])
    at = path.at(np, plan["t"][0])
    scale = float(np.hypot(at.sigma, at.alpha * sigma_data))
    first = backend.noise(2 * seed, 0, {"x": ("normal", shape)}, 1)["x"][0] if noise is None else backend.asarray(noise)
    state = sampler.begin(backend.xp, scale * first)
    ends_early = sampler.share(backend.xp, state) is not None  # which is looked at between calls
    chunk = _CHUNK if ends_early else min(_MOST, max(_CHUNK, _NUMBERS // math.prod(shape)))

    def run(state: Any, start: int, count: int) -> tuple[Any, Any]:
        rows = {n: backend.asarray(np.asarray(x[start : start + count], float)) for n, x in plan.items()}
        return advance(state, {**rows, **backend.noise(2 * seed + 1, start, spec, count)}, *constants)

    done: list[int] = []

    def stop(before: Any, after: Any, report: Mapping[str, np.ndarray]) -> str | None:
        bad = np.argwhere(~report["finite"])
        if len(bad):
            step, rows = sum(done) + bad[0, 0], sorted(set(bad[:, 1]))
            raise FloatingPointError(
                f"{label} is not finite from step {step + 1} on, at time {plan['s'][step]:.3g}, in {len(rows)} of "
                f"{shape[0]} rows, first {', '.join(map(str, rows[:5]))}: use more num_steps, or train for longer"
            )
        done.append(len(report["finite"]))
        return "arrived" if "share" in report and report["share"][-1] >= 1.0 else None

    state, report, reason = driver.run(run, state, tries, label=label, chunk=chunk, keep=keep, stop=stop)
    if ends_early and reason is None:
        raise FloatingPointError(
            f"{label} has not come to the end of the path in {tries} steps: allow for more num_steps or larger errors, "
            "or look whether the field is finite"
        )
    way = report.get("x")
    if way is not None and "share" in report:  # steps that were taken
        way = way[np.diff(report["share"], prepend=0.0) > 0.0]
    return np.asarray(backend.to_numpy(state[0])), way
