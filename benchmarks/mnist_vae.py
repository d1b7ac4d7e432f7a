"""Variational autoencoders on MNIST, dynamically binarised: 25 epochs, and what they are worth on the test digits.

784-200-200-50 as in Burda, Grosse & Salakhutdinov (2016), with one draw and with five, in single precision. The test
digits are binarised once. "ELBO" is the bound of one draw, "IWAE-5 bound" that of five, "NLL" minus that of 1,000; its
error is that of the draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._mnist import images

TITLE = "Variational autoencoders on MNIST, dynamically binarised"
PEER = None
ONCE = True
_BATCH, _EPOCHS = 100, 25
_TRAINING: dict[str, dict[str, Any]] = {
    "VAE": {"elbo": "mean_field"},
    "IWAE-5": {"elbo": "iwae", "num_particles": 5},
}
CASES = {
    f"{backend} {name} 784-200-200-50": f"{_EPOCHS} epochs of MNIST, {name} 784-200-200-50, {backend}"
    for backend in ("numpyro", "pyro")
    for name in _TRAINING
}


def ours(case: str) -> Callable[[], dict[str, float]]:
    backend, name, _ = case.split()
    return figures(backend, (784,), _TRAINING[name])


def figures(
    backend: str, shape: tuple[int, ...], training: dict[str, Any], num_test: int = 10_000, **networks: Any
) -> Callable[[], dict[str, float]]:
    """What a VAE of 50 latents is worth; the NLL of so many test digits."""
    import warnings

    warnings.simplefilter("ignore")
    x, new = (images(part).astype("float32").reshape(-1, *shape) for part in ("train", "t10k"))
    new = (np.random.default_rng(0).random(new.shape, np.float32) < new).astype("float32")

    def run() -> dict[str, float]:
        import ppl_gen as pg
        from ppl_gen import evaluation

        fitted = pg.infer(
            pg.models.VAE(50, shape, **networks), x, "svi", backend, batch_size=_BATCH, num_epochs=_EPOCHS,
            augment="binarize", learning_rate=1e-3, schedule="cosine", precision="float32", progress=False, **training,
        )  # fmt: skip
        some = fitted.log_weights(new, 20, seed=1)
        five = np.logaddexp.reduce(some.reshape(5, 4, -1), axis=0).mean() - np.log(5)
        nll = evaluation.importance_bound(fitted.log_weights(new[:num_test], 1000, seed=2))
        return {
            "test ELBO": float(some.mean()),
            "IWAE-5 bound": float(five),
            "NLL": -nll.mean,
            "its error": nll.mean_error,
        }

    return run
