"""Distances and tests between samples, against closed forms and brute force.

Random tests hold with any seed: PPL_GEN_TEST_SEED changes it. Tolerances are five standard errors of the quantity
tested.
"""

import importlib
import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.special import erf
from scipy.stats import norm, wasserstein_distance

from ppl_gen import evaluation


@pytest.fixture
def rng():
    return np.random.default_rng(int(os.environ.get("PPL_GEN_TEST_SEED", "0")))


def covariance(rng, d):
    root = rng.normal(size=(d, d))
    return root @ root.T / d + 0.2 * np.eye(d)


def best_map(S, T):
    """The optimal transport of N(0, S) into N(0, T) is this matrix, symmetric and positive."""
    root = np.real(sqrtm(S))
    return np.linalg.solve(root, np.real(sqrtm(root @ T @ root))) @ np.linalg.inv(root)


def bures(S, T):
    """W_2^2 of N(0, S) and N(0, T)."""
    return np.trace(S + T) - 2.0 * np.real(np.trace(sqrtm(S @ T)))


# ---- Energy distance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("unbiased", [False, True])
def test_energy_distance_by_brute_force(rng, unbiased, monkeypatch):
    module = importlib.import_module("ppl_gen.evaluation.energy_distance")
    monkeypatch.setattr(module, "BLOCK", 8)  # several blocks, the last one short
    x, y = rng.normal(size=(30, 3)), rng.normal(1.0, 2.0, size=(19, 3))

    def mean(a, b, leave_out):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (leave_out and i == j)]
        return sum(np.sqrt(((a[i] - b[j]) ** 2).sum()) for i, j in pairs) / len(pairs)

    expected = 2.0 * mean(x, y, False) - mean(x, x, unbiased) - mean(y, y, unbiased)
    np.testing.assert_allclose(evaluation.energy_distance(x, y, unbiased), expected, rtol=1e-10)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_energy_distance_of_normals(rng, shift):
    # X - Y ~ N(shift, variance 2), and E|N(a, variance 2)| = 2 exp(-a^2 / 4) / sqrt(pi) + a erf(a / 2).
    def mean_absolute(a):
        return 2.0 * np.exp(-(a**2) / 4.0) / np.sqrt(np.pi) + a * erf(a / 2.0)

    expected = 2.0 * mean_absolute(shift) - 2.0 * mean_absolute(0.0)
    samples = rng.normal(size=(200, 2, 150, 1))
    values = np.array([evaluation.energy_distance(x, shift + y[:99], unbiased=True) for x, y in samples])
    assert abs(values.mean() - expected) < 5.0 * values.std(ddof=1) / np.sqrt(len(values))


def test_energy_distance_is_a_distance(rng):
    x, y = rng.normal(size=(1500, 2)), rng.normal(size=(1100, 2))  # more than a block
    between = evaluation.energy_distance(x, y)
    assert between > 0.0
    assert abs(evaluation.energy_distance(x, x[::-1])) < 1e-12
    np.testing.assert_allclose(evaluation.energy_distance(y, x), between, rtol=1e-8)
    np.testing.assert_allclose(evaluation.energy_distance([[0, 0]], [[3, 4]]), 10.0)
    rotation = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    moved = evaluation.energy_distance(5.0 * x @ rotation + 2.0, 5.0 * y @ rotation + 2.0)
    np.testing.assert_allclose(moved, 5.0 * between, rtol=1e-8)


# ---- Wasserstein, exact ----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_exact_distance_by_brute_force(rng, p):
    x, y = rng.normal(size=(6, 2)), rng.normal(1.0, 2.0, size=(6, 2))
    distances = np.linalg.norm(x[:, None] - y, axis=-1)
    least = min((distances[np.arange(6), list(order)] ** p).mean() for order in permutations(range(6)))
    np.testing.assert_allclose(evaluation.wasserstein_exact(x, y, p), least ** (1.0 / p), rtol=1e-12)


