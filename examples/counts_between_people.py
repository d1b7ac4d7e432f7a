"""A random effect that no integral solves: counts of people who differ, by Monte Carlo and by variational EM.

Each person's log rate has a normal effect; Poisson counts are not Gaussian in it. ``mcem`` draws the effects and ends
within Monte Carlo error of the maximum; ``vbem`` climbs a bound and says so. Both are compared with the likelihood by
quadrature.

    python examples/counts_between_people.py [numpyro|pyro]
"""

import sys

import numpy as np
from scipy import optimize, special, stats

import ppl_gen as pg
from ppl_gen import dist, xp

rng = np.random.default_rng(1)
counts = rng.poisson(np.exp(0.5 + 0.9 * rng.standard_normal((150, 1))), (150, 3))
NODES, MASSES = np.polynomial.hermite_e.hermegauss(80)


@pg.program
def people(counts):
    mu, sigma = pg.param("mu", 0.0), pg.param("sigma", 0.5, constraint=dist.constraints.positive)
    with pg.plate("person", len(counts)):
        effect = pg.sample("effect", dist.Normal(0.0, 1.0))
        rate = xp.exp(mu + sigma * effect)[..., None] + xp.zeros(counts.shape[1])
        pg.sample("counts", dist.Poisson(rate).to_event(1), obs=counts)


def log_likelihood(mu, sigma):
    terms = stats.poisson.logpmf(counts[:, :, None], np.exp(mu + sigma * NODES)).sum(1)
    return special.logsumexp(terms, b=MASSES / MASSES.sum(), axis=1).sum()


def main(backend="numpyro"):
    best = optimize.minimize(lambda v: -log_likelihood(v[0], np.exp(v[1])), [0.0, 0.0])
    for engine, room in (("mcem", 0.1), ("vbem", 0.5)):
        run = pg.infer(people, counts, engine=engine, backend=backend)
        value = log_likelihood(run.params["mu"], run.params["sigma"])
        print(f"{engine}: mu {run.params['mu']:.3f}, sigma {run.params['sigma']:.3f}, log likelihood {value:.3f} there")
        assert -best.fun - room < value <= -best.fun + 1e-6
        effect = run.latent()["effect"]
        assert np.corrcoef(effect, counts.sum(1))[0, 1] > 0.8
    print(f"by quadrature: log likelihood {-best.fun:.3f}; the bound of vbem ends at {run.history['elbo'][-1]:.3f}")
    assert run.history["elbo"][-1] < log_likelihood(run.params["mu"], run.params["sigma"])


if __name__ == "__main__":
    main(*sys.argv[1:2])
