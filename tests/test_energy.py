"""Energies of real data: against Gaussians and quadrature, on both backends."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import integrate, stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.inference.energy_annealing import ChainError
from ppl_gen.models import EnergyModel, RestrictedBoltzmann
from ppl_gen.nets.mlp import MLP

BACKENDS = ("numpyro", "pyro")
D = 3
EDGES = ((0, 1), (1, 2))
PRECISION = np.array([[2.0, 0.7, 0.0], [0.7, 1.5, -0.5], [0.0, -0.5, 1.0]])
MEAN = np.array([0.5, -1.0, 2.0])
TRUTH = np.concatenate([np.log(np.diag(PRECISION)), [0.7, -0.5], MEAN])


def precision():
    """Of a Gaussian pairwise field: log of the diagonal, and couplings of a chain."""
    diagonal, couplings = xp.exp(pg.param("diagonal", xp.zeros((D,)))), pg.param("couplings", xp.zeros((len(EDGES),)))
    (first, second), eye = np.array(EDGES).T, xp.eye(D)
    sides = eye[first][:, :, None] * eye[second][:, None, :]
    return xp.diag(diagonal) + xp.einsum("e,eij->ij", couplings, sides + xp.swapaxes(sides, 1, 2))


def potential(x):
    off = x - pg.param("mean", xp.zeros((D,)))
    return 0.5 * xp.sum(off * (off @ precision()), axis=-1)


def log_z():
    return 0.5 * D * np.log(2.0 * np.pi) - 0.5 * xp.linalg.slogdet(precision())[1]


FIELD, KNOWN = EnergyModel(potential, (D,)), EnergyModel(potential, (D,), log_normalizer=log_z)
GAUSSIAN = stats.multivariate_normal(MEAN, np.linalg.inv(PRECISION))
PARAMS = {"diagonal": TRUTH[:3], "couplings": TRUTH[3:5], "mean": MEAN}
X = GAUSSIAN.rvs(4000, random_state=np.random.default_rng(0))


def found(run):
    return np.concatenate([run.params[n] for n in PARAMS])


def at(model, params, backend="numpyro", x=X):
    run = pg.infer(model, x, "score_matching", backend, num_steps=1, progress=False)
    return dataclasses.replace(run, params={n: np.asarray(v) for n, v in params.items()})


# Densities and draws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_the_normaliser_of_a_gaussian_and_its_draws(backend):
    """Estimated within 4 standard errors; moments of draws, within those of as many independent ones."""
    run, exact = at(FIELD, PARAMS, backend), at(KNOWN, PARAMS, backend)
    assert run.log_prob_kind == "estimate" and exact.log_prob_kind == "exact"
    np.testing.assert_allclose(exact.log_prob(X[:50]), GAUSSIAN.logpdf(X[:50]), atol=1e-10)
    truth, said = exact.log_normalizer(), run.log_normalizer(num_chains=400, num_temperatures=200, progress=False)
    assert truth.exact and not said.exact
    assert abs(said.value - truth.value) < 4.0 * said.standard_error < 0.2
    assert abs(said.reverse - truth.value) < 5.0 * said.reverse_standard_error
    run.log_z = said.value  # in the place of 1,000 temperatures
    off = run.log_prob(X[:50]) - GAUSSIAN.logpdf(X[:50])
    np.testing.assert_allclose(off, off[0], atol=1e-10)
    assert off[0] == pytest.approx(truth.value - said.value, abs=1e-9)
    np.testing.assert_allclose(run.energy(X[:9]), -GAUSSIAN.logpdf(X[:9]) - truth.value, atol=1e-10)
    count = 2000
    drawn = run.sample(count, seed=1, num_temperatures=50, num_moves=30, progress=False)
    covariance = np.linalg.inv(PRECISION)
    assert drawn.shape == (count, D)
    assert (np.abs(drawn.mean(0) - MEAN) < 4.5 * np.sqrt(np.diag(covariance) / count)).all()
    spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / count)
    assert (np.abs(np.cov(drawn.T) - covariance) < 4.5 * spread).all()


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_a_double_well_has_the_normaliser_of_quadrature_and_both_wells(backend):
    """Steep and uneven; with a base it is a factor of a Gaussian."""
    well = lambda x: (x[:, 0] ** 2 - 4.0) ** 2 + 0.5 * x[:, 0] + 0.0 * pg.param("nothing", 0.0)
    density = lambda x: np.exp(-((x**2 - 4.0) ** 2) - 0.5 * x)
    z, _ = integrate.quad(density, -5, 5)
    x = np.random.default_rng(0).normal(0.0, 2.0, (500, 1))
    run = at(EnergyModel(well, (1,)), {"nothing": 0.0}, backend, x)
    said = run.log_normalizer(num_chains=400, num_temperatures=300, progress=False)
    assert abs(said.value - np.log(z)) < 4.0 * said.standard_error < 0.4
    left, _ = integrate.quad(density, -5, 0)
    share, count = left / z, 1000
    drawn = run.sample(count, seed=2, progress=False)
    error = np.sqrt(share * (1 - share)) * np.sqrt(2.0 / count)  # of resampled chains, which have weights
    assert abs(np.mean(drawn < 0) - share) < 4.5 * error
    based = at(EnergyModel(well, (1,), base_scale=1.5), {"nothing": 0.0}, backend, x)
    z, _ = integrate.quad(lambda x: density(x) * stats.norm(0, 1.5).pdf(x), -5, 5)
    said = based.log_normalizer(num_chains=400, num_temperatures=300, progress=False)
    assert abs(said.value - np.log(z)) < 4.0 * said.standard_error < 0.4


def test_both_backends_say_the_same():
    runs = [at(FIELD, PARAMS, b) for b in BACKENDS]
    one, two = (run.energy(X[:20]) for run in runs)
    np.testing.assert_allclose(one, two, rtol=1e-13)
    report = pg.check(KNOWN, X[:20])
    assert report.ok and report.engines["svi"] == "yes"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_program_of_ones_own_has_an_energy_as_a_factor(backend):
    """A Gaussian energy times a Gaussian likelihood, whose posterior is known."""

    def model(y):
        x = pg.sample("x", dist.Flat(shape=(2,)))
        pg.factor("prior", -EnergyModel(lambda x: 2.0 * xp.sum(x**2, axis=-1), (2,)).energy(x[None])[0])
        pg.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)

    run = pg.infer(model, np.array([1.0, -2.0]), "map", backend, progress=False)
    np.testing.assert_allclose(run.params["x"], np.array([1.0, -2.0]) / 5.0, atol=1e-5)


# Training -----------------------------------------------------------------------------------------------------------

LONG = {"batch_size": 500, "num_steps": 1000, "learning_rate": 0.03, "schedule": "cosine", "progress": False}


def standard_errors():
    """Of maximum likelihood, from the Fisher information of X, whose score is taken by differences."""

    def log_density(theta):
        lam = np.diag(np.exp(theta[:3]))
        for (i, j), c in zip(EDGES, theta[3:5], strict=True):
            lam[i, j] = lam[j, i] = c
        return stats.multivariate_normal(theta[5:], np.linalg.inv(lam)).logpdf(X)

    h = 1e-4 * np.eye(len(TRUTH))
    g = np.stack([(log_density(TRUTH + e) - log_density(TRUTH - e)) / 2e-4 for e in h])
    return np.sqrt(np.diag(np.linalg.inv(g @ g.T)))


# Tolerances are in standard errors: chains of finite length and step, and noise of the objective, add to them.
WAYS = {
    "ml": ("svi", KNOWN, {}, 5.0),
    "cd": ("contrastive_divergence", FIELD, {"num_negative_steps": 10, "step_size": 0.4}, 8.0),
    "pcd": ("contrastive_divergence", FIELD, {"num_negative_steps": 5, "persistent": True, "step_size": 0.3}, 6.0),
    "nce": ("noise_contrastive", FIELD, {"num_noise": 5}, 6.0),
    "denoising": ("score_matching", FIELD, {"objective": "denoising", "sigma": 0.1}, 8.0),
    "implicit": ("score_matching", FIELD, {"objective": "implicit"}, 6.0),
    "sliced": ("score_matching", FIELD, {"objective": "sliced", "num_slices": 2}, 8.0),
}
QUICK = [("ml", "numpyro"), ("cd", "numpyro"), ("pcd", "pyro"), ("nce", "numpyro"), ("denoising", "numpyro")]
QUICK += [("implicit", "pyro"), ("sliced", "numpyro")]
EACH = [pytest.param(w, b, marks=[] if (w, b) in QUICK else pytest.mark.slow) for w in WAYS for b in BACKENDS]


@pytest.mark.parametrize(("way", "backend"), EACH)
def test_training_recovers_a_gaussian_field(way, backend):
    engine, model, options, tolerance = WAYS[way]
    run = pg.infer(model, X, engine, backend, **LONG, **options)
    off = (found(run) - TRUTH) / standard_errors()
    assert (np.abs(off) < tolerance).all(), off
    if way == "nce":
        assert abs(run.params["log_normalizer"] - run.log_normalizer(200, 100, progress=False).value) < 0.1


def rings(count=1000):
    """Two circles, which no Gaussian is like."""
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 2 * np.pi, count), rng.choice([1.0, 2.5], count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) + 0.15 * rng.normal(size=(count, 2))


NETWORK = EnergyModel(MLP(2, 1, (64, 64), "silu"), (2,), base_scale=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_network_learns_a_density_that_no_gaussian_has(backend):
    """Held-out log likelihood, of the estimated normaliser, well above that of the best Gaussian."""
    x, new = rings(2000)[:1500], rings(2000)[1500:]
    options = {"batch_size": 250, "num_steps": 800, "learning_rate": 5e-3, "schedule": "cosine", "ema": 0.99}
    run = pg.infer(NETWORK, x, "noise_contrastive", backend, progress=False, num_noise=4, **options)
    gaussian = stats.multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(new).mean()
    said = run.log_normalizer(100, 100, reverse=False, progress=False)
    run.log_z = said.value  # in the place of 1,000 temperatures
    assert said.standard_error < 0.2 and run.log_prob(new).mean() > gaussian + 0.4
    assert set(run.params) > {"log_normalizer", "potential.out.bias"}
    radius = np.linalg.norm(run.sample(500, seed=1, num_temperatures=100, num_moves=20, progress=False), axis=1)
    assert np.mean((np.abs(radius - 1.0) < 0.5) | (np.abs(radius - 2.5) < 0.5)) > 0.85


def test_a_replay_buffer_of_a_network_keeps_its_energies_small():
    options = {"persistent": True, "buffer_size": 1000, "restart": 0.05, "num_negative_steps": 10, "step_size": 0.3}
    run = pg.infer(
        NETWORK, rings(), "contrastive_divergence", "numpyro", batch_size=250, num_steps=200, energy_penalty=0.1,
        learning_rate=1e-3, progress=False, **options
    )  # fmt: skip
    assert set(run.history) == {"loss", "energy", "chain_energy", "gradient_norm"}
    assert not run.warnings and np.abs(run.history["energy"][-50:]).max() < 5.0


# What is refused ----------------------------------------------------------------------------------------------------

ONE = lambda: pg.param("a", 1.0)
BAD = [
    (lambda x: ONE() * x, r"one number for each datum, of shape \(\d+,\).*gave shape \(\d+, 3\): sum over the entries"),
    (lambda x: ONE() * xp.sum(x), r"gave shape \(\): do not sum over rows"),
    (lambda x: ONE() * xp.sum(x, axis=-1)[:, None], r"gave shape \(\d+, 1\)"),
    (MLP(3, 2, (4,)), r"gave shape \(\d+, 2\)"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", range(len(BAD)))
def test_a_potential_that_is_no_number_for_each_datum(which, backend):
    potential, message = BAD[which]
    with pytest.raises(ValueError, match=message):
        pg.infer(EnergyModel(potential, (3,)), X, "contrastive_divergence", backend, progress=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chains_that_run_off_stop_the_run_at_the_last_good_state(backend):
    """exp(a x^n) has no normaliser for n > 0: chains find out, or their weights do."""
    steep, falling = (EnergyModel(lambda x, n=n: -pg.param("a", 40.0) * xp.sum(x**n, axis=-1), (2,)) for n in (4, 1))
    with pytest.warns(RuntimeWarning, match=r"stopped at step 1: chain \d+ of 100 diverged.*Lower step_size"):
        run = pg.infer(steep, X[:, :2], "contrastive_divergence", backend, num_steps=20, progress=False)
    assert run.params["a"] == 40.0 and run.attrs["stopped"] == "loss not finite"
    with pytest.warns(RuntimeWarning, match="log Z is uncertain.*on the way back.*has no normaliser"):
        run.log_normalizer(20, 50, progress=False)
    run = at(falling, {"a": 1.0}, backend, X[:, :2])
    with pytest.raises(ChainError, match=r"chain \d+ diverged at temperature \d+ of 50 .*has no normaliser"):
        run.log_normalizer(20, 50, progress=False)


@pytest.mark.parametrize(
    ("engine", "model", "options", "message"),
    [
        ("svi", FIELD, {"batch_size": 100}, r"'x' of EnergyModel is not normalised.*log_normalizer="),
        ("contrastive_divergence", EnergyModel(lambda x: xp.sum(x, axis=-1), (3,)), {}, "has none: declare them by"),
        ("contrastive_divergence", pg.models.VAE(1, (3,), "gaussian", hidden=(4,)), {}, "VAE has none .*EnergyModel"),
        ("score_matching", FIELD, {"times": "uniform"}, "times goes with networks along a path, not with an energy"),
        ("score_matching", FIELD, {"validation": 0.1}, "validation goes with networks"),
        ("score_matching", RestrictedBoltzmann(3, 2), {}, "gradient of log p.*binary x: use .*'noise_contrastive'"),
        ("noise_contrastive", FIELD, {"noise": lambda: dist.Normal(0.0, 1.0)}, r"of event shape \(3,\).*has \(\)"),
    ],
)
def test_engines_that_do_not_fit(engine, model, options, message):
    x = (X > 0).astype(float) if isinstance(model, RestrictedBoltzmann) else X
    with pytest.raises((pg.UnsupportedError, ValueError), match=message):
        pg.infer(model, x, engine, progress=False, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EnergyModel(3.0, (2,)), "potential must be a function of x or a network"),
        (lambda: EnergyModel(potential, 2), "shape must be that of one datum as a tuple"),
        (lambda: EnergyModel(potential, (2,), base_scale=0.0), "base_scale must be a number above 0"),
        (lambda: EnergyModel(potential, (2,), log_normalizer="z"), "log_normalizer must be a number or a function"),
    ],
)
def test_models_that_cannot_be(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_few_rows_are_a_batch_of_all_where_none_is_asked_for(tmp_path):
    few, quiet = X[:37], {"num_steps": 3, "progress": False}
    kept = {"persistent": True, "buffer_size": 74}
    for engine, options in (("score_matching", {}), ("noise_contrastive", {}), ("contrastive_divergence", kept)):
        run = pg.infer(NETWORK, few[:, :2], engine, **quiet, **options)
        assert (run.attrs["batch_size"], run.attrs["num_epochs"]) == (37, 3.0)
    run = pg.infer(NETWORK, few[:, :2], "noise_contrastive", validation=0.25, checkpoint=tmp_path / "run.zarr", **quiet)
    assert run.attrs["batch_size"] == 9 and pg.resume(tmp_path / "run.zarr", NETWORK).attrs["batch_size"] == 9
    with pytest.raises(ValueError, match="buffer_size must be a multiple of batch_size, 37"):
        pg.infer(NETWORK, few[:, :2], "contrastive_divergence", persistent=True, buffer_size=100, **quiet)
    with pytest.raises(ValueError, match="batch_size 50 is more than the 37 rows"):
        pg.infer(NETWORK, few[:, :2], "score_matching", batch_size=50, **quiet)


def test_rows_of_another_shape():
    with pytest.raises(pg.DataError, match=r"EnergyModel expects x of shape \(N, 3\), got \(4000, 2\)"):
        pg.infer(FIELD, X[:, :2], "contrastive_divergence", progress=False)


def test_a_run_without_draws_of_its_own_has_no_predictions():
    run = at(FIELD, PARAMS)
    with pytest.raises((pg.UnsupportedError, NotImplementedError), match="run.sample"):
        run.predict()
    with pytest.raises(pg.UnsupportedError, match="is not known by an energy"):
        pg.infer(pg.models.ProbabilisticPCA(1), X, "em", progress=False).log_normalizer()


def test_a_page_draws_an_energy_by_its_chains(tmp_path):
    """Of the plane beside its density, else as data sets; no program draws it."""
    plane = EnergyModel(lambda x: 0.5 * pg.param("rate", 1.0) * xp.sum(x * x, axis=-1), (2,))
    for model, x, title in ((plane, X[:50, :2], "Density"), (FIELD, X[:50], "Posterior predictive check")):
        run = pg.infer(model, x, "score_matching", num_steps=1, batch_size=20, progress=False)
        page = run.report(tmp_path / "page.html").read_text()
        assert f"<h2>{title}</h2>" in page and "Not drawn" not in page


def test_a_check_of_another_program_says_why_score_matching_does_not_apply():
    def model(y):
        with pg.plate("row", len(y)):
            pg.sample("y", dist.Normal(pg.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    said = pg.check(model, np.ones(5)).engines
    assert "pg.models.Diffusion" in said["score_matching"] and "EnergyModel" in said["noise_contrastive"]


def test_a_saved_run_is_the_same_again(tmp_path):
    run = at(FIELD, PARAMS, "numpyro", X[:300])
    run.save(tmp_path / "run")
    again = pg.load(tmp_path / "run", FIELD, X[:300])
    np.testing.assert_array_equal(again.energy(X[:9]), run.energy(X[:9]))
    assert again.log_prob_kind == "estimate" and "its normaliser is an estimate" in run.idata.attrs["log_likelihood"]
