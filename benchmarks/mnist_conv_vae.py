"""Convolutional variational autoencoders on MNIST: what ``mnist_vae`` asks of dense ones.

Convolutions of 16 and 32 channels. The NLL is of the first 2,000 test digits, since the decoder is the more expensive.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import mnist_vae

TITLE = "Convolutional autoencoders on MNIST, dynamically binarised"
PEER = None
ONCE = True
CASES = {b: f"25 epochs of MNIST, convolutional VAE 16-32, 50 latents, {b}" for b in ("numpyro", "pyro")}


def ours(case: str) -> Callable[[], dict[str, float]]:
    return mnist_vae.figures(case, (28, 28, 1), {"elbo": "mean_field"}, 2_000, channels=(16, 32))
