"""What the demo shows: tables in the terminal, and one page with pictures and a plain reading of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen import demo_answers
from ppl_gen.results import pages
from ppl_gen.results.arviz import to_idata
from ppl_gen.results.density_figures import density_figure
from ppl_gen.results.overview import overview_figure
from ppl_gen.results.report import Section, write_report
from ppl_gen.results.run import Run

Runs = Mapping[str, Run]
REFERENCE = "Reference"
_OF_SCHOOLS = ["mu", "tau", "theta"]


# In the terminal --------------------------------------------------------------------------------------------------


def print_tables(mixture: Runs, schools: Runs, exact: Mapping[str, np.ndarray]) -> None:
    """ArviZ's means and standard deviations, engines side by side."""
    idata = {REFERENCE: _reference(exact, schools), **{label: run.idata for label, run in schools.items()}}
    print("\nEight schools, mean ± sd; the reference is by quadrature and independent draws:")
    print(_table(idata, schools, _OF_SCHOOLS))
    print("\nMixture, mean ± sd (EM gives a point; components in the order of their first coordinate):")
    print(_table({label: run.idata for label, run in mixture.items()}, mixture, _names_of(mixture)))


def _table(idata: Mapping[str, Any], runs: Runs, names: list[str]) -> str:
    heads = [label.split(", ") for label in idata]
    rows = [["", *(h[0] for h in heads)], ["", *(h[1] if len(h) > 1 else "" for h in heads)]]
    rows += [list(row.values()) for row in pages.compact_table(idata, names)]
    found = {label: pages.worst(run) for label, run in runs.items()}
    rows.append(["smallest ESS", *(_number(found.get(label, (np.nan,))[0], ".0f") for label in idata)])
    rows.append(["largest R-hat", *(_number(found.get(label, (0, np.nan))[1], ".3f") for label in idata)])
    times = {label: run.attrs["inference_time"] for label, run in runs.items()}
    rows.append(["seconds", *(_number(times.get(label, np.nan), ".1f") for label in idata)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([*lines[:2], rule, *lines[2:-3], rule, *lines[-3:]])


def _number(value: float, spec: str) -> str:
    return "" if np.isnan(value) else format(value, spec)


def _names_of(mixture: Runs) -> list[str]:
    return [n for n in ("weights", "locs", "scales") if n in next(iter(mixture.values())).posterior]


def _reference(exact: Mapping[str, np.ndarray], schools: Runs) -> Any:
    run = next(iter(schools.values()))
    return to_idata({"posterior": exact}, dims={"theta": ["school"]}, coords={"school": run.coords["school"]})


# The page ---------------------------------------------------------------------------------------------------------


def write(out: Path, data: Any, mixture: Runs, schools: Runs, exact: Mapping[str, np.ndarray], evidence: float,
          seconds: float) -> Path:
    """The page ``index.html`` and the picture ``overview.png`` in the folder ``out``."""
    reference = _reference(exact, schools)
    sections = [
        _opening(data, mixture, schools, seconds),
        _reading(mixture, schools, exact, evidence),
        _densities(data, mixture),
        pages.posterior_section({REFERENCE: reference, **schools}, _OF_SCHOOLS, compact=True, text=_SCHOOLS,
                                title="Eight schools: engines side by side"),
        *_chains(schools, mixture),
        _training(mixture, schools),
        pages.posterior_section(_one_em(mixture), _names_of(mixture), compact=True, drawn=["weights"], text=_MIXTURE,
                                title="Mixture: engines side by side"),
        pages.engines_section(_labelled(mixture, schools), _TIMES),
        pages.warnings_section(_labelled(mixture, schools)),
        _next_steps(out),
    ]
    if len(data.shown) == 2:
        _overview(data, mixture, schools, reference).savefig(out / "overview.png", dpi=110)
    return write_report(out / "index.html", title="One program, two backends, every engine",
                        sections=[part for part in sections if part])


def _one_em(mixture: Runs) -> dict[str, Run]:
    """Without EM on Pyro, which gives the same point."""
    return {label: run for label, run in mixture.items() if label != "EM, Pyro"}


def _labelled(mixture: Runs, schools: Runs) -> dict[str, Run]:
    return {f"{name}: {label}": run for name, runs in (("mixture", mixture), ("schools", schools))
            for label, run in runs.items()}


def _opening(data: Any, mixture: Runs, schools: Runs, seconds: float) -> Section:
    return Section("What was done", (
        "Two programs were declared once each and fitted by several engines, on NumPyro (JAX) and on Pyro (PyTorch), "
        f"in {seconds:.0f} seconds in all.\n\n"
        f"- Mixture: each row of {data.name} ({len(data.x)} rows: {', '.join(data.columns)}) comes from one of "
        "three Gaussians; which one is not observed. Weights, means and covariances are to be found.\n"
        "- Eight schools: the measured effect of coaching in each of eight schools has a known error; the true "
        "effects share a mean mu and a spread tau. Small, and hard to sample.\n\n"
        f"{len(mixture) + len(schools)} runs lie in the folder runs beside this page; pg.load reads them."
    ))


def _reading(mixture: Runs, schools: Runs, exact: Mapping[str, np.ndarray], evidence: float) -> Section:
    lines = [*_exact_lines(mixture), *_bound_lines(schools, evidence), *_estimate_lines(schools, exact),
             *_unmixed_lines(_labelled(mixture, schools))]
    return Section("How to read it: exact, bound, estimate", "\n".join(f"- {line}" for line in lines))


def _exact_lines(mixture: Runs) -> list[str]:
    values = [run.history["log_likelihood"][-1] for run in mixture.values() if "log_likelihood" in run.history]
    if len(values) < 2:
        return []
    return [
        "Exact: EM sums the hidden component out, so that its log likelihood is a number, no estimate. It ends at "
        f"{values[0]:.6f} on NumPyro and {values[1]:.6f} on Pyro{_apart(*values[:2])}. EM "
        "gives a point, the best of several starts: it says nothing of the uncertainty, and no start proves that there "
        "is no higher maximum."
    ]


def _apart(one: float, two: float) -> str:
    return ", equal to rounding" if abs(one - two) < 1e-8 * abs(one) else f", {abs(one - two):.1g} apart"


def _bound_lines(schools: Runs, evidence: float) -> list[str]:
    runs = [run for run in schools.values() if "log_weight" in run.stats]
    if not runs:
        return []
    bounds = " and ".join(f"{run.stats['log_weight'].mean():.2f} ({_backend(run)})" for run in runs)
    return [
        "Bound: SVI maximises a lower bound on the log evidence. For the eight schools the log evidence is known, by "
        f"quadrature: {evidence:.2f}. The bounds that SVI reached are {bounds}: below it, and the gap is how far its "
        "factorised Gaussian is from the posterior (the Kullback-Leibler divergence). Its intervals are those of the "
        "Gaussian; where the posterior is skewed, as in tau, they are wrong however long it runs."
    ]


def _estimate_lines(schools: Runs, exact: Mapping[str, np.ndarray]) -> list[str]:
    true = float(exact["tau"].mean())
    found = [f"{run.posterior['tau'].mean():.2f} ({label})" for label, run in schools.items() if run.exact]
    lines = [
        "Estimate: MALA and NUTS draw from the posterior itself, without bias in the limit; a mean over draws has a "
        "Monte Carlo error of about sd / sqrt(ESS). The mean of tau is "
        f"{true:.2f} by quadrature, and by draws {', '.join(found)}.",
        "R-hat near 1 says that the chains agree, not that they have seen everything: chains that all miss a mode "
        "agree too. ESS is how many independent draws they are worth.",
    ]
    return lines


def _unmixed_lines(runs: Runs) -> list[str]:
    bad = [f"{label} (R-hat {pages.worst(run)[1]:.2f})" for label, run in runs.items() if pages.worst(run)[1] > 1.05]
    if not bad:
        return []
    return [
        f"Not to be trusted here: {', '.join(bad)}. Their chains disagree; a mixture may have several modes, and small "
        "steps do not cross between them. Each such run says so in its warnings, at the end of this page."
    ]


def _backend(run: Run) -> str:
    return {"numpyro": "NumPyro", "pyro": "Pyro"}[run.setting.backend]


def _densities(data: Any, mixture: Runs) -> Section:
    columns = data.shown
    parts = {label: demo_answers.mixture_parts(run.posterior, columns) for label, run in mixture.items()}
    if len(columns) == 1:
        parts = dict(list(parts.items())[::2])
    figure = density_figure(data.x[:, columns], {k: demo_answers.mixture_density(v) for k, v in parts.items()},
                            components=parts, labels=[data.columns[i] for i in columns], columns=4)
    caption = ("Points: data. Blue: the fitted density, contours around 20% to 99% of its mass. Coloured lines: 80% of "
               "each component. Densities are averaged over draws, so that what the data leave open widens them.")
    return Section("Mixture: data and fitted densities", figures=[(caption, figure)])


def _chains(schools: Runs, mixture: Runs) -> list[Section | None]:
    sections = []
    for label in ("NUTS, NumPyro", "MALA, NumPyro"):
        if label in schools:
            sections.append(pages.chains_section(f"Eight schools: chains of {label}", schools[label], ["mu", "tau"],
                                                 _CHAINS[label.split(",")[0]]))
    if "NUTS, NumPyro" in mixture:
        sections.append(pages.chains_section("Mixture: chains of NUTS, NumPyro", mixture["NUTS, NumPyro"], ["weights"]))
    return sections


def _training(mixture: Runs, schools: Runs) -> Section | None:
    chosen = {k: run for k, run in _labelled(mixture, schools).items() if run.history}
    return pages.histories_section(chosen, _TRAINING)


def _overview(data: Any, mixture: Runs, schools: Runs, reference: Any) -> Any:
    shown = {k.split(",")[0]: run for k, run in mixture.items() if k.endswith(("NumPyro",))}
    parts = {k: demo_answers.mixture_parts(run.posterior, data.shown) for k, run in shown.items()}
    results = {REFERENCE: reference, **{label: run.idata for label, run in schools.items() if "MALA" not in label}}
    return overview_figure(data.x[:, data.shown], parts, results, var_names=_OF_SCHOOLS,
                           labels=[data.columns[i] for i in data.shown],
                           titles=("A Gaussian mixture, four engines", "Eight schools, engines and backends"))


def _next_steps(out: Path) -> Section:
    return Section("Go on from here", (
        "- The same mixture on your data: ppl_gen demo --data FILE.csv\n"
        "- A page of one saved run: ppl_gen report RUNDIR\n"
        "- In Python: run = pg.load(folder); run.idata is what ArviZ reads"
    ))


_SCHOOLS = (
    "The posterior of eight schools can be worked out: given tau all is Gaussian, and one integral over tau is left. "
    "The reference is made of independent draws from that. NUTS and MALA should match it within their Monte Carlo "
    "error, on both backends; SVI need not."
)
_MIXTURE = (
    "EM maximises the likelihood alone; the others have weak priors, and averages over a posterior are not at its "
    "highest point. Where the two flowers that overlap are told apart differently, weights and means differ."
)
_TIMES = (
    "Seconds are of the whole call, with compilation: the first run of a backend in a process pays for what later ones "
    "find ready. ESS and R-hat are the worst over all entries of all variables."
)
_TRAINING = (
    "EM's log likelihood never falls. SVI's loss is minus the bound, estimated by one draw a step: noisy, without end; "
    "what counts is that the bold line has settled."
)
_CHAINS = {
    "NUTS": "NUTS finds the length of each trajectory by itself: few steps, dear ones, hardly correlated.",
    "MALA": "MALA takes one gradient a step: many cheap steps, of which every tenth is kept.",
}
