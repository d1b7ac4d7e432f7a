"""Effective draws per second, warm-up included, of the eight public posteriors.

Each case is one posterior and one peer, by turns with our engine in a process of its own. A run counts only where its
draws are right (``passes``); the ratio is of seconds for each effective draw of the worst parameter. PyMC's models are
sampled by nutpie, the faster of the two samplers for them, and by PyMC's own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._posteriors import PUBLIC, data, program, quality

TITLE = "Effective draws per second, once compiled"
PEER = "NumPyro, BlackJAX, nutpie, PyMC"
RATE = "min ESS"  # what the seconds are for
PEERS = {
    "nutpie": "nutpie (numba), 4 chains x (400 + 1,000) on all cores",
    "numpyro": "NumPyro NUTS, 4 vectorised chains x (1,000 + 1,000), a second MCMC.run",
    "jitted": "NumPyro's NUTS kernel, warm-up and draws of 4 chains in one jitted function",
    "blackjax": "BlackJAX NUTS, window adaptation and draws of 4 chains in one jitted function",
    "pymc": "PyMC's own NUTS (numba), 4 chains x (1,000 + 1,000) on all cores",
}
CASES = {f"{name} {peer}": f"{name}, against {said}" for name in PUBLIC for peer, said in PEERS.items()}
_CHAINS, _WARMUP, _SAMPLES = 4, 1000, 1000


def ours(case: str, backend: str = "numpyro") -> Callable[[], Any]:
    import ppl_gen as pg

    name = case.split()[0]
    declared, given, seeds = program(name), data(name), itertools.count()

    def run() -> Any:
        fit = pg.infer(declared, given, "auto", backend, seed=next(seeds), progress=False)
        return functools.partial(_checked, name, fit.posterior)

    return run


def _checked(name: str, draws: Any) -> dict[str, float]:
    found = quality(name, draws)
    if not found["passes"]:
        raise AssertionError(f"draws of {name} are not right: {found}")
    return found


def peer(case: str) -> Callable[[], Any]:
    name, which = case.split()
    return globals()[f"_{which}"](name)


def _numpyro_model(name: str) -> Callable[..., Any]:
    import numpyro

    numpyro.enable_x64()
    from benchmarks import _numpyro_models

    return getattr(_numpyro_models, name)


def _numpyro(name: str) -> Callable[[], Any]:
    import jax
    from numpyro.infer import MCMC, NUTS

    given, seeds = data(name), itertools.count()
    sampler = MCMC(NUTS(_numpyro_model(name)), num_warmup=_WARMUP, num_samples=_SAMPLES, num_chains=_CHAINS,
                   chain_method="vectorized", progress_bar=False)

    def run() -> Any:
        sampler.run(jax.random.PRNGKey(next(seeds)), **given)
        draws = jax.device_get(sampler.get_samples(group_by_chain=True))
        return functools.partial(quality, name, draws)

    return run


def _jitted(name: str) -> Callable[[], Any]:
    import jax
    from numpyro.infer import NUTS

    model, arrays, statics = _split(name)

    @jax.jit
    def chains(key: Any, arrays: Any) -> Any:
        kernel = NUTS(model)
        all_given = {**arrays, **statics}
        state = kernel.init(jax.random.split(key, _CHAINS), _WARMUP, None, (), all_given)
        step = lambda s: kernel.sample(s, (), all_given)  # init of several keys has made it one of several chains

        def transition(state: Any, _: Any) -> Any:
            state = step(state)
            return state, state.z

        _, z = jax.lax.scan(transition, state, None, _WARMUP + _SAMPLES)
        z = jax.tree.map(lambda x: x[_WARMUP:].swapaxes(0, 1), z)
        return jax.vmap(jax.vmap(kernel.postprocess_fn((), all_given)))(z)

    return _drawn(name, chains, arrays)


def _split(name: str) -> tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]:
    """A model, and its data as what a jitted function is given and what it is compiled for."""
    given = data(name)
    arrays = {n: v for n, v in given.items() if isinstance(v, np.ndarray)}
    return _numpyro_model(name), arrays, {n: v for n, v in given.items() if n not in arrays}


def _drawn(name: str, chains: Any, arrays: Any) -> Callable[[], Any]:
    import jax

    seeds = itertools.count()

    def run() -> Any:
        draws = jax.device_get(chains(jax.random.PRNGKey(next(seeds)), arrays))
        return functools.partial(quality, name, draws)

    return run


def _blackjax(name: str) -> Callable[[], Any]:
    import blackjax
    import jax
    from numpyro.infer.util import initialize_model

    model, arrays, statics = _split(name)

    @jax.jit
    def chains(key: Any, arrays: Any) -> Any:
        all_given = {**arrays, **statics}
        found = initialize_model(key, model, model_kwargs=all_given, dynamic_args=True)
        potential, constrain = found.potential_fn(**all_given), found.postprocess_fn(**all_given)
        density = lambda z: -potential(z)

        def chain(key: Any) -> Any:
            start, warm, draw = jax.random.split(key, 3)
            z = jax.tree.map(lambda x: jax.random.uniform(start, x.shape, x.dtype, -2, 2), found.param_info.z)
            adapt = blackjax.window_adaptation(blackjax.nuts, density)
            (state, params), _ = adapt.run(warm, z, _WARMUP)
            step = blackjax.nuts(density, **params).step

            def transition(state: Any, key: Any) -> Any:
                state, _ = step(key, state)
                return state, state.position

            return jax.vmap(constrain)(jax.lax.scan(transition, state, jax.random.split(draw, _SAMPLES))[1])

        return jax.vmap(chain)(jax.random.split(key, _CHAINS))

    return _drawn(name, chains, arrays)


def _pymc_model(name: str) -> Any:
    from benchmarks import _pymc_models

    return getattr(_pymc_models, name)(**data(name))


def _nutpie(name: str) -> Callable[[], Any]:
    import nutpie

    compiled, seeds = nutpie.compile_pymc_model(_pymc_model(name), backend="numba"), itertools.count()

    def run() -> Any:
        trace = nutpie.sample(compiled, draws=_SAMPLES, chains=_CHAINS, seed=next(seeds), progress_bar=False)
        return functools.partial(_of_trace, name, trace)

    return run


def _pymc(name: str) -> Callable[[], Any]:
    """The step is compiled once, of which ``pm.sample`` alone would do so in each call."""
    import pymc as pm

    model, seeds, quiet = _pymc_model(name), itertools.count(), {"progressbar": False, "quiet": True}
    _, step = pm.init_nuts(chains=_CHAINS, model=model, random_seed=0, compile_kwargs={"mode": "NUMBA"}, **quiet)

    def run() -> Any:
        trace = pm.sample(_SAMPLES, tune=_WARMUP, chains=_CHAINS, step=step, model=model, random_seed=next(seeds),
                          compute_convergence_checks=False, **quiet)
        return functools.partial(_of_trace, name, trace)

    return run


def _of_trace(name: str, trace: Any) -> dict[str, float]:
    return quality(name, {str(n): np.asarray(x) for n, x in trace.posterior.items() if not str(n).endswith("__")})
