"""Naive Bayes against scikit-learn, SciPy's maximum of the marginal likelihood, and sums written out."""

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import logsumexp
from sklearn import naive_bayes as yardsticks
from sklearn.datasets import load_iris

import ppl_gen as pg
from ppl_gen.models import NaiveBayes

BACKENDS = ("numpyro", "pyro")
LIKELIHOODS = ("gaussian", "bernoulli", "multinomial")
K = 3
IRIS, SPECIES = load_iris(return_X_y=True)
DATA = {
    "gaussian": IRIS,
    "bernoulli": (IRIS > np.median(IRIS, 0)).astype(float),
    "multinomial": np.round(3 * IRIS),
}
YARDSTICKS = {
    "gaussian": yardsticks.GaussianNB(),
    "bernoulli": yardsticks.BernoulliNB(),
    "multinomial": yardsticks.MultinomialNB(),
}
PARTLY = np.where(np.arange(len(IRIS)) % 10 == 0, SPECIES, -1)  # 5 labels of each species
each_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def fit(model, x, y=None, backend="numpyro", **options):
    data = {"x": x} if y is None else {"x": x, "y": y}
    return pg.infer(model, data, "em", backend, progress=False, **options)


def joint(likelihood, params, x):
    """log p(z_n = k, x_n) by SciPy, missing entries left out; shape (N, K)."""
    columns = []
    for k in range(len(params["weights"])):
        if likelihood == "gaussian":
            terms = np.nansum(stats.norm.logpdf(x, params["locs"][k], params["scales"][k]), 1)
        elif likelihood == "bernoulli":
            terms = np.nansum(np.where(x == 1, np.log(params["probs"][k]), np.log1p(-params["probs"][k])) + 0 * x, 1)
        else:
            terms = np.array([stats.multinomial.logpmf(row, row.sum(), params["probs"][k]) for row in x])
        columns.append(np.log(params["weights"][k]) + terms)
    return np.stack(columns, 1)


def known(table, y):
    """The table of ``joint`` where the label allows the class, else -inf."""
    return np.where((y[:, None] < 0) | (y[:, None] == np.arange(table.shape[1])), table, -np.inf)


# All labels observed -----------------------------------------------------------------------------------------------


@each_backend
@each_likelihood
def test_labelled_is_scikit_learns(likelihood, backend):
    x, yardstick = DATA[likelihood], YARDSTICKS[likelihood].fit(DATA[likelihood], SPECIES)
    run = fit(NaiveBayes(K, likelihood), x, SPECIES, backend, num_restarts=1)
    np.testing.assert_allclose(run.params["weights"], np.bincount(SPECIES) / len(x), rtol=1e-12)
    if likelihood == "gaussian":
        np.testing.assert_allclose(run.params["locs"], yardstick.theta_, rtol=1e-12)
        np.testing.assert_allclose(run.params["scales"] ** 2, yardstick.var_, rtol=1e-10)
    else:
        np.testing.assert_allclose(np.log(run.params["probs"]), yardstick.feature_log_prob_, rtol=1e-12)
    np.testing.assert_allclose(run.latent({"x": x})["z"], yardstick.predict_proba(x), atol=1e-10)
    np.testing.assert_array_equal(run.latent()["z"], np.eye(K)[SPECIES])


@each_likelihood
def test_weighted_rows_are_scikit_learns_and_repeated_rows(likelihood):
    x, times = DATA[likelihood], np.arange(len(IRIS)) % 4
    yardstick = YARDSTICKS[likelihood].fit(x, SPECIES, sample_weight=times)
    run = fit(NaiveBayes(K, likelihood), x, SPECIES, num_restarts=1, weights=times)
    np.testing.assert_allclose(run.latent({"x": x})["z"], yardstick.predict_proba(x), atol=1e-6)
    again = fit(NaiveBayes(K, likelihood), np.repeat(x, times, 0), np.repeat(SPECIES, times), "pyro", num_restarts=1)
    for name, value in again.params.items():
        np.testing.assert_allclose(run.params[name], value, rtol=1e-7)


# Some labels, none, and missing entries ------------------------------------------------------------------------------


