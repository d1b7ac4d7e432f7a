"""The peers of ``diffusion_speed``: plain loops around the same network, as the papers' code and torchcfm write them.

Each has ``train(rows, count) -> run() -> losses`` and ``draws(shape, count) -> run() -> rows``. Of torchebm and sbi it
is what their users call.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

BETA_MIN, BETA_MAX, EDGE = 0.1, 20.0, 1e-3  # of the variance-preserving path


class Torch:
    """Denoising diffusion in PyTorch, uncompiled, as the code of Ho et al. and of Song et al. is."""

    def __init__(self, net: Any, batch: int, rate: float):
        self.net, self.batch, self.rate = net.build("torch"), batch, rate

    def train(self, x: np.ndarray, count: int) -> Callable[[], list[float]]:
        import torch

        rows, start = torch.as_tensor(x), copy.deepcopy(self.net.state_dict())

        def run() -> list[float]:
            self.net.load_state_dict(start)
            solver, losses = torch.optim.Adam(self.net.parameters(), self.rate), []
            for _ in range(count):
                loss = self._loss(torch, rows[torch.randint(len(rows), (self.batch,))])
                solver.zero_grad()
                loss.backward()
                solver.step()
                losses.append(loss.item())
            return losses

        return run

    def _loss(self, torch: Any, x: Any) -> Any:
        t = EDGE + (1.0 - EDGE) * torch.rand(len(x))
        integral = BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t * t
        along = (-1,) + (1,) * (x.ndim - 1)
        alpha, sigma = torch.exp(-0.5 * integral).reshape(along), torch.sqrt(-torch.expm1(-integral)).reshape(along)
        e = torch.randn_like(x)
        return ((self.net(alpha * x + sigma * e, t) - e) ** 2).mean()

    def draws(self, shape: tuple[int, ...], count: int) -> Callable[[], np.ndarray]:
        """The probability-flow equation by Euler's method."""
        import torch

        @torch.no_grad()
        def run() -> np.ndarray:
            x, times = torch.randn(shape), np.linspace(1.0, 0.0, count + 1)
            for t, s in itertools.pairwise(times):
                noise = self.net(x, torch.full((len(x),), t, dtype=torch.float32))
                x = x + (s - t) * _slope(math, x, noise, t)
            return x.numpy()

        return run


class Jax:
    """The same on JAX: a step of training, and of drawing, is jitted and called in a loop."""

    def __init__(self, net: Any, batch: int, rate: float):
        from flax import nnx

        self.graph, self.params = nnx.split(net.build("jax"))
        self.apply = lambda params, *inputs: nnx.merge(self.graph, params)(*inputs)
        self.batch, self.rate = batch, rate

    def train(self, x: np.ndarray, count: int) -> Callable[[], list[float]]:
        import jax
        import optax

        jnp, rows, solver = jax.numpy, jax.numpy.asarray(x), optax.adam(self.rate)

        def loss(params: Any, x: Any, key: Any) -> Any:
            first, second = jax.random.split(key)
            t = EDGE + (1.0 - EDGE) * jax.random.uniform(first, (len(x),))
            integral = BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t * t
            along = (-1,) + (1,) * (x.ndim - 1)
            alpha, sigma = jnp.exp(-0.5 * integral).reshape(along), jnp.sqrt(-jnp.expm1(-integral)).reshape(along)
            e = jax.random.normal(second, x.shape)
            return jnp.mean((self.apply(params, alpha * x + sigma * e, t) - e) ** 2)

        @jax.jit
        def step(params: Any, held: Any, key: Any) -> Any:
            first, second = jax.random.split(key)
            picked = rows[jax.random.randint(first, (self.batch,), 0, len(rows))]
            value, gradient = jax.value_and_grad(loss)(params, picked, second)
            update, held = solver.update(gradient, held, params)
            return optax.apply_updates(params, update), held, value

        def run() -> list[float]:
            state, losses = [self.params, solver.init(self.params)], []
            for key in jax.random.split(jax.random.key(0), count):
                *state[:], value = step(*state, key)
                losses.append(value)
            return [float(v) for v in losses]

        return run

    def draws(self, shape: tuple[int, ...], count: int) -> Callable[[], np.ndarray]:
        import jax

        jnp = jax.numpy

        @jax.jit
        def step(x: Any, t: Any, s: Any) -> Any:
            noise = self.apply(self.params, x, jnp.full((len(x),), t))
            return x + (s - t) * _slope(jnp, x, noise, t)

        def run() -> np.ndarray:
            x, times = jax.random.normal(jax.random.key(1), shape), np.linspace(1.0, 0.0, count + 1, dtype=np.float32)
            for t, s in itertools.pairwise(times):
                x = step(x, t, s)
            return np.asarray(x)

        return run


