"""The scikit-learn face: scikit-learn's own checks, its estimators' numbers, its pipelines."""

import pickle
import warnings

import numpy as np
import pytest
from scipy import special
from sklearn import decomposition, mixture, naive_bayes
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import ppl_gen as pg
from ppl_gen.sklearn import (
    BayesianGaussianMixture,
    FactorAnalysis,
    GaussianMixture,
    LatentClass,
    LatentDirichlet,
    MixtureOfFactorAnalyzers,
    NaiveBayes,
    ProbabilisticPCA,
)

IRIS, SPECIES = load_iris(return_X_y=True)
DIGITS, DIGIT = load_digits(return_X_y=True)
KINDS = ("full", "tied", "diag", "spherical")
ESTIMATORS = [
    BayesianGaussianMixture(),
    FactorAnalysis(),
    GaussianMixture(),
    LatentClass(),
    LatentDirichlet(),
    MixtureOfFactorAnalyzers(),
    NaiveBayes(),
    NaiveBayes("bernoulli"),
    NaiveBayes("multinomial"),
    ProbabilisticPCA(),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([clone(e).set_params(backend="numpyro") for e in ESTIMATORS])
def test_scikit_learns_checks_on_jax(estimator, check):
    check(estimator)


# Mixtures ------------------------------------------------------------------------------------------------------------


def as_yardstick(ours):
    """scikit-learn's mixture with the same parameters."""
    yardstick = mixture.GaussianMixture(ours.n_components, covariance_type=ours.covariance_type)
    yardstick.weights_, yardstick.means_, yardstick.covariances_ = ours.weights_, ours.means_, ours.covariances_
    covariances, kind = ours.covariances_, ours.covariance_type
    if kind in ("diag", "spherical"):
        yardstick.precisions_cholesky_ = covariances**-0.5
    else:
        yardstick.precisions_cholesky_ = np.swapaxes(np.linalg.inv(np.linalg.cholesky(covariances)), -1, -2)
    return yardstick


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_agrees_with_scikit_learns_at_the_same_parameters(kind):
    ours = GaussianMixture(3, covariance_type=kind, random_state=0).fit(IRIS)
    yardstick = as_yardstick(ours)
    np.testing.assert_allclose(ours.predict_proba(IRIS), yardstick.predict_proba(IRIS), atol=1e-10)
    np.testing.assert_allclose(ours.score_samples(IRIS), yardstick.score_samples(IRIS), rtol=1e-10)
    np.testing.assert_array_equal(ours.predict(IRIS), yardstick.predict(IRIS))
    assert ours.bic(IRIS) == pytest.approx(yardstick.bic(IRIS), rel=1e-12)
    assert ours.aic(IRIS) == pytest.approx(yardstick.aic(IRIS), rel=1e-12)
    assert ours.lower_bound_ == pytest.approx(yardstick.score(IRIS), rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_climbs_as_high_as_scikit_learns_from_the_same_start(kind):
    start = mixture.GaussianMixture(3, covariance_type=kind, max_iter=1, random_state=0)
    with pytest.warns(ConvergenceWarning):
        start.fit(IRIS)
    init = {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
    ours = GaussianMixture(3, covariance_type=kind, tol=1e-12, **init).fit(IRIS)
    theirs = mixture.GaussianMixture(3, covariance_type=kind, tol=1e-12, max_iter=1000, **init).fit(IRIS)
    assert ours.score(IRIS) == pytest.approx(theirs.score(IRIS), abs=1e-7)
    best = GaussianMixture(3, covariance_type=kind, n_init=8, random_state=0).fit(IRIS)
    by_default = mixture.GaussianMixture(3, covariance_type=kind, random_state=0).fit(IRIS)
    assert best.score(IRIS) > by_default.score(IRIS) - 1e-6


def test_mixture_draws_from_itself():
    """Means of 20,000 rows, component by component, within 5 standard errors."""
    ours = GaussianMixture(2, random_state=0).fit(IRIS)
    x, z = ours.sample(20_000)
    assert x.shape == (20_000, 4) and np.abs(np.bincount(z) / 20_000 - ours.weights_).max() < 5 * np.sqrt(0.25 / 20_000)
    for k in range(2):
        own = x[z == k]
        assert (np.abs(own.mean(0) - ours.means_[k]) < 5 * own.std(0) / np.sqrt(len(own))).all()
        np.testing.assert_allclose(np.cov(own.T), ours.covariances_[k], atol=0.05)


def test_mixture_counts_weighted_rows_as_repeated():
    times = np.arange(len(IRIS)) % 3
    init = {"means_init": IRIS[[0, 75]], "weights_init": [0.5, 0.5], "precisions_init": np.stack([np.eye(4)] * 2)}
    weighted = GaussianMixture(2, **init).fit(IRIS, sample_weight=times)
    repeated = GaussianMixture(2, **init).fit(np.repeat(IRIS, times, 0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_bayesian_mixture_predicts_as_its_draws_do(kind):
    """The mean density over 4,000 draws of the posterior, within 5 of its standard errors."""
    engine = pg.inference.VBEM(num_samples=4000)
    x = IRIS[::5]
    ours = BayesianGaussianMixture(3, covariance_type=kind, engine=engine, random_state=0).fit(x)
    densities = np.exp(ours.run_.log_likelihood["x"][0])
    error = densities.std(0) / np.sqrt(len(densities))
    assert (np.abs(np.exp(ours.score_samples(x)) - densities.mean(0)) < 5 * error).all()
    np.testing.assert_allclose(ours.predict_proba(x), ours.run_.latent({"x": x})["z"], atol=1e-8)


def test_reg_covar_is_scikit_learns():
    """In the data's units squared, in both mixtures: data of a spread of 0.001 get the variances of scikit-learn's."""
    x = 1e-3 * np.random.default_rng(0).standard_normal((100, 2))
    for ours, theirs in (
        (GaussianMixture(reg_covar=1e-2), mixture.GaussianMixture(reg_covar=1e-2)),
        (BayesianGaussianMixture(reg_covar=1e-2), mixture.BayesianGaussianMixture(reg_covar=1e-2)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_allclose(ours.fit(x).covariances_, theirs.fit(x).covariances_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_bayesian_mixture_with_gaps(kind):
    """Predictive densities of rows with a gap are sums over what may stand in it."""
    x = gaps(IRIS)
    ours = BayesianGaussianMixture(2, covariance_type=kind, random_state=0).fit(x)
    grid = np.linspace(-500, 500, 100_001)
    for place in (0, 2):
        rows = np.repeat(IRIS[70:71], len(grid), 0)
        rows[:, place] = grid
        gap = np.where(np.arange(4) == place, np.nan, IRIS[70:71])
        summed = special.logsumexp(ours.score_samples(rows)) + np.log(grid[1] - grid[0])
        assert ours.score_samples(gap)[0] == pytest.approx(summed, abs=1e-5)
    np.testing.assert_allclose(ours.predict_proba(x), ours.run_.latent({"x": x})["z"], atol=1e-8)
    assert ours.score_samples(np.full((1, 4), np.nan))[0] == pytest.approx(0.0, abs=1e-10)


def test_bayesian_mixture_agrees_with_scikit_learns_at_the_same_q():
    kind = "dirichlet_distribution"
    ours = BayesianGaussianMixture(4, weight_concentration_prior_type=kind, random_state=0).fit(IRIS)
    yardstick = mixture.BayesianGaussianMixture(n_components=4, weight_concentration_prior_type=kind)
    for name in ("weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_", "covariances_"):
        setattr(yardstick, name, getattr(ours, name))
    yardstick.weights_ = ours.weights_
    yardstick.precisions_cholesky_ = np.swapaxes(np.linalg.inv(np.linalg.cholesky(ours.covariances_)), -1, -2)
    np.testing.assert_allclose(ours.predict_proba(IRIS), yardstick.predict_proba(IRIS), atol=1e-10)
    x, z = ours.sample(2000)
    assert (np.abs(np.bincount(z, minlength=4) / 2000 - ours.weights_) < 5 * np.sqrt(0.25 / 2000)).all()
    assert (np.abs(x.mean(0) - IRIS.mean(0)) < 0.2).all()


def test_latent_classes_take_any_values():
    """Codes stand for the values of an item; a value that was not fitted has probability zero."""
    codes = np.digitize(IRIS, [1.0, 2.0, 4.0, 6.0])
    ours = LatentClass(3, random_state=0).fit(codes)
    named = LatentClass(3, random_state=0).fit(10.0 * codes - 3.0)
    np.testing.assert_allclose(named.score_samples(10.0 * codes - 3.0), ours.score_samples(codes), rtol=1e-12)
    assert set(np.unique(named.sample(50)[0])) <= set(np.unique(10.0 * codes - 3.0))
    strange = np.full((1, 4), 77.0)
    assert ours.score_samples(strange)[0] == -np.inf
    partly = codes[:1].astype(float)
    partly[0, 1] = 77.0
    assert ours.score_samples(partly)[0] == -np.inf
    np.testing.assert_allclose(ours.predict_proba(partly), ours.predict_proba(np.where(partly == 77, np.nan, partly)))
    assert np.isfinite(ours.bic(codes)) and ours.predict_proba(strange).sum() == pytest.approx(1.0)


# Factor models -------------------------------------------------------------------------------------------------------


def test_ppca_is_pca_with_noise():
    """scikit-learn's PCA divides by n - 1; posterior means are its scores times sqrt(lambda - sigma^2) / lambda."""
    n = len(IRIS)
    ours, theirs = ProbabilisticPCA(2).fit(IRIS), decomposition.PCA(2).fit(IRIS)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance() * (n - 1) / n, rtol=1e-10)
    np.testing.assert_allclose(ours.get_precision() @ ours.get_covariance(), np.eye(4), atol=1e-10)
    variances = theirs.explained_variance_ * (n - 1) / n
    scores = theirs.transform(IRIS) * np.sqrt(variances - ours.noise_variance_) / variances
    np.testing.assert_allclose(np.abs(ours.transform(IRIS)), np.abs(scores), atol=1e-10)
    assert ours.score(IRIS) > theirs.score(IRIS)  # maximum likelihood divides by n
    by_em = ProbabilisticPCA(2, engine="em", tol=1e-14, max_iter=5000, random_state=0).fit(IRIS)
    np.testing.assert_allclose(by_em.components_, ours.components_, atol=1e-4)


def test_factor_analysis_is_scikit_learns():
    x = StandardScaler().fit_transform(load_wine().data)
    ours = FactorAnalysis(3, tol=1e-13, max_iter=5000, random_state=0).fit(x)
    theirs = decomposition.FactorAnalysis(3, svd_method="lapack", tol=1e-10, max_iter=5000).fit(x)
    assert ours.score(x) == pytest.approx(theirs.score(x), abs=1e-6)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), atol=1e-3)
    np.testing.assert_allclose(np.abs(ours.transform(x)), np.abs(theirs.transform(x)), atol=0.01)


def test_topics_of_documents_are_scikit_learns_at_the_same_topics():
    rng = np.random.default_rng(0)
    words = rng.poisson(rng.gamma(0.3, 4.0, (40, 12)))
    words[:, 0] += 1
    ours = LatentDirichlet(3, random_state=0).fit(words)
    yardstick = decomposition.LatentDirichletAllocation(3, mean_change_tol=1e-12, max_doc_update_iter=1000)
    yardstick.set_params(max_iter=1, doc_topic_prior=1 / 3, random_state=0).fit(words)
    yardstick.components_ = ours.components_
    digamma = special.digamma(ours.components_) - special.digamma(ours.components_.sum(1, keepdims=True))
    yardstick.exp_dirichlet_component_ = np.exp(digamma)
    np.testing.assert_allclose(ours.transform(words), yardstick.transform(words), atol=1e-3)


def test_transformers_name_their_columns():
    frame = load_iris(as_frame=True).data
    z = ProbabilisticPCA(2).set_output(transform="pandas").fit_transform(frame)
    assert list(z.columns) == ["probabilisticpca0", "probabilisticpca1"]


def test_factor_models_draw_from_themselves():
    ours = ProbabilisticPCA(2, random_state=0).fit(IRIS)
    np.testing.assert_allclose(np.cov(ours.sample(40_000).T), ours.get_covariance(), atol=0.1)
    np.testing.assert_allclose(ours.inverse_transform(np.zeros((1, 2)))[0], IRIS.mean(0))


# Naive Bayes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("likelihood", "yardstick"),
    [
        ("gaussian", naive_bayes.GaussianNB()),
        ("bernoulli", naive_bayes.BernoulliNB(binarize=7.0)),
        ("multinomial", naive_bayes.MultinomialNB()),
    ],
)
def test_naive_bayes_is_scikit_learns(likelihood, yardstick):
    ours = NaiveBayes(likelihood, binarize=7.0).fit(DIGITS, DIGIT)
    yardstick.fit(DIGITS, DIGIT)
    np.testing.assert_allclose(ours.predict_proba(DIGITS), yardstick.predict_proba(DIGITS), atol=1e-8)
    assert ours.score(DIGITS, DIGIT) == yardstick.score(DIGITS, DIGIT)


def test_unlabelled_rows_help():
    """Nigam et al. 2000: 100 labels of 10 digits alone, and with the other 1,697 images without labels."""
    names = np.array([f"digit {k}" for k in DIGIT], dtype=object)
    partly = np.where(np.arange(len(DIGIT)) < 100, names, "?")
    alone = NaiveBayes("multinomial").fit(DIGITS[:100], names[:100])
    together = NaiveBayes("multinomial", unlabelled="?").fit(DIGITS, partly)
    assert list(together.classes_) == sorted(set(names))
    assert together.score(DIGITS[100:], names[100:]) > alone.score(DIGITS[100:], names[100:]) + 0.05
    with pytest.raises(ValueError, match="every label is '\\?'"):
        NaiveBayes(unlabelled="?").fit(DIGITS, np.full(len(DIGITS), "?"))


# All of them ---------------------------------------------------------------------------------------------------------

FITTED = {
    "mixture": GaussianMixture(3, random_state=0),
    "diag": GaussianMixture(3, covariance_type="diag", random_state=0),
    "analysers": MixtureOfFactorAnalyzers(2, 2, random_state=0),
    "classes": LatentClass(3, random_state=0),
    "ppca": ProbabilisticPCA(2, random_state=0),
    "factors": FactorAnalysis(1, random_state=0),
    "gaussian": NaiveBayes(),
    "bernoulli": NaiveBayes("bernoulli", binarize=3.0),
}
each_estimator = pytest.mark.parametrize("estimator", FITTED.values(), ids=FITTED)


def gaps(x):
    """20 % of the entries missing, and one row without any."""
    x = np.where(np.random.default_rng(0).random(x.shape) < 0.2, np.nan, x)
    x[7] = np.nan
    return x


@each_estimator
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
def test_the_host_predicts_what_the_run_says(estimator, missing):
    """Two ways to every number: NumPy from fitted arrays, and the program on the backend."""
    x = gaps(IRIS) if missing else IRIS
    x = np.round(x) if isinstance(estimator, LatentClass) else x
    fitted = clone(estimator).set_params(backend="pyro").fit(x, SPECIES)
    convert = {NaiveBayes: "_features", LatentClass: "_codes"}.get(type(fitted))
    data = {"x": getattr(fitted, convert)(x) if convert else x}
    np.testing.assert_allclose(fitted.score_samples(x), fitted.run_.log_prob(data), rtol=1e-8, atol=1e-10)
    z = fitted.run_.latent(data)["z"]
    if hasattr(fitted, "predict_proba"):
        np.testing.assert_allclose(fitted.predict_proba(x), z, atol=1e-8)
    else:  # the same up to a rotation
        np.testing.assert_allclose(np.linalg.norm(fitted.transform(x), axis=1), np.linalg.norm(z, axis=1), atol=1e-8)


@pytest.mark.parametrize("name", ["mixture", "analysers", "factors", "gaussian"])
@pytest.mark.filterwarnings("ignore:the log likelihood fell:RuntimeWarning")  # by rounding of single precision
def test_both_backends_and_precisions_fit_the_same(name):
    estimator = FITTED[name]
    reference = clone(estimator).set_params(backend="pyro").fit(IRIS, SPECIES)
    on_jax = clone(estimator).set_params(backend="numpyro").fit(IRIS, SPECIES)
    single = clone(estimator).set_params(backend="pyro", precision="float32").fit(IRIS, SPECIES)
    np.testing.assert_allclose(on_jax.score_samples(IRIS), reference.score_samples(IRIS), rtol=1e-6)
    assert single.score_samples(IRIS).mean() == pytest.approx(reference.score_samples(IRIS).mean(), abs=0.01)


@each_estimator
def test_a_pickle_predicts_and_holds_no_data(estimator):
    fitted = clone(estimator).fit(np.tile(IRIS, (20, 1)), np.tile(SPECIES, 20))
    text = pickle.dumps(fitted)
    again = pickle.loads(text)
    np.testing.assert_array_equal(again.score_samples(IRIS), fitted.score_samples(IRIS))
    assert len(text) < IRIS.nbytes * 20 / 2
    assert again.run_.history.keys() == fitted.run_.history.keys() and again.run_.program is None


def test_pipeline_and_grid_search():
    pipeline = make_pipeline(StandardScaler(), ProbabilisticPCA(), NaiveBayes())
    grid = {"probabilisticpca__n_components": [1, 3]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(IRIS, SPECIES)
    assert search.best_params_ == {"probabilisticpca__n_components": 3} and search.best_score_ > 0.85
    mixed = IRIS[np.random.default_rng(0).permutation(len(IRIS))]
    density = GridSearchCV(GaussianMixture(random_state=0), {"n_components": [1, 2]}, cv=3).fit(mixed)
    assert density.best_params_ == {"n_components": 2}  # by held-out log likelihood


# Options -------------------------------------------------------------------------------------------------------------


def test_engines_by_name_and_as_objects():
    engine = pg.inference.EM(num_steps=40, num_restarts=2)
    by_object = GaussianMixture(2, engine=engine, random_state=0).fit(IRIS, sample_weight=np.ones(len(IRIS)))
    assert by_object.n_iter_ <= 40 and by_object.run_.options.num_restarts == 2
    with pytest.raises(ValueError, match="takes no sample_weight"):
        GaussianMixture(2, engine="map").fit(IRIS, sample_weight=np.ones(len(IRIS)))
    with pytest.raises(ValueError, match="gives no value of 'locs'"):
        GaussianMixture(1, engine="svi", max_iter=5).fit(IRIS[:, :1])


def test_too_few_iterations_are_said():
    with pytest.warns(ConvergenceWarning, match="raise num_steps"):
        few = GaussianMixture(3, max_iter=2, random_state=0).fit(IRIS)
    assert not few.converged_ and few.n_iter_ == 2
    assert GaussianMixture(3, random_state=0).fit(IRIS).converged_


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (GaussianMixture(0), "num_components must be a whole number"),
        (GaussianMixture(covariance_type="round"), "covariance_type must be one of"),
        (GaussianMixture(backend="tensorflow"), "unknown backend"),
        (GaussianMixture(200), "at least as many rows"),
        (ProbabilisticPCA(4), "below the 4 features"),
        (NaiveBayes("poisson"), "likelihood must be one of"),
    ],
)
def test_bad_options_are_refused_at_fit(estimator, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(IRIS, SPECIES)
