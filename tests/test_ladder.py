"""The parts of the tempering engines against their definitions: weights, swaps, walks forth and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import special, stats

import ppl_gen as pg
from ppl_gen.inference import ais, langevin, smc, tempering
from ppl_gen.inference.driver import Driver
from ppl_gen.target import Target
from tests.test_samplers import BACKENDS
from tests.test_tempered import PROGRAMS, X, Y, assert_normal, coin, regression, tempered_normal

# Weights --------------------------------------------------------------------------------------------------------------


def test_the_next_temperature_has_the_effective_sample_size_asked_for():
    """Against the definition, by populations; likelihoods of 0 weigh nothing, and the worst population decides."""
    rng = np.random.default_rng(0)
    log_likelihood = rng.normal(size=(3, 200)) * [[50.0], [200.0], [100.0]] - 1000.0
    log_likelihood[0, :40] = -np.inf
    beta, weights, increment, ess = smc.reweighted(log_likelihood, 0.1, 0.6)
    raw = np.exp((beta - 0.1) * (log_likelihood + 1000.0))
    np.testing.assert_allclose(weights, raw / raw.sum(1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(increment, np.log(raw.mean(1)) - (beta - 0.1) * 1000.0, rtol=1e-9)
    np.testing.assert_allclose(ess, 1 / (weights**2).sum(1), rtol=1e-9)
    assert np.min(ess / [160, 200, 200]) == pytest.approx(0.6, rel=1e-6)
    beta, _, increment, _ = smc.reweighted(np.full((2, 30), -7.0), 0.25, 0.5)
    assert beta == 1.0 and increment == pytest.approx([-5.25, -5.25])


def test_systematic_resampling_keeps_the_expected_number_to_within_one():
    rng = np.random.default_rng(1)
    weights = rng.dirichlet(np.full(50, 0.3), size=4)
    chosen = smc.systematic(weights, rng.random(4)).reshape(4, 50)
    for i, (row, weight) in enumerate(zip(chosen, weights, strict=True)):
        counts = np.bincount(row - 50 * i, minlength=50)
        assert (np.abs(counts - 50 * weight) < 1).all() and counts.sum() == 50
    every = np.linspace(0, 1, 2000, endpoint=False)
    average = np.mean([np.bincount(smc.systematic(weights[:1], np.array([u])), minlength=50) for u in every], axis=0)
    np.testing.assert_allclose(average, 50 * weights[0], atol=0.03)  # unbiased


def test_the_standard_error_of_populations():
    """Of log-normal estimates of relative spread 0.1: the stated error is theirs, and no less than that within."""
    rng = np.random.default_rng(2)
    runs = [smc.combined(3.0 + 0.1 * rng.normal(size=8) - 0.005, np.zeros(8)) for _ in range(4000)]
    value, error = np.array(runs).T
    assert value.mean() == pytest.approx(3.0, abs=0.005) and error.mean() == pytest.approx(value.std(), rel=0.1)
    assert smc.combined(np.full(4, 1.0), np.full(4, 0.04)) == pytest.approx((1.0, 0.1))


# Swaps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_swaps_are_of_even_or_odd_pairs_with_their_probability(backend):
    """Against a loop over pairs with the densities beta_i l_j written out."""
    rng, beta = np.random.default_rng(3), np.array([0.0, 0.1, 0.4, 1.0])
    log_likelihood, uniform = 5 * rng.normal(size=(4, 30)), rng.random((3, 30))
    log_likelihood[0, 0] = -np.inf
    for parity in (0, 1):
        expected = np.arange(120).reshape(4, 30)
        rate = np.zeros(3)
        for i, c in itertools.product(range(3), range(30)):
            low, high = log_likelihood[i, c], log_likelihood[i + 1, c]
            here = beta[i + 1] * high + (beta[i] * low if beta[i] else 0.0)
            there = beta[i + 1] * low + (beta[i] * high if beta[i] else 0.0)
            rate[i] += min(1.0, np.exp(there - here)) / 30
            if i % 2 == parity and uniform[i, c] < np.exp(there - here):
                expected[[i, i + 1], c] = expected[[i + 1, i], c]
        with pg.on(backend) as room:
            held = (room.asarray(v) for v in (beta, log_likelihood, uniform, np.array(float(parity))))
            order, found = room.to_numpy(tempering.swap(room.xp, *held))
        np.testing.assert_array_equal(order, expected.ravel())
        np.testing.assert_allclose(found, rate)
        assert (order != np.arange(120)).any()


def test_a_ladder_of_equal_rejections_stays_and_others_are_mended():
    beta = np.array([0.0, 0.2, 0.5, 1.0])
    np.testing.assert_allclose(tempering.equal_rejection(beta, np.full(3, 0.7)), beta)
    mended = tempering.equal_rejection(beta, np.array([0.0, 0.5, 0.9]))
    total = np.interp(mended, beta, np.cumsum([0.0, 1.0, 0.5, 0.1]))
    np.testing.assert_allclose(np.diff(total), 1.6 / 3)


def test_round_trips_are_counted():
    """Two chains of three temperatures: replica 0 goes down, up and down again; in the other chain none does."""
    rows = [[0, 1, 2], [1, 0, 2], [1, 2, 0], [1, 0, 2], [0, 1, 2], [0, 2, 1], [2, 1, 0], [2, 0, 1], [0, 2, 1]]
    still = np.broadcast_to(np.arange(3), (9, 3))
    assert tempering.round_trips(np.stack([np.array(rows), still], axis=2)) == 2


def test_stepping_stones_against_exact_draws():
    """Of the coin's path by quadrature: the evidence within 4 of its errors, and the errors as large as the spread."""
    grid, beta = np.linspace(1e-4, 1 - 1e-4, 5000), np.array([0.0, 0.1, 0.3, 1.0])
    prior, likelihood = stats.beta(2, 3).logpdf(grid), stats.binom(20, grid).logpmf(13)
    rng, found = np.random.default_rng(4), []
    for _ in range(40):
        draws = [rng.choice(likelihood, (400, 2), p=special.softmax(prior + b * likelihood)) for b in beta]
        found.append(tempering.stepping_stones(np.stack(draws, axis=1), beta))
    value, error = np.array(found).T
    assert abs(value.mean() - PROGRAMS["coin"][2]) < 4 * value.std() / np.sqrt(40)
    assert 0.7 < error.mean() / value.std() < 1.6


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_iteration_of_tempering_leaves_all_temperatures_as_they_are(backend):
    """Chains that start at exact draws of each temperature are exact after moves and swaps, in mean and covariance."""
    rng, chains, beta = np.random.default_rng(5), 4000, np.array([0.0, 0.05, 0.3, 1.0])
    exact = [tempered_normal(b, chains, rng) for b in beta]
    engine = tempering.Tempering(num_chains=chains, num_temperatures=4, num_samples=4)
    with pg.on(backend) as room:
        target = Target(regression.bind({"x": X, "y": Y}, room))
        scale = np.stack([np.linalg.cholesky(c) for _, _, c in exact])
        state = _started(engine, target, np.concatenate([x for x, _, _ in exact]), beta, np.full(4, 1.2), scale)
        noise = engine._noise(target, 9, 0, 4)
        (state, _), report = engine.advance(target, learns=False)((state, ()), noise, target.arrays)
        position, replica, report = room.to_numpy((state.kernel.position, state.replica, report))
    assert 0.3 < report["acceptance_rate"].mean() < 0.99 and (np.bincount(replica) == 1).all()
    assert (report["swap_rate"] > 0.1).all() and (replica.reshape(4, -1)[3] < 3 * chains).mean() > 0.2
    for new, (_, mean, covariance) in zip(position.reshape(4, chains, 3), exact, strict=True):
        assert_normal(new, mean, covariance)


