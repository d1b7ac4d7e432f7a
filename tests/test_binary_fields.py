"""Binary models known by an energy: against sums over all states, on both backends."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.special import logsumexp

import ppl_gen as pg
from ppl_gen.inference import fitting
from ppl_gen.models import Ising, PairwiseMarkovField, RestrictedBoltzmann
from tests.cutting import assert_same, cut_at_every_commit

BACKENDS = ("numpyro", "pyro")
RNG = np.random.default_rng(0)
CHAIN = tuple((i, i + 1) for i in range(7))


def states(size, values=(0.0, 1.0)):
    return np.array(list(itertools.product(values, repeat=size)))


def statistics(graph, x):
    """Of rows x (rows, size): each variable and each pair of an edge."""
    first, second = graph.ends
    return np.concatenate([x, x[:, first] * x[:, second]], axis=1)


def at(model, params, backend="numpyro"):
    """A run with these params, of a model that a step of training has seen."""
    low, high = model.values
    rows = np.where(np.random.default_rng(1).random((200, *model.event_shape)) < 0.5, low, high)
    options = {"num_steps": 1, "num_negative_steps": 1, "progress": False, "batch_size": 50}
    run = pg.infer(model, rows, "contrastive_divergence", backend, **options)
    return dataclasses.replace(run, params={n: np.asarray(x) for n, x in params.items()})


FIELDS = {
    "chain": PairwiseMarkovField(8, CHAIN),
    "all pairs": PairwiseMarkovField(6),
    "two parts": PairwiseMarkovField(5, ((0, 3), (1, 4))),
    "torus": Ising((3, 4), homogeneous=False),
    "lattice": Ising((2, 5), periodic=False, homogeneous=False),
    "ring": Ising((9,), homogeneous=False),
    "cube": Ising((2, 2, 3), periodic=False, homogeneous=False),
}


FEW = [(n, "numpyro") for n in ("all pairs", "two parts", "lattice")]


@pytest.mark.parametrize(("name", "backend"), [*((n, "pyro") for n in FIELDS), *FEW])
def test_the_normaliser_of_a_field_is_the_sum_over_all_states_and_its_slope_their_mean(name, backend):
    model, graph = FIELDS[name], FIELDS[name].graph
    rng = np.random.default_rng(len(name))
    theta = rng.normal(size=graph.size + len(graph.edges))
    x = states(graph.size, model.values)
    log_density = statistics(graph, x) @ theta
    expected = np.exp(log_density - logsumexp(log_density)) @ statistics(graph, x)
    with pg.on(backend) as room:
        split = lambda t: (t[: graph.size], t[graph.size :])
        compiled = room.compile(room.value_and_grad(lambda t: graph.log_normalizer(*split(t))))
        value, slope = compiled(room.asarray(theta))
        found = graph.log_density(*split(room.asarray(theta)), room.asarray(x))
        np.testing.assert_allclose(room.to_numpy(found), log_density, atol=1e-12)
        np.testing.assert_allclose(room.to_numpy(value), logsumexp(log_density), rtol=1e-13)
        np.testing.assert_allclose(room.to_numpy(slope), expected, atol=1e-12)


@pytest.mark.parametrize(("visible", "hidden"), [(5, 3), (3, 5), (4, 12)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_density_of_a_restricted_boltzmann_machine_sums_to_one(visible, hidden, backend):
    """With the hidden units summed out by hand."""
    model, x, h = RestrictedBoltzmann(visible, hidden), states(visible), states(hidden)
    b, c, w = RNG.normal(size=visible), RNG.normal(size=hidden), RNG.normal(size=(visible, hidden))
    joint = (x @ b)[:, None] + h @ c + x @ w @ h.T
    run = at(model, {"visible_bias": b, "hidden_bias": c, "weights": w}, backend)
    np.testing.assert_allclose(run.log_prob(x), logsumexp(joint, axis=1) - logsumexp(joint), atol=1e-10)
    np.testing.assert_allclose(run.log_normalizer().value, logsumexp(joint), atol=1e-10)
    assert run.log_prob_kind == "exact" and run.log_normalizer().exact
    posterior = np.exp(joint - logsumexp(joint, axis=1, keepdims=True)) @ h
    np.testing.assert_allclose(run.latent(x)["h"], posterior, atol=1e-10)


@pytest.mark.parametrize("name", FIELDS)
def test_no_variable_stands_beside_one_of_its_colour(name):
    graph = FIELDS[name].graph
    colour = np.empty(graph.size, int)
    for c, members in enumerate(graph.colours):
        colour[members] = c
    assert sorted(np.concatenate(graph.colours)) == list(range(graph.size))
    assert (colour[graph.ends[0]] != colour[graph.ends[1]]).all()
    assert len(Ising((4, 6)).graph.colours) == len(Ising((5, 3), periodic=False).graph.colours) == 2


def sparse_and_dense():
    """A lattice, whose sweep takes neighbours one by one, and a full graph, by a product."""
    return Ising((4, 4), homogeneous=False), PairwiseMarkovField(5)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sweep_leaves_the_distribution_as_it_is(which, backend):
    """From exact draws; each moment within 4.5 standard errors of the exact one."""
    model, count = sparse_and_dense()[which], 20_000
    graph, rng = model.graph, np.random.default_rng(which)
    theta = 0.6 * rng.normal(size=graph.size + len(graph.edges))
    x = states(graph.size, model.values)
    log_density = statistics(graph, x) @ theta
    p = np.exp(log_density - logsumexp(log_density))
    drawn = x[rng.choice(len(x), count, p=p)]
    natural = {"biases": theta[: graph.size], "couplings": theta[graph.size :]}
    with pg.on(backend) as room:
        held = {n: room.asarray(v) for n, v in natural.items()}
        u = room.asarray(rng.random((count, graph.size)))
        rows = room.asarray(drawn.reshape((count, *model.event_shape)))
        moved = room.to_numpy(room.compile(model.sweep)(held, rows, u))
    moved = moved.reshape(count, -1)
    seen, exact = statistics(graph, moved), p @ statistics(graph, x)
    error = np.sqrt(p @ (statistics(graph, x) - exact) ** 2 / count)
    assert (np.abs(seen.mean(0) - exact) < 4.5 * error).all()
    assert np.isin(moved, model.values).all() and (moved != drawn).any(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_of_an_ising_model_have_its_exact_marginals(backend):
    """4 x 4; the moments of the run's draws within 4.5 standard errors of those of the transfer matrix."""
    model, count = Ising((4, 4)), 2000
    params = {"coupling": 0.3, "field": 0.1}
    run = at(model, params, backend)
    x = states(16, model.values)
    theta = np.concatenate([np.full(16, 0.1), np.full(32, 0.3)])
    log_density = statistics(model.graph, x) @ theta
    p = np.exp(log_density - logsumexp(log_density))
    drawn = run.sample(count, seed=3)
    assert drawn.shape == (count, 4, 4) and np.isin(drawn, (-1.0, 1.0)).all()
    exact = p @ statistics(model.graph, x)
    error = np.sqrt(p @ (statistics(model.graph, x) - exact) ** 2 / count)
    seen = statistics(model.graph, drawn.reshape(count, 16)).mean(0)
    assert (np.abs(seen - exact) < 4.5 * error).all()
    np.testing.assert_allclose(run.log_normalizer().value, logsumexp(log_density), rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_annealing_comes_to_the_enumerated_normaliser(backend):
    """14 hidden units, 5,000 temperatures, 100 chains: within 0.15 nats, forth and back."""
    rng = np.random.default_rng(5)
    params = {"visible_bias": rng.normal(size=30), "hidden_bias": rng.normal(size=14)}
    params["weights"] = rng.normal(size=(30, 14))
    exact = at(RestrictedBoltzmann(30, 14), params, backend).log_normalizer()
    run = at(RestrictedBoltzmann(30, 14, exact=False), params, backend)
    found = run.log_normalizer(num_chains=100, num_temperatures=5000, progress=False)
    assert exact.exact and not found.exact and run.log_prob_kind == "estimate"
    assert abs(found.value - exact.value) < 0.15 and abs(found.reverse - exact.value) < 0.15
    assert 0.0 < found.standard_error < 0.1
    x = (rng.random((4, 30)) < 0.5).astype(float)
    off = run.log_prob(x) - at(RestrictedBoltzmann(30, 14), params, backend).log_prob(x)
    np.testing.assert_allclose(off, off[0], atol=1e-9)
    assert abs(off[0]) < 0.5


def test_errors_of_the_normaliser_are_as_large_as_they_are_said_to_be():
    """Over 20 seeds, of an Ising model whose log Z is known: z-scores of a mean within 4 standard errors of theirs."""
    run, exact = (at(Ising((3, 3), exact=e), {"coupling": 0.4, "field": 0.2}) for e in (False, None))
    found = [run.log_normalizer(50, 50, seed=s, reverse=False, progress=False) for s in range(20)]
    z = np.array([(f.value - exact.log_normalizer().value) / f.standard_error for f in found])
    assert abs(z.mean()) < 4.0 / np.sqrt(20) and 0.5 < z.std() < 1.8


# Training -----------------------------------------------------------------------------------------------------------

KNOWN = Ising((2, 3), periodic=False, homogeneous=False)
THETA = 0.6 * np.random.default_rng(2).normal(size=13)
SEEN = statistics(KNOWN.graph, states(6, (-1.0, 1.0)))
MASS = np.exp(SEEN @ THETA - logsumexp(SEEN @ THETA))


def drawn(count, seed=0):
    rows = np.random.default_rng(seed).choice(64, count, p=MASS)
    return SEEN[rows, :6].reshape(count, 2, 3)


def standard_errors(count):
    """Of the maximum-likelihood estimate, from the Fisher information."""
    off = SEEN - MASS @ SEEN
    return np.sqrt(np.diag(np.linalg.inv(off.T @ (off * MASS[:, None]))) / count)


DATA = drawn(4000)
LONG = {"batch_size": 500, "num_steps": 800, "learning_rate": 0.05, "schedule": "cosine", "progress": False}
WAYS = {
    "cd": ("contrastive_divergence", {"num_negative_steps": 5}, 6.0),
    "pcd": ("contrastive_divergence", {"num_negative_steps": 2, "persistent": True}, 6.0),
    "nce": ("noise_contrastive", {"num_noise": 5}, 8.0),
    "ml": ("svi", {}, 5.0),
}


SLOW = [pytest.param(way, "pyro", marks=pytest.mark.slow) for way in ("cd", "ml")]


@pytest.mark.parametrize(("way", "backend"), [*((w, "numpyro") for w in WAYS), ("pcd", "pyro"), ("nce", "pyro"), *SLOW])
def test_training_recovers_a_known_field(way, backend):
    engine, options, tolerance = WAYS[way]
    run = pg.infer(KNOWN, DATA, engine, backend, **LONG, **options)
    found = np.concatenate([run.params["biases"], run.params["couplings"]])
    assert (np.abs(found - THETA) < tolerance * standard_errors(len(DATA))).all()
    if way == "nce":
        exact = run.log_normalizer().value
        assert abs(run.params["log_normalizer"] - exact) < 0.2


def test_a_replay_buffer_keeps_more_chains_than_a_batch_and_begins_some_anew():
    options = {"persistent": True, "num_negative_steps": 4, "buffer_size": 2000, "restart": 0.05}
    run = pg.infer(KNOWN, DATA, "contrastive_divergence", **LONG, **options)
    found = np.concatenate([run.params["biases"], run.params["couplings"]])
    assert (np.abs(found - THETA) < 6.0 * standard_errors(len(DATA))).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_with_chains_that_persist_goes_on_to_the_bit(backend, tmp_path, monkeypatch, small_chunks):
    monkeypatch.setattr(fitting, "_CHUNK", 4)
    options = {"persistent": True, "buffer_size": 80, "restart": 0.1, "num_negative_steps": 2, "num_steps": 12}
    begin = lambda **more: pg.infer(
        KNOWN, DATA[:200], "contrastive_divergence", backend, batch_size=40, progress=False, **options, **more
    )
    whole, path = begin(), tmp_path / "cut.zarr"
    cut, cuts = cut_at_every_commit(monkeypatch, path, lambda: begin(checkpoint=path))
    assert cuts >= 3
    assert_same(whole, cut)


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (PairwiseMarkovField(5), np.full((9, 5), 0.3), "variables that are 0 or 1, and x has 0.3 to 0.3: cut it"),
        (Ising((2, 2)), np.ones((9, 2, 2)) * [[0, 1], [1, 0]], r"are -1 or 1, and x has 0 to 1.*map 0/1 by 2.0 \* x"),
        (Ising((2, 2)), np.ones((9, 4)), r"expects x of shape \(N, 2, 2\), got \(9, 4\): x.reshape\(-1, 2, 2\)"),
        (RestrictedBoltzmann(4, 2), np.ones((9, 3)), r"expects x of shape \(N, 4\), got \(9, 3\)"),
    ],
)
def test_data_that_a_binary_model_has_not(model, x, message):
    with pytest.raises(pg.DataError, match=message):
        pg.infer(model, x, "contrastive_divergence", batch_size=3, progress=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairwiseMarkovField(3, ((0, 0),)), r"a pair of two of the 3 variables, counted from 0, got \(0, 0\)"),
        (lambda: PairwiseMarkovField(3, ((0, 1), (1, 0))), "comes twice"),
        (lambda: PairwiseMarkovField(3, ((0, 1.5),)), "a pair of two of the 3 variables"),
        (lambda: PairwiseMarkovField(3, [(0, 1)]), "edges must be a tuple of pairs"),
        (lambda: Ising(4), "shape must be a tuple of lengths"),
        (lambda: Ising((1,)), "has one site"),
        (lambda: RestrictedBoltzmann(40, 30, exact=True), "joint values of 30 binary variables, expected at most 20"),
        (lambda: RestrictedBoltzmann(0, 3), "num_visible must be a whole number of at least 1"),
    ],
)
def test_models_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("engine", ["svi", "map", "em"])
def test_engines_that_would_take_an_energy_for_a_density(engine):
    with pytest.raises(pg.UnsupportedError, match=r"that of 'x' of Ising is not normalised.*'contrastive_divergence'"):
        pg.infer(Ising((2, 2), exact=False), np.ones((9, 2, 2)), engine, progress=False)


def test_a_check_says_what_is_not_normalised():
    report = pg.check(Ising((2, 2), exact=False), np.ones((9, 2, 2)))
    assert report.ok and "not normalised" in str(report)
    assert report.engines["contrastive_divergence"] == "yes" and "not normalised" in report.engines["nuts"]
    assert pg.check(Ising((2, 2)), np.ones((9, 2, 2))).engines["svi"] == "yes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"persistent": True, "buffer_size": 150, "batch_size": 100},
            "buffer_size must be a multiple of batch_size, 100",
        ),
        ({"restart": 0.1}, "options of persistent chains: set persistent=True"),
        ({"validation": 0.1}, "validation is no option of contrastive_divergence: leave it out"),
        ({"mixed_precision": True}, "mixed_precision is no option"),
        ({"num_negative_steps": 0}, "num_negative_steps must be"),
        ({"step_size": -1.0}, "step_size must be"),
    ],
)
def test_options_of_contrastive_divergence_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        pg.inference.ContrastiveDivergence(**options)
