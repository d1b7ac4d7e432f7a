"""Flow matching: couplings of noise and data, and what networks learn from them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import ppl_gen as pg
from ppl_gen.diffusion.couplings import Coupling, Entropic, assignment, independent, optimal_transport, sinkhorn
from ppl_gen.diffusion.samplers import Euler

BACKENDS = ("numpyro", "pyro")


def test_optimal_transport_is_the_best_of_all_permutations():
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, e = rng.standard_normal((2, 6, 3))
        found = optimal_transport(rng, x, e)
        cost = lambda order, x=x, e=e: ((x - e[list(order)]) ** 2).sum()
        assert sorted(found) == list(range(6))
        assert cost(found) == pytest.approx(min(map(cost, itertools.permutations(range(6)))))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_assignments_are_those_of_the_costs_as_they_came(scale):
    rng = np.random.default_rng(8)
    for costs in (rng.standard_normal((90, 90)), rng.exponential(size=(90, 90)) ** 8, np.zeros((9, 9)), np.eye(1)):
        rows, columns = linear_sum_assignment(scale * costs)
        found = assignment(scale * costs)
        assert sorted(found) == list(rows)
        best, rounding = costs[rows, columns].sum(), 1e-13 * len(rows) * np.abs(costs).max()
        assert costs[rows, found].sum() == pytest.approx(best, rel=1e-12, abs=rounding)


def test_the_entropic_plan_is_that_of_two_points_by_hand():
    """Of two points each the plan is one number p: p / (1/2 - p) = exp(-d / (2 strength)), d the costs crosswise."""
    costs, strength = np.array([[0.3, 1.0], [2.0, 0.1]]), 0.7
    odds = np.exp(-(costs[0, 0] + costs[1, 1] - costs[0, 1] - costs[1, 0]) / (2 * strength))
    p = 0.5 * odds / (1 + odds)
    np.testing.assert_allclose(sinkhorn(costs, strength, 1e-12), [[p, 0.5 - p], [0.5 - p, p]], rtol=1e-9)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_plans_have_their_marginals_and_weak_ones_are_nearly_exact(strength):
    x, e = np.random.default_rng(1).standard_normal((2, 40, 2))
    costs = ((x[:, None] - e) ** 2).sum(-1)
    plan = sinkhorn(costs, strength)
    np.testing.assert_allclose(plan.sum(1), 1 / 40, rtol=1e-9)
    if strength >= 0.1:
        assert np.abs(plan.sum(0) - 1 / 40).sum() < 2e-3
    best = costs[np.arange(40), optimal_transport(np.random.default_rng(0), x, e)].mean()
    spent = (plan * costs).sum()
    assert spent >= best * (1 - 5e-3)
    if strength <= 1e-3:
        assert spent <= best + strength * np.log(40) + 5e-3 * best  # the entropy can be worth no more


def test_the_entropic_plan_of_gaussians_has_their_known_covariance():
    """Of N(0, s^2) and N(0, 1): Gaussian with covariance sqrt(s^2 + k^2) - k, k = strength / 4 (Janati et al. 2020)."""
    rng, strength, deviation = np.random.default_rng(2), 0.8, 0.5
    found = []
    for _ in range(10):
        x, e = deviation * rng.standard_normal((300, 1)), rng.standard_normal((300, 1))
        index = Entropic(strength)(rng, x, e)
        found.append(np.mean(x * e[index]) - x.mean() * e.mean())
    k = strength / 4
    expected = np.sqrt(deviation**2 + k**2) - k
    assert abs(np.mean(found) - expected) <= 4 * np.std(found) / np.sqrt(10) + 2e-3  # bias of few points


def test_couplings_keep_what_they_are_given():
    rng = np.random.default_rng(3)
    x, label = rng.standard_normal((30, 2, 2)).astype(np.float32), np.repeat([0, 1, 2], 10)
    noise = 10.0 * label[:, None, None] + rng.standard_normal(x.shape)
    for match in (independent, optimal_transport):
        rows = Coupling(match)(rng, {"x": x, "label": label, "noise": noise})
        assert (np.sort(rows["noise"].ravel()) == np.sort(noise.ravel())).all()
        assert (np.round(rows["noise"].mean((1, 2)) / 10) == label).all()  # matched within a class
        assert (rows["x"] == x).all() and (rows["noise"] != noise).any()
    drawn = Coupling(optimal_transport)(rng, {"x": x})["noise"]
    assert drawn.shape == x.shape and drawn.dtype == np.float32


def _trained(backend, coupling, x, **options):
    options = {"num_steps": 60, "batch_size": 50, "learning_rate": 3e-3, "progress": False, **options}
    model = pg.models.FlowMatching((2,), hidden=(8,))
    return pg.infer(model, x, "flow_matching", backend, coupling=coupling, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_optimal_transport_has_less_left_to_say_and_hangs_on_the_seed_alone(backend):
    x = np.random.default_rng(4).standard_normal((400, 2)) + 2.0
    doubled = lambda rng, rows: {**rows, "x": 2.0 * rows["x"]}
    optimal = _trained(backend, "optimal_transport", x)
    again = _trained(backend, "optimal_transport", x)
    assert (optimal.history["loss"] == again.history["loss"]).all()
    assert optimal.history["loss"][-20:].mean() < _trained(backend, None, x).history["loss"][-20:].mean()
    larger = _trained(backend, "optimal_transport", x, augment=doubled, num_steps=1)  # the user's own comes before it
    same = _trained(backend, "optimal_transport", 2.0 * x, num_steps=1)
    np.testing.assert_allclose(larger.history["loss"], same.history["loss"], rtol=1e-9)


def test_a_run_with_coupled_noise_goes_on_from_its_checkpoint(tmp_path):
    x = np.random.default_rng(5).standard_normal((400, 2))
    whole = _trained("pyro", "schroedinger_bridge", x, validation=0.25)
    kept = _trained("pyro", "schroedinger_bridge", x, validation=0.25, checkpoint=tmp_path / "run")
    assert (whole.history["loss"] == kept.history["loss"]).all()
    assert np.isfinite(whole.history["validation"][5::6]).all()  # after each epoch of 6 batches
    assert (pg.resume(tmp_path / "run").history["loss"] == whole.history["loss"]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flow_takes_one_data_set_to_another(backend):
    rng = np.random.default_rng(6)
    corners = np.array([[2.0, 0.0], [0.0, 2.0]])
    data = {"x": corners[rng.integers(2, size=1000)] + 0.2 * rng.standard_normal((1000, 2))}
    data["noise"] = -corners[rng.integers(2, size=1000)] + 0.2 * rng.standard_normal((1000, 2))
    model = pg.models.FlowMatching((2,), hidden=(32, 32), source="data")
    run = pg.infer(
        model, data, "flow_matching", backend, coupling="optimal_transport", num_steps=500, learning_rate=5e-3,
        batch_size=100, ema=0.98, progress=False,
    )  # fmt: skip
    drawn = run.sample(1000, noise=data["noise"], sampler=Euler(20), progress=False)
    away = np.sqrt(((drawn[:, None] - corners) ** 2).sum(-1))
    assert (away.min(1) < 1.0).mean() > 0.9  # of a short training
    assert 0.35 < (away.argmin(1) == 0).mean() < 0.65
    with pytest.raises(ValueError, match="pass noise"):
        run.sample(10)
    with pytest.raises(ValueError, match="of shape"):
        run.sample(10, noise=np.zeros((9, 2)))
    assert run.log_prob_kind == "unavailable"
    with pytest.raises(pg.UnsupportedError, match="no density"):
        run.log_prob(data)
    assert "an equation" in run.idata.attrs["log_likelihood"]  # and is made without one


@pytest.mark.parametrize("backend", [pytest.param("numpyro", marks=pytest.mark.slow), "pyro"])
def test_a_flow_trained_on_its_own_pairs_is_straighter(backend):
    """Reflow: one step of Euler's method is then as good as many (Liu et al. 2023, theorem 3.6 and section 2.2)."""
    rng = np.random.default_rng(7)
    x = np.where(rng.random((2000, 1)) < 0.5, -2.0, 2.0) + 0.3 * rng.standard_normal((2000, 1))
    model = pg.models.FlowMatching((1,), hidden=(32, 32))
    options = {"num_steps": 600, "learning_rate": 5e-3, "batch_size": 250, "progress": False}
    first = pg.infer(model, x, "flow_matching", backend, **options)
    pairs = first.pairs(2000, seed=1, sampler=Euler(50), progress=False)
    assert pairs["x"].shape == pairs["noise"].shape == (2000, 1)
    second = pg.infer(model, pairs, "flow_matching", backend, **options)
    noise = rng.standard_normal((1000, 1))

    def bend(run):
        """How far one step ends from where fifty do."""
        once, often = (run.sample(1000, noise=noise, sampler=Euler(n), progress=False) for n in (1, 50))
        return np.mean((once - often) ** 2)

    assert bend(second) < 0.2 * bend(first)
    assert second.log_prob(pairs).shape == (2000,)
