"""What samplers cost as dimension, chains and rows grow: one picture of three panels.

* dimension: independent normals with standard deviations from 0.1 to 1, evenly on a log scale.
* chains: the same in 20 dimensions.
* rows: logistic regression on five standard normal covariates; samplers by minibatches of 256 rows with control
  variates, and one that sees all rows, as far as it takes seconds.

Time is that of the draws alone: warm-up, and the climb to the mode of samplers by minibatches, come before it. An
effective draw is one of the worst coordinate, of 1,000 evenly chosen where there are more; it is drawn in the picture
only where R-hat is below ``SETTLED``; of the most dimensions there are too few transitions for it. A case is a curve;
its run goes through all sizes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TITLE = "Cost against dimension, chains and rows"
PEER = None
PICTURED = True
SETTLED = 1.1  # R-hat
_STEPS = {"num_warmup": 300, "num_samples": 400, "thinning": 4}
_PATHS = {"num_warmup": 150, "num_samples": 100, "num_chains": 8}
_BATCHES = {"num_warmup": 200, "num_samples": 4000, "num_chains": 4, "thinning": 10}
CURVES: dict[str, dict[str, tuple[list[int], dict[str, Any]]]] = {  # panel -> engine -> sizes, options
    "dimension": {
        "mala": ([10, 100, 1_000, 10_000, 100_000], {**_STEPS, "num_samples": 1000, "start": "pathfinder"}),
        "chees": ([10, 100, 1_000, 10_000, 100_000], _PATHS),
        "mclmc": ([10, 100, 1_000, 10_000, 100_000], {**_PATHS, "num_warmup": 300}),
        "nuts": ([10, 100, 1_000, 10_000], {"num_warmup": 150, "num_samples": 100, "start": "pathfinder"}),
    },
    "chains": {
        "mala": ([1, 4, 16, 64, 256, 1024, 4096], _STEPS),
        "chees": ([2, 4, 16, 64, 256, 1024, 4096], {"num_warmup": 100, "num_samples": 100}),
    },
    "rows": {
        "sgld": ([1_000, 10_000, 100_000, 1_000_000, 10_000_000], _BATCHES),
        "psgld": ([1_000, 10_000, 100_000, 1_000_000, 10_000_000], _BATCHES),
        "sghmc": ([1_000, 10_000, 100_000, 1_000_000, 10_000_000], _BATCHES),
        "chees": ([1_000, 10_000, 100_000], {**_PATHS, "num_chains": 4}),
    },
}
CASES = {
    f"{panel} {engine}": f"{engine}, {panel} from {sizes[0]:,} to {sizes[-1]:,}"
    for panel, engines in CURVES.items()
    for engine, (sizes, _) in engines.items()
}
_DIM, _COVARIATES = 20, 5
_MOST = 100_000  # dimensions of which few transitions fit in the time: they show what a gradient costs
_FEW = {"num_warmup": 50, "num_samples": 50, "num_chains": 4, "thinning": 1, "start": "uniform"}


def ours(case: str) -> Callable[[], Any]:
    panel, engine = case.split()
    sizes, options = CURVES[panel][engine]
    made: dict[int, Any] = {}

    def run() -> dict[str, float]:
        """The second time all is compiled."""
        found: dict[str, float] = {}
        for size in sizes:
            own = {"num_chains": size} if panel == "chains" else _FEW if panel == "dimension" and size >= _MOST else {}
            made[size] = made.get(size) or _target(panel, size)
            figures = _figures(made[size], engine, {**options, **own})
            found.update({f"{name}, {size}": value for name, value in figures.items()})
        return found

    return run


def _target(panel: str, size: int) -> Any:
    from ppl_gen import backends
    from ppl_gen.program import as_program
    from ppl_gen.target import Target

    declared, given = _rows(size) if panel == "rows" else _normals(size if panel == "dimension" else _DIM)
    room = backends.get("numpyro")
    with room.scope():
        return Target(as_program(declared).bind(given, room))


def _normals(dim: int) -> tuple[Any, dict[str, Any]]:
    import ppl_gen as pg
    from ppl_gen import dist

    @pg.program
    def normals(sd: Any) -> None:
        pg.sample("x", dist.Normal(0.0, sd).to_event(1))

    return normals, {"sd": np.logspace(-1, 0, dim)}


def _rows(count: int) -> tuple[Any, dict[str, Any]]:
    import ppl_gen as pg
    from ppl_gen import dist

    @pg.program
    def logistic(x: Any, y: Any) -> None:
        beta = pg.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
        with pg.plate("row", len(y)):
            pg.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)

    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, _COVARIATES))
    y = rng.random(count) < 1 / (1 + np.exp(-x @ np.linspace(-1.0, 1.0, _COVARIATES)))
    return logistic, {"x": x, "y": y.astype(float)}


def _figures(target: Any, engine: str, options: dict[str, Any]) -> dict[str, float]:
    """Of one run: microseconds of a gradient of one chain, of a draw of one chain and of an effective draw."""
    from ppl_gen.evaluation import ess, rhat
    from ppl_gen.inference.engine import resolve

    chosen = resolve(engine, options)
    with target.backend.scope():
        driver, began = _timed(target.backend.to_numpy), time.perf_counter()
        outcome = chosen.run(target, driver, 1)
        whole = time.perf_counter() - began
    draws = outcome.positions[..., np.linspace(0, target.layout.dim - 1, min(target.layout.dim, 1000)).astype(int)]
    several = len(draws) > 1
    transitions = chosen.num_samples * len(draws)
    gradients = transitions * float(np.mean(outcome.stats.get("n_steps", 1.0)))
    spent = 1e6 * driver.seconds[chosen.name]
    return {
        "us a gradient": spent / gradients,
        "us a draw": spent / transitions,
        "us an effective draw": spent / float(np.min(ess(draws))),
        "R-hat": float(np.max(rhat(draws))) if several else 1.0,
        "s before the draws": whole - 1e-6 * spent,
    }


def _timed(to_numpy: Any) -> Any:
    """A driver that notes the seconds of each part of a run."""
    from ppl_gen.inference.driver import Driver

    @dataclass(frozen=True)
    class Timed(Driver):
        seconds: dict[str, float] = field(default_factory=dict)

        def run(self, *args: Any, label: str, **options: Any) -> Any:
            began = time.perf_counter()
            result = super().run(*args, label=label, **options)
            self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - began
            return result

    return Timed(to_numpy, False)


# The picture ------------------------------------------------------------------------------------------------------

_COLOURS = {  # Okabe and Ito's, which the colour-blind tell apart
    "mala": "#0072B2", "chees": "#E69F00", "mclmc": "#009E73", "nuts": "#CC79A7",
    "sgld": "#56B4E9", "psgld": "#D55E00", "sghmc": "#000000",
}  # fmt: skip
_MARKERS = dict(zip(_COLOURS, "os^Dv*P", strict=True))
_PANELS = {  # axis, title, and what the solid line shows
    "dimension": ("dimensions", "Normals of unequal scales", "us a gradient"),
    "chains": ("chains", f"The same in {_DIM} dimensions", "us a draw"),
    "rows": ("rows of data", f"Logistic regression, {_COVARIATES} covariates", "us a gradient"),
}
_EACH = "us an effective draw"


def picture(result: dict[str, Any], path: Path) -> None:
    """A panel each for dimension, chains and rows; all axes are logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 5.2), layout="constrained")
    for axis, (panel, (along, title, solid)) in zip(axes, _PANELS.items(), strict=True):
        for engine in CURVES[panel]:
            _curve(axis, result["cases"].get(f"{panel} {engine}"), engine, solid)
        what = f"{solid.removeprefix('us ')} of one chain"
        axis.set(xscale="log", yscale="log", xlabel=along, ylabel=f"µs {what}, or effective draw", title=title)
        axis.grid(alpha=0.3)
    named = [
        Line2D([], [], color=colour, marker=_MARKERS[engine], label=_LABELS.get(engine, engine))
        for engine, colour in _COLOURS.items()
    ]
    styles = [
        Line2D([], [], color="0.4", label="solid: a gradient (in the middle a draw) of one chain"),
        Line2D([], [], color="0.4", linestyle="--", label="dashed: an effective draw of the worst coordinate"),
    ]
    figure.legend(handles=named, loc="outside lower center", ncols=len(named), frameon=False)
    figure.legend(handles=styles, loc="outside upper center", ncols=len(styles), frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


_LABELS = {"sgld": "sgld, 256 rows", "psgld": "psgld, 256 rows", "sghmc": "sghmc, 256 rows", "chees": "chees, all rows"}


def _curve(axis: Any, case: dict[str, Any] | None, engine: str, solid: str) -> None:
    """Both lines of a sampler: what it takes, and what an effective draw does where its chains agree."""
    if case is None:
        return
    found = case["ours"]["quality"]
    sizes = [int(name.rsplit(", ", 1)[1]) for name in found if name.startswith(f"{solid}, ")]
    settled = [size for size in sizes if found[f"R-hat, {size}"] < SETTLED]
    drawn = {"color": _COLOURS[engine], "marker": _MARKERS[engine], "markersize": 5}
    axis.plot(sizes, [found[f"{solid}, {size}"] for size in sizes], "-", **drawn)
    axis.plot(settled, [found[f"{_EACH}, {size}"] for size in settled], "--", **{**drawn, "fillstyle": "none"})


if __name__ == "__main__":  # the picture again, from the kept results
    kept = Path(__file__).parent / "results" / "scaling.json"
    picture(json.loads(kept.read_text()), kept.with_suffix(".png"))
