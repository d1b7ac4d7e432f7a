"""Grids of times from noise to data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ppl_gen.diffusion.paths import Path

Grid = Callable[[Path, float, float, int], np.ndarray]

_RHO = 7.0  # Karras et al. (2022), section 3


def _uniform(path: Path, first: float, last: float, num_steps: int) -> np.ndarray:
    return np.linspace(first, last, num_steps + 1)


def _quadratic(path: Path, first: float, last: float, num_steps: int) -> np.ndarray:
    """Closer together near the data (Song, Meng & Ermon 2021, appendix D.2)."""
    return last + (first - last) * np.linspace(1.0, 0.0, num_steps + 1) ** 2


def _karras(path: Path, first: float, last: float, num_steps: int) -> np.ndarray:
    """Even in (sigma / alpha)^(1 / rho) (Karras et al. 2022, equation 5)."""
    high, low = path.ratio(np.asarray([first, last])) ** (1.0 / _RHO)
    return path.time_of(np.linspace(high, low, num_steps + 1) ** _RHO)


def _log_snr(path: Path, first: float, last: float, num_steps: int) -> np.ndarray:
    """Even in log(sigma / alpha), half of the log signal-to-noise ratio (Lu et al. 2022)."""
    high, low = np.log(path.ratio(np.asarray([first, last])))
    return path.time_of(np.exp(np.linspace(high, low, num_steps + 1)))


IN_TIME: dict[str, Grid] = {"uniform": _uniform, "quadratic": _quadratic}
IN_RATIO: dict[str, Grid] = {"karras": _karras, "log_snr": _log_snr}  # which is neither 0 nor infinite there


def own_times(grid: tuple[float, ...]) -> tuple[float, ...]:
    """Times of a user's.

    Raises:
        ValueError: they are no decreasing sequence of at least two numbers.
    """
    times = np.asarray(grid, float)
    if times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all() or not (np.diff(times) < 0).all():
        names = ", ".join(map(repr, (*IN_TIME, *IN_RATIO)))
        raise ValueError(f"grid must be {names}, or at least two times that decrease, from noise to data; got {grid!r}")
    return tuple(float(t) for t in times)


def check_inside(path: Path, times: np.ndarray) -> None:
    """Raises ValueError: times outside the path."""
    out = times[(times < path.start) | (times > path.end)]
    if len(out):
        raise ValueError(
            f"times outside the path: {type(path).__name__} runs from {path.start:g}, data, to {path.end:g}, noise; "
            f"the grid holds {', '.join(f'{t:g}' for t in out[:3])}"
        )
