"""Mixtures of logistics cut into levels: against differences of SciPy's distribution function, and their sums."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

import ppl_gen as pg
from ppl_gen.models._discretised_logistic import discretised_logistic_mixture

BACKENDS = ("numpyro", "pyro")


def mixture(rng, *batch, k=3):
    return rng.normal(size=(*batch, k)), rng.normal(size=(*batch, k)), rng.normal(size=(*batch, k)) - 2.0


def at(backend, parts, num_levels, x, precision="float64"):
    with pg.on(backend, precision=precision) as room:
        made = discretised_logistic_mixture(*map(room.asarray, parts), num_levels=num_levels)
        return room.to_numpy(made.log_prob(room.asarray(np.asarray(x))))


def by_scipy(logits, means, log_scales, num_levels, x):
    """Levels lie evenly on [-1, 1]; the tails belong to the first and the last."""
    edges = np.linspace(-1 - 1 / (num_levels - 1), 1 + 1 / (num_levels - 1), num_levels + 1)
    edges[0], edges[-1] = -np.inf, np.inf
    z = (edges[:, None] - means) / np.exp(log_scales)
    below, above = np.diff(stats.logistic.cdf(z), axis=0), -np.diff(stats.logistic.sf(z), axis=0)
    return np.log(np.where(z[:-1] > 0, above, below)[x] @ softmax(logits))  # the side that keeps its digits


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_levels", [2, 5, 256])
def test_masses_are_differences_of_the_distribution_function_and_sum_to_one(backend, num_levels):
    parts = mixture(np.random.default_rng(num_levels), 4)
    x = np.arange(num_levels)[:, None]
    found = at(backend, parts, num_levels, x)
    assert found.shape == (num_levels, 4)
    truth = [by_scipy(*(p[i] for p in parts), num_levels, x[:, 0]) for i in range(4)]
    np.testing.assert_allclose(found, np.transpose(truth), rtol=1e-8)
    np.testing.assert_allclose(np.exp(found).sum(0), 1.0, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mean", [-30.0, 0.1, 30.0])
def test_tails_keep_their_digits_and_their_gradients(backend, mean):
    """Where F(b) - F(a) is 0 to rounding, in single precision too: far out the log mass falls by 2 h / s each level."""
    parts = tuple(np.array([v]) for v in (0.0, mean, -3.0))
    x = np.arange(256)
    narrow = at(backend, parts, 256, x, "float32")
    np.testing.assert_allclose(narrow, at(backend, parts, 256, x), rtol=2e-4, atol=1e-6)
    if abs(mean) > 1:
        step = np.sign(mean) * 2.0 / 255 * np.exp(3.0)
        far = slice(1, 120) if mean > 0 else slice(140, 255)
        np.testing.assert_allclose(np.diff(at(backend, parts, 256, x[far])), step, rtol=1e-5)
    with pg.on(backend, precision="float32") as room:
        loss = lambda m: room.xp.sum(
            discretised_logistic_mixture(m * 0.0, m, m * 0.0 - 3.0).log_prob(room.asarray(np.arange(256.0)))
        )
        _, gradient = room.value_and_grad(loss)(room.asarray(np.array([mean])))
        assert np.isfinite(room.to_numpy(gradient)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_have_these_masses(backend):
    """A chi-squared test at a level of 1e-6."""
    parts, count = mixture(np.random.default_rng(5)), 50_000
    with pg.on(backend, seed=1) as room:
        made = discretised_logistic_mixture(*map(room.asarray, parts), num_levels=16)
        key = () if backend == "pyro" else (room.key(3),)
        x = room.to_numpy(made.sample(*key, (count,)))
    expected = count * np.exp(by_scipy(*parts, 16, np.arange(16)))
    common = expected > 5
    found = np.bincount(x.astype(int), minlength=16)
    seen, awaited = (np.append(n[common], n[~common].sum()) for n in (found, expected))
    assert stats.chisquare(seen[awaited > 0], awaited[awaited > 0]).pvalue > 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_stands_in_programs(backend):
    """The mean of single levels learned from draws; a level outside of the support is refused."""

    @pg.program
    def pixels(x):
        mean = pg.param("mean", np.zeros(2))
        with pg.plate("row", len(x)):
            zeros = pg.xp.zeros((len(x), 2, 1))
            each = discretised_logistic_mixture(zeros, mean[:, None] + zeros, zeros - 2.0)
            pg.sample("x", each.to_event(1), obs=x)

    x = np.round(127.5 * (np.random.default_rng(0).logistic([-0.3, 0.4], np.exp(-2.0), (500, 2)) + 1)).clip(0, 255)
    run = pg.infer(pixels, x, "map", backend, objective="likelihood", progress=False)
    np.testing.assert_allclose(run.params["mean"], [-0.3, 0.4], atol=5 * np.sqrt(3.0) * np.exp(-2.0) / np.sqrt(500))
    with pytest.raises(pg.ProgramError, match="outside the support"):
        pg.infer(pixels, x + 0.5, "map", backend, progress=False)
