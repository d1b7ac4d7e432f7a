"""Draws as named scalars, and one table that puts the draws of several engines side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import evaluation
from ppl_gen.results.arviz import datasets_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["hdi", "is_idata", "scalar_draws", "summary_table"]

#: Columns of a summary, in order; the two ends of the interval come after the first two.
_MOMENTS, _DIAGNOSTICS = ("mean", "sd"), ("ess_bulk", "ess_tail", "r_hat")


def scalar_draws(draws: Any, var_names: Sequence[str] | None = None,
                 group: str = "posterior") -> list[tuple[str, np.ndarray]]:
    """Every scalar of the draws: ``("theta[Choate]", array of shape (chain, draw))``, in order.

    Args:
        draws: what ``to_idata`` returns, or variable name -> array of shape ``(chain, draw, ...)``.
        var_names: which variables, in which order; all without it.

    Raises:
        ValueError: no such variable, or no such group.
    """
    arrays = _group(draws, group) if is_idata(draws) else draws
    names = list(arrays) if var_names is None else list(var_names)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"no variable {missing[0]!r}; there are {', '.join(map(str, arrays))}")
    return [scalar for name in names for scalar in _scalars(str(name), arrays[name])]


def hdi(draws: np.ndarray, probability: float) -> tuple[float, float]:
    """The shortest interval that holds a share ``probability`` of the draws (any shape). NaN if one is."""
    ordered = np.sort(np.asarray(draws, float), axis=None)
    if not ordered.size or np.isnan(ordered[-1]):
        return float("nan"), float("nan")
    held = min(int(np.ceil(probability * ordered.size)), ordered.size - 1)
    widths = ordered[held:] - ordered[: ordered.size - held]
    start = int(np.argmin(widths))
    return float(ordered[start]), float(ordered[start + held])


def summary_table(idata_by_label: Mapping[str, Any], var_names: Sequence[str] | None = None,
                  ci: float = 0.9) -> pd.DataFrame:
    """Mean, sd, interval and convergence of several results, side by side.

    Args:
        idata_by_label: label (an engine, say) -> what ``to_idata`` returns.
        var_names: which variables; without it all that any of them has. What one lacks is NaN.
        ci: probability of the highest-density interval.

    Returns:
        One row for each scalar. Columns are pairs (label, one of mean, sd, hdi5%, hdi95%, ess_bulk, ess_tail,
        r_hat). ``r_hat`` is NaN for a single chain.

    Raises:
        ValueError: ``ci`` is not between 0 and 1, or a variable that none of them has.
    """
    import pandas as pd

    if not 0 < ci < 1:
        raise ValueError(f"ci must be between 0 and 1, got {ci}")
    sets = {label: _group(idata, "posterior") for label, idata in idata_by_label.items()}
    known = list(dict.fromkeys(str(name) for dataset in sets.values() for name in dataset.data_vars))
    missing = [name for name in var_names or () if name not in known]
    if missing:
        raise ValueError(f"no variable {missing[0]!r}; there are {', '.join(known)}")
    tables = {}
    for label, idata in idata_by_label.items():
        own = [name for name in (known if var_names is None else var_names) if name in sets[label]]
        tables[label] = _summary(idata, own, ci)
    rows = list(dict.fromkeys(row for name in var_names or known for table in tables.values()
                              for row in table.index if row == name or row.startswith(f"{name}[")))
    return pd.concat({label: table.reindex(rows) for label, table in tables.items()}, axis=1)


def _summary(idata: Any, names: list[str], ci: float) -> pd.DataFrame:
    """One result's table, with the same columns whatever ArviZ is installed."""
    import pandas as pd

    scalars = [scalar for name in names for scalar in scalar_draws(idata, [name])]
    moments = {label: _row(draws, ci) for label, draws in scalars}
    low, high = (f"hdi{100 * end:g}%" for end in ((1 - ci) / 2, (1 + ci) / 2))
    table = pd.DataFrame.from_dict(moments, orient="index", columns=[*_MOMENTS, low, high])
    diagnostics = {label: _diagnostics(draws) for label, draws in scalars}
    return table.join(pd.DataFrame.from_dict(diagnostics, orient="index", columns=list(_DIAGNOSTICS)))


def _row(draws: np.ndarray, ci: float) -> tuple[float, ...]:
    draws = np.asarray(draws, float)
    sd = float(np.std(draws, ddof=1)) if draws.size > 1 else float("nan")
    return float(np.mean(draws)), sd, *hdi(draws, ci)


def _diagnostics(draws: np.ndarray) -> tuple[float, float, float]:
    """Effective sizes and R-hat, the numbers that ArviZ gives; NaN where there are too few draws or chains."""
    draws = np.asarray(draws, float)
    if draws.shape[1] < 4 or not np.all(np.isfinite(draws)):
        return (float("nan"),) * 3
    sizes = float(evaluation.ess(draws)), float(evaluation.ess(draws, kind="tail"))
    return (*sizes, float(evaluation.rhat(draws)) if draws.shape[0] > 1 else float("nan"))


def is_idata(draws: Any) -> bool:
    """Both of ArviZ's containers are mappings too; only they have groups."""
    return hasattr(draws, "children") or callable(getattr(draws, "groups", None))


def _group(idata: Any, group: str) -> Any:
    datasets = datasets_of(idata)
    if group not in datasets:
        raise ValueError(f"no group {group!r}; there are {', '.join(datasets) or 'none'}")
    return datasets[group]


def _scalars(name: str, values: Any) -> Iterable[tuple[str, np.ndarray]]:
    """Scalars of one variable, named by its labels or else by its indices."""
    array = np.asarray(getattr(values, "values", values))
    dims = getattr(values, "dims", (None,) * array.ndim)[2:]
    for index in np.ndindex(array.shape[2:]):
        own = [str(values.coords[dim].values[i]) if dim is not None and dim in values.coords else str(i)
               for dim, i in zip(dims, index, strict=True)]
        yield (f"{name}[{', '.join(own)}]" if own else name), array[(slice(None), slice(None), *index)]
