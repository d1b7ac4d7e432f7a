"""Eight schools, non-centred, in each dialect (Rubin 1981)."""

from __future__ import annotations

from typing import Any

import numpy as np

SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])


def portable() -> Any:
    """The portable program."""
    import ppl_gen as pg
    from ppl_gen import dist

    @pg.program
    def eight_schools(sigma, y=None):
        mu = pg.sample("mu", dist.Normal(0.0, 5.0))
        tau = pg.sample("tau", dist.HalfCauchy(5.0))
        with pg.plate("school", len(sigma)):
            z = pg.sample("z", dist.Normal(0.0, 1.0))
            pg.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)

    return eight_schools


def numpyro_model(sigma: Any, y: Any = None) -> None:
    """The same in NumPyro."""
    import numpyro
    from numpyro import distributions as dist

    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(sigma)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def pyro_model(sigma: Any, y: Any = None) -> None:
    """The same in Pyro."""
    import pyro
    from pyro import distributions as dist

    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)