def _slope(xp: Any, x: Any, noise: Any, t: Any) -> Any:
    """dx / dt = -beta / 2 (x + score) with score = -noise / sigma."""
    beta = BETA_MIN + (BETA_MAX - BETA_MIN) * t
    sigma = xp.sqrt(1.0 - xp.exp(-(BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t * t)))
    return -0.5 * beta * (x - noise / sigma)


class TorchCFM:
    """torchcfm's matchers and its network, in the loop of its examples."""

    def __init__(self, features: int, width: int, batch: int, rate: float, optimal: bool):
        from torchcfm import conditional_flow_matching as cfm
        from torchcfm.models.models import MLP

        self.net = MLP(dim=features, w=width, time_varying=True)
        kind = cfm.ExactOptimalTransportConditionalFlowMatcher if optimal else cfm.ConditionalFlowMatcher
        self.matcher, self.batch, self.rate = kind(sigma=0.0), batch, rate

    def train(self, x: np.ndarray, count: int) -> Callable[[], list[float]]:
        import torch

        rows, start = torch.as_tensor(x), copy.deepcopy(self.net.state_dict())

        def run() -> list[float]:
            self.net.load_state_dict(start)
            solver, losses = torch.optim.Adam(self.net.parameters(), self.rate), []
            for _ in range(count):
                solver.zero_grad()
                x1 = rows[torch.randint(len(rows), (self.batch,))]
                t, xt, ut = self.matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
                loss = torch.mean((self.net(torch.cat([xt, t[:, None]], dim=-1)) - ut) ** 2)
                loss.backward()
                solver.step()
                losses.append(loss.item())
            return losses

        return run

    def draws(self, shape: tuple[int, ...], count: int) -> Callable[[], np.ndarray]:
        """Euler's method, as its examples ask torchdyn for."""
        import torch

        @torch.no_grad()
        def run() -> np.ndarray:
            x, h = torch.randn(shape), 1.0 / count
            for i in range(count):
                x = x + h * self.net(torch.cat([x, torch.full((len(x), 1), i * h)], dim=-1))
            return x.numpy()

        return run


def torchebm(barrier: float, shape: tuple[int, ...], count: int, step_size: float) -> Callable[[], np.ndarray]:
    """The ends of chains of unadjusted Langevin steps in double wells, E = barrier sum (x^2 - 1)^2."""
    import torch
    from torchebm.core import DoubleWellModel
    from torchebm.samplers import LangevinDynamics

    sampler = LangevinDynamics(DoubleWellModel(barrier), step_size)
    return lambda: sampler.sample(x=torch.randn(shape), n_steps=count).numpy()


def sbi(
    observed: np.ndarray, simulations: int, draws: int, epochs: int, batch: int, width: int, layers: int, rate: float
) -> Callable[[], np.ndarray]:
    """Posterior draws (draws, 2) of two moons by neural posterior score estimation: simulated, trained and drawn."""
    import torch
    from sbi.inference import NPSE
    from sbi.neural_nets import posterior_score_nn
    from sbi.utils import BoxUniform

    prior, seen = BoxUniform(-torch.ones(2), torch.ones(2)), torch.as_tensor(observed, dtype=torch.float32)

    def simulate(theta: Any) -> Any:
        a, r = torch.pi * (torch.rand(len(theta)) - 0.5), 0.1 + 0.01 * torch.randn(len(theta))
        point = torch.stack([r * torch.cos(a) + 0.25, r * torch.sin(a)], dim=-1)
        one, other = theta.T
        return point + torch.stack([-torch.abs(one + other), other - one], dim=-1) / math.sqrt(2.0)

    def run() -> np.ndarray:
        net = posterior_score_nn("mlp", "ve", hidden_features=width, num_layers=layers)
        made, theta = NPSE(prior, net, show_progress_bars=False), prior.sample((simulations,))
        made.append_simulations(theta, simulate(theta))
        made.train(batch, learning_rate=rate, max_num_epochs=epochs, stop_after_epochs=epochs)
        return made.build_posterior().sample((draws,), x=seen, show_progress_bars=False).numpy()

    return run