def _started(engine, target, x, beta, steps, scale):
    start = target.backend.asarray(np.arange(len(x)))
    return engine.at(target, tempering.State(None, None, start), target.backend.asarray(x), beta, steps, scale)


@pytest.mark.parametrize("preconditioner", [pytest.param("dense", marks=pytest.mark.slow), "diagonal"])
def test_tempering_is_the_same_on_both_backends(preconditioner):
    """Warm-up with what it learns, and draws, from the same noise."""
    rng, beta, found = np.random.default_rng(6), np.array([0.0, 0.2, 1.0]), []
    x, count = rng.normal(size=(6, 3)), 12
    few = {"num_warmup": count, "num_samples": count}  # of which no machine code is made that would take long
    engine = tempering.Tempering(num_chains=2, num_temperatures=3, preconditioner=preconditioner, **few)
    scale = np.stack([np.eye(3)] * 3) if preconditioner == "dense" else np.full((3, 1, 3), 0.7)
    noise = {"normal": rng.normal(size=(count, 6, 3)), "uniform": rng.random((count, 6)), "jitter": rng.random(count)}
    noise |= {"swap": rng.random((count, 2, 2)), "parity": np.arange(count) % 2.0}
    for backend in BACKENDS:
        with pg.on(backend) as room:
            target = Target(regression.bind({"x": X, "y": Y}, room))
            held = {n: room.asarray(v) for n, v in noise.items()}
            state = _started(engine, target, x, beta, np.full(3, 0.3), scale)
            both, warm = engine.advance(target, True)((state, engine._untaught(target, 0.3)), held, target.arrays)
            state = engine._refitted(target, *both, room.to_numpy(warm["swap_rate"]).mean(0))
            _, report = engine.advance(target, False)((state, ()), held, target.arrays)
            found.append(room.to_numpy((warm, report)))
    for a, b in zip(*found, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=1e-7, err_msg=name)


