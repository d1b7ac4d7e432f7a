"""Linear regression with flat priors: the posterior is known in closed form, a Student's t about least squares.

    python examples/regression_with_flat_prior.py [numpyro|pyro]
"""

import os
import sys

import numpy as np

import ppl_gen as pg
from ppl_gen import dist

NUM_SAMPLES = int(os.environ.get("PPL_GEN_EXAMPLE_SAMPLES", 1000))  # fewer in the tests


@pg.program
def regression(x, y=None):
    # "Flat" is a prior like any other: it cannot be sampled, and nothing asks for that.
    coefficients = pg.sample("coefficients", dist.ImproperUniform(dist.constraints.real, (), (x.shape[1],)))
    log_scale = pg.sample("log_scale", dist.ImproperUniform(dist.constraints.real, (), ()))  # p(scale) = 1 / scale
    scale = pg.deterministic("scale", pg.xp.exp(log_scale))
    with pg.plate("data", x.shape[0]):
        pg.sample("y", dist.Normal(x @ coefficients, scale), obs=y)


def main(backend="numpyro", num_samples=NUM_SAMPLES):
    rng = np.random.default_rng(1)
    n = 40
    x = np.column_stack([np.ones(n), rng.standard_normal(n)])
    y = x @ [1.0, -2.0] + 0.5 * rng.standard_normal(n)

    run = pg.infer(regression, {"x": x, "y": y}, engine="nuts", backend=backend, num_warmup=num_samples,
                   num_samples=num_samples, progress=False)  # fmt: skip
    draws = run.posterior["coefficients"].reshape(-1, 2)

    # The posterior mean is the least-squares estimate; the variance is that of a t with n - 2 degrees of freedom.
    estimate, residual, *_ = np.linalg.lstsq(x, y, rcond=None)
    covariance = residual[0] / (n - 4) * np.linalg.inv(x.T @ x)
    print(f"{backend}: {draws.mean(0).round(3)} ± {draws.std(0).round(3)}")
    print(f"exactly {estimate.round(3)} ± {np.sqrt(np.diag(covariance)).round(3)}")
    sd = np.sqrt(np.diag(covariance))
    ess = effective_size(run.posterior["coefficients"])
    assert (np.abs(draws.mean(0) - estimate) < 5 * sd / np.sqrt(ess)).all()
    np.testing.assert_allclose(draws.std(0), sd, rtol=5 / np.sqrt(ess.min()))


def effective_size(draws):
    """Effective number of independent draws."""
    from ppl_gen import evaluation

    return evaluation.ess(draws)


if __name__ == "__main__":
    main(*sys.argv[1:2])
