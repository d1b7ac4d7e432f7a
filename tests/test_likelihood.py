"""Log likelihoods of held-out data: bounds, bits, perplexities and kernel density estimates against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from ppl_gen import evaluation

RNG = np.random.default_rng(0)


def log_weights(num_draws, num_rows, off=0.0, rng=RNG):
    """x ~ N(0, 2) with z ~ N(0, 1), x | z ~ N(z, 1); q(z | x) = N(x / 2 + off, 1)."""
    x = rng.normal(0.0, np.sqrt(2.0), num_rows)
    z = x / 2 + off + rng.normal(size=(num_draws, num_rows))
    log_p = -np.log(2 * np.pi) - 0.5 * z**2 - 0.5 * (x - z) ** 2
    log_q = -0.5 * np.log(2 * np.pi) - 0.5 * (z - x / 2 - off) ** 2
    return log_p - log_q, -0.5 * np.log(4 * np.pi) - 0.25 * x**2


def test_the_importance_bound_and_its_error_and_bias():
    weights, truth = log_weights(1000, 2000)
    found = evaluation.importance_bound(weights)
    z = (found.value - truth) / found.standard_error
    assert abs(z.mean()) < 0.15 and 0.9 < z.std() < 1.1
    assert abs(found.mean + found.bias - truth.mean()) < 4 * found.mean_error + 1e-4
    assert found.mean_error == pytest.approx(found.standard_error.mean() / np.sqrt(2000), rel=0.2)


def test_few_draws_bound_from_below_and_the_bias_says_by_how_much():
    weights, truth = log_weights(20, 50_000, off=0.3)
    found = evaluation.importance_bound(weights)
    short = truth.mean() - found.mean
    assert short > 5 * found.mean_error and 0.5 * short < found.bias < 2 * short
    more, _ = log_weights(200, 50_000, off=0.3)
    assert truth.mean() - evaluation.importance_bound(more).mean < 0.3 * short


def test_bits_of_dequantised_pixels_are_those_of_uniform_integers():
    """Uniform over 256 levels: 8 bits a pixel, the density of x / 256 being 1."""
    assert evaluation.bits_per_dim(np.zeros(5), 784, levels=256) == 8.0
    assert evaluation.bits_per_dim(np.full(5, -784 * np.log(2.0)), 784) == pytest.approx(1.0)


def test_perplexity_of_a_fair_die():
    assert evaluation.perplexity(np.full(7, -np.log(6.0))) == pytest.approx(6.0)
    assert evaluation.perplexity(np.array([-2 * np.log(6.0), -np.log(6.0)]), np.array([2, 1])) == pytest.approx(6.0)


def test_a_kernel_density_estimate_is_the_mean_of_gaussians():
    x, samples = RNG.normal(size=(700, 2)), RNG.normal(size=(50, 2))
    truth = np.mean([multivariate_normal(s, 0.3**2 * np.eye(2)).pdf(x) for s in samples], axis=0)
    np.testing.assert_allclose(evaluation.parzen(x, samples, 0.3), np.log(truth), rtol=1e-10)
    many = RNG.normal(size=(20_000, 1))
    near = evaluation.parzen(np.zeros((1, 1)), many)[0]
    assert abs(near + 0.5 * np.log(2 * np.pi)) < 0.05


def test_a_kernel_density_estimate_in_many_dimensions_warns():
    with pytest.warns(RuntimeWarning, match="in 11 dimensions is unreliable"):
        evaluation.parzen(np.zeros((2, 11)), RNG.normal(size=(30, 11)))


BAD = [
    (lambda: evaluation.importance_bound(np.zeros(5)), "shape .draws, rows."),
    (lambda: evaluation.importance_bound(np.full((3, 2), np.nan)), "got nan"),
    (lambda: evaluation.importance_bound(np.full((3, 2), -np.inf)), "2 rows have no possible draw"),
    (lambda: evaluation.bits_per_dim(np.zeros((2, 2)), 4), "one number for each datum"),
    (lambda: evaluation.bits_per_dim(np.zeros(2), 0), "num_dims must be at least 1"),
    (lambda: evaluation.perplexity(np.zeros(2), 0), "num_tokens must be at least 1"),
    (lambda: evaluation.parzen(np.zeros((2, 2)), np.zeros((5, 3))), "must be .n, d. and .m, d."),
    (lambda: evaluation.parzen(np.zeros((2, 2)), np.zeros((5, 2))), "bandwidth must be above 0"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_input(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
