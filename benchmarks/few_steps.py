"""How good draws of a diffusion model are for how many evaluations of its network, sampler by sampler.

A model of two moons and one of a checkerboard are trained once each; then every sampler draws 40,000 rows by the
network's evaluations told. "sliced W" is the 1-Wasserstein distance to as many fresh rows of the data, the mean over 64
directions of the plane; "fresh rows" that of two sets of fresh rows, which no model comes below but by luck. All draws
start from the same noise. For DPM-Solver++ and EDM the figures say how their draws of 20 evaluations compare with those
of 200 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._toys import TOYS

TITLE = "Draws of diffusion models by few evaluations"
PEER = None
ONCE = True
PICTURED = True
_NAMES = {"moons": "two moons", "checkerboard": "a checkerboard"}
CASES = {f"{b} {n}": f"draws of a diffusion model of {_NAMES[n]}, {b}" for b in ("numpyro", "pyro") for n in _NAMES}
_ROWS, _DRAWS, _DIRECTIONS = 50_000, 40_000, 64
_EVALUATIONS = (6, 10, 20, 50, 100, 200)
_TRAINING: dict[str, Any] = {
    "num_steps": 12_000,
    "batch_size": 512,
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "ema": 0.999,
}
_COMPARED = ("DPMSolverPP", "EDMStochastic")


def _samplers(evaluations: int) -> dict[str, Any]:
    """Name -> sampler of so many evaluations; where that is no whole number of its steps, it is left out."""
    from ppl_gen.diffusion import samplers as s

    steps = lambda each: {"num_steps": evaluations // each}
    made: dict[str, Any] = {
        "Euler": s.Euler(**steps(1)),
        "DDIM": s.DDIM(grid="quadratic", **steps(1)),
        "DPMSolverPP": s.DPMSolverPP(grid="quadratic", **steps(1)),
        "Heun": s.Heun(grid="quadratic", **steps(2)),
        "EDMStochastic": s.EDMStochastic(grid="quadratic", **steps(2)),
        "Ancestral": s.Ancestral(grid="log_snr", **steps(1)),
        "EulerMaruyama": s.EulerMaruyama(**steps(1)),
        "StochasticHeun": s.StochasticHeun(**steps(2)),
        "PredictorCorrector": s.PredictorCorrector(**steps(2)),
    }
    if evaluations % 4 == 0:
        made["RungeKutta4"] = s.RungeKutta4(**steps(4))
    if evaluations >= 50:
        made["AnnealedLangevin"] = s.AnnealedLangevin(num_steps=9, steps_per_level=evaluations // 10)
    return made


def ours(case: str) -> Callable[[], dict[str, float]]:
    import warnings

    warnings.simplefilter("ignore")
    backend, name = case.split()
    x = TOYS[name].draw(_ROWS, np.random.default_rng(0))

    def run() -> dict[str, float]:
        import ppl_gen as pg
        from ppl_gen.diffusion import samplers as s

        model = pg.models.Diffusion((2,))
        fitted = pg.infer(model, x, "score_matching", backend, precision="float32", progress=False, **_TRAINING)
        fresh, other = (TOYS[name].draw(_DRAWS, np.random.default_rng(seed)) for seed in (1, 2))
        far = lambda sampler: _sliced(fitted.denoise(_DRAWS, 3, sampler, progress=False), fresh)
        found = {"sliced W of fresh rows": _sliced(other, fresh)}
        for evaluations in _EVALUATIONS:
            made = _samplers(evaluations)
            for kind in made if backend == "numpyro" else _COMPARED:
                found[f"sliced W, {kind} {evaluations}"] = far(made[kind])
        for kind in _COMPARED:
            found[f"{kind}, 20 evaluations over 200 steps"] = found[f"sliced W, {kind} 20"] / far(
                getattr(s, kind)(num_steps=200, grid="quadratic")
            )
        return found

    return run


def _sliced(x: np.ndarray, y: np.ndarray) -> float:
    """The mean distance of the sorted projections of equally many rows."""
    angle = np.pi * (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS
    directions = np.stack([np.cos(angle), np.sin(angle)])
    one, other = (np.sort(z.astype(float) @ directions, axis=0) for z in (x, y))
    return float(np.abs(one - other).mean())


def picture(result: dict[str, Any], path: Path) -> None:
    """Distance over evaluations, one line a sampler."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(_NAMES), figsize=(10.5, 4.4), layout="constrained", sharey=True)
    for axis, name in zip(axes, _NAMES, strict=True):
        quality = result["cases"][f"numpyro {name}"]["ours"]["quality"]
        kinds = dict.fromkeys(k.split(", ")[1].split()[0] for k in quality if k.startswith("sliced W, "))
        for i, kind in enumerate(kinds):
            at = [n for n in _EVALUATIONS if f"sliced W, {kind} {n}" in quality]
            bold = {"linewidth": 2.5} if kind in _COMPARED else {"linewidth": 1.0}
            colour = f"C{i}" if i < 10 else "black"
            axis.plot(at, [quality[f"sliced W, {kind} {n}"] for n in at], "o-", ms=3, color=colour, label=kind, **bold)
        axis.axhline(quality["sliced W of fresh rows"], color="black", linestyle=":", label="fresh rows")
        axis.set(xscale="log", yscale="log", xlabel="evaluations of the network", title=_NAMES[name])
        axis.set_xticks(_EVALUATIONS, _EVALUATIONS)
        axis.minorticks_off()
    axes[0].set_ylabel("sliced 1-Wasserstein distance")
    axes[1].legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":  # the picture again, from the kept results
    import json

    kept = Path(__file__).parent / "results" / "few_steps.json"
    picture(json.loads(kept.read_text()), kept.with_suffix(".png"))
