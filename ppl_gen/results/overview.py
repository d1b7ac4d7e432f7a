"""One picture of several engines: the densities that they fitted, and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.results.density_figures import density_grid, density_panel, on_grid
from ppl_gen.results.drawing import styled
from ppl_gen.results.figures import forest_panel
from ppl_gen.results.summary import scalar_draws

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["overview_figure"]

Density = Callable[[np.ndarray], np.ndarray]


@styled
def overview_figure(x: np.ndarray, components: Mapping[str, Sequence[Density]], results: Mapping[str, Any], *,
                    var_names: Sequence[str] | None = None, labels: Sequence[str] = ("x", "y"),
                    titles: tuple[str, str] = ("", "")) -> Figure:
    """Left, for up to four engines, data (n, 2) with a fitted mixture; right, intervals of engines side by side.

    Args:
        x: data of two columns.
        components: engine -> weighted components of its density.
        results: engine -> draws, as ``forest_figure`` takes them.
        var_names: which variables on the right.
        labels: names of the two columns.
        titles: of the two halves.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 5.6), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.35, 1])
    left, right = halves
    grid = left.subplots(2, 2, sharex=True, sharey=True, squeeze=False)
    places = density_grid(x)
    for (label, parts), axis in zip(components.items(), grid.flat, strict=False):
        pieces = [on_grid(part, places) for part in parts]
        density_panel(axis, x, places, np.sum(pieces, axis=0), pieces)
        axis.set_title(label)
    for axis in grid.flat[len(components):]:
        axis.set_axis_off()
    left.supxlabel(labels[0], fontsize=9)
    left.supylabel(labels[1], fontsize=9)
    axis = right.subplots()
    scalars = {label: dict(scalar_draws(draws, var_names)) for label, draws in results.items()}
    forest_panel(axis, scalars, list(next(iter(scalars.values()))), 0.9)
    right.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(results), 3))
    for part, title in zip((left, right), titles, strict=True):
        part.suptitle(title, fontsize=11, fontweight="bold")
    return figure
