"""Stepwise EM: where it ends, and that batches may come from memory, a file or a stream."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist

BACKENDS = ["numpyro", "pyro"]
RNG = np.random.default_rng(3)
LOCS = np.array([[-3.0, 0.0], [3.0, 1.0]])
X = LOCS[RNG.integers(0, 2, 4000)] + RNG.normal(size=(4000, 2))
MODEL = pg.models.GaussianMixture(2, "diag")


def _infer(x, backend="numpyro", engine="stepwise", **options):
    return pg.infer(MODEL, x, engine=engine, backend=backend, progress=False, **options)


@pytest.fixture(scope="module")
def optimum():
    return _infer(X, engine="em", num_restarts=1, tolerance=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_ends_near_the_optimum_of_em(backend, optimum):
    """The noise that is left is that of an average over about 1 / gamma batches, below the error of the data."""
    run = _infer(X, backend, batch_size=200)
    assert run.attrs["log_likelihood"] <= optimum.history["log_likelihood"][-1] + 1e-6
    error = 1 / np.sqrt(len(X) / 2)  # standard error of a mean, of 2,000 rows with standard deviation 1
    np.testing.assert_allclose(run.params["locs"], optimum.params["locs"], atol=4 * error)
    gap = optimum.history["log_likelihood"][-1] - run.attrs["log_likelihood"]
    assert gap < 0.5 * 9 * 16  # nine params, each within four standard errors


def test_file_and_stream(optimum, tmp_path):
    np.save(tmp_path / "x.npy", X)
    error = 4 / np.sqrt(len(X) / 2)
    of_file = _infer(np.load(tmp_path / "x.npy", mmap_mode="r"), batch_size=200)
    of_stream = _infer(X[:200], stream=(X[i : i + 200] for i in range(200, 4000, 200)))
    for run in (of_file, of_stream):
        np.testing.assert_allclose(run.params["locs"], optimum.params["locs"], atol=2 * error)
    assert len(of_stream.history["log_likelihood"]) == 19


def test_every_row_of_a_file_is_seen(tmp_path):
    """Rows beyond the last whole batch are half of a cluster that lies apart."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(60, 2)), 20.0 + rng.normal(size=(50, 2))])
    np.save(tmp_path / "x.npy", x)
    run = _infer(np.load(tmp_path / "x.npy", mmap_mode="r"), batch_size=60, num_steps=40)
    np.testing.assert_allclose(np.sort(run.params["locs"][:, 0]), [0.0, 20.0], atol=1.0)


def test_one_batch_of_all_rows_is_em():
    """With gamma = 1 and all rows in the batch, a step is an iteration of EM."""
    init = {"locs": X[:2], "scales": np.ones((2, 2)), "weights": [0.5, 0.5]}
    with pytest.warns(RuntimeWarning, match="converged"):
        em = _infer(X, engine="em", init=init, num_steps=2, num_restarts=1, tolerance=0)
    run = _infer(X, init=init, num_steps=1, batch_size=4000, delay=1, decay=1.0)
    first = run.history["log_likelihood"][0]
    assert first == pytest.approx(em.history["log_likelihood"][0], rel=1e-10)
    assert run.attrs["log_likelihood"] == pytest.approx(em.history["log_likelihood"][1], rel=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_repetitions(backend):
    """Rows that count twice in one batch of all, and rows that do not count."""
    weights = np.random.default_rng(1).integers(0, 3, len(X))
    init = {"locs": LOCS, "scales": np.ones((2, 2)), "weights": [0.5, 0.5]}
    options = {"init": init, "num_steps": 1, "delay": 1, "decay": 1.0, "batch_size": 10_000}
    weighted = _infer(X, backend, weights=weights, **options)
    repeated = _infer(np.repeat(X, weights, axis=0), backend, **options)
    for name, value in repeated.params.items():
        np.testing.assert_allclose(weighted.params[name], value, rtol=1e-9)
    assert weighted.attrs["log_likelihood"] == pytest.approx(repeated.attrs["log_likelihood"], rel=1e-10)


@pytest.mark.filterwarnings("ignore:em stopped")
def test_batches_with_and_without_missing_entries():
    """Complete batches between incomplete ones: it ends where EM does on all of these rows."""
    x = np.random.default_rng(5).normal(size=(90, 3)) + [1.0, 2.0, 3.0]
    x[np.random.default_rng(6).random(x.shape) < 0.2] = np.nan
    x[30:60] = np.nan_to_num(x[30:60], nan=2.0)
    batches = [x[30:60], x[60:]]
    run = pg.infer(
        pg.models.FactorAnalysis(1), x[:30], "stepwise", stream=batches * 40, num_restarts=1, progress=False
    )
    em = pg.infer(pg.models.FactorAnalysis(1), x[30:], "em", num_restarts=4, progress=False)
    # the noise that is left is that of an average over some batches of 30 rows
    np.testing.assert_allclose(run.params["loc"], em.params["loc"], atol=4 * np.nanstd(x) / np.sqrt(60))
    np.testing.assert_allclose(run.params["scales"], em.params["scales"], atol=0.5)


def test_batches_that_differ_in_form_are_refused():
    model, x, y = pg.models.FactorAnalysis(1), X[:40].copy(), np.arange(40) % 2

    def stream(model, data, *batches):
        return pg.infer(model, data, "stepwise", stream=batches, num_restarts=1, progress=False)

    gaps = x.copy()
    gaps[3, 1] = np.nan
    with pytest.raises(pg.DataError, match="batch 1 of the stream has NaN.* let data hold rows with NaN"):
        stream(model, x, x, gaps)
    bayes = pg.models.NaiveBayes(2)
    with pytest.raises(pg.DataError, match="data lack 'y', which the batch has"):
        stream(bayes, {"x": x}, {"x": x, "y": y})
    with pytest.raises(pg.DataError, match="the batch lacks 'y', which the first rows have"):
        stream(bayes, {"x": x, "y": y}, {"x": x})
    with pytest.raises(pg.DataError, match="batch 0 of the stream has rows of shape .3,.: expected .2,."):
        stream(model, x, np.ones((4, 3)))
    for data in ({"x": x}, {"x": x, "y": y}):
        assert np.isfinite(stream(bayes, data, data, data).params["weights"]).all()


@pg.program
def no_steps(y):
    mu = pg.sample("mu", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_refusals():
    with pytest.raises(pg.UnsupportedError, match="no latents to sum out"):
        pg.infer(no_steps, X[:, 0], engine="stepwise", progress=False)
    with pytest.raises(ValueError, match="decay"):
        _infer(X, decay=0.4)
    with pytest.raises(ValueError, match="3 weights came for 4000 rows"):
        _infer(X, weights=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="stream"):
        _infer(X, weights=np.ones(4000), stream=[X])
    with pytest.raises(pg.DataError, match="NaN"):
        _infer(X[:200], stream=[np.full((10, 2), np.inf)])
