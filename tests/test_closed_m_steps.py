"""Programs of one's own whose M-steps are all closed, against the steps that models bring, iteration by iteration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.models import GaussianMixture, HiddenMarkov

BACKENDS = ["numpyro", "pyro"]
RNG = np.random.default_rng(5)
K, D = 3, 2
X = np.concatenate([m + RNG.normal(size=(50, D)) @ RNG.normal(size=(D, D)) for m in (-3.0, 0.0, 3.0)])
COVARIANCES = np.stack([[[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.3], [-0.3, 0.5]], [[1.5, 0.0], [0.0, 3.0]]])
START = {"weights": np.array([0.2, 0.5, 0.3]), "locs": np.array([[-2.0, 0.0], [0.5, 0.5], [2.0, -1.0]])}
QUIET = {"num_restarts": 1, "tolerance": 0, "progress": False}


@pg.program
def by_factor(x):
    weights = pg.param("weights", xp.ones(K) / K, constraint=dist.constraints.simplex)
    locs = pg.param("locs", xp.zeros((K, D)))
    tril = pg.param("tril", xp.eye(D) + xp.zeros((K, D, D)), constraint=dist.constraints.lower_cholesky)
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Categorical(probs=weights))
        pg.sample("x", dist.MultivariateNormal(locs[z], scale_tril=tril[z]), obs=x)


@pg.program
def by_covariance(x):
    """One covariance for all."""
    weights = pg.sample("weights", dist.Dirichlet(xp.ones(K)))
    locs = pg.sample("locs", dist.Normal(0.0, 5.0).expand([K, D]).to_event(2))
    sigma = pg.param("sigma", xp.eye(D), constraint=dist.constraints.positive_definite)
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Categorical(probs=weights))
        pg.sample("x", dist.MultivariateNormal(locs[z], covariance_matrix=sigma), obs=x)


# Each kind on one of the backends, each backend with one of the kinds.
QUICK = [("full", "numpyro", "float64"), ("tied", "pyro", "float64")]
ALL = itertools.product(["full", "tied"], BACKENDS, ["float64", "float32"])
LONG = [pytest.param(*c, marks=pytest.mark.slow) for c in ALL if c not in QUICK]


def _correlation(covariance):
    scales = np.sqrt(np.diagonal(covariance, 0, -2, -1))
    return {"scales": scales, "correlation": np.linalg.cholesky(covariance) / scales[..., None]}


@pytest.mark.parametrize(("kind", "backend", "precision"), QUICK + LONG)
@pytest.mark.filterwarnings("ignore:em stopped")
def test_covariance_matrices(kind, backend, precision):
    program, own = {
        "full": (by_factor, {"tril": np.linalg.cholesky(COVARIANCES)}),
        "tied": (by_covariance, {"sigma": COVARIANCES[0]}),
    }[kind]
    covariance = COVARIANCES if kind == "full" else COVARIANCES[0]
    options = {**QUIET, "num_steps": 6, "precision": precision}
    run = pg.infer(program, X, "em", backend, init={**START, **own}, **options)
    model = GaussianMixture(K, kind, regularization=0.0)
    peer = pg.infer(model, X, "em", backend, init={**START, **_correlation(covariance)}, **options)
    assert run.attrs["m_step"] == "closed form"
    rtol = 1e-9 if precision == "float64" else 1e-4
    np.testing.assert_allclose(run.history["log_likelihood"], peer.history["log_likelihood"], rtol=rtol)


@pytest.mark.parametrize("backend", BACKENDS)
def test_singular_covariances_break_a_start_down(backend):
    """Of rows on a line the likelihood has no upper bound: an error that names ways out, no result with NaN."""
    line = np.column_stack([X[:, 0], 2 * X[:, 0]])
    with pytest.raises(pg.ProgramError, match="no finite log likelihood"):
        pg.infer(by_factor, line, "em", backend, init=START, **QUIET)


@pg.program
def chain(x):
    initial = pg.param("initial_probs", xp.ones(K) / K, constraint=dist.constraints.simplex)
    rows = pg.param("transition_probs", xp.ones((K, K)) / K, constraint=dist.constraints.simplex)
    locs = pg.param("locs", xp.zeros(K))
    scale = pg.param("scales", xp.ones(K), constraint=dist.constraints.positive)
    with pg.plate("sequence", x.shape[0], dim=-2):
        z = pg.sample("z", dist.MarkovChain(initial, rows, x.shape[1]))
        with pg.plate("time", x.shape[1], dim=-1):
            state = xp.squeeze(z, -2)
            pg.sample("x", dist.Normal(locs[state], scale[state]), obs=x)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:em stopped")
def test_probabilities_of_chains(backend):
    series = X[:, 0].reshape(5, 30)
    start = {
        "initial_probs": np.array([0.5, 0.2, 0.3]),
        "transition_probs": np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6]]),
        "locs": np.array([-2.0, 0.5, 2.0]),
        "scales": np.array([1.0, 1.5, 0.8]),
    }
    run = pg.infer(chain, series, "em", backend, init=start, num_steps=6, **QUIET)
    assert run.attrs["m_step"] == "closed form"
    model = HiddenMarkov(K, covariance_type="diag", regularization=0.0)
    held = {**start, "locs": start["locs"][:, None], "scales": start["scales"][:, None]}
    peer = pg.infer(model, series[..., None], "em", backend, init=held, num_steps=6, **QUIET)
    np.testing.assert_allclose(run.history["log_likelihood"], peer.history["log_likelihood"], rtol=1e-9)
    for name in ("initial_probs", "transition_probs"):
        np.testing.assert_allclose(run.params[name], peer.params[name], atol=1e-8)
