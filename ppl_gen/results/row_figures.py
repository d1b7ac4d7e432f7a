"""Pictures of models of rows: images in strips, a density of the plane beside data and draws, a map of encodings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ppl_gen.results.density_figures import Density, density_grid, on_grid
from ppl_gen.results.drawing import MUTED, colour, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["encodings_figure", "images_figure", "is_images", "plane_figure"]

_LOG_RANGE = 8.0  # below the highest log density, where a map of it ends
_MOST_POINTS = 3000


def is_images(x: np.ndarray) -> bool:
    """Whether rows look like images, (n, height, width) or with 1 or 3 channels behind."""
    return x.ndim in (3, 4) and min(x.shape[1:3]) >= 4 and (x.ndim == 3 or x.shape[3] in (1, 3))


@styled
def images_figure(strips: Mapping[str, np.ndarray], columns: int = 12) -> Figure:
    """A strip of images for each label, (n, height, width) or with channels behind; more than ``columns`` are wrapped.

    All are drawn on one scale, from the least to the greatest number of the first strip.
    """
    first = np.asarray(next(iter(strips.values())), float)
    low, high = float(np.nanmin(first)), float(np.nanmax(first))
    sheets = {label: _sheet(np.asarray(x, float), columns) for label, x in strips.items()}
    width = 9.0
    heights = [width * sheet.shape[0] / sheet.shape[1] for sheet in sheets.values()]
    figure, axes = new_figure(
        width, sum(heights) + 0.35 * len(heights), len(sheets), 1, gridspec_kw={"height_ratios": heights}
    )
    for axis, (label, sheet) in zip(axes[:, 0], sheets.items(), strict=True):
        scaled = np.clip((sheet - low) / ((high - low) or 1.0), 0.0, 1.0)
        axis.imshow(scaled[..., 0] if scaled.shape[2] == 1 else scaled, cmap="gray", vmin=0, vmax=1, aspect="equal")
        axis.set_title(label)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure


def _sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Images side by side with a line of NaN between, (height, width, channels)."""
    images = images if images.ndim == 4 else images[..., None]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    framed = np.full((rows * columns, images.shape[1] + 1, images.shape[2] + 1, images.shape[3]), np.nan)
    framed[: len(images), :-1, :-1] = images
    laid = framed.reshape(rows, columns, *framed.shape[1:]).swapaxes(1, 2)
    return laid.reshape(rows * framed.shape[1], columns * framed.shape[2], -1)


@styled
def plane_figure(x: np.ndarray, density: Density, drawn: np.ndarray) -> Figure:
    """Data of the plane (n, 2), the log density as a map, and draws from it, side by side on the same axes."""
    across, up = density_grid(x)
    log_p = np.log(np.maximum(on_grid(density, (across, up)), 1e-300))
    figure, axes = new_figure(10.5, 3.7, 1, 3, sharex=True, sharey=True)
    top = log_p.max()
    shown = axes[0, 1].pcolormesh(across, up, log_p.T, vmin=top - _LOG_RANGE, vmax=top, cmap="viridis", rasterized=True)
    figure.colorbar(shown, ax=axes[0, 1], label="log density")
    for axis, points, title in ((axes[0, 0], x, "data"), (axes[0, 2], drawn, "draws")):
        axis.plot(*points[:_MOST_POINTS].T, ".", ms=1.5, alpha=0.5, color=colour(0), rasterized=True)
        axis.set_title(title)
    axes[0, 1].set_title("log density")
    axes[0, 0].set_xlim(across[0], across[-1])
    axes[0, 0].set_ylim(up[0], up[-1])
    return figure


@styled
def encodings_figure(z: np.ndarray, labels: np.ndarray | None = None) -> Figure:
    """Encodings (n, q), each a point; of more than two entries along their two widest principal axes.

    Args:
        labels: of each, (n,), told by colour.
    """
    z = np.asarray(z, float).reshape(len(z), -1)[:_MOST_POINTS]
    names: tuple[str, ...] = ("z 0", "z 1")
    if z.shape[1] > 2:
        centred = z - z.mean(0)
        ended = np.vstack([centred, np.zeros_like(centred[:1])])  # of one row, too, there are two axes
        _, widths, axes_of = np.linalg.svd(ended, full_matrices=False)
        share = widths**2 / max((widths**2).sum(), 1e-300)
        z, names = centred @ axes_of[:2].T, tuple(f"principal axis {i + 1} ({share[i]:.0%})" for i in range(2))
    elif z.shape[1] == 1:
        z, names = np.column_stack([z[:, 0], np.arange(len(z))]), ("z 0", "row")
    figure, axes = new_figure(5.2, 4.4)
    axis = axes[0, 0]
    if labels is None:
        axis.plot(*z.T, ".", ms=3, alpha=0.5, color=MUTED)
    else:
        for i, label in enumerate(np.unique(labels)):
            axis.plot(*z[labels[: len(z)] == label].T, ".", ms=4, alpha=0.7, color=_of_many(i), label=f"{label}")
        figure.legend(loc="outside right upper", markerscale=2)
    axis.set_xlabel(names[0])
    axis.set_ylabel(names[1])
    return figure


def _of_many(index: int) -> tuple[float, ...] | str:
    """A colour for each of up to ten classes."""
    import matplotlib

    return matplotlib.colormaps["tab10"](index % 10)
