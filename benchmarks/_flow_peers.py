"""The peers of ``flow_speed``: ``Library(kind, features, maps, hidden, bins)`` makes a flow of theirs.

It has ``steps(rows, rate, count) -> run() -> last loss``, ``density(rows)`` and ``draws(count)``, which take and give
NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class FlowJAX:
    def __init__(self, kind: str, features: int, maps: int, hidden: tuple[int, ...], bins: int):
        import equinox
        import jax
        import paramax
        from flowjax.bijections import RationalQuadraticSpline
        from flowjax.distributions import Normal
        from flowjax.flows import masked_autoregressive_flow

        jnp = jax.numpy
        spline = RationalQuadraticSpline(knots=bins, interval=5) if kind == "nsf" else None
        flow = masked_autoregressive_flow(
            jax.random.key(0),
            base_dist=Normal(jnp.zeros(features)),
            transformer=spline,
            flow_layers=maps,
            nn_width=hidden[0],
            nn_depth=len(hidden),
        )
        frozen: Any = paramax.NonTrainable
        self.params, static = equinox.partition(
            flow, equinox.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, frozen)
        )
        self.whole = lambda params: paramax.unwrap(equinox.combine(params, static))
        self._density = jax.jit(lambda params, x: self.whole(params).log_prob(x))
        self._draws = jax.jit(lambda params, key, n: self.whole(params).sample(key, (n,)), static_argnums=2)
        self._keys = 0

    def steps(self, x: np.ndarray, rate: float, count: int) -> Callable[[], float]:
        import jax
        import optax

        solver, rows = optax.adam(rate), jax.numpy.asarray(np.stack([x] * count))

        def loss(params: Any, x: Any) -> Any:
            return -self.whole(params).log_prob(x).mean()

        def step(state: Any, x: Any) -> Any:
            params, held = state
            value, gradient = jax.value_and_grad(loss)(params, x)
            update, held = solver.update(gradient, held, params)
            return (optax.apply_updates(params, update), held), value

        advance = jax.jit(lambda state, rows: jax.lax.scan(step, state, rows))
        state = [(self.params, solver.init(self.params))]

        def run() -> float:
            state[0], losses = advance(state[0], rows)
            return float(losses[-1])

        return run

    def density(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._density(self.params, x))

    def draws(self, n: int) -> np.ndarray:
        import jax

        self._keys += 1
        return np.asarray(self._draws(self.params, jax.random.key(self._keys), n))


class Zuko:
    def __init__(self, kind: str, features: int, maps: int, hidden: tuple[int, ...], bins: int):
        import torch
        import zuko as library

        torch.manual_seed(0)
        options = {"transforms": maps, "hidden_features": hidden}
        flows = library.flows
        self.flow = flows.NSF(features, bins=bins, **options) if kind == "nsf" else flows.MAF(features, **options)

    def steps(self, x: np.ndarray, rate: float, count: int) -> Callable[[], float]:
        import torch

        solver, rows = torch.optim.Adam(self.flow.parameters(), rate), torch.from_numpy(x)

        def run() -> float:
            for _ in range(count):
                solver.zero_grad()
                loss = -self.flow().log_prob(rows).mean()
                loss.backward()
                solver.step()
            return float(loss.detach())

        return run

    def density(self, x: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.flow().log_prob(torch.from_numpy(x)).numpy()

    def draws(self, n: int) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.flow().sample((n,)).numpy()
