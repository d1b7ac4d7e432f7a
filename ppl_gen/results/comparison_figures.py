"""Runs side by side in one picture: their intervals, and how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ppl_gen.results.drawing import INK, MUTED, colour, new_figure, styled
from ppl_gen.results.figures import forest_panel
from ppl_gen.results.summary import scalar_draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ppl_gen.results.comparison import Comparison

_CI = 0.9
_MOST_PAIRS, _MARKERS = 6, "osD^vPX"
_NOISE = "#dfe3e9"


@styled
def comparison_figure(comparison: Comparison, max_rows: int) -> Figure:
    """Left intervals of each scalar and run, right the distances of each pair, a bar for their noise level.

    Args:
        max_rows: at most so many scalars: those whose distances are largest beside the noise.

    Raises:
        ValueError: ``max_rows`` is below 1.
    """
    if max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, got {max_rows}")
    found = comparison.distances
    shown = _most_telling(comparison, max_rows)
    pairs = list(dict.fromkeys(zip(found["first"], found["second"], strict=True)))
    if len(pairs) > _MOST_PAIRS:  # each with the first run that has draws
        pairs = [pair for pair in pairs if pair[0] == pairs[0][0]]
    series = max(len(comparison.runs), len(pairs))
    height = 1.6 + len(shown) * max(0.34, 0.1 + 0.12 * series) + 0.18 * len(pairs)
    figure, axes = new_figure(11.0 if pairs else 7.0, height, 1, 2 if pairs else 1, sharey=True)
    scalars = {
        label: {name: x for name, x in _numbered(run.posterior, comparison.names) if name in shown}
        for label, run in comparison.runs.items()
    }
    forest_panel(axes[0, 0], scalars, shown, _CI)
    axes[0, 0].set_title("posterior")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    if pairs:
        _distances(axes[0, 1], comparison, shown, pairs)
        handles, labels = axes[0, 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=2)
    if len(shown) < len(comparison.scalars):
        text = f"the {len(shown)} of {len(comparison.scalars)} scalars that differ most"
        figure.supxlabel(text, fontsize=8.5, color=MUTED, x=0.01, ha="left")
    return figure


def _numbered(posterior: Mapping[str, np.ndarray], names: list[str]) -> list[tuple[str, np.ndarray]]:
    return scalar_draws({n: posterior[n] for n in names if n in posterior})


def _most_telling(comparison: Comparison, most: int) -> list[str]:
    """Names in their order."""
    if len(comparison.scalars) <= most or comparison.distances.empty:
        return comparison.scalars[:most]
    found = comparison.distances
    ratio = (found["distance"] / found["noise"]).groupby(found["variable"]).max().sort_values(ascending=False)
    chosen = set(ratio.index[:most])
    return [name for name in comparison.scalars if name in chosen]


def _distances(axis: Axes, comparison: Comparison, shown: list[str], pairs: list[tuple[str, str]]) -> None:
    found = comparison.distances.set_index(["first", "second", "variable"]).sort_index()
    step = 0.7 / len(pairs)
    for i, pair in enumerate(pairs):
        own = found.loc[pair].reindex(shown)
        at = np.arange(len(shown)) + (i - (len(pairs) - 1) / 2) * step
        axis.barh(at, own["noise"], height=0.8 * step, color=_NOISE, lw=0)
        label, marker = f"{pair[0]} – {pair[1]}", _MARKERS[i % len(_MARKERS)]
        axis.plot(own["distance"], at, marker, ms=5.5, color=colour(-1 - i), mec="white", mew=0.8, label=label)
    axis.plot([], [], color=_NOISE, lw=6, label=f"Monte Carlo noise, {comparison.prob:.0%}")
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.set_xlim(0, None)
    axis.set_xlabel("Wasserstein-1 distance, in posterior standard deviations")
    axis.set_title("how far apart")
