"""Variational autoencoders on MNIST, dynamically binarised: 25 epochs, and what they are worth on the test digits.

784-200-200-50 as in Burda, Grosse & Salakhutdinov (2016), with one draw and with five, and a convolutional one. The
test digits are binarised once. "ELBO" is the bound of one draw, "IWAE-5 bound" that of five, "NLL" minus that of 1,000,
of the first 2,000 test digits for the convolutional networks, whose decoder is the more expensive; its error is that
of the draws. In single precision. Each model is trained once; seconds are those of training, with
compilation, and in the kept run of a machine that did other work as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._mnist import images

TITLE = "Variational autoencoders on MNIST, dynamically binarised"
PEER = None
ONCE = True
_BATCH, _EPOCHS = 100, 25
_VAE: dict[str, Any] = {"elbo": "mean_field"}
_IWAE: dict[str, Any] = {"elbo": "iwae", "num_particles": 5}
_MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {  # networks, training, test digits of the NLL
    "VAE 784-200-200-50": ({}, _VAE, 10_000),
    "IWAE-5 784-200-200-50": ({}, _IWAE, 10_000),
    "convolutional VAE 16-32, 50 latents": ({"channels": (16, 32)}, _VAE, 2_000),
}
CASES = {
    f"{backend} {name}": f"{_EPOCHS} epochs of MNIST, {name}, {backend}"
    for backend in ("numpyro", "pyro")
    for name in _MODELS
}


def ours(case: str) -> Callable[[], dict[str, float]]:
    import warnings

    warnings.simplefilter("ignore")
    backend, _, name = case.partition(" ")
    networks, training, num_test = _MODELS[name]
    shape = (28, 28, 1) if "channels" in networks else (784,)
    x, new = (images(part).astype("float32").reshape(-1, *shape) for part in ("train", "t10k"))
    new = (np.random.default_rng(0).random(new.shape, np.float32) < new).astype("float32")

    def run() -> dict[str, float]:
        import ppl_gen as pg
        from ppl_gen import evaluation

        began = time.perf_counter()
        fitted = pg.infer(
            pg.models.VAE(50, shape, **networks), x, "svi", backend, batch_size=_BATCH, num_epochs=_EPOCHS,
            augment="binarize", learning_rate=1e-3, schedule="cosine", precision="float32", progress=False, **training,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        some = fitted.log_weights(new, 20, seed=1)
        five = np.logaddexp.reduce(some.reshape(5, 4, -1), axis=0).mean() - np.log(5)
        nll = evaluation.importance_bound(fitted.log_weights(new[:num_test], 1000, seed=2))
        return {
            "test ELBO": float(some.mean()),
            "IWAE-5 bound": float(five),
            "NLL": -nll.mean,
            "its error": nll.mean_error,
            "seconds": seconds,
        }

    return run
