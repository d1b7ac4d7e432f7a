"""Draws and densities of any score along a path: a closed form, a network, what a program says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.protocol import Backend
from ppl_gen.diffusion import denoising
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.flowing import Flow
from ppl_gen.diffusion.paths import Path, path_of
from ppl_gen.diffusion.predictions import check_prediction
from ppl_gen.diffusion.samplers import Sampler
from ppl_gen.inference.driver import Driver
from ppl_gen.options import checked_seed, count

Says = Callable[[Any, Any], Any]


def draw(
    score: Says, path: str | Path, shape: tuple[int, ...], sampler: Sampler, *, backend: str = "numpyro",
    seed: int = 0, kind: str = "score", sigma_data: float = 1.0, trajectory: bool = False, progress: bool = True,
    precision: str = "float64", device: str | None = None,
) -> np.ndarray:  # fmt: skip
    """Rows drawn along a path by what is known of noisy ones.

    Args:
        score: ``(x (rows, *event), t (rows,)) -> like x``, of array functions of ``ppl_gen.xp``: the gradient of
            log p_t(x), or another prediction of this ``kind``.
        shape: (rows, *event). sampler: of ``pg.diffusion.samplers``.
        sigma_data: standard deviation of the data, which at the start counts beside the noise, and of ``kind="edm"``.
        trajectory: where rows were after each step, too.

    Returns:
        like ``shape``; with ``trajectory`` (num_steps, *shape), data last.

    Raises:
        ValueError: a score of another shape than its rows, times outside the path, an unknown path or kind.
        FloatingPointError: rows that are not finite.
    """
    field, shape = _field(score, path, kind, sigma_data, shape)
    seed = checked_seed(seed)
    if not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must be one of pg.diffusion.samplers, e.g. Heun(), got {sampler!r}")
    sampler.plan(field.path, kind)  # which refuses times outside the path
    with backends.get(backend).scope(precision=precision, device=device, seed=seed) as held:
        _check(held, field, shape)
        advance = denoising.steps(held, sampler, lambda: field, trajectory)
        driver = Driver(held.to_numpy, progress)
        x, way = denoising.draw(
            held, driver, sampler, field.path, kind, sigma_data, advance, shape, seed, (), trajectory
        )
    return x if way is None else way


def log_prob(
    score: Says, path: str | Path, x: Any, *, num_steps: int = 50, trace: str = "exact", num_probes: int = 10,
    backend: str = "numpyro", seed: int = 0, kind: str = "score", sigma_data: float = 1.0, progress: bool = True,
    precision: str = "float64", device: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """log p of rows x (n, *event) by the probability-flow equation of a score, and the standard errors, both (n,).

    See :mod:`ppl_gen.diffusion.probability_flow` for what density this is, and :func:`draw` for the score.

    Args:
        num_steps: of Runge-Kutta. trace: "exact", or "hutchinson" by ``num_probes`` random directions for each row.
        sigma_data: standard deviation of the data, which at the noisy end counts beside the noise.

    Raises:
        ValueError: as of :func:`draw`, or rows that are not finite. FloatingPointError: the way is not finite.
    """
    x, flow = np.asarray(x, float), Flow(num_steps, trace, num_probes)
    field, shape = _field(score, path, kind, sigma_data, x.shape)
    seed = checked_seed(seed)
    if not np.isfinite(x).all():
        raise ValueError(f"x has {int((~np.isfinite(x)).sum())} entries that are NaN or infinite: expected finite rows")
    with backends.get(backend).scope(precision=precision, device=device, seed=seed) as held:
        _check(held, field, shape)
        advance = flow.steps(held, lambda: field, len(shape) - 1)
        driver = Driver(held.to_numpy, progress)
        parts = [
            flow.solve(held, driver, field.path, sigma_data, advance, x[rows], x[rows].shape, own)[1:]
            for rows, own in denoising.blocks(shape[0], flow.rows(shape[1:]), seed)
        ]
    values, errors = (np.concatenate(part) for part in zip(*parts, strict=True))
    return values, errors


def _field(
    score: Says, path: str | Path, kind: str, sigma_data: float, shape: tuple[int, ...]
) -> tuple[Field, tuple[int, ...]]:
    check_prediction(kind)
    if not callable(score):
        raise TypeError(f"score must be a function of x and t, got {type(score).__name__}")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not shape:
        raise ValueError("shape must be (rows, *event), got ()")
    for n in shape:
        count("shape", n)
    return Field(path_of(path), kind, score, len(shape) - 1, sigma_data), shape


def _check(backend: Backend, field: Field, shape: tuple[int, ...]) -> None:
    """Raises ValueError: the score is not shaped as its rows."""
    path = field.path
    t = backend.asarray(np.full(shape[0], 0.5 * (path.start + path.end)))
    found = tuple(np.shape(backend.to_numpy(field.says(backend.asarray(np.zeros(shape)), t))))
    if found != shape:
        raise ValueError(f"score of rows {shape} at times {shape[:1]} has shape {found}: expected that of the rows")
