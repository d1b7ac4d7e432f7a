"""Runs of several engines on one program, side by side in numbers."""

from __future__ import annotations

import functools
import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import evaluation
from ppl_gen.evaluation.wasserstein import null_distance, wasserstein

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ppl_gen.results.run import Run

_FEW_DRAWS = 4


def gradients(stats: Mapping[str, np.ndarray], engine: Any) -> dict[str, int]:
    """``{"gradients": n}``, of the log density, that a sampler took after its warm-up in all chains; else nothing.

    A sampler without ``n_steps`` takes one in each transition.
    """
    transitions = getattr(engine, "num_samples", None)
    if "lp" not in stats or transitions is None:
        return {}
    steps = float(np.mean(stats["n_steps"])) if "n_steps" in stats else 1.0
    return {"gradients": round(steps * transitions * len(stats["lp"]))}


def compare(runs: Mapping[str, Run] | Sequence[Run], var_names: Sequence[str] | None = None,
            prob: float = 0.95) -> Comparison:
    """Runs of one program by different engines, side by side.

    Args:
        runs: label -> run, or runs, which are then named by their engine and backend.
        var_names: which latents and deterministics; all that several runs have, where None.
        prob: below which level a distance stays with this probability where both runs draw from the same posterior.

    Raises:
        TypeError: something that is no run.
        ValueError: fewer than two runs, no variable in common, one that no run has, or shapes that differ.
    """
    named = dict(runs) if isinstance(runs, Mapping) else _named(runs)
    bad = [label for label, run in named.items() if not hasattr(run, "posterior") or not hasattr(run, "attrs")]
    if bad:
        raise TypeError(f"{bad[0]!r} is no run of pg.infer, but {type(named[bad[0]]).__name__}")
    if len(named) < 2:
        raise ValueError(f"there are {len(named)} runs: expected at least two to compare")
    if not 0 < prob < 1:
        raise ValueError(f"prob must be between 0 and 1, got {prob!r}")
    return Comparison(named, _common(named, var_names), prob)


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """By engine, and backend where one engine comes twice, and a number where that does not tell them apart."""
    for name in (lambda r: r.engine, lambda r: f"{r.engine}, {r.setting.backend}"):
        labels = [name(run) if hasattr(run, "setting") else "?" for run in runs]
        if len(set(labels)) == len(labels):
            return dict(zip(labels, runs, strict=True))
    return {f"{label}, {i}": run for i, (label, run) in enumerate(zip(labels, runs, strict=True))}