@each_backend
@each_likelihood
@pytest.mark.parametrize("y", [PARTLY, None], ids=["partly", "unlabelled"])
def test_log_prob_latent_and_history_are_the_sums_written_out(y, likelihood, backend):
    x = DATA[likelihood]
    run = fit(NaiveBayes(K, likelihood, alpha=0.5), x, y, backend, num_restarts=2, num_steps=20, tolerance=0)
    table = joint(likelihood, run.params, x)
    table = table if y is None else known(table, y)
    data = {"x": x} if y is None else {"x": x, "y": y}
    np.testing.assert_allclose(run.log_prob(data), logsumexp(table, 1), rtol=1e-9)
    np.testing.assert_allclose(run.latent()["z"], np.exp(table - logsumexp(table, 1)[:, None]), atol=1e-9)
    assert np.diff(run.history["log_penalised"]).min() > -1e-9 * abs(table).max()
    more = fit(NaiveBayes(K, likelihood, alpha=0.5), x, y, backend, num_restarts=1, num_steps=20, init=run.params)
    climbed = logsumexp(table, 1).sum()
    assert more.history["log_likelihood"][0] == pytest.approx(climbed, rel=1e-12)
    assert more.history["log_penalised"][0] == pytest.approx(climbed + penalty(run.params, likelihood, 0.5), rel=1e-12)


def penalty(params, likelihood, alpha):
    """The log density of the prior of theta, unnormalised."""
    if likelihood == "gaussian":
        return 0.0
    theta = params["probs"]
    return alpha * (np.log(theta).sum() + (np.log1p(-theta).sum() if likelihood == "bernoulli" else 0.0))


def test_both_backends_take_the_same_steps():
    x = IRIS.copy()
    x[np.random.default_rng(1).random(x.shape) < 0.3] = np.nan
    options = {"num_restarts": 2, "num_steps": 20, "tolerance": 0}
    ours, theirs = (fit(NaiveBayes(K), x, PARTLY, b, **options) for b in BACKENDS)
    np.testing.assert_allclose(ours.history["log_likelihood"], theirs.history["log_likelihood"], rtol=1e-9)
    for name, value in ours.params.items():
        np.testing.assert_allclose(value, theirs.params[name], rtol=1e-9)


def test_semi_supervised_is_the_maximum_of_the_marginal_likelihood():
    """BFGS on log p(x, y), which knows nothing of EM, from a point beside EM's; 30 % of the entries missing."""
    rng = np.random.default_rng(2)
    z = rng.integers(2, size=80)
    x = rng.normal(np.array([[0.0, 0.0, 0.0], [1.5, -1.0, 0.5]])[z], [[1.0, 0.5, 1.0]])
    y = np.where(np.arange(80) < 20, z, -1)
    x[rng.random(x.shape) < 0.3] = np.nan

    def unpacked(u):
        weights = np.array([u[0], 0.0]) - np.logaddexp(u[0], 0.0)
        return {"weights": np.exp(weights), "locs": u[1:7].reshape(2, 3), "scales": np.exp(u[7:]).reshape(2, 3)}

    def loss(u):
        return -logsumexp(known(joint("gaussian", unpacked(u), x), y), 1).sum()

    run = fit(NaiveBayes(2, var_smoothing=0.0), x, y, num_restarts=1, tolerance=1e-14, num_steps=5000)
    p = run.params
    at = np.concatenate([[np.log(p["weights"][0] / p["weights"][1])], p["locs"].ravel(), np.log(p["scales"]).ravel()])
    exact = optimize.minimize(loss, at + 0.1 * rng.standard_normal(13), method="BFGS", options={"gtol": 1e-6})
    assert run.history["log_likelihood"][-1] == pytest.approx(-exact.fun, abs=1e-6)
    for name, value in unpacked(exact.x).items():
        np.testing.assert_allclose(p[name], value, atol=1e-3)
    alone = fit(NaiveBayes(2, var_smoothing=0.0), x[y >= 0], y[y >= 0], num_restarts=1)
    assert np.abs(alone.params["locs"] - p["locs"]).max() > 0.05  # the rows without a label do count


