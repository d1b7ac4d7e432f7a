"""Every kind of generative model on the same data: how far its draws are from new data, and what it says of these.

2,000 draws against 2,000 new data: W2 is exact, "sliced" the mean over 500 lines, MMD squared and unbiased with a
Gaussian kernel of the median distance, C2ST the accuracy of a classifier that is to tell the two apart (one half where
it cannot). "floor" is W2 between two samples of the data themselves. NLL is of the new data, in nats: exact for
mixtures and flows, up to a solver for scores, diffusion and flow matching (of digits for the first 200), an estimate
for VAEs and energies, which may come out too low; of the plane less the entropy, "NLL above". Digits are 8 x 8 pixels
of scikit-learn's, 64 numbers scaled to variance 1, with noise as wide as a level so that there is a density; those that
are new are 500, each with several noises, so that their floor is low.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._toys import TOYS

TITLE = "Generative models side by side"
PEER = None
ONCE = True
PICTURED = True
_DATA = ("moons", "gaussians", "checkerboard", "swiss_roll", "digits")
_MODELS = ("mixture", "flow", "vae", "energy", "score", "diffusion", "matching")
CASES = {
    f"{backend} {data} {model}": f"{model} on {data}, {backend}"
    for backend in ("numpyro", "pyro")
    for data in _DATA
    for model in _MODELS
}
_TRAIN, _NEW, _STEPS = 20_000, 2000, 5000
_PICTURED, _SHOWN, _SIDE = "numpyro", 400, 5  # whose draws are pictured; points of a plane; digits along a side
_SOLVED = {2: (2000, 100), 64: (200, 40)}  # number of features: rows whose log p(x) is solved for, steps


def ours(case: str) -> Callable[[], dict[str, Any]]:
    backend, data, kind = case.split()
    x, new, other, log_density = _data(data)

    def run() -> dict[str, Any]:
        import warnings

        from ppl_gen.evaluation import c2st, mmd, sliced_wasserstein, wasserstein_exact

        warnings.simplefilter("ignore")
        centre, scale = x.mean(0), x.std(0).mean()
        fitted = _fitted(kind, backend, ((x - centre) / scale).astype("float32"))
        drawn = np.asarray(fitted.sample(_NEW, seed=1), float).reshape(_NEW, -1) * scale + centre
        found = {
            "W2": wasserstein_exact(drawn, new), "floor": wasserstein_exact(other, new),
            "sliced": sliced_wasserstein(drawn, new, 500), "MMD": mmd(drawn, new)[0],
            "C2ST": c2st(drawn, new),
        }  # fmt: skip
        log_prob = _log_prob(kind, fitted, (new - centre) / scale)
        nll = -(log_prob - new.shape[1] * np.log(scale))
        found |= {"NLL": float(nll.mean())}
        if log_density is not None:
            found["NLL above"] = float((nll + log_density(new)).mean())
        kept = drawn[: _SHOWN if data in TOYS else _SIDE**2]
        return {n: float(v) for n, v in found.items()} | ({"drawn": _text(kept)} if backend == _PICTURED else {})

    return run


def _data(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """To train on, new, other new ones, and their log density where it is known."""
    rng = np.random.default_rng(0)
    if name != "digits":
        toy = TOYS[name]
        return toy.draw(_TRAIN, rng), toy.draw(_NEW, rng), toy.draw(_NEW, rng), toy.log_density
    from sklearn.datasets import load_digits

    x = load_digits().data + rng.random((1797, 64))
    order = rng.permutation(len(x))
    # 1,797 digits are few: new ones are those kept back, with other noise each time
    kept, trained = x[order[:500]], x[order[500:]]
    again = lambda: np.floor(kept)[rng.integers(500, size=_NEW)] + rng.random((_NEW, 64))
    return trained, again(), again(), None


def _fitted(kind: str, backend: str, x: np.ndarray) -> Any:
    import ppl_gen as pg
    from ppl_gen.nets.mlp import MLP

    features = x.shape[1]
    wide = (128, 128, 128) if features == 2 else (256, 256, 256)
    common = {"backend": backend, "precision": "float32", "progress": False}
    trained = {**common, "batch_size": 256, "num_steps": _STEPS, "schedule": "cosine"}
    if kind == "mixture":
        return pg.infer(pg.models.GaussianMixture(20), x.astype(float), "em", backend, progress=False)
    if kind == "flow":
        return pg.infer(pg.models.Flow("nsf", features), x, "svi", learning_rate=2e-3, **trained)
    if kind == "vae":
        model = pg.models.VAE(max(2, features // 4), (features,), "gaussian", hidden=wide[:2])
        how = {"num_annealing": _STEPS // 2}  # else its posterior collapses where data lie in lumps
        return pg.infer(model, x, "svi", learning_rate=1e-3, **how, **trained)
    if kind == "energy":
        model = pg.models.EnergyModel(MLP(features, 1, wide[:2], "silu"), (features,), base_scale=2.0)
        how = {"persistent": True, "step_size": 0.05 if features == 2 else 0.2, "clip_norm": 1.0}
        return pg.infer(model, x, "contrastive_divergence", learning_rate=1e-3, **how, **trained)
    trained |= {"ema": 0.999, "learning_rate": 2e-3}
    if kind == "matching":
        return pg.infer(pg.models.FlowMatching((features,)), x, "flow_matching", **trained)
    model = (pg.models.ScoreModel if kind == "score" else pg.models.Diffusion)((features,))
    return pg.infer(model, x, "score_matching", **trained)


def _log_prob(kind: str, fitted: Any, x: np.ndarray) -> np.ndarray:
    """Of the rows, or of the first ones where each takes a while."""
    if kind in ("score", "diffusion", "matching"):
        count, num_steps = _SOLVED[x.shape[1]]
        return fitted.flow_log_prob(x[:count].astype("float32"), num_steps=num_steps, progress=False)[0]
    return fitted.log_prob(x if kind == "mixture" else x.astype("float32"))


def _text(rows: np.ndarray) -> str:
    """Rows of numbers in few letters."""
    return "; ".join(" ".join(f"{x:.4g}" for x in row) for row in rows)


def _rows(text: str) -> np.ndarray:
    return np.asarray([[float(x) for x in row.split()] for row in text.split(";")])


def picture(result: dict[str, Any], path: Path) -> None:
    """Draws of each model on each data set; beside it all figures as a table."""
    from matplotlib.figure import Figure

    held = {c: r["ours"]["quality"] for c, r in result["cases"].items()}
    path.with_suffix(".md").write_text(_table(held))
    figure = Figure(figsize=(1.6 * len(_MODELS), 1.75 * len(_DATA)), layout="constrained")
    for row, data in zip(figure.subplots(len(_DATA), len(_MODELS)), _DATA, strict=True):
        for axis, kind in zip(row, _MODELS, strict=True):
            q = held[f"{_PICTURED} {data} {kind}"]
            (_points if data in TOYS else _digits)(axis, _rows(q["drawn"]), data)
            axis.set_xlabel(f"W2 {q['W2']:.2f} ({q['floor']:.2f}), C2ST {q['C2ST']:.2f}", fontsize=6)
            axis.set(xticks=[], yticks=[])
            if data == _DATA[0]:
                axis.set_title(kind, fontsize=9)
        row[0].set_ylabel(data)
    figure.savefig(path, dpi=110)


def _table(held: dict[str, dict[str, Any]]) -> str:
    """Figures in Markdown, those of both backends side by side; data are named with their floor."""
    names = ("W2", "sliced", "MMD", "C2ST", "NLL", "NLL above")
    lines = [f"# {TITLE}", "", "NumPyro / Pyro. " + " ".join((__doc__ or "").split("\n\n", 1)[1].split()), ""]
    lines += ["| data (floor of W2) | model | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for data in _DATA:
        for kind in _MODELS:
            both = [held[f"{backend} {data} {kind}"] for backend in ("numpyro", "pyro")]
            figures = [" / ".join(f"{q[n]:.3g}" for q in both) if n in both[0] else "" for n in names]
            lines.append(f"| {data} ({both[0]['floor']:.3g}) | {kind} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def _points(axis: Any, drawn: np.ndarray, data: str) -> None:
    side = TOYS[data].side
    axis.plot(*drawn.T, ".", markersize=1.2)
    axis.set(xlim=(-side, side), ylim=(-side, side), aspect="equal")


def _digits(axis: Any, drawn: np.ndarray, data: str) -> None:
    """Images in a square, a line between them."""
    framed = np.pad(drawn.reshape(_SIDE, _SIDE, 8, 8), ((0, 0), (0, 0), (0, 1), (0, 1)))
    axis.imshow(framed.swapaxes(1, 2).reshape(_SIDE * 9, _SIDE * 9), cmap="gray_r", vmin=0.0, vmax=16.0)