def test_exact_distance_of_gaussians(rng):
    """A symmetric positive map is optimal for any points that it moves (Brenier)."""
    S, T, shift = covariance(rng, 2), covariance(rng, 2), np.array([1.0, -2.0])
    x = rng.multivariate_normal([0.0, 0.0], S, size=500)
    moved = x @ best_map(S, T) + shift
    squares = ((x - moved) ** 2).sum(axis=1)
    found = evaluation.wasserstein_exact(x, rng.permutation(moved)) ** 2
    np.testing.assert_allclose(found, squares.mean(), rtol=1e-10)
    assert abs(found - shift @ shift - bures(S, T)) < 5.0 * squares.std(ddof=1) / np.sqrt(len(x))


def test_exact_distance_of_a_shifted_cloud_and_on_the_line(rng):
    x = rng.normal(size=(200, 3))
    for p in (1, 2, 4):
        np.testing.assert_allclose(evaluation.wasserstein_exact(x, x[::-1] + [3.0, 4.0, 12.0], p), 13.0, rtol=1e-12)
    assert evaluation.wasserstein_exact(x, x[::-1]) == 0.0
    y = rng.exponential(size=(200, 1))
    expected = evaluation.wasserstein(x[:, 0], y[:, 0])
    np.testing.assert_allclose(evaluation.wasserstein_exact(x[:, :1], y, p=1), expected, rtol=1e-12)


