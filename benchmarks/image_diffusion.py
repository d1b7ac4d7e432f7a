"""Diffusion models of images: a small U-Net on MNIST and Fashion-MNIST, and what its draws and densities are worth.

Pixels are dequantised and scaled to [-1, 1]. "bits per dimension" is the variational bound of 256 test images in 200
steps, and "flow bits" minus the log density of 32 of them by the probability-flow equation in 20 steps with two of
Hutchinson's probes, whose error stands beside it; both are of pixels of 256 levels. "FID" compares 2,000 draws with as
many test images in the 128 features of a perceptron that tells the ten classes of the training images apart (not those
of the network that photographs are compared by, so that the numbers are no other paper's); "FID of training images" is
what as many of these have, which the perceptron has seen. Training is two epochs, half an hour of one core where it is
slowest, and far from converged.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _mnist

TITLE = "Diffusion models of images"
PEER = None
ONCE = True
PICTURED = True
_NAMES = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
CASES = {f"{b} {n}": f"a U-Net on {said}, {b}" for b in ("numpyro", "pyro") for n, said in _NAMES.items()}
_CHANNELS = (16, 32, 32)
_TRAINING: dict[str, Any] = {
    "num_steps": 2000, "batch_size": 64, "learning_rate": 1e-3, "num_rising": 100, "clip_norm": 1.0, "ema": 0.995,
}  # fmt: skip
_DRAWS, _EVALUATIONS, _BOUND, _BOUND_STEPS, _FLOW = 2000, 30, 256, 200, 32
_LEVELS, _SCALE = 256, 2.0  # of pixels; how much wider [-1, 1] is than [0, 1]
_SHOWN = 10


def ours(case: str) -> Callable[[], dict[str, Any]]:
    import warnings

    warnings.simplefilter("ignore")
    backend, name = case.split()
    pixels = {part: _mnist.images(part, name) for part in ("train", "t10k")}
    features = _features(pixels["train"], _mnist.labels("train", name))
    rng = np.random.default_rng(0)
    x, new = (_dequantised(rng, pixels[part]) for part in ("train", "t10k"))

    def run() -> dict[str, Any]:
        import ppl_gen as pg
        from ppl_gen import evaluation
        from ppl_gen.diffusion.samplers.dpm_solver_pp import DPMSolverPP

        model = pg.models.Diffusion((28, 28, 1), path="cosine", prediction="v", channels=_CHANNELS)
        fitted = pg.infer(model, x, "score_matching", backend, precision="float32", progress=False, **_TRAINING)
        drawn = fitted.sample(_DRAWS, 1, sampler=DPMSolverPP(num_steps=_EVALUATIONS), progress=False)
        np.save(_draws_at(case), np.clip(drawn[: _SHOWN**2, ..., 0], -1.0, 1.0).astype(np.float16))
        bound = fitted.latent_variable(_BOUND_STEPS).log_weights(new[:_BOUND], 1, seed=2)[0]
        flow, errors = fitted.flow_log_prob(new[:_FLOW], num_steps=20, trace="hutchinson", num_probes=2, progress=False)
        bits = lambda log_prob: evaluation.bits_per_dim(
            np.asarray(log_prob) + 784 * np.log(_SCALE), num_dims=784, levels=_LEVELS
        )
        far = lambda rows: evaluation.frechet_distance(features(pixels["t10k"][:_DRAWS]), features(rows))
        return {
            "bits per dimension": bits(bound),
            "flow bits": bits(flow),
            "its error": float(np.sqrt(np.square(errors).sum()) / _FLOW / (784 * np.log(2.0))),
            "FID": far(np.clip(np.floor(_LEVELS * (drawn.reshape(_DRAWS, -1) / _SCALE + 0.5)), 0, 255) / 255),
            "FID of training images": far(pixels["train"][:_DRAWS]),
        }

    return run


def _dequantised(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Images (n, 28, 28, 1) in [-1, 1]."""
    levels = np.round(pixels * (_LEVELS - 1)) + rng.random(pixels.shape)
    return (_SCALE * (levels / _LEVELS - 0.5)).astype(np.float32).reshape(-1, 28, 28, 1)


def _features(pixels: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """(n, 784) -> (n, 128): the hidden layer of a perceptron that tells the classes apart."""
    from sklearn.neural_network import MLPClassifier

    made = MLPClassifier((128,), max_iter=10, random_state=0).fit(pixels, labels)
    return lambda x: np.maximum(x @ made.coefs_[0] + made.intercepts_[0], 0.0)


def _draws_at(case: str) -> Path:
    """Where the draws that are shown lie until the picture is made."""
    folder = Path(__file__).parent / "out"
    folder.mkdir(exist_ok=True)
    return folder / f"image_diffusion_{case.replace(' ', '_')}.npy"


def picture(result: dict[str, Any], path: Path) -> None:
    """Draws, one block a case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = [case for case in result["cases"] if _draws_at(case).exists()]
    figure, axes = pyplot.subplots(1, len(cases), figsize=(4.2 * len(cases), 4.5), layout="constrained", squeeze=False)
    for axis, case in zip(axes[0], cases, strict=True):
        x = np.load(_draws_at(case)).astype(float).reshape(_SHOWN, _SHOWN, 28, 28)
        axis.imshow(x.transpose(0, 2, 1, 3).reshape(_SHOWN * 28, -1), cmap="gray", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[], title=CASES[case])
    figure.savefig(path, dpi=80)
