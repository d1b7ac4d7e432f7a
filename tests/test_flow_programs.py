"""Flows in programs of the user's: as priors, as likelihoods, as guides."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

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


@pytest.mark.parametrize("backend", BACKENDS)
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


# A guide ----------------------------------------------------------------------------------------------------------

TRAINED = {"num_steps": 2000, "learning_rate": 1e-2, "schedule": "cosine", "num_particles": 8, "num_samples": 2000}
COVARIANCE = np.array([[1.0, 1.9], [1.9, 4.0]])


def correlated(y):
    z = pg.sample("z", dist.MultivariateNormal(xp.zeros((2,)), covariance_matrix=xp.asarray(COVARIANCE)))
    pg.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def banana(y):
    z = pg.sample("z", dist.Normal(xp.zeros((2,)), 1.0).to_event(1))
    pg.sample("y", dist.Normal(z[1] + z[0] ** 2, 0.3), obs=y)


def divergence(program, y, evidence, guide="flow", backend="numpyro", **options):
    """KL of guide and posterior, which the ELBO falls short of the evidence by, and its error."""
    run = pg.infer(program, {"y": y}, "svi", backend, guide=guide, progress=False, **TRAINED | options)
    weights = run.stats["log_weight"][0]
    return evidence - weights.mean(), weights.std() / np.sqrt(len(weights)), run


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flow_guide_of_a_correlated_gaussian_is_exact(backend):
    y = np.array([1.0, -0.5])
    exact = stats.multivariate_normal(np.zeros(2), COVARIANCE + np.eye(2)).logpdf(y)
    found, error, run = divergence(correlated, y, exact, backend=backend)
    assert abs(found) < 0.01 + 4 * error and run.attrs["pareto_k"] < 0.7
    covariance = np.linalg.inv(np.linalg.inv(COVARIANCE) + np.eye(2))
    draws = run.posterior["z"][0]
    assert draws.shape == (2000, 2)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=6 * np.sqrt(2.0 / 2000) * covariance.max())
    np.testing.assert_allclose(draws.mean(0), covariance @ y, atol=5 * np.sqrt(covariance.max() / 2000))
    if backend == "numpyro":
        factorised, _, _ = divergence(correlated, y, exact, "normal", schedule="constant")
        assert factorised > 0.2


@pytest.mark.filterwarnings("ignore:the guide is far:RuntimeWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flow_guide_bends_where_a_gaussian_cannot(backend):
    """The evidence by quadrature; no Gaussian comes nearer than 0.7."""
    a, b = np.meshgrid(*[np.linspace(-6.0, 6.0, 2001)] * 2, indexing="ij")
    joint = stats.norm.logpdf(a) + stats.norm.logpdf(b) + stats.norm.logpdf(1.0, b + a**2, 0.3)
    exact = np.log(np.exp(joint).sum() * (12.0 / 2000) ** 2)
    found, error, _ = divergence(banana, np.array(1.0), exact, pg.flows.FlowGuide("nsf", 3), backend)
    assert -4 * error < found < 0.1
    if backend == "numpyro":
        assert divergence(banana, np.array(1.0), exact, "multivariate_normal", schedule="constant")[0] > 0.5


def of_all_sorts(n, counts):
    """Three supports, one of them a plate; a discrete latent, which is summed out; and a param."""
    rate = pg.sample("rate", dist.Gamma(3.0, 2.0))
    shares = pg.sample("shares", dist.Dirichlet(xp.array([2.0, 1.0, 3.0])))
    pg.sample("n", dist.Poisson(rate), obs=n)
    pg.sample("counts", dist.Multinomial(probs=shares, total_count=10), obs=counts)
    with pg.plate("row", 2):
        z = pg.sample("z", dist.Bernoulli(probs=0.3))
        pg.sample("loc", dist.Normal(2.0 * xp.astype(z, rate.dtype), 1.0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flow_guide_of_every_support(backend):
    """Gamma and Dirichlet are conjugate here; the rest of the density is a mixture that integrates to one."""
    data = {"n": np.array(4.0), "counts": np.array([3.0, 2.0, 5.0])}
    run = pg.infer(of_all_sorts, data, "svi", backend, guide="flow", progress=False, **TRAINED)
    exact = stats.nbinom.logpmf(4, 3, 2.0 / 3.0) + stats.dirichlet_multinomial.logpmf([3, 2, 5], [2.0, 1.0, 3.0], 10)
    weights = run.stats["log_weight"][0]
    assert exact - 0.15 < weights.mean() < exact + 4 * weights.std() / np.sqrt(2000)
    assert run.posterior["rate"][0].mean() == pytest.approx(7.0 / 3.0, abs=0.15)
    np.testing.assert_allclose(run.posterior["shares"][0].mean(0), np.array([5.0, 3.0, 8.0]) / 16.0, atol=0.03)
    np.testing.assert_allclose(run.posterior["loc"][0].mean(0), 0.6, atol=0.2)
    assert run.idata.posterior["loc"].dims == ("chain", "draw", "row") and run.attrs["elbo"] == "enum"


def learned_scale(y):
    scale = pg.param("scale", 1.0, constraint=dist.constraints.positive)
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(loc, scale), obs=y)


def test_both_backends_go_the_same_way_and_params_are_learned():
    y = np.random.default_rng(2).normal(0.5, 2.0, 50)
    options = {"guide": "flow", "num_steps": 20, "num_samples": 7, "progress": False}
    runs = [pg.infer(learned_scale, y, "svi", backend, **options) for backend in ("numpyro", "pyro")]
    for one, other in zip(*(r.history["loss"] for r in runs), strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    for name, value in {**runs[0].posterior, **runs[0].params}.items():
        np.testing.assert_allclose(value, {**runs[1].posterior, **runs[1].params}[name], rtol=1e-6, atol=1e-9)
    run = pg.infer(learned_scale, y, "svi", guide="flow", progress=False, **TRAINED)
    losses = [-stats.multivariate_normal(np.zeros(50), s**2 * np.eye(50) + 1.0).logpdf(y) for s in (1.8, 2.0, 2.2)]
    best = 2.0 - 0.1 * (losses[2] - losses[0]) / (losses[2] - 2 * losses[1] + losses[0])
    assert run.params["scale"] == pytest.approx(best, abs=0.05)


def test_what_a_flow_guide_refuses():
    y = np.zeros(2)
    with pytest.raises(ValueError, match="divergences in closed form"):
        pg.infer(correlated, y, "svi", guide="flow", elbo="mean_field")
    with pytest.raises(ValueError, match="at least 2 features"):
        pg.infer(learned_scale, y, "svi", guide=pg.flows.FlowGuide("realnvp"))
    with pytest.raises(pg.UnsupportedError, match="needs a guide that is a function of the rows"):
        pg.infer(learned_scale, y, "svi", guide="flow", batch_size=1)
    with pytest.raises(TypeError, match="a FlowGuide or one of"):
        pg.infer(learned_scale, y, "svi", guide=3)
