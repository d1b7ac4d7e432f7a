"""Expectation-maximisation on a program of one's own: a mixture of two straight lines, some rows counted twice.

The sum over the two lines is exact, ``weight`` and ``scale`` have a closed M-step, slopes and intercepts take L-BFGS
steps. The end is compared with direct maximisation of the marginal likelihood.

    python examples/em_on_a_program.py [numpyro|pyro]
"""

import sys

import numpy as np
from scipy import optimize, special, stats

import ppl_gen as pg
from ppl_gen import dist, xp

rng = np.random.default_rng(0)
t = rng.uniform(-2, 2, 150)
first = rng.random(150) < 0.4
y = np.where(first, 2 * t + 1, -t) + np.where(first, 0.3, 0.6) * rng.standard_normal(150)
weights = np.where(np.arange(150) < 30, 2.0, 1.0)


@pg.program
def two_lines(t, y):
    weight = pg.param("weight", 0.5, constraint=dist.constraints.unit_interval)
    slope, intercept = pg.param("slope", xp.array([-0.5, 1.0])), pg.param("intercept", xp.array([0.0, 0.5]))
    scale = pg.param("scale", xp.ones(2), constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        k = xp.astype(pg.sample("k", dist.Bernoulli(probs=weight)), int)
        pg.sample("y", dist.Normal(intercept[k] + slope[k] * t, scale[k]), obs=y)


def log_likelihood(v):
    lines = stats.norm.logpdf(y[:, None], v[3:5] + v[1:3] * t[:, None], np.exp(v[5:7]))
    shares = np.array([special.log_expit(-v[0]), special.log_expit(v[0])])
    return weights @ special.logsumexp(shares + lines, axis=1)


def main(backend="numpyro"):
    run = pg.infer(two_lines, {"t": t, "y": y}, engine="em", backend=backend, num_restarts=4, weights=weights)
    print(f"E-step: {run.attrs['e_step']}; M-step: {run.attrs['m_step']}")
    for name, value in run.params.items():
        print(f"{name:>10}: {np.round(value, 3)}")
    print(f"rows that are surely of one line: {(run.latent()['k'].max(1) > 0.99).sum()} of {len(y)}")

    direct = optimize.minimize(lambda v: -log_likelihood(v), [0.0, -0.5, 1.0, 0.0, 0.5, 0.0, 0.0])
    print(f"log likelihood {run.history['log_likelihood'][-1]:.4f}, by direct maximisation {-direct.fun:.4f}")
    assert abs(run.history["log_likelihood"][-1] + direct.fun) < 1e-3


if __name__ == "__main__":
    main(*sys.argv[1:2])
