"""Training examples per second of one VAE, 784-200-200-50, in batches of 128 of MNIST by Adam, dynamically binarised.

All sides descend the same bound, with the divergence in closed form, in single precision on all cores. One run is three
epochs from the start, of data in memory; what is compiled is compiled before. pythae takes pixels as they are, without
drawing them anew, which is less work.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np

from benchmarks import _mnist, _vae_peers

TITLE = "Training of a VAE"
_PEERS = {
    "numpyro flax": "a plain loop of flax and optax, an epoch of which is one jitted scan",
    "numpyro svi": "NumPyro's SVI.update, an epoch of which is one jitted scan",
    "pyro plain": "a plain PyTorch loop with torch.compile and fused Adam",
    "pyro svi": "Pyro's own SVI loop",
    "pyro pythae": "pythae's trainer",
}
CASES = {case: f"one training example, VAE 784-200-200-50, {case.split()[0]} ({peer})" for case, peer in _PEERS.items()}
PEER = "by hand"
_BATCH, _EPOCHS = 128, 3
_ROWS = 60_000 // _BATCH * _BATCH
_EXAMPLES = _EPOCHS * _ROWS
PER = dict.fromkeys(CASES, _EXAMPLES)
_LATENT, _HIDDEN, _RATE = 50, (200, 200), 1e-3


def ours(case: str) -> Callable[[], dict[str, float]]:
    from ppl_gen import backends, models
    from ppl_gen.inference.driver import Driver
    from ppl_gen.inference.fitting import Fit
    from ppl_gen.inference.svi import SVI
    from ppl_gen.program import as_program
    from ppl_gen.target import Target

    room = backends.get(case.split()[0])
    engine = SVI(
        batch_size=_BATCH, num_epochs=_EPOCHS, learning_rate=_RATE, elbo="mean_field", augment="binarize"
    )
    model = as_program(models.VAE(_LATENT, (784,), hidden=_HIDDEN))
    with room.scope(precision="float32"):
        bound = model.bind(_pixels(), room, ("float32", None), engine.rows_at_once(model))
        target, driver = Target(bound), Driver(room.to_numpy, progress=False)

    def run() -> dict[str, float]:
        with room.scope(precision="float32"):
            _, report, _ = Fit(engine, target, model.guide, 0).run(driver)
        return _figures(report["loss"])

    return _rated(run)


def peer(case: str) -> Callable[[], dict[str, float]]:
    train = getattr(_vae_peers, case.replace(" ", "_"))(_pixels(), _LATENT, _HIDDEN, _RATE, _BATCH, _EPOCHS)
    return _rated(lambda: _figures(train()))


def _pixels() -> np.ndarray:
    return _mnist.images("train").astype(np.float32)[:_ROWS]


def _figures(loss: np.ndarray) -> dict[str, float]:
    return {"loss at the end": float(np.mean(loss[-100:]))}


def _rated(run: Callable[[], dict[str, float]]) -> Callable[[], dict[str, float]]:
    """With examples per second, and what part they are of the machine's rate of matrix products."""
    rate = _product_rate()

    def timed() -> dict[str, float]:
        began = time.perf_counter()
        figures = run()
        seconds = time.perf_counter() - began
        figures["examples per second"] = _EXAMPLES / seconds
        figures["of the matrix-product rate"] = _operations() * _EXAMPLES / seconds / rate
        return {**figures, "seconds": seconds}

    return timed


def _operations() -> float:
    """Of the products of one example: forward, gradients of weights, and gradients of all inputs but the pixels."""
    widths = [784, *_HIDDEN, 2 * _LATENT], [_LATENT, *_HIDDEN, 784]
    weights = sum(a * b for w in widths for a, b in itertools.pairwise(w))
    return 2.0 * (3 * weights - 784 * _HIDDEN[0])


def _product_rate() -> float:
    """Operations per second of the best of some single-precision products of 2,048 x 2,048, by PyTorch."""
    import torch

    a = torch.randn(2048, 2048)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2.0 * 2048**3 / min(times)