@pytest.mark.parametrize("backend", [pytest.param("numpyro", marks=pytest.mark.slow), "pyro"])
def test_smoothing_is_the_mode_of_the_prior(backend):
    """EM with alpha, and the posterior mode of the program by gradients, from one start."""
    x, y = DATA["bernoulli"], PARTLY
    model = NaiveBayes(K, "bernoulli", alpha=0.7)
    by_em = fit(model, x, y, backend, num_restarts=1, tolerance=1e-13, num_steps=2000)
    by_map = pg.infer(model, {"x": x, "y": y}, "map", backend, progress=False, init=by_em.params)
    for name, value in by_map.params.items():
        np.testing.assert_allclose(by_em.params[name], value, atol=1e-4)


def test_missing_bernoulli_entries_are_left_out():
    x = DATA["bernoulli"].copy()
    x[np.random.default_rng(3).random(x.shape) < 0.3] = np.nan
    run = fit(NaiveBayes(K, "bernoulli"), x, SPECIES, num_restarts=1)
    for k in range(K):
        own = x[SPECIES == k]
        seen = (~np.isnan(own)).sum(0)
        np.testing.assert_allclose(run.params["probs"][k], (np.nansum(own, 0) + 1) / (seen + 2), rtol=1e-12)
    np.testing.assert_allclose(run.log_prob({"x": x}), logsumexp(joint("bernoulli", run.params, x), 1), rtol=1e-9)


@each_backend
@each_likelihood
def test_new_rows_follow_the_model(likelihood, backend):
    """Class frequencies and class-wise means of 4,000 rows, within 5 standard errors."""
    run = fit(NaiveBayes(K, likelihood, num_words=9), DATA[likelihood], SPECIES, backend, num_restarts=1)
    drawn, p = run.sample(4000, seed=1), run.params
    x, z = np.asarray(drawn["x"], float), np.asarray(drawn["z"])
    assert np.abs(np.bincount(z, minlength=K) / 4000 - p["weights"]).max() < 5 * np.sqrt(0.25 / 4000)
    mean = p["locs"] if likelihood == "gaussian" else p["probs"] * (9 if likelihood == "multinomial" else 1)
    for k in range(K):
        own = x[z == k]
        assert (np.abs(own.mean(0) - mean[k]) < 5 * (own.std(0) + 1e-3) / np.sqrt(len(own))).all()


# Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (IRIS, SPECIES[:5], "one label for each of the 150 rows"),
        (IRIS, SPECIES + 1, "y must hold whole numbers"),
        (IRIS, SPECIES - 2, "from 0 to 2, or -1"),
        (IRIS, SPECIES + 0.5, "whole numbers"),
        (IRIS[:, 0], SPECIES, r"x\[:, None\]"),
        (IRIS[:2], None, "use fewer classes"),
    ],
)
def test_bad_data_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        fit(NaiveBayes(K), x, y)


@pytest.mark.parametrize("likelihood", ["bernoulli", "multinomial"])
def test_features_outside_the_support_are_refused(likelihood):
    with pytest.raises(ValueError, match="outside the support"):
        fit(NaiveBayes(K, likelihood), IRIS - 5.0, SPECIES)


@pytest.mark.parametrize("options", [{"likelihood": "poisson"}, {"alpha": -1.0}, {"var_smoothing": np.nan}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        NaiveBayes(K, **options)


@each_likelihood
def test_degenerate_data_give_numbers(likelihood):
    """Constant columns, duplicated rows, a class with one row, one feature never seen in a class."""
    x = np.repeat([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]], 3, 0)
    y = np.array([0, 0, 0, 1, 1, 1, 2, -1, -1])
    if likelihood != "multinomial":
        x[y == 2, 2] = np.nan
    run = fit(NaiveBayes(K, likelihood), x, y, "pyro", num_restarts=2)
    assert all(np.isfinite(v).all() for v in run.params.values()) and np.isfinite(run.log_prob({"x": x})).all()
    constant = fit(NaiveBayes(2, likelihood), np.ones((6, 2)), np.array([0, 0, 1, 1, -1, -1]), "pyro")
    assert np.isfinite(constant.latent()["z"]).all()