def _common(runs: Mapping[str, Run], var_names: Sequence[str] | None) -> list[str]:
    held = [n for run in runs.values() for n, x in run.posterior.items() if x.dtype.kind in "fiu" and x.size]
    names = [n for n in dict.fromkeys(held) if held.count(n) > 1] if var_names is None else list(var_names)
    missing = [n for n in names if n not in held]
    if missing or not names:
        known = ", ".join(map(repr, dict.fromkeys(held))) or "none"
        raise ValueError(f"no variable {missing[0]!r} in any run; there are {known}" if missing
                         else f"the runs have no variable in common; there are {known}")
    for name in names:
        shapes = {label: run.posterior[name].shape[2:] for label, run in runs.items() if name in run.posterior}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"{name!r} has shapes {shapes}: these runs are of different programs or data")
    return names


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several runs side by side.

    Attributes:
        runs: label -> run.
        names: variables that are compared.
        prob: probability of staying below the noise level of a distance.
    """

    runs: dict[str, Run]
    names: list[str]
    prob: float

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """One row a run.

        ``draws`` in all chains, ``seconds`` in all (compilation too), ``ess_min`` the smallest bulk effective size of
        any scalar, ``ess_per_second``, ``gradients`` after warm-up, ``ess_per_gradient``, ``r_hat_max``,
        ``divergences``, ``exact`` and the number of ``warnings``. NaN where an engine has no such number.
        """
        import pandas as pd

        return pd.DataFrame.from_dict({label: self._row(label) for label in self.runs}, orient="index")

    def _row(self, label: str) -> dict[str, Any]:
        run = self.runs[label]
        sizes = [s for n in self.names if (s := self._ess(label, n)) is not None]
        ess, r_hat = _extreme(sizes, np.min), _extreme([evaluation.rhat(x) for x in self._chains(run)], np.max)
        seconds, grads = (float(run.attrs.get(n, np.nan)) for n in ("inference_time", "gradients"))
        return {
            "draws": next((x.shape[0] * x.shape[1] for x in run.posterior.values()), 0),
            "seconds": seconds,
            "ess_min": ess,
            "ess_per_second": ess / seconds,
            "gradients": grads,
            "ess_per_gradient": ess / grads,
            "r_hat_max": r_hat,
            "divergences": float(run.stats["diverging"].sum()) if "diverging" in run.stats else np.nan,
            "exact": bool(run.exact) and _drawn(run),
            "warnings": len(run.warnings),
        }

    def _chains(self, run: Run) -> list[np.ndarray]:
        """Draws of which R-hat can be had."""
        held = [run.posterior[n] for n in self.names if n in run.posterior]
        return [x for x in held if len(x) > 1 and x.shape[1] >= _FEW_DRAWS]

    @functools.cached_property
    def _sizes(self) -> dict[tuple[str, str], np.ndarray]:
        return {
            (label, n): evaluation.ess(run.posterior[n])
            for label, run in self.runs.items()
            for n in self.names
            if n in run.posterior and run.posterior[n].shape[1] >= _FEW_DRAWS
        }

    def _ess(self, label: str, name: str) -> np.ndarray | None:
        return self._sizes.get((label, name))

    @functools.cached_property
    def moments(self) -> pd.DataFrame:
        """One row a scalar; columns (label, "mean") and (label, "sd"), the sd NaN of a point."""
        import pandas as pd

        columns = {}
        for label, run in self.runs.items():
            flat = [_flat(run, n, self._size(n)) for n in self.names]
            columns[label, "mean"] = np.concatenate([x.mean(0) for x in flat])
            columns[label, "sd"] = np.concatenate([_sd(x) for x in flat])
        frame = pd.DataFrame(columns, index=self.scalars)
        frame.columns = pd.MultiIndex.from_tuples(columns)
        return frame

    @functools.cached_property
    def scalars(self) -> list[str]:
        """Names of all scalars, labelled as in ``run.idata`` but for coordinates: by number."""
        found = []
        for name in self.names:
            shape = next(run.posterior[name].shape[2:] for run in self.runs.values() if name in run.posterior)
            found += [f"{name}[{', '.join(map(str, i))}]" if i else name for i in np.ndindex(shape)]
        return found

    def _size(self, name: str) -> int:
        return next(int(np.prod(run.posterior[name].shape[2:])) for run in self.runs.values() if name in run.posterior)

    @functools.cached_property
    def distances(self) -> pd.DataFrame:
        """One row for each scalar and pair of runs with draws: how far their posteriors are apart.

        ``distance`` is the Wasserstein-1 distance in units of the posterior standard deviation (root mean square of the
        two); ``noise`` what it stays below with probability ``prob`` by the Monte Carlo error of both alone, from their
        effective sizes; ``apart`` whether it is above that level. One of twenty is, by chance, at prob 0.95.
        """
        import pandas as pd

        rows = []
        drawn = [label for label, run in self.runs.items() if _drawn(run)]
        for first, second in itertools.combinations(drawn, 2):
            at = iter(self.scalars)
            for name in self.names:
                labels = [next(at) for _ in range(self._size(name))]
                if name in self.runs[first].posterior and name in self.runs[second].posterior:
                    distance, noise = (np.atleast_1d(x).ravel() for x in self._distance(first, second, name))
                    rows += [(s, first, second, d, z) for s, d, z in zip(labels, distance, noise, strict=True)]
        frame = pd.DataFrame(rows, columns=["variable", "first", "second", "distance", "noise"])
        return frame.assign(apart=frame["distance"] > frame["noise"])

    def _distance(self, first: str, second: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        x, y = (_flat(self.runs[label], name, self._size(name)) for label in (first, second))
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.sqrt((_sd(x) ** 2 + _sd(y) ** 2) / 2)
            sizes = [np.ravel(s) if (s := self._ess(label, name)) is not None else float(len(z))
                     for label, z in ((first, x), (second, y))]
            noise = null_distance(np.concatenate([x, y]), (sizes[0], sizes[1]), self.prob)
            return wasserstein(x, y) / scale, noise / scale

    @property
    def warnings(self) -> dict[str, list[str]]:
        """label -> warnings of its run."""
        return {label: list(run.warnings) for label, run in self.runs.items()}

    def __repr__(self) -> str:
        warned = "".join(f"\n{label}: {w}" for label, found in self.warnings.items() for w in found)
        table = self.table.to_string(float_format="{:.4g}".format)
        return f"{table}\n\n{self._verdict()}{chr(10) if warned else ''}{warned}"

    def _verdict(self) -> str:
        found = self.distances
        if found.empty:
            return "no two runs have draws: no distances"
        worst = found.loc[(found["distance"] / found["noise"]).fillna(-1.0).idxmax()]
        return (
            f"{int(found['apart'].sum())} of {len(found)} distances are above their Monte Carlo noise level "
            f"({self.prob:.0%}); the most telling: {worst['variable']}, {worst['first']} and {worst['second']}, "
            f"{worst['distance']:.3f} sd apart where noise is {worst['noise']:.3f}"
        )

    def _repr_html_(self) -> str:
        style = {"float_format": "{:.4g}".format, "border": 0}
        worst = self.distances.sort_values("distance", ascending=False).head(10)
        warned = [f"<li>{html.escape(f'{label}: {w}')}</li>" for label, found in self.warnings.items() for w in found]
        parts = [
            self.table.to_html(**style),
            f"<p>{html.escape(self._verdict())}</p>",
            f"<details><summary>Moments</summary>{self.moments.to_html(**style)}</details>",
            f"<details><summary>Largest distances</summary>{worst.to_html(index=False, **style)}</details>",
            f"<ul>{''.join(warned)}</ul>" if warned else "",
        ]
        return "".join(parts)

    def plot(self, max_rows: int = 30) -> Figure:
        """Left the intervals of each run, right the distances of pairs of runs beside their noise level.

        Args:
            max_rows: at most so many scalars, those that differ most.
        """
        from ppl_gen.results.comparison_figures import comparison_figure

        return comparison_figure(self, max_rows)


def _drawn(run: Run) -> bool:
    return next((x.shape[0] * x.shape[1] > 1 for x in run.posterior.values()), False)


def _flat(run: Run, name: str, size: int) -> np.ndarray:
    """(draw, scalar); NaN of a variable that the run lacks."""
    if name not in run.posterior:
        return np.full((1, size), np.nan)
    return np.asarray(run.posterior[name], float).reshape(-1, size)


def _sd(x: np.ndarray) -> np.ndarray:
    return x.std(0, ddof=1) if len(x) > 1 else np.full(x.shape[1], np.nan)


def _extreme(values: Sequence[np.ndarray], pick: Any) -> float:
    """Of all that are finite; NaN of none. An infinite R-hat counts."""
    flat = np.concatenate([np.ravel(x) for x in values]) if values else np.zeros(0)
    flat = flat[~np.isnan(flat)]
    return float(pick(flat)) if flat.size else float("nan")
