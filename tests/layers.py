"""One small network on each array library, with the same names, shapes and weights."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

_rng = np.random.default_rng(7)
KERNEL, BIAS = _rng.normal(size=(2, 3)), _rng.normal(size=3)


class TorchLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(BIAS))
        self.kernel = torch.nn.Parameter(torch.tensor(KERNEL))

    def forward(self, x):
        return torch.tanh(x @ self.kernel + self.bias)


class NNXLayer(nnx.Module):
    def __init__(self):
        self.bias = nnx.Param(jnp.asarray(BIAS))
        self.kernel = nnx.Param(jnp.asarray(KERNEL))

    def __call__(self, x):
        return jnp.tanh(x @ self.kernel[...] + self.bias[...])
