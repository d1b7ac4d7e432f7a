"""The peers of ``vae_speed``, each a library by hand.

``peer(pixels, latent_dim, hidden, rate, batch_size, num_epochs)`` sets up ``train() -> losses``, which begins anew each
time.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

Train = Callable[[], np.ndarray]
Widths = tuple[int, ...]


# JAX --------------------------------------------------------------------------------------------------------------


def _linen(widths: Widths) -> Any:
    from flax import linen

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            for width in widths[:-1]:
                x = linen.relu(linen.Dense(width)(x))
            return linen.Dense(widths[-1])(x)

    return Net()


def _by_scans(step: Any, state: Any, pixels: np.ndarray, batch_size: int, num_epochs: int) -> Train:
    """``step(state, batch, key) -> (state, loss)`` over shuffled and binarised rows, each epoch one compiled scan."""
    import jax

    x, count = jax.numpy.asarray(pixels), len(pixels) // batch_size

    @jax.jit
    def epoch(state: Any, x: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(x))[: count * batch_size].reshape(count, batch_size)

        def body(state: Any, given: Any) -> Any:
            rows, key = given
            drawn, key = jax.random.split(key)
            return step(state, jax.random.bernoulli(drawn, x[rows]).astype(x.dtype), key)

        return jax.lax.scan(body, state, (order, jax.random.split(key, count)))

    def train() -> np.ndarray:
        now, losses = state, []
        for i in range(num_epochs):
            now, loss = epoch(now, x, jax.random.PRNGKey(i))
            losses.append(loss)
        return np.concatenate(losses)

    return train


def numpyro_flax(
    pixels: np.ndarray, latent_dim: int, hidden: Widths, rate: float, batch_size: int, num_epochs: int
) -> Train:
    import jax
    import optax

    jnp = jax.numpy
    encoder, decoder = _linen((*hidden, 2 * latent_dim)), _linen((*hidden, pixels.shape[1]))
    keys = jax.random.split(jax.random.PRNGKey(0))
    params = {
        "encoder": encoder.init(keys[0], jnp.zeros((1, pixels.shape[1]))),
        "decoder": decoder.init(keys[1], jnp.zeros((1, latent_dim))),
    }
    solver = optax.adam(rate)

    def loss(params: Any, x: Any, key: Any) -> Any:
        mean, log_scale = jnp.split(encoder.apply(params["encoder"], x), 2, axis=-1)
        scale = jnp.exp(log_scale)
        logits = decoder.apply(params["decoder"], mean + scale * jax.random.normal(key, mean.shape))
        likelihood = jnp.sum(x * logits - jax.nn.softplus(logits), axis=-1)
        divergence = 0.5 * jnp.sum(scale**2 + mean**2 - 1.0 - 2.0 * log_scale, axis=-1)
        return jnp.mean(divergence - likelihood)

    def step(state: Any, x: Any, key: Any) -> Any:
        params, held = state
        value, gradient = jax.value_and_grad(loss)(params, x, key)
        update, held = solver.update(gradient, held, params)
        return (optax.apply_updates(params, update), held), value

    return _by_scans(step, (params, solver.init(params)), pixels, batch_size, num_epochs)


def numpyro_svi(
    pixels: np.ndarray, latent_dim: int, hidden: Widths, rate: float, batch_size: int, num_epochs: int
) -> Train:
    import jax
    import numpyro
    import optax
    from numpyro import distributions as dist
    from numpyro.contrib.module import flax_module
    from numpyro.infer import SVI, TraceMeanField_ELBO
    from numpyro.optim import optax_to_numpyro

    jnp = jax.numpy
    encoder, decoder = _linen((*hidden, 2 * latent_dim)), _linen((*hidden, pixels.shape[1]))

    def model(x: Any) -> None:
        decode = flax_module("decoder", decoder, input_shape=(1, latent_dim))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([latent_dim]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encode = flax_module("encoder", encoder, input_shape=(1, x.shape[1]))
        with numpyro.plate("data", len(x)):
            mean, log_scale = jnp.split(encode(x), 2, axis=-1)
            numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))

    numpyro.enable_validation(False)
    svi = SVI(model, guide, optax_to_numpyro(optax.adam(rate)), TraceMeanField_ELBO())
    state = svi.init(jax.random.PRNGKey(0), jnp.asarray(pixels[:batch_size]))

    def step(state: Any, x: Any, key: Any) -> Any:
        state, value = svi.update(state, x)
        return state, value / batch_size

    return _by_scans(step, state, pixels, batch_size, num_epochs)


# PyTorch ----------------------------------------------------------------------------------------------------------


def _networks(pixels: np.ndarray, latent_dim: int, hidden: Widths) -> Any:
    from torch import nn

    def mlp(*widths: int) -> Any:
        layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    return nn.ModuleList([mlp(pixels.shape[1], *hidden, 2 * latent_dim), mlp(latent_dim, *hidden, pixels.shape[1])])


def _binarised(rows: Any) -> Any:
    """Several times faster than torch.bernoulli."""
    import torch

    return (torch.rand_like(rows) < rows).to(rows.dtype)


def _by_steps(begin: Any, nets: Any, pixels: np.ndarray, batch_size: int, num_epochs: int) -> Train:
    """``begin() -> step(batch) -> loss`` over shuffled rows, with the networks as they are now."""
    import torch

    x, start = torch.from_numpy(pixels), copy.deepcopy(nets.state_dict())

    def train() -> np.ndarray:
        nets.load_state_dict(start)
        step, losses = begin(), []
        for _ in range(num_epochs):
            order = torch.randperm(len(x))[: len(x) // batch_size * batch_size]
            losses += [step(x[rows]) for rows in order.split(batch_size)]
        return np.array([float(loss) for loss in losses])

    return train


def pyro_plain(
    pixels: np.ndarray, latent_dim: int, hidden: Widths, rate: float, batch_size: int, num_epochs: int
) -> Train:
    import torch
    from torch.nn import functional

    nets = _networks(pixels, latent_dim, hidden)

    @torch.compile
    def loss(rows: Any) -> Any:
        rows = _binarised(rows)
        mean, log_scale = nets[0](rows).chunk(2, -1)
        scale = log_scale.exp()
        logits = nets[1](mean + scale * torch.randn_like(mean))
        likelihood = (rows * logits - functional.softplus(logits)).sum(-1)
        divergence = 0.5 * (scale**2 + mean**2 - 1.0 - 2.0 * log_scale).sum(-1)
        return (divergence - likelihood).mean()

    def begin() -> Any:
        solver = torch.optim.Adam(nets.parameters(), rate, fused=True)

        def step(rows: Any) -> Any:
            solver.zero_grad()
            value = loss(rows)
            value.backward()
            solver.step()
            return value.detach()

        return step

    return _by_steps(begin, nets, pixels, batch_size, num_epochs)


def pyro_svi(
    pixels: np.ndarray, latent_dim: int, hidden: Widths, rate: float, batch_size: int, num_epochs: int
) -> Train:
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import SVI, TraceMeanField_ELBO

    nets = _networks(pixels, latent_dim, hidden)

    def model(x: Any) -> None:
        decode = pyro.module("decoder", nets[1])
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent_dim), torch.ones(latent_dim)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encode = pyro.module("encoder", nets[0])
        with pyro.plate("data", len(x)):
            mean, log_scale = encode(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    def begin() -> Any:
        pyro.clear_param_store()
        svi = SVI(model, guide, pyro.optim.Adam({"lr": rate}), TraceMeanField_ELBO())
        return lambda rows: svi.step(_binarised(rows)) / batch_size

    pyro.enable_validation(False)
    return _by_steps(begin, nets, pixels, batch_size, num_epochs)


def pyro_pythae(
    pixels: np.ndarray, latent_dim: int, hidden: Widths, rate: float, batch_size: int, num_epochs: int
) -> Train:
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    nets = _networks(pixels, latent_dim, hidden)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets[0]

        def forward(self, x: Any) -> Any:
            mean, log_variance = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets[1]

        def forward(self, z: Any) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))

    settings = VAEConfig(input_dim=(pixels.shape[1],), latent_dim=latent_dim, reconstruction_loss="bce")
    model, start = VAE(settings, Encoder(), Decoder()), copy.deepcopy(nets.state_dict())
    options = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch_size, learning_rate=rate, no_cuda=True
    )
    data = BaseDataset(torch.from_numpy(pixels), torch.zeros(len(pixels)))
    trainer = BaseTrainer(model, data, training_config=options)

    def train() -> np.ndarray:
        nets.load_state_dict(start)
        trainer.prepare_training()
        return np.array([trainer.train_step(epoch) for epoch in range(1, num_epochs + 1)])

    return train
