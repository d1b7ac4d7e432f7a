"""Pictures of data: a fitted density over them, and data that the model predicts beside those observed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.results.arviz import datasets_of
from ppl_gen.results.drawing import INK, MUTED, bare, colour, grid_of, new_figure, styled, unused_off
from ppl_gen.results.summary import is_idata

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["density_figure", "density_grid", "ppc_figure"]

Density = Callable[[np.ndarray], np.ndarray] | np.ndarray
Places = tuple[np.ndarray, ...]

#: Probability inside each contour, from the outermost.
_LEVELS = (0.99, 0.95, 0.8, 0.5, 0.2)
_SHADES = ("#eaf2f8", "#cfe2f0", "#a9cbe3", "#78aed2", "#4a8ec0")


@styled
def density_figure(x: np.ndarray, density: Density | Mapping[str, Density], *,
                   components: Sequence[Density] | Mapping[str, Sequence[Density]] = (),
                   grid: Sequence[np.ndarray] | None = None, labels: Sequence[str] = ("x", "y"),
                   max_points: int = 3000, columns: int = 3) -> Figure:
    """Data of one or two dimensions with fitted densities: a histogram and curves, or points and contours.

    Args:
        x: data, shape ``(n,)``, ``(n, 1)`` or ``(n, 2)``.
        density: a function from points of shape ``(m, d)`` to densities of shape ``(m,)``, or its values on
            ``grid`` (shape ``(m0,)`` or ``(m0, m1)``); or several, by label. In one dimension they share a
            panel, in two each has its own.
        components: parts of the density, such as weighted mixture components, drawn dashed: for all, or by
            label. In two dimensions one contour each, around 80% of its mass.
        grid: one array of places for each dimension; without it :func:`density_grid` chooses.
        labels: names of the axes.
        max_points: at most so many data are drawn as points.
        columns: at most so many panels stand side by side, in two dimensions.

    Raises:
        ValueError: data of more than two dimensions, or values that do not fit the grid.
    """
    x = np.asarray(x, float)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[1] not in (1, 2):
        raise ValueError(f"data must have shape (n,), (n, 1) or (n, 2), got {x.shape}")
    axes = tuple(np.asarray(places, float) for places in grid) if grid is not None else density_grid(x)
    fitted = density if isinstance(density, Mapping) else {"": density}
    parts = components if isinstance(components, Mapping) else dict.fromkeys(fitted, components)
    values = {label: on_grid(own, axes) for label, own in fitted.items()}
    pieces = {label: [on_grid(own, axes) for own in parts.get(label, ())] for label in fitted}
    if x.shape[1] == 1:
        return _one_dimensional(x, axes, values, pieces, labels, max_points)
    return _two_dimensional(x, axes, values, pieces, labels, max_points, columns)


def density_grid(x: np.ndarray, points: int | None = None, margin: float = 0.15) -> tuple[np.ndarray, ...]:
    """Places along each dimension of the data, a share ``margin`` of its range beyond both ends.

    Args:
        x: data, shape ``(n, d)``.
        points: places for each dimension; 400 in one dimension and 120 in two without it.
    """
    points = points or (400 if x.shape[1] == 1 else 120)
    columns = x[np.isfinite(x).all(axis=1)].T
    more = [margin * (np.ptp(column) or 1.0) for column in columns]
    return tuple(np.linspace(column.min() - extra, column.max() + extra, points)
                 for column, extra in zip(columns, more, strict=True))


@styled
def ppc_figure(observed: Any, predicted: Mapping[str, np.ndarray] | None = None,
               var_names: Sequence[str] | None = None) -> Figure:
    """Observed data (line) and the spread of predicted data sets (bands of 50% and 90%), by histogram bin.

    Args:
        observed: what ``to_idata`` returns, with ``observed_data`` and ``posterior_predictive``; or variable
            name -> array, and then
        predicted: variable name -> array of shape ``(chain, draw, ...)``.
        var_names: which variables; without it all that are in both.

    Raises:
        ValueError: no variable is both observed and predicted, or a name is not.
    """
    if is_idata(observed):
        groups = datasets_of(observed)
        observed, predicted = groups.get("observed_data", {}), groups.get("posterior_predictive", {})
    predicted = predicted or {}
    both = [str(name) for name in observed if name in predicted]
    names = both if var_names is None else list(var_names)
    if not names or not set(names) <= set(both):
        raise ValueError(f"nothing to draw: both observed and predicted are {both or 'no variables'}, "
                         f"asked for {names}")
    rows, columns = grid_of(len(names), 2)
    figure, axes = new_figure(4.6 * columns + (2.2 if columns == 1 else 0.4), 0.6 + 2.7 * rows, rows, columns)
    for name, axis in zip(names, unused_off(axes, len(names)), strict=True):
        data, draws = np.asarray(observed[name], float), np.asarray(predicted[name], float)
        _predictive_panel(axis, data.ravel(), draws.reshape(draws.shape[0] * draws.shape[1], -1))
        axis.set_title(name)
    handles, texts = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper right", ncols=3)
    return figure


# --- parts -------------------------------------------------------------------------------------------------


def on_grid(density: Density, axes: tuple[np.ndarray, ...]) -> np.ndarray:
    """Values of the density at every place of the grid, shape ``(m0,)`` or ``(m0, m1)``."""
    shape = tuple(places.size for places in axes)
    if callable(density):
        density = density(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes)))
    values = np.asarray(density, float)
    if values.size != np.prod(shape):
        raise ValueError(f"the density has {values.size} values (shape {values.shape}) for a grid of {shape}")
    return values.reshape(shape)


def _one_dimensional(x: np.ndarray, axes: Places, values: Mapping[str, np.ndarray],
                     pieces: Mapping[str, list[np.ndarray]], labels: Sequence[str],
                     max_points: int) -> Figure:
    figure, grid = new_figure(7.0, 3.4)
    axis, places = grid[0, 0], axes[0]
    data = x[np.isfinite(x)]
    axis.hist(data, bins=_edges(data), density=True, color="#dde3ea", edgecolor="white", lw=0.6, label="data")
    ticks = data[:: max(1, -(-data.size // max_points))]
    axis.plot(ticks, np.full(ticks.size, -0.02), "|", color=MUTED, ms=6, mew=0.7, alpha=0.35,
              transform=axis.get_xaxis_transform(), clip_on=False)
    for series, (label, curve) in enumerate(values.items()):
        axis.plot(places, curve, color=colour(series), lw=2, label=label or "fitted density")
        for number, piece in enumerate(pieces[label]):
            axis.plot(places, piece, color=colour(series), lw=1, ls=(0, (4, 2)), alpha=0.9,
                      label=f"{label} components".strip() if number == 0 else None)
    axis.set(xlabel=labels[0], xlim=(places[0], places[-1]), ylim=(0, None))
    axis.tick_params(axis="x", pad=7)
    bare(axis)
    axis.legend(loc="best")
    return figure


def _two_dimensional(x: np.ndarray, axes: Places, values: Mapping[str, np.ndarray],
                     pieces: Mapping[str, list[np.ndarray]], labels: Sequence[str],
                     max_points: int, columns: int) -> Figure:
    rows, columns = grid_of(len(values), columns)
    width, height = (3.6 * columns + 0.6, 3.5 * rows + 0.5) if len(values) > 1 else (5.6, 5.0)
    figure, grid = new_figure(width, height, rows, columns, sharex=True, sharey=True)
    for (label, surface), axis in zip(values.items(), unused_off(grid, len(values)), strict=True):
        density_panel(axis, x, axes, surface, pieces[label], max_points)
        axis.set_title(label)
    for axis in grid[:, 0]:
        axis.set_ylabel(labels[1])
    for axis in grid[-1]:
        axis.set_xlabel(labels[0])
    return figure


def density_panel(axis: Axes, x: np.ndarray, places: Places, surface: np.ndarray, pieces: Sequence[np.ndarray],
                  max_points: int = 3000) -> None:
    """Points, the contours of a density ``surface`` (m0, m1) on a grid, and one contour for each of its parts."""
    levels = _mass_levels(surface, _LEVELS)
    if len(levels) == len(_LEVELS):
        top = 1.001 * max(np.nanmax(surface), levels[-1])
        axis.contourf(*places, surface.T, levels=[*levels, top], colors=_SHADES)
    thin = max(1, -(-len(x) // max_points))
    axis.plot(*x[::thin].T, ".", ms=_point_size(len(x) // thin), color=INK, alpha=0.55, mew=0)
    for number, piece in enumerate(pieces):
        level = _mass_levels(piece, (0.8,))
        if level:
            axis.contour(*places, piece.T, levels=level, colors=[colour(number + 1)], linewidths=1.6)
    axis.set(xlim=places[0][[0, -1]], ylim=places[1][[0, -1]])


def _mass_levels(surface: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Heights whose contours hold these shares of the mass; empty if the surface is nowhere positive."""
    ordered = np.sort(np.where(np.isfinite(surface), surface, 0), axis=None)[::-1]
    mass = np.cumsum(ordered)
    if not mass[-1] > 0:
        return []
    places = np.minimum(np.searchsorted(mass, np.multiply(shares, mass[-1])), ordered.size - 1)
    levels = ordered[places].tolist()
    return levels if np.all(np.diff(levels) > 0) and levels[0] > 0 else []


