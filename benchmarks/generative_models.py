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
_TRAIN, _NEW, _STEPS, _SHOWN = 20_000, 2000, 5000, 400
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
        return {n: float(v) for n, v in found.items()} | {"drawn": drawn[:_SHOWN].round(3).tolist()}

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
        return pg.infer(model, x, "svi", learning_rate=1e-3, **trained)
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


def picture(result: dict[str, Any], path: Any) -> None:
    """Draws of each model on each data set of the plane."""
    from matplotlib.figure import Figure

    held = {c: r["ours"]["quality"] for c, r in result["cases"].items()}
    backend = "numpyro" if any(c.startswith("numpyro") for c in held) else "pyro"
    rows = [d for d in _DATA if d != "digits"]
    figure = Figure(figsize=(1.6 * len(_MODELS), 1.7 * len(rows)), layout="constrained")
    for row, data in zip(figure.subplots(len(rows), len(_MODELS), squeeze=False), rows, strict=True):
        for axis, kind in zip(row, _MODELS, strict=True):
            drawn = held.get(f"{backend} {data} {kind}", {}).get("drawn")
            side = TOYS[data].side
            axis.set(xticks=[], yticks=[], xlim=(-side, side), ylim=(-side, side), aspect="equal")
            if drawn:
                axis.plot(*np.asarray(drawn).T, ".", markersize=1.2)
                q = held[f"{backend} {data} {kind}"]
                axis.set_xlabel(f"W2 {q['W2']:.2f} ({q['floor']:.2f}), C2ST {q['C2ST']:.2f}", fontsize=6)
            if data == rows[0]:
                axis.set_title(kind, fontsize=9)
        row[0].set_ylabel(data)
    figure.savefig(path, dpi=110)