# Annealed importance sampling -----------------------------------------------------------------------------------------


def _walks(backend, x, forth):
    """Log weights and ends of walks from x along a fixed schedule."""
    beta = np.linspace(0.0, 1.0, 81)[1:] ** 3
    scale = [np.linalg.cholesky(tempered_normal(b, 1, np.random.default_rng(8))[2]) for b in beta]
    schedule = ais.Schedule(beta, np.full(80, 0.9), np.stack(scale))
    with pg.on(backend) as room:
        target = Target(regression.bind({"x": X, "y": Y}, room))
        end, _ = ais.AIS()._walk(target, Driver(room.to_numpy, False), 5, room.asarray(x), schedule, forth)
    return end


@pytest.mark.parametrize("backend", BACKENDS)
def test_walks_forth_and_back_weigh_without_bias(backend):
    """Eighty temperatures: the mean weight is p(data) from the prior, the mean inverse weight 1 / p(data) from exact
    draws of the posterior; each within 4.5 standard errors. And log weights lie around log p(data) on both sides."""
    rng, exact = np.random.default_rng(9), PROGRAMS["regression"][2]
    forth = _walks(backend, tempered_normal(0.0, 8_000, rng)[0], True).log_weight - exact
    back = _walks(backend, tempered_normal(1.0, 8_000, rng)[0], False).log_weight - exact
    for ratio in (np.exp(forth), np.exp(-back)):
        assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / np.sqrt(len(ratio)) < 0.2
    assert forth.mean() < -0.03 and back.mean() > 0.03


@pytest.mark.slow
def test_exact_draws_bound_the_evidence_from_above():
    """Both bounds within 4 standard errors of the truth, the way back from exact draws of the coin's posterior."""
    draws = stats.beta(15, 10).rvs(200, random_state=10)
    run = pg.infer(
        coin, {"wins": np.array(13.0)}, "ais", seed=2, progress=False, num_particles=200, num_temperatures=30,
        posterior_draws={"p": draws},
    )  # fmt: skip
    exact, attrs = PROGRAMS["coin"][2], run.attrs
    assert attrs["log_evidence_reverse_kind"] == "upper bound"
    assert abs(attrs["log_evidence"] - exact) < 4 * attrs["log_evidence_se"] < 0.4
    assert abs(attrs["log_evidence_reverse"] - exact) < 4 * attrs["log_evidence_reverse_se"] < 0.4


@pytest.mark.filterwarnings("ignore:chain", "ignore:the chains have not mixed")
def test_uneven_weights_are_warned_of():
    data = {"x": 30 * X, "y": 30 * Y}
    with pytest.warns(RuntimeWarning, match="the weights are uneven"):
        pg.infer(regression, data, "ais", progress=False, num_particles=100, num_temperatures=2, reverse=False)


def test_a_scale_for_each_row():
    """S v and S^T v with a matrix, or a diagonal, for each row."""
    rng = np.random.default_rng(11)
    v, scale = rng.normal(size=(4, 3)), rng.normal(size=(4, 3, 3))
    np.testing.assert_allclose(langevin.times(scale, v), [s @ x for s, x in zip(scale, v, strict=True)])
    np.testing.assert_allclose(langevin.transposed(scale, v), [s.T @ x for s, x in zip(scale, v, strict=True)])
    for product in (langevin.times, langevin.transposed):
        np.testing.assert_allclose(product(scale[:, :1], v), scale[:, 0] * v)
