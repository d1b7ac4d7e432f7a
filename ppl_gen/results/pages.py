"""Pages of runs: one run by itself, or several side by side. What is shown depends on what the engine gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import evaluation
from ppl_gen.results.density_figures import ppc_figure
from ppl_gen.results.figures import forest_figure, history_figure, rank_figure, trace_figure
from ppl_gen.results.report import Section, write_report
from ppl_gen.results.row_pages import row_sections, tried
from ppl_gen.results.summary import summary_table

if TYPE_CHECKING:
    from ppl_gen.results.run import Run

__all__ = ["chains_section", "compact_table", "comparison_page", "engines_section", "histories_section", "kind_of",
           "num_draws", "posterior_section", "run_page", "warnings_section", "worst"]

_MOST_SCALARS = 60
_MOST_PREDICTED = 2_000_000
_PREDICTIVE_DRAWS = 200
_PREDICTIVE_SETS = 20  # at a point


def run_page(run: Run, path: str | Path) -> Path:
    """One page of a run: what it is, its warnings, summary, chains, training and predictions, as far as it has them."""
    label = f"{run.engine} on {run.setting.backend}"
    title = f"{run.attrs.get('program', 'A program')}: {label}"
    return write_report(path, title=title, sections=[part for part in _run_sections(run, label) if part])


def comparison_page(runs: Mapping[str, Run], path: str | Path, *, title: str = "Engines side by side",
                    var_names: Sequence[str] | None = None, before: Iterable[Section] = (),
                    after: Iterable[Section] = ()) -> Path:
    """One page of several runs of a program.

    Args:
        runs: label -> run.
        var_names: which variables; without it all that are not too long.
        before, after: the caller's own sections.
    """
    parts = [*before, engines_section(runs), posterior_section(runs, var_names), histories_section(runs),
             warnings_section(runs), *after]
    return write_report(path, title=title, sections=[part for part in parts if part])


# What a run is ----------------------------------------------------------------------------------------------------


def num_draws(run: Run) -> int:
    """Draws in all chains together; 1 for a point, 0 without a posterior."""
    return next((x.shape[0] * x.shape[1] for x in run.posterior.values()), 0)


def kind_of(run: Run) -> str:
    """What the result is, in a few words."""
    if num_draws(run) <= 1:
        return "a point, no uncertainty"
    if run.exact:
        return "draws, exact in the limit of long chains"
    return "draws from a fitted approximation" if len(_first(run)) == 1 else "draws with a bias from the step size"


def worst(run: Run) -> tuple[float, float]:
    """The smallest bulk effective sample size and the largest R-hat of any scalar; NaN where there are no chains."""
    arrays = [x for x in run.posterior.values() if x.dtype.kind == "f" and x.size]
    if not arrays or arrays[0].shape[0] < 2 or arrays[0].shape[1] < 4:
        return float("nan"), float("nan")
    sizes = np.concatenate([np.ravel(evaluation.ess(x)) for x in arrays])
    ratios = np.concatenate([np.ravel(evaluation.rhat(x)) for x in arrays])
    finite = np.isfinite(sizes) & np.isfinite(ratios)  # not: what is constant by construction
    return (float(sizes[finite].min()), float(ratios[finite].max())) if finite.any() else (float("nan"),) * 2


def _first(run: Run) -> np.ndarray:
    return next(iter(run.posterior.values()))


# Sections ---------------------------------------------------------------------------------------------------------


def engines_section(runs: Mapping[str, Run], text: str = "") -> Section:
    """What each run is, how long it took, and how well its chains mixed."""
    return Section("Engines", text, [_engine_row(label, run) for label, run in runs.items()])


def _engine_row(label: str, run: Run) -> dict[str, Any]:
    size, ratio = worst(run)
    seconds = run.attrs.get("inference_time")
    return {
        "": label,
        "result": kind_of(run),
        "draws": num_draws(run),
        "seconds": seconds,
        "smallest ESS": size,
        "largest R-hat": ratio,
        "warnings": len(run.warnings),
    }


def posterior_section(runs: Mapping[str, Any], var_names: Sequence[str] | None = None, *,
                      title: str = "Posterior, side by side", text: str = "", compact: bool = False,
                      drawn: Sequence[str] | None = None) -> Section | None:
    """One ArviZ summary of several runs (or what ArviZ reads), and their intervals in one picture.

    Args:
        runs: label -> run.
        var_names: which variables; without it all that are not too long.
        title, text: of the section.
        compact: mean and standard deviation alone, in one column a run.
        drawn: which variables are in the picture; without it the same.
    """
    idata = {label: getattr(run, "idata", run) for label, run in runs.items()}
    names = list(var_names) if var_names is not None else _short(runs)
    if not names:
        return None
    figure = forest_figure(list(idata.items()), list(drawn) if drawn is not None else names)
    table = compact_table(idata, names) if compact else summary_table(idata, names)
    return Section(title, text, table, [("Medians with 50% and 90% intervals.", figure)])


def compact_table(idata: Mapping[str, Any], var_names: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Rows of "mean ± sd", a column for each label; the mean alone where the result is a point."""
    table = summary_table(idata, var_names)
    return [{"": name, **{label: _moments(table.loc[name, label]) for label in idata}} for name in table.index]


