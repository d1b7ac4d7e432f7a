"""Models along a path from data to noise: trained without following it, drawn from by a sampler."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen.diffusion import PATHS, PREDICTIONS
from ppl_gen.diffusion.paths import path_of
from ppl_gen.diffusion.predictions import combined, converted

BACKENDS = ("numpyro", "pyro")


@pytest.mark.parametrize("name", PATHS)
def test_slopes_of_a_path_are_those_of_its_curves(name):
    path = path_of(name)
    t = path.inside(np.linspace(path.start, path.end, 41))[1:-1]
    h = 1e-6 * (path.end - path.start)
    here, up, down = (path.at(np, t + d) for d in (0.0, h, -h))
    np.testing.assert_allclose(here.d_alpha, (up.alpha - down.alpha) / (2 * h), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(here.d_sigma, (up.sigma - down.sigma) / (2 * h), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(path.time_of(here.sigma / here.alpha), t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_prediction_is_turned_into_every_other(name, kind):
    path, rng = path_of(name), np.random.default_rng(0)
    t = path.inside(np.linspace(path.start, path.end, 9))[1:-1, None]
    x, e = rng.standard_normal((2, len(t), 3))
    at = path.at(np, t)
    says, noisy = combined(np, at, kind, x, e, 0.7), at.alpha * x + at.sigma * e
    for into in PREDICTIONS:
        wanted = combined(np, at, into, x, e, 0.7)
        np.testing.assert_allclose(converted(np, at, kind, into, noisy, says, 0.7), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_draws_of_a_diffusion_have_the_moments_of_its_data(backend):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2000, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    model = pg.models.Diffusion((2,), hidden=(32, 32))
    run = pg.infer(model, x, "score_matching", backend, num_steps=1000, batch_size=256, learning_rate=3e-3)
    assert run.history["loss"][-100:].mean() < run.history["loss"][:20].mean()
    drawn = run.sample(2000, seed=2)
    assert drawn.shape == (2000, 2)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(x.T), atol=0.3)  # of a short training


def test_a_model_without_a_path_is_refused():
    with pytest.raises(pg.UnsupportedError, match="along a path from data to noise"):
        pg.infer(pg.models.ProbabilisticPCA(1), np.zeros((10, 3)) + np.arange(10)[:, None], "score_matching")


def test_rows_kept_back_are_told_as_the_loss_is():
    x = np.random.default_rng(3).standard_normal((400, 2))
    model = pg.models.Diffusion((2,), hidden=(8,))
    run = pg.infer(model, x, "score_matching", num_epochs=3, batch_size=64, validation=0.25, progress=False)
    kept_back = run.history["validation"][np.isfinite(run.history["validation"])]
    # squared errors of noise, of a network that starts near 0: about 1, and never below 0
    assert len(kept_back) == 3 and (0.2 < kept_back).all() and (kept_back < 2.0).all()
