"""Pictures of draws and of training, by Matplotlib alone: ArviZ's own plots differ between 0.23 and 1.x.

Draws come as what ``to_idata`` returns, or as a mapping name -> array of shape ``(chain, draw, ...)``. Each
function returns a ``matplotlib.figure.Figure``; ``figure.savefig(path)`` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.results.arviz import datasets_of
from ppl_gen.results.drawing import (
    INK,
    MUTED,
    bare,
    colour,
    grid_of,
    new_figure,
    smooth_density,
    styled,
    unused_off,
)
from ppl_gen.results.summary import hdi, is_idata, scalar_draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["forest_figure", "history_figure", "rank_figure", "trace_figure"]


@styled
def trace_figure(posterior: Any, var_names: Sequence[str] | None = None, max_rows: int = 12) -> Figure:
    """Each scalar's density by chain beside its trace. Divergent transitions, where known, are ticked below.

    Args:
        posterior: the draws; ``sample_stats.diverging`` is read if there.
        var_names: which variables; all without it.
        max_rows: at most so many scalars; the title says how many there are.

    Raises:
        ValueError: no draws, or no such variable.
    """
    shown, total = _chosen(posterior, var_names, max_rows)
    diverging = _diverging(posterior)
    figure, axes = new_figure(9.5, 0.5 + 1.55 * len(shown), len(shown), 2, width_ratios=[1, 2])
    for (name, draws), (left, right) in zip(shown, axes, strict=True):
        _chain_densities(left, draws)
        left.set_title(name)
        step = max(1, draws.shape[1] // 2000)  # more points than pixels only slow the picture
        places = np.arange(0, draws.shape[1], step)
        for chain, values in enumerate(draws):
            right.plot(places, values[places], color=colour(chain), lw=0.6, alpha=0.75)
        for draw in np.flatnonzero(diverging):
            right.axvline(draw, 0, 0.06, color=INK, lw=0.9)
        right.margins(x=0.01)
        if right is not axes[-1, 1]:
            right.set_xticklabels([])
    axes[-1, 1].set_xlabel("draw (ticks: divergent transitions)" if np.any(diverging) else "draw")
    axes[-1, 0].set_xlabel("value")
    _say_how_many(figure, len(shown), total)
    _chain_legend(axes[0, 1], shown[0][1].shape[0])
    return figure


@styled
def rank_figure(posterior: Any, var_names: Sequence[str] | None = None, max_panels: int = 12) -> Figure:
    """How often each chain has draws of each rank. Chains that agree stay within the grey 98% band.

    Raises:
        ValueError: no draws, or no such variable.
    """
    shown, total = _chosen(posterior, var_names, max_panels)
    rows, columns = grid_of(len(shown), 3)
    figure, axes = new_figure(3.2 * columns + 0.6, 0.5 + 1.9 * rows, rows, columns, sharey=True)
    for (name, draws), axis in zip(shown, unused_off(axes, len(shown)), strict=True):
        chains, length = draws.shape
        bins = int(np.clip(np.sqrt(length), 4, 20))
        expected, share = length / bins, 1 / bins
        spread = 2.33 * np.sqrt(length * share * (1 - share) * (1 - 1 / max(chains, 2)))
        edges = np.linspace(0, 1, bins + 1)
        axis.axhspan(max(expected - spread, 0), expected + spread, color="#eceff3", lw=0)
        axis.axhline(expected, color="#b6bcc6", lw=0.8)
        ranks = np.argsort(np.argsort(draws, axis=None, kind="stable")).reshape(draws.shape) / draws.size
        for chain in range(chains):
            counts = np.histogram(ranks[chain], edges)[0]
            axis.stairs(counts, edges, baseline=None, color=colour(chain), lw=1.3)
        axis.set_title(name)
        axis.set_xlim(0, 1)
    axes[0, 0].set_ylim(0, None)  # shared, so only when all is drawn
    for axis in axes[:, 0]:
        axis.set_ylabel("draws per bin")
    for column in range(columns):
        lowest = max(row for row in range(rows) if row * columns + column < len(shown))
        axes[lowest, column].set_xlabel("rank among all chains, share")
    _say_how_many(figure, len(shown), total)
    _chain_legend(axes[0, min(columns, len(shown)) - 1], shown[0][1].shape[0])
    return figure


@styled
def forest_figure(results: Sequence[tuple[str, Any]], var_names: Sequence[str] | None = None,
                  ci: float = 0.9, max_rows: int = 40) -> Figure:
    """Medians and highest-density intervals (thick 50%, thin ``ci``), one colour for each result.

    Args:
        results: (label, draws) of each engine. A variable that one of them lacks is left out for that one.
        var_names: which variables; without it all that any of them has.
        ci: probability of the thin interval.
        max_rows: at most so many scalars; the title says how many there are.

    Raises:
        ValueError: no results, or no such variable.
    """
    by_label = {label: dict(_chosen(draws, _those_in(draws, var_names), None)[0]) for label, draws in results}
    names = list(dict.fromkeys(name for scalars in by_label.values() for name in scalars))
    if not names:
        raise ValueError(f"nothing to draw: no result has {list(var_names) if var_names else 'any variable'}")
    shown = names[:max_rows]
    figure, axes = new_figure(7.5, 1.0 + len(shown) * max(0.32, 0.08 + 0.11 * len(by_label)))
    forest_panel(axes[0, 0], by_label, shown, ci)
    if len(by_label) > 1:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=min(len(by_label), 4))
    _say_how_many(figure, len(shown), len(names))
    return figure


def forest_panel(axis: Axes, by_label: Mapping[str, Mapping[str, np.ndarray]], shown: Sequence[str], ci: float) -> None:
    """The intervals of the scalars ``shown``, from label -> scalar's name -> draws."""
    step = 0.7 / max(len(by_label), 1)
    for series, (label, scalars) in enumerate(by_label.items()):
        for row, name in enumerate(shown):
            if name in scalars:
                height = row + (series - (len(by_label) - 1) / 2) * step
                _interval(axis, scalars[name], height, ci, colour(series))
        axis.plot([], [], color=colour(series), marker="o", ms=4.5, mec="white", lw=1.6, label=label)
    for row in range(0, len(shown), 2):
        axis.axhspan(row - 0.5, row + 0.5, color="#f6f7f9", lw=0, zorder=-2)
    axis.set_yticks(range(len(shown)), shown)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.spines["left"].set_visible(False)
    axis.set_xlabel(f"median, 50% and {100 * ci:g}% interval")
    if axis.get_xlim()[0] < 0 < axis.get_xlim()[1]:
        axis.axvline(0, color="#b6bcc6", lw=0.8, zorder=-1)


