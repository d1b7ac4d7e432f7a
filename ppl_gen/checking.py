"""What ``pg.check`` reports: a program's sites, whether the two backends agree on it, and which engines apply."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.protocol import Site
from ppl_gen.checks import kind
from ppl_gen.inference.engine import engines, resolve
from ppl_gen.program import DataError, Program
from ppl_gen.target import Target

_POINTS = 3
_RADIUS = 2.0
_TOLERANCE = 1e-8  # rounding of double precision, some 1e-15, times what a well-posed program makes of it
_COLUMNS = ("site", "kind", "distribution", "shape", "plates", "support", "notes")


@dataclass
class View:
    """A program as one backend sees it; ``error`` says why there is no more of it.

    ``counts`` (points, counts) are the values of discrete latents without a finite set at which it was evaluated.
    """

    sites: list[dict[str, Any]] = field(default_factory=list)
    layout: Any = None
    counts: np.ndarray | None = None
    values: np.ndarray | None = None
    gradients: np.ndarray | None = None
    engines: dict[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass
class Report:
    """What was found; prints as a table, in a notebook as one of HTML.

    Attributes:
        ok: no problem was found.
        sites: one dict for each site: name, kind, distribution, shape, plates, support, discrete, cardinality,
            improper, notes.
        problems: what stands against the program, or makes its backends differ.
        value_difference, gradient_difference: largest relative difference of the log density and of its gradient
            between the backends at the same points; None where they were not compared.
        engines: name -> "yes", or why it does not apply.
    """

    program: str
    backends: tuple[str, ...]
    sites: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    value_difference: float | None = None
    gradient_difference: float | None = None
    engines: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        parts = [self._head(), *(f"  problem: {p}" for p in self.problems), "", *_aligned(_COLUMNS, self._rows())]
        parts += ["", f"parity   {self._parity()}", "", *_aligned(("engine", "applies"), list(self.engines.items()))]
        return "\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        problems = "".join(f"<li>{html.escape(p)}</li>" for p in self.problems)
        return (
            f"<p><b>{html.escape(self._head())}</b></p><ul>{problems}</ul>{_html_table(_COLUMNS, self._rows())}"
            f"<p>parity: {html.escape(self._parity())}</p>"
            f"{_html_table(('engine', 'applies'), list(self.engines.items()))}"
        )

    def _head(self) -> str:
        verdict = "ok" if self.ok else f"{len(self.problems)} problems"
        return f"{self.program} on {' and '.join(self.backends)}: {verdict}"

    def _rows(self) -> list[tuple[str, ...]]:
        keys = ("name", "kind", "distribution", "shape", "plates", "support", "notes")
        return [tuple(_cell(site[k]) for k in keys) for site in self.sites]

    def _parity(self) -> str:
        if self.value_difference is None:
            return "not compared"
        return (
            f"log density differs by at most {self.value_difference:.1e}, its gradient by "
            f"{self.gradient_difference:.1e}, relatively, at {_POINTS} points"
        )


def compare(program: Program, data: Any, seed: int) -> Report:
    """Run a portable program on both backends, a native one on its own, at the same unconstrained points.

    Raises:
        DataError: data that do not fit the program; every other failure is reported.
    """
    names = (program.backend,) if program.backend else backends.NAMES
    views: dict[str, View] = {}
    for name in names:
        drawn = (v.counts for v in views.values() if v.counts is not None)
        views[name] = _view(program, data, name, seed, next(drawn, None))
    seen = [v for v in views.values() if v.sites]
    report = Report(program.name, names)
    report.problems = [f"{name}: {v.error}" for name, v in views.items() if v.error]
    if seen:
        report.sites, report.engines = seen[0].sites, seen[0].engines
    if len(seen) == 2:
        _compare_views(report, views)
    return report


def _view(program: Program, data: Any, name: str, seed: int, counts: np.ndarray | None) -> View:
    view = View()
    try:
        room = backends.get(name)
        with room.scope(precision="float64", seed=seed):
            target = Target(program.bind(data, room, ("float64", None)))
            view.sites = [_row(target, site) for site in target.sites.values()]
            view.layout = target.everything.sites
            view.engines = _engines(target)
            view.counts = _drawn_counts(target, seed) if counts is None else counts
            view.values, view.gradients = _evaluate(target, seed, view.counts)
            view.error = _not_finite(view)
    except DataError:
        raise
    except Exception as error:  # the report is where any failure of a user's program is told
        view.error = f"{type(error).__name__}: {error}"
    return view


# Sites ------------------------------------------------------------------------------------------------------------


def _row(target: Target, site: Site) -> dict[str, Any]:
    return {
        "name": site.name,
        "kind": site.kind,
        "distribution": _distribution(site.distribution),
        "shape": tuple(int(n) for n in site.value.shape),
        "plates": tuple(f"{p.name}[{p.size}]" for p in site.plates),
        "support": "" if site.constraint is None else _support(site.constraint),
        "discrete": site.discrete,
        "cardinality": site.cardinality,
        "improper": site.improper,
        "notes": ", ".join(_notes(target, site)),
    }


def _distribution(d: Any) -> str:
    """The name of a distribution behind what expands and masks it."""
    name = "" if d is None else kind(d)
    return name.removesuffix("Probs").removesuffix("Logits") or name


def _support(constraint: Any) -> str:
    name = str(constraint).split("(")[0].split(" ")[0].strip("<>")
    inner = getattr(constraint, "base_constraint", None)
    return _support(inner) if inner is not None else name.split(".")[-1].strip("_").lower()


def _notes(target: Target, site: Site) -> list[str]:
    notes = []
    if site.discrete and site.kind == "latent":
        count = f"{site.cardinality} values" if site.cardinality else "endless: not summed out but drawn, by 'gibbs'"
        notes.append(f"discrete, {count}")
    if not site.normalised:
        notes.append("not normalised: the density is known up to a constant")
    elif site.improper and site.kind == "latent":
        notes.append("improper: needs data to have a posterior, no prior draws")
    if site.kind == "plate":
        notes.append("subsampled")
    if site.scale is not None:
        notes.append("scaled")
    return notes


# Densities --------------------------------------------------------------------------------------------------------


def _drawn_counts(target: Target, seed: int) -> np.ndarray:
    """Of the prior, for both backends."""
    host, drawn = target.backend.to_numpy, (target.draw(seed + i) for i in range(_POINTS))
    rows = [[np.ravel(host(sites[n].value)) for n in target.counts.names] for sites in drawn]
    return np.stack([np.concatenate([np.zeros(0), *row]) for row in rows])


def _evaluate(target: Target, seed: int, counts: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Log density (points,) and its gradient (points, dim) at points that depend on seed and dim alone."""
    if not target.everything.dim or target.subsampled:
        return None, None
    if not target.counts.names:
        target.require_enumeration("pg.check")
    backend, xp = target.backend, target.backend.xp
    points = np.random.default_rng(seed).uniform(-_RADIUS, _RADIUS, (_POINTS, target.everything.dim))

    def log_density(u: Any, z: Any, arrays: Any) -> Any:
        return target.log_density(xp.concatenate([u, z]), arrays)

    batched = backend.vmap(backend.value_and_grad(log_density), in_axes=(0, 0, None))
    evaluate = target.compiled("check", lambda: backend.compile(batched))
    value, gradient = backend.to_numpy(evaluate(*map(backend.asarray, (points, counts)), target.arrays))
    return np.asarray(value), np.asarray(gradient)


