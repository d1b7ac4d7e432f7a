"""The variational autoencoder, and how it is trained: on the digits that come with scikit-learn."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from sklearn.datasets import load_digits

import ppl_gen as pg
from ppl_gen import evaluation
from tests.cutting import assert_same, cut_at_every_commit

BACKENDS = ("numpyro", "pyro")
X = (load_digits().data / 16.0).astype("f4")
TRAIN, TEST = X[:1500], X[1500:]
MODEL = pg.models.VAE(8, (64,), hidden=(64,))
SHORT = {"batch_size": 100, "learning_rate": 3e-3, "precision": "float32", "progress": False}


def trained(backend, model=MODEL, x=TRAIN, **options):
    return pg.infer(model, x, "svi", backend, **{**SHORT, "num_epochs": 40, **options})


SLOW_TO_COMPILE = (pytest.param("numpyro", marks=pytest.mark.slow), "pyro")


@pytest.fixture(scope="module", params=SLOW_TO_COMPILE)
def run(request):
    return trained(request.param, elbo="mean_field", schedule="cosine", augment="binarize")


def independent(x):
    """Mean log likelihood of pixels that do not know of each other."""
    p = np.clip(TRAIN.mean(0), 1e-3, 1 - 1e-3)
    return (x * np.log(p) + (1 - x) * np.log(1 - p)).sum(1).mean()


def test_it_learns_what_goes_together(run):
    held_out = (np.random.default_rng(0).random(TEST.shape) < TEST).astype("f4")
    assert run.log_prob_kind == "lower bound"
    weights = run.log_weights(held_out, 300)
    assert weights.shape == (300, len(TEST))
    bound = evaluation.importance_bound(weights)
    elbo = weights.mean()
    assert independent(held_out) + 1.5 < elbo < bound.mean - 0.3  # about -26.4, -24.0 and -23
    assert abs(run.log_prob(held_out).mean() - bound.mean) < 0.5
    assert set(run.history) == {"loss", "likelihood", "divergence", "gradient_norm"}
    last = {n: x[-100:].mean() for n, x in run.history.items()}
    assert last["divergence"] > 2.0
    assert abs(last["loss"] + last["likelihood"] - last["divergence"]) < 1e-3


def test_encodings_and_what_is_made_of_them(run):
    codes = run.encode(TEST)
    assert codes["z"].shape == codes["z_scale"].shape == (len(TEST), 8) and (codes["z_scale"] < 1.5).all()
    again = run.reconstruct(TEST)
    assert again.shape == TEST.shape and 0 <= again.min() and again.max() <= 1
    assert ((again - TEST) ** 2).mean() < 0.6 * ((TRAIN.mean(0) - TEST) ** 2).mean()
    between = run.interpolate(TEST[:3], TEST[3:6], 5)
    assert between.shape == (5, 3, 64)
    np.testing.assert_allclose(between[0], run.reconstruct(TEST[:3]), atol=1e-5)
    assert run.traverse(TEST[:2], 3, (-2, 0, 2)).shape == (3, 2, 64)
    drawn = run.sample(50)
    assert drawn.shape == (50, 64) and set(np.unique(drawn)) == {0.0, 1.0}


@pytest.mark.parametrize("backend", SLOW_TO_COMPILE)
def test_convolutions_take_images(backend):
    model = pg.models.VAE(4, (8, 8, 1), channels=(8, 16))
    run = trained(backend, model, TRAIN.reshape(-1, 8, 8, 1), num_epochs=4)
    assert run.history["loss"][-15:].mean() < run.history["loss"][:15].mean() - 3
    assert run.reconstruct(TEST[:5].reshape(-1, 8, 8, 1)).shape == (5, 8, 8, 1)
    assert run.sample(3).shape == (3, 8, 8, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_cut_off_at_every_commit_gives_the_same_bits(tmp_path, monkeypatch, small_chunks, backend):
    begin = functools.partial(trained, backend, x=TRAIN[:300], num_epochs=4, ema=0.9, validation=0.4, clip_norm=1.0)
    plain = begin()
    cut, cuts = cut_at_every_commit(monkeypatch, tmp_path / "cut.zarr", lambda: begin(checkpoint=tmp_path / "cut.zarr"))
    assert cuts >= 3
    assert_same(plain, cut)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(backend):
    model = pg.models.VAE(2, (64,), "gaussian", hidden=(16,))
    with pytest.warns(RuntimeWarning, match="svi stopped at step [0-9]+: the loss is not finite"):
        run = trained(backend, model, learning_rate=1e12, num_epochs=3)
    assert all(np.isfinite(x).all() for x in run.params.values()) and run.attrs["stopped"] == "loss not finite"


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_it_ends_where_rows_kept_back_are_no_longer_better_predicted(backend):
    model = pg.models.VAE(8, (64,), hidden=(256,))
    run = trained(backend, model, TRAIN[:300], batch_size=50, num_epochs=400, validation=0.33, patience=5)
    seen = run.history["validation"][~np.isnan(run.history["validation"])]
    assert run.attrs["stopped"] == "settled" and len(seen) == run.attrs["num_epochs"] < 400
    assert seen.argmax() == len(seen) - 6


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_run_though_its_networks_had_been_made(backend):
    first, again, other = (trained(backend, num_epochs=1, seed=seed).params["encoder.out.bias"] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.allclose(first, other)


def test_another_seed_starts_from_other_weights():
    runs = (trained("numpyro", num_epochs=1, learning_rate=1e-12, seed=seed) for seed in (1, 2))
    one, other = (run.params["encoder.out.kernel"] for run in runs)
    assert not np.allclose(one, other)


def test_free_bits_keep_a_latent_in_use():
    charged, free = (trained("numpyro", num_epochs=30, beta=50.0, free_bits=bits) for bits in (0.0, 4.0))
    assert charged.history["divergence"][-50:].mean() < 0.5
    assert 2.0 < free.history["divergence"][-50:].mean() < 5.0


def test_annealing_lets_the_divergence_grow_first():
    run = trained("numpyro", num_epochs=8, num_annealing=60)
    assert run.history["divergence"][20:40].mean() > 1.3 * run.history["divergence"][-30:].mean()


def test_the_run_of_a_model_without_a_guide_says_so():
    run = pg.infer(pg.models.GaussianMixture(2), TRAIN[:100, :3] + 0.0, "em", num_steps=5, progress=False)
    with pytest.raises(pg.UnsupportedError, match="encode asks a guide"):
        run.encode()


BAD = [
    ({}, X * 255, "go in as x / 255"),
    ({}, X[:, :10], r"expects x of shape \(N, 64\), got"),
    ({"batch_size": 5000}, TRAIN, "batch_size 5000 is more than the 1500 rows"),
    ({"schedule": "linear"}, TRAIN, "schedule must be one of"),
    ({"augment": "crop"}, TRAIN, "augment must be one of"),
    ({"elbo": "enum"}, TRAIN, "takes all rows at once"),
    ({"elbo": "iwae"}, TRAIN, "num_particles must be at least 2"),
    ({"ema": 1.0}, TRAIN, "ema must lie between 0 and 1"),
    ({"validation": 1.0}, TRAIN, "validation must be a share"),
    ({"validation": np.array([0.1, 0.2])}, TRAIN, "validation must be a share"),
    ({"beta": -1.0}, TRAIN, "beta must be a number of at least 0, got -1.0"),
]


@pytest.mark.parametrize(("options", "x", "message"), BAD)
def test_bad_input_is_refused_before_work_starts(options, x, message):
    with pytest.raises(ValueError, match=message):
        trained("numpyro", x=x, **options)


def test_images_with_their_channels_first():
    with pytest.raises(pg.DataError, match=r"channels come last, np.moveaxis\(x, 1, -1\)"):
        trained("numpyro", pg.models.VAE(4, (8, 8, 1), channels=(8,)), TRAIN.reshape(-1, 1, 8, 8))
