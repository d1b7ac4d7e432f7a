"""Eight schools, non-centred: one declaration, NUTS on either backend, and the answer by quadrature.

    python examples/eight_schools.py [numpyro|pyro]
"""

import os
import sys

import numpy as np

import ppl_gen as pg
from ppl_gen import dist

NUM_SAMPLES = int(os.environ.get("PPL_GEN_EXAMPLE_SAMPLES", 1000))  # fewer in the tests

# Rubin (1981): the effect of coaching in eight schools, and the standard error of each measurement.
y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
sigma = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@pg.program(coords={"school": list("ABCDEFGH")})
def eight_schools(sigma, y=None):
    mu = pg.sample("mu", dist.Normal(0.0, 5.0))
    tau = pg.sample("tau", dist.HalfCauchy(5.0))
    with pg.plate("school", len(sigma)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        theta = pg.deterministic("theta", mu + tau * z)  # recorded beside the latents
        pg.sample("y", dist.Normal(theta, sigma), obs=y)


def exact_means():
    """E[mu | y] and E[tau | y]: given tau all is Gaussian, which leaves one integral over tau."""
    tau = 5.0 * np.tan((np.arange(100_000) + 0.5) / 100_000 * np.pi / 2)  # evenly spread over the prior
    precision = 1.0 / (tau[:, None] ** 2 + sigma**2)
    total = precision.sum(1) + 1 / 5.0**2
    mean = (precision * y).sum(1) / total
    log_weight = 0.5 * (np.log(precision).sum(1) - np.log(total) - (precision * y**2).sum(1) + total * mean**2)
    weight = np.exp(log_weight - log_weight.max())
    return np.average(mean, weights=weight), np.average(tau, weights=weight)


def main(backend="numpyro", num_samples=NUM_SAMPLES):
    run = pg.infer(eight_schools, {"sigma": sigma, "y": y}, engine="nuts", backend=backend, num_warmup=num_samples,
                   num_samples=num_samples, target_accept_prob=0.9, progress=False)  # fmt: skip
    mu, tau = run.posterior["mu"], run.posterior["tau"]
    print(f"{backend}: mean of mu {mu.mean():.2f}, of tau {tau.mean():.2f}; exactly {exact_means()}")
    error = [monte_carlo_error(x) for x in (mu, tau)]
    assert abs(mu.mean() - exact_means()[0]) < 5 * error[0]
    assert abs(tau.mean() - exact_means()[1]) < 5 * error[1]
    return run


def monte_carlo_error(draws):
    """Monte Carlo standard error of the mean."""
    from ppl_gen import evaluation

    return float(evaluation.mcse(draws))


if __name__ == "__main__":
    main(*sys.argv[1:2])