def _not_finite(view: View) -> str:
    """A problem in words; counts of the prior may well be impossible beside the data."""
    if view.values is None or (np.isfinite(view.values).any() and not np.isnan(view.values).any()):
        return ""
    if view.counts is not None and view.counts.size and not np.isnan(view.values).any():
        return ""
    return f"the log density is {view.values.tolist()} at {_POINTS} uniform starts: no finite one, or not a number"


def _compare_views(report: Report, views: Mapping[str, View]) -> None:
    (first, one), (second, other) = views.items()
    found = _site_differences(first, one, second, other)
    if one.layout != other.layout and not found:
        found.append(f"unconstrained shapes differ: {first} {one.layout}, {second} {other.layout}")
    report.problems += found
    if not found and one.values is not None and other.values is not None:
        report.value_difference = _difference(one.values, other.values)
        report.gradient_difference = _difference(one.gradients, other.gradients)
        report.problems += _disagreements(report)
    report.problems += [
        f"engine {n!r}: {first}: {one.engines[n]}; {second}: {other.engines[n]}"
        for n in one.engines
        if (one.engines[n] == "yes") != (other.engines[n] == "yes")
    ]


def _site_differences(first: str, one: View, second: str, other: View) -> list[str]:
    names, others = ([s["name"] for s in v.sites] for v in (one, other))
    if names != others:
        return [f"sites differ: {first} has {names}, {second} has {others}"]
    keys = ("kind", "shape", "discrete", "cardinality", "improper")
    return [
        f"site {a['name']!r}: its {k} is {_cell(a[k])} on {first} and {_cell(b[k])} on {second}"
        for a, b in zip(one.sites, other.sites, strict=True)
        for k in keys
        if a[k] != b[k]
    ]


def _difference(a: Any, b: Any) -> float:
    """Largest difference, relative to the largest entry at that point (at least 1); equal infinities are equal."""
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    size = np.where(np.isfinite(a), np.abs(a), 0.0).max(axis=1, keepdims=True)
    apart = np.where(same, 0.0, np.abs(np.where(same, 0.0, a) - np.where(same, 0.0, b)) / np.maximum(size, 1.0))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))


def _disagreements(report: Report) -> list[str]:
    pairs = (("log density", report.value_difference), ("gradient", report.gradient_difference))
    return [
        f"the backends disagree: {what} differs by {size:.1e}, expected at most {_TOLERANCE:.0e}; compare the "
        "parameters of distributions, or what the program asks the backend for by itself"
        for what, size in pairs
        if size is not None and size > _TOLERANCE
    ]


# Engines ----------------------------------------------------------------------------------------------------------


def _engines(target: Target) -> dict[str, str]:
    return {name: _applies(functools.partial(_check_engine, name, target)) for name in engines()}


def _check_engine(name: str, target: Target) -> None:
    resolve(name, {}).admit(target)


def _applies(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as error:  # the reason, of whatever type, is what the report shows
        return str(error) or type(error).__name__
    return "yes"


# Tables -----------------------------------------------------------------------------------------------------------


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) if value else "-"
    return str(value) if value not in ("", None) else "-"


def _aligned(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    lines = [head, tuple("-" * w for w in widths), *rows]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def _html_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