def _moments(row: Any) -> str:
    mean, sd = row["mean"], row["sd"]
    if np.isnan(mean):
        return ""
    return f"{mean:.2f}" if np.isnan(sd) else f"{mean:.2f} ± {sd:.2f}"


def histories_section(runs: Mapping[str, Run], text: str = "") -> Section | None:
    """Loss, bound or likelihood per iteration of every run that has one."""
    curves = {f"{label}: {name.replace('_', ' ')}": values for label, run in runs.items()
              for name, values in run.history.items() if np.isfinite(values).any()}
    if not curves:
        return None
    return Section("Training", text, figures=[("Per iteration; faint: each step, bold: running median.",
                                               history_figure(curves))])


def chains_section(title: str, run: Run, var_names: Sequence[str] | None = None, text: str = "") -> Section | None:
    """Trace and rank pictures of a sampler's chains."""
    names = list(var_names) if var_names is not None else _short({"": run})
    if not names or not run.stats or num_draws(run) < 8 or len(_first(run)) < 2:
        return None
    figures = [
        ("Left the density of each chain, right its draws in order: chains that agree overlap.",
         trace_figure(run.idata, names)),
        ("Ranks among all chains: flat lines inside the grey band mean that the chains agree.",
         rank_figure(run.idata, names)),
    ]
    return Section(title, text, figures=figures)


def warnings_section(runs: Mapping[str, Run]) -> Section | None:
    """Every warning, by run."""
    lines = [f"- {label}: {message}" for label, run in runs.items() for message in run.warnings]
    return Section("Warnings", "\n".join(lines)) if lines else None


# One run ----------------------------------------------------------------------------------------------------------


def _run_sections(run: Run, label: str) -> list[Section | None]:
    of_rows: list[Section | None] = [*row_sections(run)]
    return [
        _facts(run),
        Section("Warnings", "\n".join(f"- {message}" for message in run.warnings) or "None."),
        _summary(run, label),
        chains_section("Chains", run),
        histories_section({label: run}),
        *(of_rows or [_predictive(run)]),
    ]


def _facts(run: Run) -> Section:
    s = run.setting
    rows: dict[str, Any] = {"result": kind_of(run), "draws": num_draws(run), "backend": s.backend,
                            "precision": s.precision, "device": s.device or "cpu", "seed": s.seed}
    held = {name.replace("_", " "): value for name, value in run.attrs.items() if np.isscalar(value)}
    table = [{"": name, "value": value} for name, value in {**rows, **held}.items()]
    return Section("The run", table=table)


def _summary(run: Run, label: str) -> Section | None:
    names = _short({label: run})
    left = [name for name in run.posterior if name not in names]
    text = f"Left out, as they have more than {_MOST_SCALARS} entries: {', '.join(left)}." if left else ""
    if not names:
        return Section("Summary", text) if text else None
    table = summary_table({label: run.idata}, names)[label]
    if num_draws(run) <= 1:
        return Section("Summary", text, table[["mean"]].rename(columns={"mean": "estimate"}))
    figure = forest_figure([(label, run.idata)], names)
    return Section("Summary", text, table, [("Medians with 50% and 90% intervals.", figure)])


def _predictive(run: Run) -> Section | None:
    """Data drawn anew beside the observed, where the program is at hand and the draws are few enough."""
    size = sum(x.size for x in run.observed.values())
    if run.program is None or run.data is None or not 0 < size * _PREDICTIVE_DRAWS <= _MOST_PREDICTED:
        return None
    caption = "Observed data, and where data sets drawn from the fitted model lie."
    return tried("Posterior predictive check", lambda: [(caption, ppc_figure(run.observed, predicted(run)))])


def predicted(run: Run) -> dict[str, np.ndarray]:
    """Data sets like the observed, (chain, draw, ...): of draws of the posterior, or several at a point."""
    from ppl_gen.results.arviz import arrays_of

    if run.energetic:  # whose draws are of chains, and no program's
        name, x = next(iter(run.observed.items()))
        return {name: run.sample(_PREDICTIVE_SETS * len(x)).reshape(1, _PREDICTIVE_SETS, *x.shape)}
    if num_draws(run) > 1:
        return arrays_of(run.predict(num_samples=_PREDICTIVE_DRAWS))["posterior_predictive"]
    sets = [arrays_of(run.predict(seed=i))["posterior_predictive"] for i in range(_PREDICTIVE_SETS)]
    return {n: np.concatenate([s[n] for s in sets], axis=1) for n in sets[0]}


def _short(runs: Mapping[str, Any]) -> list[str]:
    """Variables with few enough scalars to list, in order."""
    sizes: dict[str, int] = {}
    for run in runs.values():
        for name, x in getattr(run, "posterior", {}).items():
            sizes[name] = max(sizes.get(name, 0), int(np.prod(x.shape[2:])))
    return [name for name, size in sizes.items() if 0 < size <= _MOST_SCALARS]
