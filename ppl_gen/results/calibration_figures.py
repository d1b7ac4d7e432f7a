"""Pictures of ranks: how their empirical distribution differs from the uniform one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ppl_gen import evaluation
from ppl_gen.results.drawing import COLOURS, INK, grid_of, new_figure, styled, unused_off

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INSIDE, _OUTSIDE = COLOURS[0], COLOURS[1]


@styled
def ecdf_figure(
    ranks: Mapping[str, np.ndarray], num_draws: int, prob: float, p_values: Mapping[str, np.ndarray]
) -> Figure:
    """A panel for each quantity: ECDF minus uniform, one line for each entry, with simultaneous bands.

    Säilynoja, Bürkner & Vehtari (2022), Statistics and Computing 32:32, section 3. Lines that leave the bands are
    coloured.

    Args:
        ranks: quantity -> (replicate, ...), from 0 to num_draws.
        prob: probability of the bands, of each line by itself.
        p_values: quantity -> (...), of :func:`evaluation.uniformity`.

    Raises:
        ValueError: nothing to draw.
    """
    if not ranks:
        raise ValueError("nothing to draw: there are no ranks")
    rows, columns = grid_of(len(ranks), 3)
    figure, axes = new_figure(0.4 + 3.4 * columns, 0.8 + 2.5 * rows, rows, columns, sharex=True, sharey=True)
    for (name, values), axis in zip(ranks.items(), unused_off(axes, len(ranks)), strict=True):
        _panel(axis, values.reshape(len(values), -1), num_draws, prob, np.ravel(p_values[name]))
        entries = f", {np.size(p_values[name])} entries" if np.size(p_values[name]) > 1 else ""
        axis.set_title(f"{name}{entries}")
        label = f"smallest p {p_values[name].min():.2g}" if entries else f"p {p_values[name]:.2g}"
        axis.text(0.98, 0.03, label, transform=axis.transAxes, ha="right", fontsize=8.5)
    axes[0, 0].set_ylabel("ECDF − uniform")
    axes[-1, 0].set_xlabel("share of draws below the truth")
    handles = [axes[0, 0].plot([], [], color=c, lw=1.6)[0] for c in (_INSIDE, _OUTSIDE)]
    band = axes[0, 0].fill_between([], [], [], color="#e3e6eb", lw=0)
    labels = [f"{prob:.0%} band, of one line", "inside", "outside"]
    figure.legend([band, *handles], labels, loc="outside upper right", ncols=3)
    return figure


def _panel(axis: Axes, ranks: np.ndarray, num_draws: int, prob: float, p: np.ndarray) -> None:
    places, low, high = evaluation.ecdf_bands(len(ranks), num_draws, prob)
    axis.fill_between(places, low - places, high - places, color="#e3e6eb", lw=0, step="mid")
    axis.axhline(0, color=INK, lw=0.6, alpha=0.5)
    at, z = np.arange(1, num_draws + 1), np.arange(1, num_draws + 1) / (num_draws + 1)
    for column, own in sorted(zip(np.sort(ranks, axis=0).T, p, strict=True), key=lambda both: -both[1]):
        share = np.searchsorted(column, at, side="left") / len(column)
        out = own < 1 - prob
        axis.plot(z, share - z, color=_OUTSIDE if out else _INSIDE, lw=1.4 if out or len(p) < 5 else 0.9,
                  alpha=0.9 if out or len(p) < 5 else 0.6)
