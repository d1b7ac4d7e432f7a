"""Flows in programs of the user's: as priors and as likelihoods."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.models import Flow

BACKENDS = ("numpyro", pytest.param("pyro", marks=pytest.mark.slow))

# A prior ----------------------------------------------------------------------------------------------------------

NOISE = 0.3


def hidden_humps(x):
    """z, with a learned prior, is seen through noise."""
    prior = Flow("nsf", 1, 2, (8,)).distribution("prior")
    with pg.plate("row", len(x)):
        z = pg.sample("z", prior)
        pg.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)


def humps_found(x):
    """q(z | x): of the humps below it is N(x + (hump - x) / 2, NOISE^2 / 2) with the nearer hump."""
    pull = pg.param("pull", 0.0)
    scale = pg.param("scale", 0.3, constraint=dist.constraints.positive)
    with pg.plate("row", len(x)):
        pg.sample("z", dist.Normal(x + pull * (2.0 * xp.sign(x) - x), scale).to_event(1))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ("numpyro", "pyro"))
def test_a_flow_is_a_prior(backend):
    """Humps at -2 and 2 of deviation 0.3: the ELBO comes to the log likelihood, q to the exact one."""
    rng = np.random.default_rng(0)
    z = np.where(rng.random((4000, 1)) < 0.3, -2.0, 2.0) + NOISE * rng.normal(size=(4000, 1))
    x = z + NOISE * rng.normal(size=z.shape)
    run = pg.infer(
        pg.program(hidden_humps, guide=humps_found), {"x": x}, "svi", backend, batch_size=400, num_epochs=150,
        learning_rate=1e-2, schedule="cosine", progress=False,
    )  # fmt: skip
    each = [np.log(w) - 0.5 * (x - m) ** 2 / (2 * NOISE**2) for w, m in ((0.3, -2.0), (0.7, 2.0))]
    truth = (np.logaddexp(*each) - 0.5 * np.log(4 * np.pi * NOISE**2)).mean()
    assert abs(-run.history["loss"][-100:].mean() - truth) < 0.05
    assert run.params["pull"] == pytest.approx(0.5, abs=0.05)
    assert run.params["scale"] == pytest.approx(NOISE / np.sqrt(2.0), abs=0.02)


# A likelihood -----------------------------------------------------------------------------------------------------


def line_with_unknown_noise(t, y):
    noise = Flow("nsf", 1, 2, (8,)).distribution("noise")
    slope = pg.sample("slope", dist.Normal(0.0, 3.0))
    with pg.plate("row", len(t)):
        shift = dist.transforms.AffineTransform((slope * t)[:, None], 1.0)
        pg.sample("y", dist.TransformedDistribution(noise.expand([len(t)]), [shift]), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flow_is_a_likelihood(backend):
    """Noise of two humps, each of deviation 0.1, says ten times more of a slope than its own deviation of 1 lets."""
    rng = np.random.default_rng(1)
    t = rng.uniform(-1.0, 1.0, 400)
    y = 1.3 * t + rng.choice([-1.0, 1.0], 400) + 0.1 * rng.normal(size=400)
    options = {"num_steps": 3000, "learning_rate": 1e-2, "init": {"slope": 1.0}}
    run = pg.infer(line_with_unknown_noise, {"t": t, "y": y[:, None]}, "svi", backend, progress=False, **options)
    slope, exact = run.posterior["slope"][0], 0.1 / np.sqrt((t**2).sum())
    assert abs(slope.mean() - 1.3) < 4 * exact
    assert 0.6 * exact < slope.std() < 1.6 * exact
