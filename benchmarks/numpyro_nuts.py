"""NUTS on eight schools, 4 chains x (1,000 + 1,000): a later run of the same program, float64 on both sides."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._schools import SIGMA, Y, numpyro_model, portable

TITLE = "NUTS as users run it"
PEER = "NumPyro"
CASES = {"nuts": "NUTS, eight schools, 4 x (1,000 + 1,000), a later run"}


def ours(case: str) -> Callable[[], dict[str, float]]:
    import ppl_gen as pg

    program, seeds = portable(), itertools.count()

    def run() -> dict[str, float]:
        fit = pg.infer(program, {"sigma": SIGMA, "y": Y}, engine="nuts", seed=next(seeds), progress=False)
        return _quality({n: fit.posterior[n] for n in ("mu", "tau", "z")})

    return run


def peer(case: str) -> Callable[[], dict[str, float]]:
    import jax
    import numpyro
    from numpyro.infer import MCMC, NUTS

    numpyro.enable_x64()
    sampler = MCMC(NUTS(numpyro_model), num_warmup=1000, num_samples=1000, num_chains=4, chain_method="vectorized",
                   progress_bar=False)
    seeds = itertools.count()

    def run() -> dict[str, float]:
        sampler.run(jax.random.PRNGKey(next(seeds)), SIGMA, Y)
        return _quality({n: np.asarray(x) for n, x in sampler.get_samples(group_by_chain=True).items()})

    return run


def _quality(draws: dict[str, Any]) -> dict[str, float]:
    """Mean bulk ESS of the parameters, per draw: one algorithm on both sides must give one quality."""
    from ppl_gen.evaluation import ess

    sizes = np.concatenate([np.ravel(ess(x)) for x in draws.values()])
    return {"ESS per draw": float(sizes.mean()) / draws["mu"].size}
