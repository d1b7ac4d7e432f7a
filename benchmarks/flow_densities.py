"""Flows that learn known densities of the plane: nats that the log density of new rows falls short of the truth.

Two moons with noise of 0.1, eight Gaussians on a circle, and a checkerboard of eight squares. The shortfall is the mean
of log p(x) - log q(x) over 100,000 new rows, an estimate of the divergence of the flow q from the truth p. What is
timed is the whole training, in single precision.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._toys import TOYS

TITLE = "Densities that flows learn"
PEER = None
_NAMES = ("moons", "gaussians", "checkerboard")
CASES = {f"{b} {n}": f"training of a spline flow on {TOYS[n].title}, {b}" for b in ("numpyro", "pyro") for n in _NAMES}
_ROWS, _NEW_ROWS = 50_000, 100_000
_MODEL: dict[str, Any] = {"kind": "nsf", "features": 2, "num_layers": 4, "hidden": (64, 64), "num_bins": 16}
_TRAINING: dict[str, Any] = {
    "batch_size": 500,
    "num_epochs": 60,
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "clip_norm": 5.0,
    "ema": 0.995,
}
_SIDE = 3.0


def ours(case: str) -> Callable[[], Callable[[], dict[str, float]]]:
    import ppl_gen as pg

    backend, name = case.split()
    x = TOYS[name].draw(_ROWS, np.random.default_rng(0))

    def run() -> Callable[[], dict[str, float]]:
        model = pg.models.Flow(**_MODEL)
        fitted = pg.infer(model, x, "svi", backend, precision="float32", progress=False, **_TRAINING)
        return lambda: _judged(fitted, backend, name)

    return run


def _judged(run: Any, backend: str, name: str) -> dict[str, float]:
    """The shortfall and its standard error; the density on a grid is left for the picture."""
    new = TOYS[name].draw(_NEW_ROWS, np.random.default_rng(1))
    short = TOYS[name].log_density(new) - run.log_prob(new)
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
        x = TOYS[name].draw(_ROWS, np.random.default_rng(0))
        row[0].hist2d(*x.T, bins=_PIXELS // 2, range=[[-_SIDE, _SIDE]] * 2, cmap="viridis")
        row[0].set_title(f"{TOYS[name].title}: {_ROWS:,} rows")
        for axis, backend in zip(row[1:], ("numpyro", "pyro"), strict=True):
            short = result["cases"][f"{backend} {name}"]["ours"]["quality"]["nats short of the truth"]
            density = np.exp(np.load(_grid_file(backend, name)))
            axis.imshow(density, origin="lower", extent=(-_SIDE, _SIDE, -_SIDE, _SIDE), cmap="viridis")
            axis.set_title(f"flow, {backend}: {short:.4f} nats short", fontsize=10)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], aspect="equal")
    figure.savefig(path, dpi=110)
