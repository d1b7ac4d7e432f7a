"""Decoders, priors, posteriors, labels: densities against sums, grids and closed forms, on both backends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import ppl_gen as pg
from ppl_gen import evaluation
from ppl_gen.models import VAE, Flow, SemiSupervisedVAE, VampPrior
from ppl_gen.program import as_program
from ppl_gen.results import guided
from ppl_gen.target import Target

BACKENDS = ("numpyro", "pyro")
SLOW_TO_COMPILE = (pytest.param("numpyro", marks=pytest.mark.slow), "pyro")
RNG = np.random.default_rng(0)
BITS = (RNG.random((6, 4)) < 0.5).astype(float)
LABEL, CONTEXT = np.arange(6) % 3, RNG.normal(size=(6, 2))
REALNVP, IAF = Flow("realnvp", 2, 2, (8,)), Flow("iaf", 2, 2, (8,), num_context=3)
PARTS = {
    "standard": {},
    "vamp": {"prior": VampPrior(5)},
    "flow": {"prior": REALNVP},
    "planar": {"posterior": Flow("planar", 2, 2)},
    "iaf": {"posterior": IAF},
    "flow and iaf": {"prior": REALNVP, "posterior": IAF},
    "vamp and iaf, of labels and a context": {
        "prior": VampPrior(5), "posterior": IAF, "num_classes": 3, "num_context": 2,
    },
}  # fmt: skip


def data_of(model):
    given = {"label": LABEL, "context": CONTEXT} if model.num_context else {}
    return {"x": BITS, **given}


def looked_at(backend, model, values=None, moved=0.0, data=None):
    """Sites of a run of the model and of its guide, on the host, at params that are ``moved`` at random."""
    rng = np.random.default_rng(1)
    with pg.on(backend, seed=2) as room:
        target = Target(as_program(model).bind(data or data_of(model), room, ("float64", None)))
        guide = lambda arrays: target.bound.call(model.guide, arrays)
        drawn = target.trace_guide(guide, target.arrays, key=room.key(0))
        held = {**target.draw(0), **drawn}
        params = {n: room.asarray(room.to_numpy(s.value) + moved * rng.normal(size=tuple(s.value.shape)))
                  for n, s in held.items() if s.kind == "param"}  # fmt: skip
        given = {n: room.asarray(x) for n, x in (values or {}).items()}
        q = target.trace_guide(guide, target.arrays, values={**params, **given}, key=room.key(5))
        again = target.trace_guide(guide, target.arrays, values={**params, "z": q["z"].value}, key=room.key(5))
        p = target.trace(target.arrays, values={**params, **given, "z": q["z"].value}, key=room.key(5))
        host = {"q": q["z"].log_prob, "q again": again["z"].log_prob, "p": p["z"].log_prob, "x": p["x"].log_prob}
        return {n: np.asarray(room.to_numpy(x)) for n, x in host.items()}


@pytest.mark.parametrize("name", PARTS)
def test_both_libraries_say_the_same_of_the_same_weights(name):
    model = VAE(2, (4,), hidden=(8,), **PARTS[name])
    z = RNG.normal(size=(6, 2))
    ours, theirs = (looked_at(backend, model, {"z": z}) for backend in BACKENDS)
    for part in ours:
        np.testing.assert_allclose(ours[part], theirs[part], rtol=1e-5, err_msg=part)  # weights start in float32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PARTS)
def test_what_is_drawn_has_the_density_that_it_is_said_to_have(backend, name):
    """The way to a draw and the way back to its noise; densities that are 1 in all over a grid."""
    model = VAE(2, (4,), hidden=(8,), **PARTS[name])
    drawn = looked_at(backend, model, moved=0.1)
    np.testing.assert_allclose(drawn["q"], drawn["q again"], rtol=1e-6, atol=1e-6)
    side = np.linspace(-12.0, 12.0, 201)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    first = {n: np.repeat(x[:1], len(grid), axis=0) for n, x in data_of(model).items()}
    on_grid = looked_at(backend, model, {"z": grid}, moved=0.1, data=first)
    for part in ("p", "q"):
        mass = logsumexp(on_grid[part]) + 2 * np.log(side[1] - side[0])
        assert abs(mass) < 0.01, part


LEVELS = np.array(list(itertools.product(range(3), repeat=2)))


@pytest.mark.parametrize("backend", SLOW_TO_COMPILE)
@pytest.mark.parametrize("kind", ["categorical", "discretised_logistic"])
def test_probabilities_of_levels_sum_to_one(backend, kind):
    rows = LEVELS[np.random.default_rng(3).choice(9, 400, p=np.array([4, 1, 1, 1, 1, 1, 1, 1, 4]) / 15)]
    run = short(backend, VAE(1, (2,), kind, num_levels=3, hidden=(8,)), rows, num_epochs=30)
    bound = evaluation.importance_bound(run.log_weights(LEVELS, 500))
    error = np.sqrt((np.exp(bound.value) * bound.standard_error) @ (np.exp(bound.value) * bound.standard_error))
    assert abs(np.exp(bound.value).sum() - 1.0) < 5 * error + 1e-3
    assert bound.value[0] > bound.value[1] and bound.value[8] > bound.value[7]
    drawn, made = run.sample(500), run.reconstruct(LEVELS)
    assert set(np.unique(drawn)) <= {0, 1, 2} and made.shape == (9, 2) and 0 <= made.min() and made.max() <= 2


def short(backend, model, data, **options):
    return pg.infer(
        model, data, "svi", backend,
        **{"batch_size": 50, "num_epochs": 10, "learning_rate": 0.01, "progress": False, **options},
    )  # fmt: skip


# The linear case ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SLOW_TO_COMPILE)
def linear(request):
    """A run of a linear VAE, its data, and its exact density of x, N(b, W W^T + s^2)."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(400, 5)) + 1.0
    run = short(
        request.param, VAE(2, (5,), "gaussian", hidden=()), x, batch_size=100, num_epochs=300, learning_rate=0.03,
        schedule="cosine", elbo="mean_field",
    )  # fmt: skip
    bias = run.decode({"z": np.zeros((1, 2))})[0]
    w = run.decode({"z": np.eye(2)}) - bias
    return run, x, (bias, w, float(run.params["scale"]))