def _point_size(count: int) -> float:
    return float(np.clip(90 / np.sqrt(max(count, 1)), 2.2, 6))


def _edges(data: np.ndarray, most: int = 60) -> np.ndarray:
    """Bin edges: one bin for each whole number if there are few, Freedman and Diaconis' width otherwise."""
    low, high = data.min(), data.max()
    if np.all(data == np.round(data)) and high - low < most:
        return np.arange(low - 0.5, high + 1)
    width = 2 * np.subtract(*np.percentile(data, [75, 25])) * data.size ** (-1 / 3)
    # That width is too wide where the data are clustered, hence at least sqrt(n) bins, up to 30.
    fewest = min(np.sqrt(data.size), 30, most)
    count = int(np.clip((high - low) / width, fewest, most)) if width > 0 else 20
    return np.linspace(low, high if high > low else low + 1, count + 1)


def _predictive_panel(axis: Axes, data: np.ndarray, draws: np.ndarray, most: int = 1000) -> None:
    """``data`` of shape (n,), ``draws`` of shape (sets, n'): shares by bin, so that n' may differ from n."""
    draws = draws[:: max(1, len(draws) // most)]
    data, pool = data[np.isfinite(data)], draws[np.isfinite(draws)]
    low, high = np.percentile(pool, [0.5, 99.5])
    # Heavy predictive tails must not squeeze the data into one bin.
    edges = _edges(np.concatenate([data, pool[(pool >= low) & (pool <= high)][: data.size]]), most=30)
    shares = np.stack([np.histogram(row, edges)[0] / row.size for row in draws])
    for probability, tint in ((0.9, "#d6e6f2"), (0.5, "#9cc4e0")):
        below, above = np.quantile(shares, [(1 - probability) / 2, (1 + probability) / 2], axis=0)
        axis.stairs(above, edges, baseline=below, fill=True, color=tint, lw=0,
                    label=f"predicted, {probability:.0%}")
    axis.stairs(np.histogram(data, edges)[0] / data.size, edges, color=INK, lw=1.5, label="observed")
    axis.set(xlim=(edges[0], edges[-1]), ylim=(0, None), ylabel="share of data")
