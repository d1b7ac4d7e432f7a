"""What all pictures share: colours, a quiet style, smoothed histograms.

Matplotlib is imported when one draws, and without ``pyplot``: no window opens, no figure stays behind
in a global list, and the caller's settings are left as they were.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "INK", "MUTED", "bare", "colour", "grid_of", "new_figure", "smooth_density", "styled",
           "unused_off"]

P = ParamSpec("P")

#: Okabe and Ito's palette, told apart with every kind of colour vision; yellow is left out on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
INK, MUTED, FAINT = "#22262e", "#6b7280", "#e5e7eb"

_STYLE = {
    "font.size": 9.5, "font.family": ["DejaVu Sans"],
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlecolor": INK, "axes.labelcolor": MUTED, "axes.labelsize": 9, "axes.edgecolor": "#b6bcc6",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "axes.grid": False, "grid.color": FAINT, "grid.linewidth": 0.7, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 8.5, "lines.solid_capstyle": "round", "text.color": INK,
    "figure.facecolor": "white", "axes.facecolor": "white", "axes.unicode_minus": True,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the shared style. Matplotlib reads many settings only when a text or a line is added."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **options: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **options)

    return in_style


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1,
               **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure (size in inches) and its axes, an array of shape ``(rows, columns)``. For styled functions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def grid_of(count: int, columns: int) -> tuple[int, int]:
    """(rows, columns) of a grid for ``count`` panels, at most ``columns`` wide."""
    columns = max(1, min(count, columns))
    return -(-count // columns), columns


def unused_off(axes: np.ndarray, count: int) -> list[Axes]:
    """The first ``count`` axes; the rest of the grid is hidden."""
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return list(axes.flat[:count])


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def bare(axis: Axes) -> None:
    """No vertical axis: for densities, whose height says nothing by itself."""
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)


def smooth_density(values: np.ndarray, low: float, high: float,
                   points: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian kernel density on ``points`` places from ``low`` to ``high``: binned, then convolved.

    The bandwidth is Silverman's with the interquartile range, so that modes and heavy tails stay visible.
    Mass that the kernel would carry beyond an end is reflected.

    Returns:
        places and density, both of shape ``(points,)``; zeros if no value is finite.
    """
    values = values[np.isfinite(values)]
    edges = np.linspace(low, high, points + 1)
    places, step = (edges[:-1] + edges[1:]) / 2, (high - low) / points
    counts = np.histogram(values, edges)[0].astype(float)
    if not counts.sum():
        return places, counts
    quartiles = np.subtract(*np.percentile(values, [75, 25])) / 1.349
    scale = min(float(np.std(values)), quartiles) if quartiles > 0 else float(np.std(values))
    width = max(0.9 * scale * values.size**-0.2 / step, 1.0)  # in steps
    reach = min(int(4 * width) + 1, points)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.concatenate([counts[:reach][::-1], counts, counts[-reach:][::-1]])
    density = np.convolve(padded, kernel / kernel.sum(), mode="same")[reach : reach + points]
    return places, density / (values.size * step)