def test_a_linear_autoencoder_finds_the_optimum_of_probabilistic_pca(linear):
    """Of the likelihood itself, not of the bound: what it falls short is the noise of the last steps."""
    run, x, (bias, w, scale) = linear
    best = pg.infer(pg.models.ProbabilisticPCA(2), x, "closed_form", run.setting.backend, progress=False)
    found = multivariate_normal(bias, w.T @ w + scale**2 * np.eye(5)).logpdf(x).mean()
    assert best.log_prob(x).mean() - 0.01 < found <= best.log_prob(x).mean() + 1e-9
    assert abs(scale - best.params["scale"]) < 0.02
    off = run.reconstruct(x) - x  # by the posterior mean: the projection, shrunk
    centred = x - x.mean(0)
    value, axes = np.linalg.eigh(centred.T @ centred / len(x))
    kept = axes[:, -2:] * (1 - scale**2 / value[-2:])
    assert abs((off**2).mean() - ((centred @ kept @ axes[:, -2:].T - centred) ** 2).mean()) < 0.01


def test_annealed_importance_sampling_gives_the_exact_density(linear):
    run, x, (bias, w, scale) = linear
    law = multivariate_normal(bias, w.T @ w + scale**2 * np.eye(5))
    weights = run.annealed_log_weights(x[:60], 12, num_temperatures=100, num_steps=6, progress=False)
    assert weights.shape == (12, 60)
    low, truth = evaluation.importance_bound(weights), law.logpdf(x[:60])
    assert abs(low.mean + low.bias - truth.mean()) < 5 * low.mean_error
    assert low.standard_error.mean() < 0.3


def test_annealing_there_and_back_holds_the_density_of_simulated_data_between_bounds(linear):
    run, _, (bias, w, scale) = linear
    rng = np.random.default_rng(2)
    z = rng.normal(size=(80, 2))
    x = bias + z @ w + scale * rng.normal(size=(80, 5))
    truth = multivariate_normal(bias, w.T @ w + scale**2 * np.eye(5)).logpdf(x).mean()
    few = {"num_draws": 8, "num_temperatures": 80, "num_steps": 6, "progress": False}
    low = evaluation.importance_bound(run.annealed_log_weights(x, **few))
    high = evaluation.importance_bound(-run.annealed_log_weights(x, latents={"z": z}, **few))
    assert low.mean - 5 * low.mean_error < truth < -high.mean + 5 * high.mean_error
    assert -high.mean - low.mean < 0.5


def test_blocks_of_rows_are_as_many_numbers_as_fit(linear, monkeypatch):
    run, x, _ = linear
    whole = evaluation.importance_bound(run.log_weights(x, 400))
    seen, by_rows = [], type(run)._by_rows
    monkeypatch.setattr(guided, "_MOST_NUMBERS", 5 * 8 * 30)

    def spied(self, f, data, block_rows):
        def counted(target):
            seen.append(len(target.bound.host["x"]))
            return f(target)

        return by_rows(self, counted, data, block_rows)

    monkeypatch.setattr(type(run), "_by_rows", spied)
    parts = evaluation.importance_bound(run.log_weights(x[:100], 400))
    assert seen == [30, 30, 30, 10]
    apart = (parts.value - whole.value[:100]) / np.hypot(parts.standard_error, whole.standard_error[:100])
    assert abs(apart).max() < 6


