"""NumPyro's own algorithms, each as a state and a compiled way to advance it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpyro.infer.autoguide as autoguide
from numpyro import handlers, optim
from numpyro.contrib.funsor import config_enumerate
from numpyro.infer import (
    SVI,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    init_to_uniform,
    init_to_value,
)
from numpyro.infer.hmc import hmc

from ppl_gen.backends.numpyro.optimisers import optimiser as make_optimiser

_GUIDES = {
    "normal": autoguide.AutoNormal,
    "diagonal": autoguide.AutoDiagonalNormal,
    "multivariate_normal": autoguide.AutoMultivariateNormal,
    "low_rank": autoguide.AutoLowRankMultivariateNormal,
    "delta": autoguide.AutoDelta,
}


class NumPyroHMC:
    """NumPyro's HMC and NUTS kernels on a flat potential, chains vectorised, any number of steps compiled whole."""

    independent = True

    def __init__(self, potential: Callable[..., Any], *, algorithm: str, num_warmup: int, calls: int, **options: Any):
        del calls
        self._init_kernel, self._sample_kernel = hmc(
            potential_fn_gen=lambda arrays: lambda position: potential(position, arrays), algo=algorithm
        )
        self._options = {"num_warmup": num_warmup, **options}
        self._init = jax.jit(self._init_all)
        self._advance = jax.jit(self._advance_all, static_argnums=1)

    def init(self, positions: Any, seed: int, arrays: Any, rows: slice = slice(None)) -> Any:
        """The state of those ``rows`` of the chains that start at ``positions`` (chains, dim); each has its own key."""
        return self._init(positions[rows], jax.random.split(jax.random.PRNGKey(seed), len(positions))[rows], arrays)

    def advance(self, state: Any, num_steps: int, arrays: Any) -> tuple[Any, dict[str, Any]]:
        """``num_steps`` transitions; reports arrays (num_steps, chains, ...)."""
        return self._advance(state, num_steps, arrays)

    def _init_all(self, positions: Any, keys: Any, arrays: Any) -> Any:
        def init(position: Any, key: Any) -> Any:
            return self._init_kernel(position, rng_key=key, model_args=(arrays,), **self._options)

        return jax.vmap(init)(positions, keys)

    def _advance_all(self, state: Any, num_steps: int, arrays: Any) -> tuple[Any, dict[str, Any]]:
        def body(s: Any, _: Any) -> tuple[Any, dict[str, Any]]:
            s = jax.vmap(lambda one: self._sample_kernel(one, (arrays,)))(s)
            return s, _report(s)

        return jax.lax.scan(body, state, None, length=num_steps)


def _report(state: Any) -> dict[str, Any]:
    return {
        "position": state.z,
        "lp": -state.potential_energy,
        "energy": state.energy,
        "diverging": state.diverging,
        "n_steps": state.num_steps,
        "acceptance_rate": state.accept_prob,
        "step_size": state.adapt_state.step_size,
    }


def _elbo(name: str, num_particles: int, alpha: float) -> Any:
    if name == "renyi":
        return RenyiELBO(alpha=alpha, num_particles=num_particles)
    known = {"trace": Trace_ELBO, "mean_field": TraceMeanField_ELBO, "enum": TraceEnum_ELBO}
    return known[name](num_particles=num_particles)


class NumPyroSVI:
    """NumPyro's SVI; state and parameters are handed in and out, the steps compiled whole.

    The first guide made serves every later run of the same shapes, so that nothing is compiled again; each run
    draws its initial parameters from a fresh one.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any] | str,
        *,
        elbo: str,
        num_particles: int,
        alpha: float,
        optimizer: Any,
        learning_rate: float,
        discrete: tuple[str, ...],
        max_plate_nesting: int,
        calls: int,
        rank: int | None = None,
    ):
        del max_plate_nesting, calls  # Pyro needs them
        self._model = config_enumerate(model) if discrete else model
        self._make_guide = functools.partial(_guide, guide, model, discrete, rank)
        self._elbo = _elbo(elbo, num_particles, alpha)
        self._optimiser = optim.optax_to_numpyro(make_optimiser(optimizer, learning_rate))
        self._svi: Any = None
        self._advance = jax.jit(self._advance_all, static_argnums=1)

    def init(self, seed: int, arrays: Any, values: Mapping[str, Any] | None = None) -> Any:
        """The initial state of a run; an autoguide starts at ``values`` (site -> constrained), elsewhere at random."""
        svi = SVI(self._model, self._make_guide(dict(values or {})), self._optimiser, self._elbo)
        state = svi.init(jax.random.PRNGKey(seed), arrays)
        if self._svi is None:
            self._svi = svi
        return state

    def advance(self, state: Any, num_steps: int, arrays: Any) -> tuple[Any, dict[str, Any]]:
        """``num_steps`` updates; reports the loss (negative ELBO) of each."""
        return self._advance(state, num_steps, arrays)

    def _advance_all(self, state: Any, num_steps: int, arrays: Any) -> tuple[Any, dict[str, Any]]:
        def body(s: Any, _: Any) -> tuple[Any, dict[str, Any]]:
            s, loss = self._svi.update(s, arrays)
            return s, {"loss": loss}

        return jax.lax.scan(body, state, None, length=num_steps)

    def params(self, state: Any) -> dict[str, Any]:
        """The parameters by name, constrained."""
        return self._svi.get_params(state)

    def guide(self, arrays: Any) -> Any:
        """Run the guide; its params must be handed in by a request."""
        return self._svi.guide(arrays)


def _guide(
    guide: Any, model: Callable[..., Any], discrete: tuple[str, ...], rank: int | None, values: dict[str, Any]
) -> Any:
    if not isinstance(guide, str):
        return guide
    shown = handlers.block(model, hide=list(discrete)) if discrete else model
    options = {"rank": rank} if guide == "low_rank" and rank else {}
    start = functools.partial(init_to_value, values=values) if values else init_to_uniform
    return _GUIDES[guide](shown, init_loc_fn=start, **options)
