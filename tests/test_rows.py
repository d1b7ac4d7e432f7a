"""Data by blocks: the same numbers whether rows come at once, in blocks, from a file or from several processes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import ppl_gen as pg
from ppl_gen import dist
from ppl_gen.program import Bound
from ppl_gen.results.arviz import arrays_of

BACKENDS = ["numpyro", "pyro"]
RNG = np.random.default_rng(1)
X = RNG.normal(size=(500, 3)) + 4.0 * RNG.integers(0, 2, size=(500, 1))
WEIGHTS = RNG.uniform(0.5, 2.0, 500)
MODELS = {"mixture": pg.models.GaussianMixture(2), "ppca": pg.models.ProbabilisticPCA(1)}


def _fit(model, x, backend, **options):
    options = {"num_steps": 8, "num_restarts": 2, "tolerance": 0, **options}
    with pytest.warns(RuntimeWarning, match="converged"):
        return pg.infer(model, x, engine="em", backend=backend, progress=False, **options)


@pytest.fixture
def on_disk(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_blocks_give_the_same_numbers(model, backend, on_disk):
    whole = _fit(model, X, backend, weights=WEIGHTS)
    for x in (X, on_disk):
        run = _fit(model, x, backend, weights=WEIGHTS, block_rows=150)
        np.testing.assert_allclose(
            run.history["log_likelihood"], whole.history["log_likelihood"], rtol=1e-10
        )
        for name, value in whole.params.items():
            np.testing.assert_allclose(run.params[name], value, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(run.log_prob(on_disk), whole.log_prob(X), rtol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_on_a_file_is_looked_at_and_kept_by_blocks(backend, tmp_path, monkeypatch):
    """Never more than a block of rows on the device; and the pointwise numbers are the mixture's density."""
    np.save(tmp_path / "x.npy", np.tile(X, (70, 1)))  # 35,000 rows
    model, x = pg.models.GaussianMixture(2, "diag"), np.load(tmp_path / "x.npy", mmap_mode="r")
    run = _fit(model, x, backend, num_steps=2, num_restarts=1)
    longest, on_device = [], Bound.on_device
    monkeypatch.setattr(Bound, "on_device", lambda b, n, x: (longest.append(len(x)), on_device(b, n, x))[1])
    run.save(tmp_path / "run")
    run.report(tmp_path / "run.html")
    drawn = arrays_of(run.predict(X[:50]))["posterior_predictive"]["x"]
    assert drawn.shape == (1, 1, 50, X.shape[1]) and np.isfinite(drawn).all()
    assert 0 < max(longest) <= 16384
    found = run.log_likelihood["x"]
    held = pg.load(tmp_path / "run")
    np.testing.assert_array_equal(held.log_likelihood["x"], found)
    p = run.params
    terms = np.log(p["weights"]) + stats.norm.logpdf(X[:, None], p["locs"], p["scales"]).sum(-1)
    np.testing.assert_allclose(found[0, 0], np.tile(logsumexp(terms, axis=1), 70), rtol=1e-10)


def test_what_is_too_long_for_a_group_is_left_out_of_a_run_on_a_file(on_disk, monkeypatch):
    run = _fit(MODELS["mixture"], on_disk, "numpyro", block_rows=150)
    monkeypatch.setattr("ppl_gen.results.densities._MOST_LOG_LIKELIHOODS", X.size - 1)
    assert "log_likelihood" not in arrays_of(run.idata)
    assert "run.log_likelihood" in run.idata.attrs["log_likelihood"]


def test_missing_entries_by_blocks():
    """NaN in one block only: every block takes the same form."""
    x = X.copy()
    x[RNG.integers(0, 100, 20), RNG.integers(0, 3, 20)] = np.nan
    one = _fit(pg.models.GaussianMixture(2, "diag"), x, "numpyro")
    other = _fit(pg.models.GaussianMixture(2, "diag"), x, "numpyro", block_rows=150)
    np.testing.assert_allclose(one.history["log_likelihood"], other.history["log_likelihood"], rtol=1e-10)


def test_a_file_with_bad_numbers_is_refused(tmp_path):
    x = X.copy()
    x[400, 1] = np.inf
    np.save(tmp_path / "bad.npy", x)
    with pytest.raises(pg.DataError, match=r"\(400, 1\)"):
        pg.infer(MODELS["mixture"], np.load(tmp_path / "bad.npy", mmap_mode="r"), engine="em", progress=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_processes_are_refused_where_they_would_be_ignored(backend):
    """One process; a program without steps of its own; a model's steps left aside for its priors or a latent."""
    alone = {"engine": "em", "backend": backend, "progress": False, "processes": True}
    with pytest.raises(ValueError, match=r"only one process.*(jax\.distributed|torchrun)"):
        pg.infer(MODELS["mixture"], X, **alone)
    with pytest.raises(pg.UnsupportedError, match="processes=True needs"):
        pg.infer(MODELS["mixture"], X, objective="posterior", **alone)
    with pytest.raises(pg.UnsupportedError, match="processes=True needs"):
        pg.infer(MODELS["ppca"], X, integrate=["z"], **alone)

    @pg.program
    def declared(y):
        weight = pg.param("weight", 0.5, constraint=dist.constraints.unit_interval)
        with pg.plate("row", len(y)):
            k = pg.sample("k", dist.Bernoulli(probs=weight))
            pg.sample("y", dist.Normal(4.0 * k, 1.0), obs=y)

    with pytest.raises(pg.UnsupportedError, match="processes=True needs"):
        pg.infer(declared, X[:, 0], **alone)
    with pytest.raises(pg.UnsupportedError, match="starts='prior' needs"):
        pg.infer(declared, X[:, 0], engine="em", backend=backend, progress=False, starts="prior")


START = {
    "mixture": {"weights": [0.5, 0.5], "locs": X[[0, -1]], "scales": np.ones((2, 3)), "correlation": [np.eye(3)] * 2},
    "ppca": {"loc": X.mean(0), "loadings": np.ones((3, 1)), "scale": 1.0},
    "gaps": {"loc": X.mean(0), "loadings": np.ones((3, 1)), "scales": np.ones(3)},
}
SCRIPT = Path(__file__).with_name("part_of_rows.py")


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes_are_one(backend, tmp_path):
    """Each of two processes holds a half; both end with the params of one process that holds all, to 1e-6.

    Also where one of them alone has rows with missing entries.
    """
    gaps = X.copy()
    gaps[::8, 1] = np.nan
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "gaps.npy", gaps)
    port = str(_free_port())
    if backend == "numpyro":
        commands = [[sys.executable, str(SCRIPT), str(tmp_path), backend, port, str(rank)] for rank in range(2)]
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--nnodes=1"]
        address = ["--master-addr=127.0.0.1", f"--master-port={port}"]
        commands = [[*torchrun, *address, str(SCRIPT), str(tmp_path), backend]]
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    for process in running:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    fits = {**{name: (model, X) for name, model in MODELS.items()}, "gaps": (pg.models.FactorAnalysis(1), gaps)}
    for name, (model, x) in fits.items():
        whole = _fit(model, x, backend, num_restarts=1, init=START[name])
        for rank in range(2):
            held = np.load(tmp_path / f"{name}-{rank}.npz")
            np.testing.assert_allclose(held["history"], whole.history["log_likelihood"], rtol=1e-6)
            for site, value in whole.params.items():
                np.testing.assert_allclose(held[site], value, rtol=1e-6, atol=1e-8)