# Labels -------------------------------------------------------------------------------------------------------------

PROTOTYPES = np.random.default_rng(5).random((4, 30)) < 0.5


def labelled(count, flips=0.15, seed=0):
    """Noisy copies of four patterns of 30 bits, and which ones."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, count)
    return (PROTOTYPES[y] ^ (rng.random((count, 30)) < flips)).astype(float), y


@pytest.mark.parametrize("backend", SLOW_TO_COMPILE)
def test_a_conditional_autoencoder_makes_data_of_the_class_that_is_asked_for(backend):
    x, y = labelled(400)
    run = short(backend, VAE(2, (30,), hidden=(16,), num_classes=4), {"x": x, "label": y})
    made = run.decode({"z": np.zeros((4, 2))}, label=np.arange(4))
    np.testing.assert_array_equal(made > 0.5, PROTOTYPES)
    assert ((run.sample(40) > 0.5)[:, None] ^ PROTOTYPES).sum(-1).argmin(-1).tolist() == [0, 1, 2, 3] * 10
    right, wrong = (run.log_prob({"x": x[:50], "label": (y[:50] + shift) % 4}) for shift in (0, 1))
    assert (right > wrong).mean() > 0.95
    drawn = run.predict({"label": np.full(5, 2)})["posterior_predictive"]["x"].values
    assert drawn.shape[-2:] == (5, 30) and ((drawn[0, 0] > 0.5) ^ PROTOTYPES[2]).mean() < 0.35
    assert run.reconstruct({"x": x[:3], "label": y[:3]}).shape == (3, 30)


@pytest.mark.parametrize("backend", SLOW_TO_COMPILE)
def test_a_few_labels_and_many_rows_without_one_tell_the_classes(backend):
    """Three labels a class: the nearest of these rows is of a wrong one much more often."""
    x, y = labelled(600, flips=0.25)
    first = np.concatenate([np.flatnonzero(y == c)[:3] for c in range(4)])
    known = np.where(np.isin(np.arange(600), first), y, -1)
    model = SemiSupervisedVAE(VAE(1, (30,), hidden=(16,), num_classes=4), alpha=20.0)
    run = short(backend, model, {"x": x, "label": known}, num_epochs=25)
    new, truth = labelled(400, flips=0.25, seed=1)
    found = run.encode(new)
    assert found["y_probs"].shape == (400, 4) and np.allclose(found["y_probs"].sum(1), 1.0)
    nearest = y[first][((new[:, None] - x[first]) ** 2).sum(-1).argmin(-1)]
    assert (found["y"] == truth).mean() > 0.88 and (found["y"] == truth).mean() > (nearest == truth).mean() + 0.08
    made = run.decode({"z": np.zeros((4, 1)), "y": np.arange(4)}) > 0.5
    assert (made ^ PROTOTYPES).mean() < 0.05
    whole = evaluation.importance_bound(run.log_weights(new[:50], 100))
    pairs = {"x": np.tile(new[:50], (4, 1)), "label": np.repeat(np.arange(4), 50)}
    each = evaluation.importance_bound(run.log_weights(pairs, 100))
    summed = logsumexp(each.value.reshape(4, 50), axis=0)  # p(x) is the sum of p(x, y)
    error = np.hypot(whole.standard_error, each.standard_error.reshape(4, 50).max(0))
    assert (abs(summed - whole.value) < 6 * error).all()
    assert set(run.sample(7)) == {"x", "y"} and run.reconstruct(new[:4]).shape == (4, 30)


# Collapse -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the posterior of 'z' has collapsed")
@pytest.mark.parametrize("backend", BACKENDS)
def test_importance_weighted_bounds_take_the_exact_trace(backend):
    """The log of a mean of estimated weights would be biased."""
    x = (np.random.default_rng(0).random((6, 3)) < 0.5) * 1.0
    told = {"elbo": "iwae", "num_particles": 2, "batch_size": 3, "num_steps": 4, "progress": False}
    exact, estimate = (
        pg.infer(VAE(2, (3,), hidden=(4,), prior=Flow("ffjord", 2, None, (4,), num_steps=1, trace=trace)), x, "svi",
                 backend, **told).history["loss"]
        for trace in ("exact", "hutchinson")
    )  # fmt: skip
    np.testing.assert_allclose(exact, estimate, rtol=1e-9)


def test_units_are_active_where_their_means_vary():
    means = np.stack([RNG.normal(size=500), 0.05 * RNG.normal(size=500), np.ones(500)], axis=1)
    assert evaluation.active_units(means).tolist() == [True, False, False]
    assert evaluation.active_units(means, threshold=1e-4).tolist() == [True, True, False]
    draws = means[None] + RNG.normal(size=(30, 500, 3))  # of means that are averages of a few draws
    error = draws.var(0, ddof=1) / 30
    assert evaluation.active_units(draws.mean(0)).all()
    assert evaluation.active_units(draws.mean(0), error=error).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="at least 2 rows"):
        evaluation.active_units(means[:1])


@pytest.mark.parametrize("posterior", ["gaussian", IAF])
def test_a_collapsed_posterior_is_warned_of_with_what_helps(posterior):
    x, _ = labelled(300)
    model = VAE(2, (30,), hidden=(16,), posterior=posterior)
    with pytest.warns(RuntimeWarning, match=r"of 'z' has collapsed: 0 of its 2 entries .* free_bits or num_annealing"):
        run = short("pyro", model, x, beta=100.0)
    assert run.attrs["active_units_z"] == "0 of 2"
    run = short("pyro", model, x)
    assert run.attrs["active_units_z"] in ("1 of 2", "2 of 2") and not run.warnings


# What is refused, kept and loaded -------------------------------------------------------------------------------------

BAD_MODELS = [
    ({"likelihood": "categorical"}, "give num_levels"),
    ({"num_levels": 8}, "a bernoulli likelihood has no levels"),
    ({"likelihood": "poisson"}, "likelihood must be one of"),
    ({"prior": "vamp"}, "prior must be one of 'standard'"),
    ({"prior": Flow("realnvp", 3)}, "a Flow of 3 features, and latent_dim is 2"),
    ({"prior": IAF}, "a prior has no context"),
    ({"posterior": Flow("iaf", 2, base=lambda: None)}, "leave out base"),
]


@pytest.mark.parametrize(("options", "message"), BAD_MODELS)
def test_parts_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VAE(2, (4,), **options)


BAD_DATA = [
    (VAE(2, (4,), "categorical", num_levels=3), {"x": BITS + 2}, "whole numbers from 0 to 2, and it has 2 to 3"),
    (VAE(2, (4,), "discretised_logistic", num_levels=9), {"x": BITS / 2}, r"pixels in \[0, 1\] go in as np.round\(8"),
    (VAE(2, (4,), num_classes=3), {"x": BITS}, "num_classes=3 takes a label"),
    (VAE(2, (4,)), {"x": BITS, "label": LABEL}, "num_classes=0 takes no label"),
    (VAE(2, (4,), num_classes=2), {"x": BITS, "label": LABEL}, "from 0 to 1 for each row; got shape"),
    (VAE(2, (4,), num_context=2), {"x": BITS, "context": BITS}, r"context of shape \(N, 2\), got"),
    (SemiSupervisedVAE(VAE(2, (4,), num_classes=3)), {"x": BITS, "label": LABEL - 2}, "-1 of a row without one"),
]


@pytest.mark.parametrize(("model", "data", "message"), BAD_DATA)
def test_data_that_do_not_fit_are_refused_before_work_starts(model, data, message):
    with pytest.raises(pg.DataError, match=message):
        short("numpyro", model, data, batch_size=2)


def test_bounds_that_do_not_sum_out_labels_are_refused():
    model = SemiSupervisedVAE(VAE(2, (4,), num_classes=3))
    with pytest.raises(pg.UnsupportedError, match="does not sum out discrete latents .* use elbo='trace'"):
        short("numpyro", model, BITS, batch_size=2, elbo="iwae", num_particles=3)
    with pytest.raises(pg.UnsupportedError, match="annealing moves continuous latents .* has 'y'"):
        short("pyro", model, BITS, batch_size=2, num_epochs=1).annealed_log_weights(BITS)


def test_a_run_of_parts_is_kept_and_read_again(tmp_path):
    model = VAE(2, (4,), hidden=(8,), **PARTS["flow and iaf"])
    run = short("pyro", model, BITS, batch_size=3, num_epochs=1)
    again = pg.load(run.save(tmp_path / "run"), model, BITS)
    np.testing.assert_array_equal(run.encode(BITS)["z"], again.encode(BITS)["z"])
    with pytest.raises(ValueError, match="prior="):
        pg.load(tmp_path / "run", VAE(2, (4,), hidden=(8,), posterior=IAF), BITS)