@styled
def history_figure(history: Mapping[str, np.ndarray]) -> Figure:
    """Loss, bound or likelihood per iteration. Axes are logarithmic where the values span it.

    Args:
        history: label -> array of shape ``(iterations,)``, or ``(runs, iterations)`` for restarts or chains.
            Where a curve ends in NaN or infinity a cross marks the last number.

    Raises:
        ValueError: no curve holds a number.
    """
    curves = {label: np.atleast_2d(np.asarray(values, float)) for label, values in history.items()}
    curves = {label: values for label, values in curves.items() if np.isfinite(values).any()}
    if not curves:
        raise ValueError("nothing to draw: no curve holds a number")
    rows, columns = grid_of(len(curves), 2)
    figure, axes = new_figure(4.6 * columns + (2.2 if columns == 1 else 0.4), 0.3 + 2.7 * rows, rows, columns)
    for (label, values), axis in zip(curves.items(), unused_off(axes, len(curves)), strict=True):
        for run, curve in enumerate(values):
            _curve(axis, curve, colour(run))
        axis.set_title(label)
        axis.set_xlabel("iteration")
        axis.grid(axis="y", color="#eceff3", lw=0.7)
        _fit_scale(axis, values)
    return figure


# --- parts -------------------------------------------------------------------------------------------------


def _chosen(posterior: Any, var_names: Sequence[str] | None,
            limit: int | None) -> tuple[list[tuple[str, np.ndarray]], int]:
    """The scalars to draw, as floats, and how many there are in all."""
    scalars = [(name, np.asarray(draws, float)) for name, draws in scalar_draws(posterior, var_names)]
    if not scalars and limit is not None:
        raise ValueError("nothing to draw: there are no variables")
    return scalars[:limit], len(scalars)


def _those_in(draws: Any, var_names: Sequence[str] | None) -> list[str] | None:
    if var_names is None:
        return None
    own = datasets_of(draws)["posterior"] if is_idata(draws) else draws
    return [name for name in var_names if name in own]


