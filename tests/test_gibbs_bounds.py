"""Counts that bound each other, the data or themselves: the supports that Metropolis moves must heed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.evaluation import ess
from ppl_gen.inference import count_blocks, count_starts
from ppl_gen.target import Target
from tests.test_gibbs import BACKENDS, SHORT

ONE_SLOW = [BACKENDS[0], pytest.param(BACKENDS[1], marks=pytest.mark.slow)]
TRAIN, SEEN = np.array([True, True, False]), np.array([3.0, 4.0, 50.0])


@pg.program
def masked(k, train):
    """The last datum is above any likely n, and masked."""
    n = pg.sample("n", dist.Poisson(8.0))
    with pg.plate("row", len(k)), pg.mask(mask=train):
        pg.sample("k", dist.Binomial(n, 0.5), obs=k)


@pg.program
def votes(y):
    """Votes for three candidates, only a score of which is seen."""
    with pg.plate("poll", 2):
        x = pg.sample("x", dist.Multinomial(total_count=6, probs=xp.array([0.2, 0.3, 0.5])))
        pg.sample("y", dist.Normal(1.0 * x[..., 0] + 2.0 * x[..., 1], 0.8), obs=y)


@pg.program
def one_more(k):
    """How many there are to be seen depends on a latent that is summed out."""
    n = pg.sample("n", dist.Poisson(3.0))
    z = pg.sample("z", dist.Bernoulli(0.5))
    m = pg.sample("m", dist.Binomial(n + z, 0.5))
    pg.sample("k", dist.Poisson(0.5 + m), obs=k)


def _infer(program, data, backend):
    return pg.infer(program, data, "gibbs", backend, seed=5, progress=False, **SHORT)


def _agrees(draws, values, p):
    """The mean of ``values`` (draws as they come) within 4.5 Monte Carlo errors of that under p."""
    mean = (p * values).sum()
    sd = np.sqrt((p * (values - mean) ** 2).sum())
    assert abs(draws.mean() - mean) < 4.5 * sd / np.sqrt(float(ess(draws.astype(float))))


@pytest.mark.parametrize("backend", ONE_SLOW)
def test_masked_data_bound_nothing(backend):
    run = _infer(masked, {"k": SEEN, "train": TRAIN}, backend)
    n = np.arange(60)
    p = stats.poisson.pmf(n, 8.0) * stats.binom.pmf(SEEN[0], n, 0.5) * stats.binom.pmf(SEEN[1], n, 0.5)
    _agrees(run.posterior["n"], n, p / p.sum())


@pytest.mark.parametrize("backend", ONE_SLOW)
def test_entries_of_a_vector_move_together(backend):
    """The entries of a vector with a fixed sum can only move two at a time."""
    y = np.array([5.0, 9.0])
    run = _infer(votes, {"y": y}, backend)
    draws = run.posterior["x"]
    assert (draws.sum(-1) == 6).all()
    grid = np.array([(i, j, 6 - i - j) for i in range(7) for j in range(7 - i)])
    prior = stats.multinomial.pmf(grid, 6, [0.2, 0.3, 0.5])
    for poll in range(2):
        p = prior * stats.norm.pdf(y[poll], grid[:, 0] + 2 * grid[:, 1], 0.8)
        for entry in range(3):
            _agrees(draws[..., poll, entry], grid[:, entry], p / p.sum())


@pytest.mark.parametrize("backend", ONE_SLOW)
def test_a_bound_that_is_summed_over(backend):
    run = _infer(one_more, {"k": np.array(4.0)}, backend)
    n, m, z = np.meshgrid(np.arange(30), np.arange(31), np.arange(2), indexing="ij")
    p = 0.5 * stats.poisson.pmf(n, 3.0) * stats.binom.pmf(m, n + z, 0.5) * stats.poisson.pmf(4, 0.5 + m)
    p /= p.sum()
    _agrees(run.posterior["n"], n.ravel(), p.ravel())
    _agrees(run.posterior["m"], m.ravel(), p.ravel())


def test_rows_that_cannot_be_moved_are_not_called_independent():
    with pg.on("numpyro") as room:
        target = Target(votes.bind({"y": np.array([5.0, 9.0])}, room))
        points = count_starts.prior_points(target, 0)
        blocks = count_blocks.blocks(target, count_blocks.dependence(target, points, 0, grow=True))
    assert not blocks.rows and len(blocks.joint) == 6


def test_an_unknown_name_among_starts_is_told_with_the_counts():
    with pytest.raises(ValueError, match=r"expected among \['n'\]"):
        pg.infer(masked, {"k": SEEN, "train": TRAIN}, "gibbs", init={"m": 3})