# ---- Sliced Wasserstein ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(7, 7), (6, 4), (30, 7), (1, 9)])
def test_sliced_distance_on_the_line(rng, sizes):
    x, y = rng.normal(size=(sizes[0], 1)), rng.normal(1.0, 2.0, size=(sizes[1], 1))
    found = evaluation.sliced_wasserstein(x, y, p=1)
    np.testing.assert_allclose(found, wasserstein_distance(x[:, 0], y[:, 0]), rtol=1e-12)
    # Each point as often as it takes for the sizes to be equal.
    n, m = (np.lcm(*sizes) // size for size in sizes)
    as_many = evaluation.wasserstein_exact(np.repeat(x, n, 0), np.repeat(y, m, 0), 3)
    np.testing.assert_allclose(evaluation.sliced_wasserstein(x, y, p=3), as_many, rtol=1e-12)


@pytest.mark.parametrize("sizes", [(40, 40), (60, 40)])
def test_sliced_distance_by_brute_force(rng, sizes, monkeypatch):
    monkeypatch.setattr(importlib.import_module("ppl_gen.evaluation.sliced_wasserstein"), "_BLOCK", 1000)
    x, y = rng.normal(size=(sizes[0], 2)), rng.normal(1.0, 2.0, size=(sizes[1], 2))
    lines, apart = rng.normal(size=(500, 2)), []
    for line in lines / np.linalg.norm(lines, axis=1, keepdims=True):
        apart.append(wasserstein_distance(x @ line, y @ line))
    found = evaluation.sliced_wasserstein(x, y, 500, p=1, seed=int(rng.integers(2**31)))
    assert abs(found - np.mean(apart)) < 5.0 * np.std(apart) * np.sqrt(2.0 / 500)


@pytest.mark.parametrize("d", [2, 10])
def test_sliced_distance_of_a_shifted_cloud(rng, d):
    """W_2^2 on a line t is (t . shift)^2, |shift|^2 times a Beta(1/2, (d - 1) / 2)."""
    x, shift, count = rng.normal(size=(100, d)), rng.normal(size=d), 2000
    found = evaluation.sliced_wasserstein(x, rng.permutation(x) + shift, count, seed=int(rng.integers(2**31))) ** 2
    error = shift @ shift * np.sqrt(2.0 * (d - 1.0) / (d**2 * (d + 2.0)) / count)
    assert abs(found - shift @ shift / d) < 5.0 * error
    assert evaluation.sliced_wasserstein(x, x[::-1]) < 1e-12


# ---- Maximum mean discrepancy ----------------------------------------------------------------------------


def kernel(a, b, widths):
    return np.mean([np.exp(-((a - b) ** 2).sum() / (2.0 * h**2)) for h in widths])


@pytest.mark.parametrize("bandwidth", [0.7, [0.5, 1.0, 3.0]])
def test_mmd_by_brute_force(rng, bandwidth, monkeypatch):
    monkeypatch.setattr(importlib.import_module("ppl_gen.evaluation.mmd"), "BLOCK", 8)  # the last one short
    x, y = rng.normal(size=(14, 3)), rng.normal(0.5, 2.0, size=(11, 3))
    widths = np.atleast_1d(bandwidth)

    def unbiased(x, y):
        def mean(a, b, apart):
            return np.mean([kernel(p, q, widths) for i, p in enumerate(a) for j, q in enumerate(b) if i != j or apart])

        return mean(x, x, False) + mean(y, y, False) - 2.0 * mean(x, y, True)

    found = evaluation.mmd(x, y, bandwidth)
    np.testing.assert_allclose(found.value, unbiased(x, y), rtol=1e-10)
    assert found.bandwidth == tuple(widths) and found.p_value is None
    without_x = np.array([unbiased(np.delete(x, i, 0), y) for i in range(14)])
    without_y = np.array([unbiased(x, np.delete(y, i, 0)) for i in range(11)])
    variance = 13.0 * without_x.var() + 10.0 * without_y.var()
    np.testing.assert_allclose(found.standard_error, np.sqrt(variance), rtol=1e-10)


def gaussian_mmd(shift, S, T, h):
    """Of N(0, S) and N(shift, T): E k(X, Y) = |I + (S + T) / h^2|^(-1/2) exp(-shift' (h^2 I + S + T)^-1 shift / 2)."""

    def mean_kernel(apart, cov):
        wide = cov + h**2 * np.eye(len(cov))
        return h ** len(cov) / np.sqrt(np.linalg.det(wide)) * np.exp(-0.5 * apart @ np.linalg.solve(wide, apart))

    none = np.zeros_like(shift)
    return mean_kernel(none, 2.0 * S) + mean_kernel(none, 2.0 * T) - 2.0 * mean_kernel(shift, S + T)


@pytest.mark.parametrize("size", [0.0, 0.7])
def test_mmd_of_gaussians(rng, size):
    S, h, replicates = covariance(rng, 2), 0.8, 400
    T = S if size == 0.0 else covariance(rng, 2)
    shift = np.array([size, -size])
    root_S, root_T = np.linalg.cholesky(S), np.linalg.cholesky(T)
    found = [
        evaluation.mmd(rng.normal(size=(60, 2)) @ root_S.T, shift + rng.normal(size=(45, 2)) @ root_T.T, h)
        for _ in range(replicates)
    ]
    values, errors = np.array([f.value for f in found]), np.array([f.standard_error for f in found])
    assert abs(values.mean() - gaussian_mmd(shift, S, T, h)) < 5.0 * values.std(ddof=1) / np.sqrt(replicates)
    # The jackknife's mean variance is not below the variance, and for a quadratic form at most twice it; a
    # variance of R values, with a kurtosis of at most 9 here, has a relative error of at most sqrt(8 / R).
    ratio = (errors**2).mean() / values.var(ddof=1)
    slack = 5.0 * np.sqrt(8.0 / replicates)
    assert 1.0 / (1.0 + slack) < ratio < 2.2 * (1.0 + slack)


def test_p_values_of_equal_distributions_are_uniform_and_others_are_told_apart(rng):
    replicates, permuted = 150, 49
    found = [
        evaluation.mmd(*rng.normal(size=(2, 30, 2)), num_permutations=permuted, seed=int(rng.integers(2**31)))
        for _ in range(replicates)
    ]
    p_values = np.array([f.p_value for f in found])
    mean, error = (1.0 + 1.0 / (permuted + 1)) / 2.0, np.sqrt(1.0 / 12.0 / replicates)
    assert abs(p_values.mean() - mean) < 5.0 * error
    assert p_values.min() >= 1.0 / (permuted + 1)
    x = rng.normal(size=(300, 2))
    assert evaluation.mmd(x, rng.normal(1.0, 1.0, size=(200, 2)), num_permutations=199).p_value == 1.0 / 200
    assert evaluation.mmd(np.zeros((5, 1)), np.zeros((5, 1)), 1.0, num_permutations=9).p_value == 1.0


def test_median_heuristic(rng):
    x, y = rng.normal(size=(40, 2)), rng.normal(size=(31, 2))
    both = np.concatenate([x, y])
    distances = [np.linalg.norm(a - b) for i, a in enumerate(both) for b in both[:i]]
    (width,) = evaluation.mmd(x, y).bandwidth
    np.testing.assert_allclose(width, np.median(distances), rtol=1e-12)
    (scaled,) = evaluation.mmd(10.0 * x, 10.0 * y).bandwidth
    np.testing.assert_allclose(scaled, 10.0 * width, rtol=1e-12)


# ---- Classifier two-sample test --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.0, 2.0])
def test_a_classifier_of_gaussians_is_near_the_best(rng, size):
    """The best classifier of N(0, I) and N(shift, I) has accuracy Phi(|shift| / 2); trained on few rows it has less."""
    pytest.importorskip("sklearn")
    n = 600
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + [size, 0.0]
    found, best = evaluation.c2st(10.0 * x + 3.0, 10.0 * y + 3.0), norm.cdf(size / 2.0)
    error = np.sqrt(best * (1.0 - best) / (2.0 * n))
    assert best - 0.03 - 5.0 * error < found < best + 5.0 * error


def test_a_classifier_says_that_it_needs_sklearn():
    code = "import sys; sys.modules['sklearn'] = None\nimport numpy as np\nfrom ppl_gen import evaluation\n"
    code += "evaluation.c2st(np.eye(5), np.eye(5))"
    env = {**os.environ, "PYTHONPATH": str(Path(evaluation.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)
    assert done.returncode and "ImportError: evaluation.c2st needs scikit-learn: pip install" in done.stderr


# ---- Frechet distance ------------------------------------------------------------------------------------


def test_frechet_distance_of_known_moments(rng):
    S, T, shift = covariance(rng, 4), covariance(rng, 4), rng.normal(size=4)

    def with_moments(n, loc, cov):
        z = rng.normal(size=(n, 4))
        z -= z.mean(axis=0)
        z = np.linalg.solve(np.linalg.cholesky(np.cov(z.T)), z.T).T
        return loc + z @ np.linalg.cholesky(cov).T

    found = evaluation.frechet_distance(with_moments(30, np.ones(4), S), with_moments(23, 1.0 + shift, T))
    np.testing.assert_allclose(found, shift @ shift + bures(S, T), rtol=1e-8)


@pytest.mark.filterwarnings("ignore:.*a covariance is singular:RuntimeWarning")
@pytest.mark.parametrize("d", [1, 3, 40])
def test_frechet_distance_is_what_the_best_map_moves(rng, d):
    """Also of fewer rows than features."""
    x, T = rng.normal(size=(25, d)), covariance(rng, d)
    moved = (x - x.mean(axis=0)) @ T + rng.normal(size=d)
    shift = moved.mean(axis=0) - x.mean(axis=0)
    expected = shift @ shift + ((moved - x - shift) ** 2).sum() / 24.0
    np.testing.assert_allclose(evaluation.frechet_distance(x, rng.permutation(moved)), expected, rtol=1e-8)
    np.testing.assert_allclose(evaluation.frechet_distance(moved, x), expected, rtol=1e-8)
    assert evaluation.frechet_distance(x, x[::-1]) < 1e-12 * d


def test_frechet_distance_of_few_rows_warns():
    with pytest.warns(RuntimeWarning, match="4 rows of 4 features: a covariance is singular"):
        evaluation.frechet_distance(np.eye(4), np.eye(4))


# ---- Path energy -----------------------------------------------------------------------------------------


def test_energy_of_straight_paths_is_least_at_any_times(rng):
    S = covariance(rng, 2)
    x = rng.multivariate_normal([0.0, 0.0], S, size=300)
    moved = x @ best_map(S, covariance(rng, 2)) + 1.0
    times = np.array([0.0, 0.1, 0.15, 0.7, 1.0])
    path = x + times[:, None, None] * (moved - x)
    squares = ((moved - x) ** 2).sum(axis=1)
    for found in (evaluation.path_energy(path, times), evaluation.path_energy(path[::-1], times[::-1])):
        np.testing.assert_allclose(found.value, squares.mean(), rtol=1e-12)
        np.testing.assert_allclose(found.standard_error, squares.std(ddof=1) / np.sqrt(300), rtol=1e-12)
        assert found.normalised < 1e-10
    assert evaluation.path_energy(path[[0, 4]]).normalised < 1e-10


def test_energy_of_crossing_and_of_curved_paths():
    # 0 -> 12 and 1 -> 11 cross: (144 + 100) / 2 against 0 -> 11 and 1 -> 12: 121.
    crossing = np.array([[[0.0], [1.0]], [[12.0], [11.0]]])
    found = evaluation.path_energy(crossing)
    np.testing.assert_allclose((found.value, found.normalised), (122.0, 1.0 / 121.0), rtol=1e-12)
    np.testing.assert_allclose(evaluation.path_energy(crossing, w2=10.0).normalised, 0.22, rtol=1e-12)
    # Quarters of the unit circle: speed pi / 2 all the way, but for the chords.
    angle = 0.5 * np.pi * np.linspace(0.0, 1.0, 1001)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    found = evaluation.path_energy(np.stack([circle, circle + 9.0], axis=1))
    np.testing.assert_allclose(found.value, np.pi**2 / 4.0, rtol=1e-6)
    np.testing.assert_allclose(found.normalised, np.pi**2 / 8.0 - 1.0, rtol=1e-5)
    assert evaluation.path_energy(np.zeros((3, 5, 2))) == (0.0, 0.0, None)


# ---- refusals say what was expected, what came, and what to do -------------------------------------------

FIVE, FOUR = np.arange(5.0)[:, None], np.arange(4.0)[:, None]
PATH = np.zeros((3, 5, 2))
REFUSED = [
    ("energy_distance", (np.zeros(5), FIVE), r"x must have shape \(n, d\), got \(5,\); flatten"),
    ("energy_distance", (FIVE, np.zeros((5, 2))), "same number of columns"),
    ("energy_distance", (FIVE, np.zeros((1, 1)), True), "y must hold at least 2 points"),
    ("energy_distance", (np.full((5, 1), np.nan), FIVE), "x must be finite"),
    ("energy_distance", (FIVE, np.full((5, 1), "a")), "y must be real numbers"),
    ("wasserstein_exact", (FIVE, FOUR), "equally many points, got 5 and 4; .*sliced_wasserstein"),
    ("wasserstein_exact", (np.zeros((5001, 1)),) * 2, "at most 5000 points, got 5001"),
    ("wasserstein_exact", (FIVE, FIVE, 0.5), "p must be a finite number, at least 1, got 0.5"),
    ("wasserstein_exact", (FIVE, np.zeros((5, 2))), "same number of columns"),
    ("sliced_wasserstein", (FIVE, FOUR, 0), "num_projections must be .* at least 1, got 0"),
    ("sliced_wasserstein", (FIVE, FOUR, 9, np.inf), "p must be a finite number"),
    ("sliced_wasserstein", (FIVE[:, 0], FOUR), r"x must have shape \(n, d\), got \(5,\)"),
    ("mmd", (FIVE[:2], FOUR), "x must hold at least 3 points"),
    ("mmd", (FIVE, FOUR, [1.0, 0.0]), r"bandwidth must be .* above 0, got \[1.0, 0.0\]"),
    ("mmd", (FIVE, FOUR, None, -1), "num_permutations must be .* at least 0, got -1"),
    ("mmd", (np.zeros((9, 1)), FOUR), "median distance between the points is 0: .* give a bandwidth"),
    ("c2st", (FIVE, FOUR), "equally many points, got 5 and 4"),
    ("c2st", (FIVE, FIVE, 6), "num_folds must be a whole number from 2 to the 5 rows of x, got 6"),
    ("frechet_distance", (FIVE, np.full((5, 1), np.inf)), "y must be finite"),
    ("path_energy", (PATH[0],), r"shape \(times, n, d\), at least 2 times, got \(5, 2\)"),
    ("path_energy", (PATH[:, :1],), "at least 2 points for a standard error"),
    ("path_energy", (np.nan * PATH,), "trajectory must be finite"),
    ("path_energy", (PATH, [0.0, 1.0]), r"times must have shape \(3,\).*got \(2,\)"),
    ("path_energy", (PATH, [0.0, 0.5, 0.5]), "from 0 to 1, .*got 0 to 0.5, not in order"),
    ("path_energy", (PATH, [0.0, 5.0, 10.0]), "times must rise from 0 to 1, or fall from 1 to 0, got 0 to 10"),
    ("path_energy", (PATH, None, 0.0), "w2 must be above 0, got 0.0"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(evaluation, name)(*arguments)
