"""Metrics against closed forms, brute force and other people's code.

Random tests hold with any seed: PPL_GEN_TEST_SEED changes it. Tolerances are five standard errors of the
quantity tested (a false alarm in two million), plus a stated bound where the estimator is biased.
"""

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
import timeit
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.special import softmax
from scipy.stats import genpareto

from ppl_gen import evaluation
from ppl_gen.evaluation.pareto_khat import pareto_smooth

FOLDER = Path(evaluation.__file__).parent
METRICS = (
    "active_units adjusted_rand bits_per_dim c2st convergence ecdf_bands energy_distance ess frechet_distance "
    "importance_bound mcse mmd pareto_khat parzen path_energy perplexity rhat sliced_wasserstein uniformity "
    "wasserstein wasserstein_exact"
).split()


@pytest.fixture
def rng():
    return np.random.default_rng(int(os.environ.get("PPL_GEN_TEST_SEED", "0")))


def ar1(rng, rho, num_chains, num_draws, shape=()):
    """Stationary x_t = rho x_{t-1} + e_t, e standard normal: (chain, draw, *shape)."""
    noise = rng.normal(size=(num_chains, num_draws, *shape))
    noise[:, 0] /= np.sqrt(1.0 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=1)


def by_arviz(name, draws, **options):
    """What ArviZ says of draws (chain, draw, k); versions 0.23 and 1.x both take a Dataset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        az, xarray = pytest.importorskip("arviz"), pytest.importorskip("xarray")
        return getattr(az, name)(xarray.Dataset({"x": (("chain", "draw", "k"), draws)}), **options)["x"].values


def test_metrics_are_the_files():
    assert list(evaluation.metrics()) == METRICS
    assert set(METRICS) <= set(dir(evaluation))
    assert pickle.loads(pickle.dumps(evaluation.rhat)) is evaluation.rhat
    with pytest.raises(AttributeError, match="active_units, adjusted_rand"):
        _ = evaluation.rhatt


def test_attributes_are_the_functions_whatever_was_imported_first():
    code = "import ppl_gen.evaluation.mcse, ppl_gen.evaluation.rhat; from ppl_gen.evaluation.ess import ess\n"
    code += "import ppl_gen.evaluation as e; print(*(type(getattr(e, n)).__name__ for n in e.metrics()))"
    env = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    printed = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, check=True).stdout
    assert printed.split() == [b"function"] * len(METRICS)


def test_a_new_metric_is_one_new_file(tmp_path, monkeypatch):
    for file in FOLDER.glob("*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "mean_error.py").write_text('def mean_error(x):\n    """Mean error."""\n    return x\n')
    spec = importlib.util.spec_from_file_location("copied_evaluation", tmp_path / "__init__.py")
    copied = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "copied_evaluation", copied)
    spec.loader.exec_module(copied)
    assert {"mean_error", "rhat"} <= set(dir(copied))
    assert not [name for name in sys.modules if name.startswith("copied_evaluation.")]  # lazy
    assert copied.mean_error(3) == 3
    assert copied.metrics()["mean_error"] == "Mean error."
    (tmp_path / "misnamed.py").write_text("def other():\n    pass\n")
    importlib.invalidate_caches()
    with (
        pytest.warns(ImportWarning),
        pytest.raises(AttributeError, match="must define a function 'misnamed'"),
    ):
        _ = copied.misnamed


# ---- R-hat, ESS, MCSE: against ArviZ, then against the truth ------------------------------------------


def awkward_draws(rng, num_chains, num_draws):
    """AR(1) chains of all kinds, and what else a run may leave: (chain, draw, k)."""
    kinds = [ar1(rng, rho, num_chains, num_draws) for rho in (-0.7, 0.0, 0.5, 0.9, 0.99)]
    kinds.append(kinds[1] + 0.3 * np.arange(num_chains)[:, None])  # chains apart in location
    kinds.append(kinds[1] * (1.0 + np.arange(num_chains)[:, None]))  # and in scale
    kinds.append(np.tan(np.pi * (rng.uniform(size=(num_chains, num_draws)) - 0.5)))  # Cauchy
    kinds.append(np.round(2.0 * kinds[2]))  # ties
    kinds.append(1e6 + 1e-3 * kinds[2])  # far from zero
    return np.stack(kinds, axis=-1)


SIZES = [(4, 1000), (2, 101), (1, 500), (4, 7), (2, 4)]
DIAGNOSTICS = {
    "rhat": (lambda x: evaluation.rhat(x), "rhat", {}),
    "ess bulk": (lambda x: evaluation.ess(x), "ess", {"method": "bulk"}),
    "ess mean": (lambda x: evaluation.ess(x, kind="mean"), "ess", {"method": "mean"}),
    "ess tail": (lambda x: evaluation.ess(x, kind="tail"), "ess", {"method": "tail", "prob": (0.05, 0.95)}),
    "mcse mean": (lambda x: evaluation.mcse(x), "mcse", {"method": "mean"}),
    "mcse sd": (lambda x: evaluation.mcse(x, kind="sd"), "mcse", {"method": "sd"}),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_equals_arviz(rng, name, size):
    ours, theirs, options = DIAGNOSTICS[name]
    draws = awkward_draws(rng, *size)
    if name == "rhat" and size[0] == 1:  # ArviZ has none for one chain; its halves suffice
        assert np.isfinite(evaluation.rhat(draws)).all()
        return
    # The same estimator summed in another order: measured to agree within 4e-14.
    np.testing.assert_allclose(ours(draws), by_arviz(theirs, draws, **options), rtol=1e-10)


def test_rhat_of_good_chains_is_near_one(rng):
    # Of independent draws (R-hat^2 - 1) n is about the F statistic less one of 2 chain = 8 halves of n = 500:
    # its maximum over 200 variables stays below 10, and so does that of the folded draws.
    assert evaluation.rhat(rng.normal(size=(4, 1000, 200))).max() < np.sqrt(1.0 + 10.0 / 500.0)


def test_rhat_sees(rng):
    good = rng.normal(size=(4, 1000))
    first = np.array([1.0, 0.0, 0.0, 0.0])[:, None]
    assert evaluation.rhat(good + first) > 1.05  # location
    assert evaluation.rhat(good * (1.0 + 2.0 * first)) > 1.05  # scale
    assert evaluation.rhat(good + np.linspace(-1.0, 1.0, 1000)) > 1.05  # drift, alike in all chains
    assert (
        evaluation.rhat(np.tan(np.pi * rng.uniform(size=(4, 1000))) + 3.0 * first) > 1.05
    )  # of Cauchy draws


def test_rhat_does_not_change_with_monotone_maps_of_the_bulk(rng):
    draws = rng.normal(size=(4, 200))
    draws[0] += 1.0  # location decides, not the fold, which such a map changes
    np.testing.assert_allclose(evaluation.rhat(3.0 * draws - 7.0), evaluation.rhat(draws), rtol=1e-12)
    np.testing.assert_allclose(evaluation.ess(np.exp(draws)), evaluation.ess(draws), rtol=1e-12)


@pytest.mark.parametrize("kind", ["mean", "bulk"])
@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.6, 0.9])
def test_ess_of_ar1(rng, rho, kind):
    num_chains, num_draws, replicates = 4, 2000, 64
    draws = ar1(rng, rho, num_chains, num_draws, (replicates,))
    expected = num_chains * num_draws * (1.0 - rho) / (1.0 + rho)
    log_ratio = np.log(evaluation.ess(draws, kind=kind) / expected)
    # Monte Carlo error from the replicates. Bias: the sum is cut at a random lag and chains are short;
    # measured at most 2.5% here (rho = -0.5), 0.7% at 8000 draws. 5% is allowed.
    assert abs(log_ratio.mean()) < 0.05 + 5.0 * log_ratio.std(ddof=1) / np.sqrt(replicates)


def test_tail_ess_of_independent_draws(rng):
    log_ratio = np.log(evaluation.ess(rng.normal(size=(4, 2000, 64)), kind="tail") / 8000.0)
    # The smaller of two, each with a spread of about 4%, is biased by less than 5%.
    assert -0.05 < log_ratio.mean() < 5.0 * log_ratio.std(ddof=1) / 8.0


@pytest.mark.parametrize("kind", ["mean", "sd"])
@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_mcse_is_the_spread_of_estimates(rng, rho, kind):
    replicates = 400
    draws = ar1(rng, rho, 4, 1000, (replicates,))
    estimates = draws.mean(axis=(0, 1)) if kind == "mean" else draws.std(axis=(0, 1))
    spread = estimates.std(ddof=1)
    # A standard deviation of R normal estimates has relative error 1 / sqrt(2 R): 3.5%. Bias of the ESS: 5%
    # at most, half of that here, and as much for the mean of its reciprocal root.
    tolerance = 5.0 / np.sqrt(2.0 * replicates) + 0.05
    assert abs(np.log(evaluation.mcse(draws, kind=kind).mean() / spread)) < tolerance


def test_shape_and_type_are_those_of_the_variable(rng):
    draws = rng.normal(size=(4, 50, 3, 2))
    for metric in (evaluation.rhat, evaluation.ess, evaluation.mcse):
        assert metric(draws).shape == (3, 2)
        assert metric(draws[..., 0, 0]).shape == () and metric(draws[..., :0]).shape == (3, 0)
        np.testing.assert_allclose(metric(draws)[2, 1], metric(draws[..., 2, 1]), rtol=1e-12)
        assert np.isfinite(metric(draws > 0)).all()
        assert np.isfinite(metric((3 * draws).astype(np.int32))).all()


def test_large_variables_in_blocks_are_as_one(rng, monkeypatch):
    draws = rng.normal(size=(2, 20, 7))
    draws[0, 3, 2] = np.nan
    whole = evaluation.rhat(draws)
    monkeypatch.setattr(importlib.import_module("ppl_gen.evaluation._chains"), "_BLOCK", 100)
    np.testing.assert_array_equal(evaluation.rhat(draws), whole)


def test_constant_variables(rng):
    draws = np.full((4, 100, 1), 0.1)
    assert np.isnan(evaluation.rhat(draws)).all()
    assert np.isnan(by_arviz("rhat", draws)).all()
    for kind in ("bulk", "tail", "mean"):
        assert evaluation.ess(draws, kind=kind) == 400
    assert evaluation.mcse(draws) == evaluation.mcse(draws, kind="sd") == 0.0
    stuck = draws + np.arange(4)[:, None, None]
    assert evaluation.rhat(stuck) == np.inf
    assert evaluation.ess(stuck) < 10
    assert np.isfinite(evaluation.rhat(rng.choice([-1.0, 1.0], size=(4, 100))))


def test_not_finite_is_nan_and_its_own_affair(rng):
    draws = rng.normal(size=(4, 100, 3))
    clean = draws.copy()
    draws[1, 7, 1], draws[2, 3, 2] = np.nan, np.inf
    for metric in (evaluation.rhat, evaluation.ess, evaluation.mcse):
        np.testing.assert_array_equal(np.isnan(metric(draws)), [False, True, True])
        assert metric(draws)[0] == metric(clean)[0]


def test_rhat_is_fast(rng):
    draws = rng.normal(size=(4, 1000, 20))
    seconds = min(timeit.repeat(lambda: evaluation.rhat(draws), number=1, repeat=20))
    assert seconds < 0.05  # about 4 ms on one core; the margin is for a busy machine


# ---- Pareto k-hat ----------------------------------------------------------------------------------------


def mean_khat(draw_log_weights, replicates=100):
    khats = np.array([evaluation.pareto_khat(draw_log_weights()) for _ in range(replicates)])
    return khats.mean(), khats.std(ddof=1) / np.sqrt(replicates)


@pytest.mark.parametrize("shape", [-0.2, 0.3, 0.7, 1.0])
def test_khat_of_generalised_pareto_weights(rng, shape):
    # Every tail of a generalised Pareto distribution is one of the same shape. The fit to the 300 largest of
    # 10,000 is drawn towards 0.5 by 10 / 310 of the distance, at most 0.023; the rest of the 0.05 is the bias
    # of the fit itself, of order 1 / 300.
    mean, error = mean_khat(lambda: np.log(genpareto.rvs(shape, size=10_000, random_state=rng)))
    assert abs(mean - shape) < 0.05 + 5.0 * error


@pytest.mark.parametrize("rate", [1.5, 4.0])
def test_khat_of_exponential_proposals(rng, rate):
    # Target Exp(1), proposal Exp(rate): of w = exp((rate - 1) x), P(w > t) = t^(-rate / (rate - 1)).
    mean, error = mean_khat(lambda: (rate - 1.0) * rng.exponential(1.0 / rate, size=10_000))
    assert abs(mean - (rate - 1.0) / rate) < 0.05 + 5.0 * error


@pytest.mark.parametrize("size", [21, 100, 5000])
@pytest.mark.parametrize("relative_efficiency", [1.0, 0.3])
def test_psis_equals_arviz(rng, size, relative_efficiency):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        az = pytest.importorskip("arviz")
    if not hasattr(az, "psislw"):
        pytest.skip("this ArviZ has no psislw")
    log_weights = 3.0 * rng.normal(size=size)
    smoothed, khat = pareto_smooth(log_weights, relative_efficiency)
    their_smoothed, their_khat = az.psislw(log_weights, reff=relative_efficiency)
    # ArviZ drops grid points of negligible likelihood (1e-15), we keep them.
    np.testing.assert_allclose(khat, float(their_khat), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(smoothed, their_smoothed, rtol=1e-6, atol=1e-9)


def test_smoothed_weights_estimate_better(rng):
    rate, size, replicates = 2.5, 1000, 200  # k = 0.6: infinite variance of the raw weights
    smoothed, raw = [], []
    for _ in range(replicates):
        x = rng.exponential(1.0 / rate, size=size)
        log_weights = (rate - 1.0) * x
        smoothed.append(np.exp(pareto_smooth(log_weights)[0]) @ x)
        raw.append(softmax(log_weights) @ x)
    smoothed, raw = np.array(smoothed), np.array(raw)
    # The target's mean is 1. Both are biased low (self-normalised, tails unseen), smoothing by less than 0.1.
    assert abs(smoothed.mean() - 1.0) < 0.1 + 5.0 * smoothed.std(ddof=1) / np.sqrt(replicates)
    # and smoothing adds no spread (standard deviations are known to 5% each).
    assert smoothed.std() < raw.std() * (1.0 + 5.0 * 0.05 * np.sqrt(2.0))


def test_smoothed_weights_are_normalised_ordered_and_free_of_the_constant(rng):
    log_weights = 2.0 * rng.normal(size=500)
    before = log_weights.copy()
    smoothed, khat = pareto_smooth(log_weights)
    np.testing.assert_array_equal(log_weights, before)
    np.testing.assert_allclose(np.exp(smoothed).sum(), 1.0, rtol=1e-12)
    assert (np.diff(smoothed[np.argsort(log_weights)]) >= 0.0).all()
    shifted, shifted_khat = pareto_smooth(log_weights - 1234.5)
    np.testing.assert_allclose(shifted, smoothed, atol=1e-9)
    np.testing.assert_allclose(shifted_khat, khat, atol=1e-9)


def test_khat_at_the_edges(rng):
    assert evaluation.pareto_khat(np.zeros(100)) == -np.inf
    np.testing.assert_allclose(pareto_smooth(np.zeros(100))[0], -np.log(100.0))
    few_above = np.zeros(100)
    few_above[:3] = 1.0
    assert evaluation.pareto_khat(few_above) == np.inf
    half_zero = rng.normal(size=1000)
    half_zero[::2] = -np.inf
    smoothed, khat = pareto_smooth(half_zero)
    assert khat < 0.7
    assert (smoothed[::2] == -np.inf).all()
    assert evaluation.pareto_khat(1000.0 * rng.normal(size=100)) > 0.7  # weights beyond the range of floats
    assert evaluation.pareto_khat(1e-14 * rng.normal(size=1000)) < 0.7  # equal but for rounding


@pytest.mark.parametrize(("num_first", "num_second"), [(1, 3), (2, 2), (3, 7), (40, 40)])
def test_adjusted_rand_equals_sklearn(rng, num_first, num_second):
    metrics = pytest.importorskip("sklearn.metrics")
    first, second = rng.integers(num_first, size=200), rng.integers(num_second, size=200)
    second[:80] = first[:80]
    expected = metrics.adjusted_rand_score(first, second)
    np.testing.assert_allclose(evaluation.adjusted_rand(first, second), expected, rtol=1e-10, atol=1e-12)


def test_adjusted_rand_by_hand(rng):
    # Of the 6 pairs {01} and {23} are together in the first, {01} in the second, {01} in both:
    # expected 2 * 1 / 6, largest (2 + 1) / 2, index (1 - 1/3) / (3/2 - 1/3) = 4/7.
    np.testing.assert_allclose(evaluation.adjusted_rand([0, 0, 1, 1], [0, 0, 1, 2]), 4.0 / 7.0)
    labels = rng.integers(4, size=100)
    assert evaluation.adjusted_rand(labels, np.array(["d", "a", "c", "b"])[labels]) == 1.0
    assert evaluation.adjusted_rand(np.zeros(5), np.ones(5)) == 1.0
    assert evaluation.adjusted_rand(np.arange(5), np.arange(5)[::-1]) == 1.0
    assert evaluation.adjusted_rand(np.zeros(5), np.arange(5)) == 0.0
    many = np.repeat([0, 1], 200_000)  # products of numbers of pairs pass 2^63
    assert evaluation.adjusted_rand(many, 1 - many) == 1.0


# ---- refusals say what was expected, what came, and what to do -------------------------------------------

DRAWS = [
    (np.zeros(100), r"shape \(chain, draw, \.\.\.\), got \(100,\); for one chain pass draws\[None\]"),
    (np.zeros((4, 3)), r"4 draws per chain, got shape \(4, 3\); run the sampler longer"),
    (np.zeros((4, 10), dtype=complex), "real numbers, got dtype complex128"),
]
REFUSED = [
    *[(name, (draws,), message) for name in ("rhat", "ess", "mcse") for draws, message in DRAWS],
    ("ess", (np.zeros((4, 10)), "median"), r"kind must be one of .*, got 'median'"),
    ("pareto_khat", (np.zeros((2, 100)),), r"shape \(sample,\), got \(2, 100\); call once per set"),
    ("pareto_khat", (np.zeros(20),), "at least 21 log_weights, got 20; draw more"),
    ("pareto_khat", (np.r_[np.zeros(100), np.nan],), "finite or -inf, got nan"),
    ("pareto_khat", (np.full(100, -np.inf),), "no sample has weight"),
    ("pareto_khat", (np.zeros(100), 0.0), "efficiency must be positive"),
    ("adjusted_rand", (np.zeros((5, 2)), np.zeros(5)), r"shape \(n,\), got \(5, 2\); .*argmax"),
    ("adjusted_rand", (np.zeros(5), np.zeros(6)), "got 5 and 6 labels"),
    ("adjusted_rand", (np.zeros(1), np.zeros(1)), "at least 2 labels"),
    ("adjusted_rand", (np.zeros(2), np.array([0.0, np.nan])), "other_labels must not hold nan"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(evaluation, name)(*arguments)
