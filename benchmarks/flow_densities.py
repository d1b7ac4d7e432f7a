"""Flows that learn known densities of the plane: nats that the log density of new rows falls short of the truth.

Two moons with noise of 0.1, eight Gaussians on a circle, and a checkerboard of eight squares. The shortfall is the mean
of log p(x) - log q(x) over 100,000 new rows, an estimate of the divergence of the flow q from the truth p. The density
of the moons is a mixture of Gaussians over two half circles, an integral by 256 Gauss-Legendre points. What is timed
is the whole training, in single precision.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TITLE = "Densities that flows learn"
PEER = None
_NAMES = {"moons": "two moons", "gaussians": "eight Gaussians", "checkerboard": "a checkerboard"}
CASES = {f"{b} {n}": f"training of a spline flow on {_NAMES[n]}, {b}" for b in ("numpyro", "pyro") for n in _NAMES}
_ROWS, _NEW_ROWS, _BLOCK = 50_000, 100_000, 5000
_MODEL: dict[str, Any] = {"kind": "nsf", "features": 2, "num_layers": 4, "hidden": (64, 64), "num_bins": 16}
_TRAINING: dict[str, Any] = {
    "batch_size": 500,
    "num_epochs": 60,
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "clip_norm": 5.0,
    "ema": 0.995,
}
_NOISE, _RADIUS, _SPREAD, _SIDE = 0.1, 2.0, 0.2, 3.0


def _arcs(angle: np.ndarray) -> np.ndarray:
    """Points of the two half circles, (2, angles, 2); the second is the first turned by half a turn."""
    upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], axis=-1)
    return np.stack([upper, -upper])


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(256)
_ON_ARCS = _arcs(0.5 * np.pi * (_NODES + 1.0)).reshape(-1, 2)
_ANGLES = np.arange(8) * np.pi / 4.0
_CENTRES = _RADIUS * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)


def _mixture(x: np.ndarray, centres: np.ndarray, weights: np.ndarray, deviation: float) -> np.ndarray:
    """Log density of round Gaussians."""
    found = []
    for rows in np.array_split(x, max(1, len(x) // _BLOCK)):
        square = ((rows[:, None] - centres) ** 2).sum(-1)
        found.append(np.logaddexp.reduce(np.log(weights) - 0.5 * square / deviation**2, axis=1))
    return np.concatenate(found) - np.log(2.0 * np.pi * deviation**2)


def draw(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if name == "moons":
        points = _arcs(np.pi * rng.random(n))[rng.integers(2, size=n), np.arange(n)]
        return points + _NOISE * rng.standard_normal((n, 2))
    if name == "gaussians":
        return _CENTRES[rng.integers(8, size=n)] + _SPREAD * rng.standard_normal((n, 2))
    square = rng.integers(8, size=n)
    row, column = square // 2, 2 * (square % 2) + square // 2 % 2
    return np.stack([column, row], axis=-1) - 2.0 + rng.random((n, 2))


def _log_density(name: str, x: np.ndarray) -> np.ndarray:
    if name == "moons":
        return _mixture(x, _ON_ARCS, np.tile(0.25 * _WEIGHTS, 2), _NOISE)
    if name == "gaussians":
        return _mixture(x, _CENTRES, np.full(8, 0.125), _SPREAD)
    cell = np.floor(x + 2.0).astype(int)
    inside = ((cell >= 0) & (cell < 4)).all(1) & (cell.sum(1) % 2 == 0)
    return np.where(inside, -np.log(8.0), -np.inf)


def ours(case: str) -> Callable[[], Callable[[], dict[str, float]]]:
    import ppl_gen as pg

    backend, name = case.split()
    x = draw(name, _ROWS, np.random.default_rng(0))

    def run() -> Callable[[], dict[str, float]]:
        model = pg.models.Flow(**_MODEL)
        fitted = pg.infer(model, x, "svi", backend, precision="float32", progress=False, **_TRAINING)
        return lambda: _judged(fitted, backend, name)

    return run


def _judged(run: Any, backend: str, name: str) -> dict[str, float]:
    """The shortfall and its standard error; the density on a grid is left for the picture."""
    new = draw(name, _NEW_ROWS, np.random.default_rng(1))
    short = _log_density(name, new) - run.log_prob(new)
    np.save(_grid_file(backend, name), run.log_prob(_grid()).reshape(_PIXELS, _PIXELS))
    return {"nats short of the truth": float(short.mean()), "error": float(short.std() / np.sqrt(len(new)))}


_PIXELS = 200


def _grid() -> np.ndarray:
    """Middles of pixels (pixels^2, 2), row by row from below."""
    middle = _SIDE * (2.0 * (np.arange(_PIXELS) + 0.5) / _PIXELS - 1.0)
    return np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)


def _grid_file(backend: str, name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"ppl_gen-flow-{backend}-{name}.npy"


def picture(result: dict[str, Any], path: Path) -> None:
    """Data, and beside them what was learned from them, of the last run of each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(_NAMES), 3, figsize=(8.4, 8.7), layout="constrained")
    for row, name in zip(axes, _NAMES, strict=True):
        x = draw(name, _ROWS, np.random.default_rng(0))
        row[0].hist2d(*x.T, bins=_PIXELS // 2, range=[[-_SIDE, _SIDE]] * 2, cmap="viridis")
        row[0].set_title(f"{_NAMES[name]}: {_ROWS:,} rows")
        for axis, backend in zip(row[1:], ("numpyro", "pyro"), strict=True):
            short = result["cases"][f"{backend} {name}"]["ours"]["quality"]["nats short of the truth"]
            density = np.exp(np.load(_grid_file(backend, name)))
            axis.imshow(density, origin="lower", extent=(-_SIDE, _SIDE, -_SIDE, _SIDE), cmap="viridis")
            axis.set_title(f"flow, {backend}: {short:.4f} nats short", fontsize=10)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], aspect="equal")
    figure.savefig(path, dpi=110)
