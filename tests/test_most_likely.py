"""Discrete latents at their jointly most probable values, against the best of all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import special, stats

import ppl_gen as pg
from ppl_gen import dist, xp
from tests.test_chains import chains_of_two_kinds

BACKENDS = ["numpyro", "pyro"]
SLOW_ON_PYRO = ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)]
X = np.random.default_rng(3).normal(size=(4, 5))


def _best(row, stay, locs):
    """(kind, path, wide) of one sequence, of all of them."""
    steps, found = len(row), (-np.inf, None)
    for kind, *rest in itertools.product(range(2), repeat=1 + 2 * steps):
        z, wide, p = np.array(rest[:steps]), np.array(rest[steps:]), stay[kind]
        moves = np.where(z[1:] == z[:-1], p, 1 - p)
        value = np.log([0.6, 0.4])[kind] + np.log([0.7, 0.3])[z[0]] + np.log(moves).sum()
        value += (np.log([0.75, 0.25])[wide] + stats.norm.logpdf(row, locs[z], 0.5 + wide)).sum()
        found = max(found, (value, (kind, z, wide)), key=lambda f: f[0])
    return found[1]


@pytest.mark.parametrize("backend", SLOW_ON_PYRO)
@pytest.mark.filterwarnings("ignore:em stopped")
def test_latents_that_depend_on_each_other(backend):
    run = pg.infer(chains_of_two_kinds, X, "em", backend, num_restarts=1, num_steps=2, progress=False)
    best = [_best(row, run.params["stay"], run.params["locs"]) for row in X]
    held = run.most_likely()
    np.testing.assert_array_equal(np.ravel(held["kind"]), [kind for kind, _, _ in best])
    np.testing.assert_array_equal(held["z"].reshape(X.shape), [z for _, z, _ in best])
    np.testing.assert_array_equal(held["wide"].reshape(X.shape), [wide for _, _, wide in best])


@pg.program
def factors(y):
    """Two groups of rows, each with a Gaussian latent of its own slope."""
    slopes = pg.param("slopes", xp.array([0.5, 3.0]))
    with pg.plate("rows", y.shape[0]):
        z = pg.sample("z", dist.Categorical(probs=xp.array([0.6, 0.4])))
        h = pg.sample("h", dist.Normal(0.0, 1.0))
        pg.sample("y", dist.Normal(slopes[z] * h, 0.4), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:em stopped")
def test_continuous_latents_are_integrated_out(backend):
    y = np.random.default_rng(0).normal(size=30) * 2
    run = pg.infer(factors, y, "em", backend, num_restarts=1, num_steps=2, progress=False)
    wide = np.sqrt(run.params["slopes"] ** 2 + 0.4**2)
    joint = np.log([0.6, 0.4]) + stats.norm.logpdf(y[:, None], 0.0, wide)
    np.testing.assert_array_equal(run.most_likely()["z"], joint.argmax(1))
    np.testing.assert_allclose(run.latent()["z"], special.softmax(joint, axis=1), atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_models_that_bring_their_latents(backend):
    """Of a mixture the largest responsibility, of a hidden Markov model the best of all paths."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(-2, 1, (40, 2)), rng.normal(2, 1, (40, 2))])
    run = pg.infer(pg.models.GaussianMixture(2), x, "em", backend, num_restarts=1, progress=False)
    np.testing.assert_array_equal(run.most_likely(x[:7])["z"], run.latent(x[:7])["z"].argmax(1))
    short = x[36:44]
    model = pg.models.HiddenMarkov(2, covariance_type="spherical")
    run = pg.infer(model, short, "em", backend, num_restarts=1, tolerance=1e-3, progress=False)
    p = run.params
    emission = stats.norm.logpdf(short[:, None], p["locs"], np.reshape(p["scales"], (2, 1))).sum(-1)
    paths = np.array(list(itertools.product(range(2), repeat=len(short))))
    with np.errstate(divide="ignore"):
        first, links = np.log(p["initial_probs"]), np.log(p["transition_probs"])
    joint = first[paths[:, 0]] + links[paths[:, :-1], paths[:, 1:]].sum(1) + emission[range(8), paths].sum(1)
    np.testing.assert_array_equal(np.ravel(run.most_likely()["z"]), paths[joint.argmax()])


@pg.program
def noisy_or(y):
    """Two causes that stand in for each other: values that are as probable are tied in every row."""
    p = pg.param("p", 0.3, constraint=dist.constraints.unit_interval)
    with pg.plate("row", len(y)):
        a = pg.sample("a", dist.Bernoulli(probs=p))
        c = pg.sample("c", dist.Bernoulli(probs=p))
        pg.sample("y", dist.Bernoulli(probs=1.0 - (1.0 - 1.0 * a) * (1.0 - 1.0 * c)), obs=y)


@pg.program
def alternating(y):
    """A chain that changes at every step, of which nothing is seen: two paths are as probable."""
    scale = pg.param("scale", 1.0, constraint=dist.constraints.positive)
    z = pg.sample("z", dist.MarkovChain(xp.array([0.5, 0.5]), xp.array([[0.0, 1.0], [1.0, 0.0]]), len(y)))
    with pg.plate("time", len(y)):
        pg.sample("y", dist.Normal(0.0 * z, scale), obs=y)


@pg.program
def one_for_all(y):
    """A latent that all rows share, and one of each."""
    scale = pg.param("scale", 1.0, constraint=dist.constraints.positive)
    k = pg.sample("k", dist.Bernoulli(probs=0.5))
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Bernoulli(probs=0.3))
        pg.sample("y", dist.Normal(2.0 * k + 5.0 * z, scale), obs=y)


@pytest.mark.parametrize("backend", SLOW_ON_PYRO)
@pytest.mark.filterwarnings("ignore:em stopped")
def test_ties_are_broken_together(backend):
    options = {"num_restarts": 1, "num_steps": 2, "progress": False}
    y = (np.random.default_rng(0).random(60) < 0.4).astype(int)
    held = pg.infer(noisy_or, y, "em", backend, **options).most_likely()
    np.testing.assert_array_equal(held["a"] | held["c"], y)
    z = pg.infer(alternating, np.ones(7), "em", backend, **options).most_likely()["z"]
    assert (np.diff(z) != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:em stopped")
def test_a_latent_of_all_rows(backend):
    y = np.array([2.1, 7.2, 1.9, 2.4])
    run = pg.infer(one_for_all, y, "em", backend, num_restarts=1, num_steps=2, progress=False)
    held = run.most_likely()
    assert held["k"] == 1
    np.testing.assert_array_equal(held["z"], [0, 1, 0, 0])


def test_what_has_no_such_values_says_so():
    x = np.random.default_rng(0).normal(size=(50, 2))
    run = pg.infer(pg.models.ProbabilisticPCA(1), x, "em", "numpyro", progress=False)
    with pytest.raises(pg.UnsupportedError, match="it has none"):
        run.most_likely()
    model = pg.models.GaussianMixture(2, "spherical")
    draws = pg.infer(model, x, "nuts", "numpyro", num_samples=20, num_warmup=20, num_chains=2, progress=False)
    with pytest.raises(pg.UnsupportedError, match="many draws"):
        draws.most_likely()