def _diverging(posterior: Any) -> np.ndarray:
    """At which draws some chain diverged, shape (draw,); empty where it is not known."""
    stats = datasets_of(posterior).get("sample_stats", {}) if is_idata(posterior) else {}
    if "diverging" not in stats:
        return np.zeros(0, bool)
    return np.asarray(np.asarray(stats["diverging"], bool).any(axis=0))


def _chain_densities(axis: Axes, draws: np.ndarray) -> None:
    finite = draws[np.isfinite(draws)]
    if finite.size:
        low, high = finite.min(), finite.max()
        if np.all(finite == np.round(finite)) and high - low < 60:  # counts and labels
            edges = np.arange(low - 0.5, high + 1)
            for chain, values in enumerate(draws):
                axis.stairs(np.histogram(values, edges)[0] / values.size, edges, color=colour(chain), lw=1.3)
        else:
            high = high if high > low else low + 1.0
            for chain, values in enumerate(draws):
                axis.plot(*smooth_density(values, low, high), color=colour(chain), lw=1.3)
    axis.set_ylim(0, None)
    bare(axis)


def _chain_legend(axis: Axes, chains: int) -> None:
    """A key above the panel, where it hides nothing."""
    if chains == 1:
        return
    handles = [axis.plot([], [], color=colour(chain), lw=2)[0] for chain in range(min(chains, 8))]
    labels = [f"chain {chain}" if chain == 0 else str(chain) for chain in range(len(handles))]
    labels[-1] += " …" if chains > len(handles) else ""
    axis.figure.legend(handles, labels, loc="outside upper right", ncols=len(handles), handlelength=1.0,
                       columnspacing=0.9, handletextpad=0.4)


def _say_how_many(figure: Figure, shown: int, total: int) -> None:
    if shown < total:
        figure.supxlabel(f"the first {shown} of {total}", fontsize=8.5, color=MUTED, x=0.01, ha="left")


def _interval(axis: Axes, draws: np.ndarray, height: float, ci: float, tint: str) -> None:
    for probability, width in ((ci, 1.4), (0.5, 3.6)):
        axis.plot(hdi(draws, probability), (height, height), color=tint, lw=width)
    axis.plot(np.median(draws), height, "o", ms=4.8, color=tint, mec="white", mew=0.9)


def _curve(axis: Axes, curve: np.ndarray, tint: str) -> None:
    steps = np.arange(1, curve.size + 1)
    window = max(1, curve.size // 60)
    finite = np.flatnonzero(np.isfinite(curve))  # some, such as validation, are told now and then
    if window > 2:  # many noisy steps: the noise faintly, the running median clearly
        blocks = curve[: curve.size // window * window].reshape(-1, window)
        good = np.isfinite(blocks).any(axis=1)
        middle = np.nanmedian(np.where(np.isfinite(blocks[good]), blocks[good], np.nan), axis=1)
        axis.plot(steps[finite], curve[finite], color=tint, lw=0.5, alpha=0.3)
        axis.plot((np.flatnonzero(good) + 0.5) * window, middle, color=tint, lw=1.7)
    else:
        axis.plot(steps[finite], curve[finite], color=tint, lw=1.5, marker="o" if finite.size < 25 else None, ms=3.5)
    if finite.size and finite[-1] < curve.size - 1 and finite.size == finite[-1] + 1:
        last = finite[-1]
        axis.plot(steps[last], curve[last], "X", ms=8, color=INK, zorder=5)
        axis.annotate(f"not finite after {last + 1}", (steps[last], curve[last]), xytext=(-8, 8),
                      textcoords="offset points", fontsize=8, color=INK, ha="right",
                      bbox={"fc": "white", "ec": "none", "alpha": 0.85, "pad": 1.5})


def _fit_scale(axis: Axes, values: np.ndarray) -> None:
    """Logarithmic where the numbers span decades; symmetric-logarithmic where they also change sign."""
    finite = values[np.isfinite(values)]
    low, high = finite.min(), finite.max()
    late = values[:, values.shape[1] // 2 :]
    late = late[np.isfinite(late)] if np.isfinite(late).any() else finite
    if low > 0 and high / low > 30:
        axis.set_yscale("log")
    elif low <= 0 and high - low > 30 * max(np.abs(late).max(), 1e-12):
        # The start dwarfs the rest: linear around where the curve ends up, logarithmic beyond.
        axis.set_yscale("symlog", linthresh=10 ** np.ceil(np.log10(max(np.abs(late).max(), 1e-6))))
    axis.locator_params(axis="x", integer=True)
