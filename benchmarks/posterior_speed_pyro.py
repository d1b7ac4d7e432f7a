"""Effective draws per second, warm-up included, of the eight public posteriors on the Pyro side.

Ours is a program on Pyro under ``auto``; the peer is Pyro's own NUTS on Pyro's own models, which it draws one chain
after the other wherever cores are not more than chains. ``jit_compile`` is the faster of its two settings for all but
the hidden Markov model, for which the two are alike. Its warm-up is as long as its draws, as it is by default.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import posterior_speed
from benchmarks._posteriors import PUBLIC, data, quality

TITLE = "Effective draws per second on Pyro, once compiled"
PEER = "Pyro"
RATE = posterior_speed.RATE
_CHAINS, _SAMPLES = 4, {"hmm": 200}  # of each chain, where not the usual
_USUAL = 500
PEERS = {
    "pyro": f"Pyro's MCMC(NUTS), {_CHAINS} chains x ({_USUAL} + {_USUAL}), of the hidden Markov model "
    f"({_SAMPLES['hmm']} + {_SAMPLES['hmm']}), jit_compile=True"
}
CASES = {f"{name} pyro": f"{name} on Pyro, against {PEERS['pyro']}" for name in PUBLIC}


def ours(case: str) -> Callable[[], Any]:
    return posterior_speed.ours(case, backend="pyro")


def peer(case: str) -> Callable[[], Any]:
    import pyro
    import torch

    name, seeds = case.split()[0], itertools.count()
    torch.set_default_dtype(torch.float64)
    given = {n: torch.as_tensor(x) if isinstance(x, np.ndarray) else x for n, x in data(name).items()}

    def run() -> Any:
        pyro.set_rng_seed(next(seeds))
        sampler = _sampler(name)
        sampler.run(**given)
        draws = {n: x.numpy() for n, x in sampler.get_samples(group_by_chain=True).items()}
        return functools.partial(quality, name, _with_derived(name, draws))

    return run


def _sampler(name: str) -> Any:
    from pyro.infer import MCMC, NUTS

    from benchmarks import _pyro_models

    kernel = NUTS(
        getattr(_pyro_models, name), jit_compile=True, ignore_jit_warnings=True, max_plate_nesting=2,
        init_strategy=_start(_pyro_models.STARTS.get(name, {}), _pyro_models.SPREAD),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will draw the chains one after the other
        return MCMC(kernel, _SAMPLES.get(name, _USUAL), num_chains=_CHAINS, disable_progbar=True)


def _start(flat: dict[str, list[float]], spread: float) -> Any:
    """Pyro's own start, evenly in (-2, 2); of flat sites, whose shape it cannot find by drawing, around a value."""
    import torch
    from pyro.infer.autoguide.initialization import init_to_generated, init_to_uniform, init_to_value

    def start() -> Any:
        values = {n: torch.tensor(x) + spread * (2.0 * torch.rand(len(x)) - 1.0) for n, x in flat.items()}
        return init_to_value(values=values, fallback=init_to_uniform)

    return init_to_generated(generate=start) if flat else init_to_uniform


def _with_derived(name: str, draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pyro's MCMC drops deterministic sites."""
    if name == "eight_schools":
        return {**draws, "theta": draws["mu"][..., None] + draws["tau"][..., None] * draws["theta_trans"]}
    return draws
