"""Every engine whose runs can be kept, cut off at every commit: the same numbers to the bit."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import ppl_gen as pg
from tests.cutting import assert_same, cut_at_every_commit, ends_of_phases
from tests.killing import DATA, spread

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SHORT = {"num_warmup": 100, "num_samples": 300, "num_chains": 2}
ENGINES = {
    ("mala", "numpyro"): {**SHORT, "thinning": 7},
    ("nuts", "numpyro"): {**SHORT, "num_samples": 75},
    ("svi", "numpyro"): {"num_steps": 2500, "tolerance": 1e-3, "num_samples": 20},
    ("smc", "numpyro"): {"num_particles": 50, "num_chains": 2},
}
LONG = {
    ("ula", "numpyro"): {**SHORT, "preconditioner": "dense"},
    ("chees", "numpyro"): {**SHORT, "num_chains": 8},
    ("hmc", "numpyro"): {**SHORT, "dense_mass": True},
    ("map", "numpyro"): {"num_steps": 200, "tolerance": 0.0},
    ("sgld", "numpyro"): {**SHORT, "batch_size": 2},
    ("sghmc", "numpyro"): {**SHORT, "batch_size": 2, "control_variates": False},
    ("umclmc", "numpyro"): SHORT,
    ("underdamped", "numpyro"): {**SHORT, "preconditioner": "low_rank"},
    ("tempering", "numpyro"): {**SHORT, "num_temperatures": 4, "thinning": 3},
    ("ais", "numpyro"): {"num_particles": 50, "num_temperatures": 60},
    ("pathfinder", "numpyro"): {"num_samples": 50},
    ("laplace", "numpyro"): {"num_samples": 50},
    ("smc", "pyro"): {"num_particles": 50, "num_chains": 2},
    ("sgld", "pyro"): {**SHORT, "batch_size": 2},
    ("tempering", "pyro"): {**SHORT, "num_temperatures": 4},
    ("ais", "pyro"): {"num_particles": 50, "num_temperatures": 60},
    ("pathfinder", "pyro"): {"num_samples": 50},
    ("mala", "pyro"): {**SHORT, "preconditioner": "dense"},
    ("chees", "pyro"): {"num_warmup": 50, "num_samples": 50, "num_chains": 4},
    ("nuts", "pyro"): {**SHORT, "num_samples": 75},
    ("hmc", "pyro"): {**SHORT, "num_samples": 75, "dense_mass": True},
    ("svi", "pyro"): {"num_steps": 2000, "num_samples": 20},
    ("svi", "pyro", "low_rank"): {"num_steps": 2000, "num_samples": 20, "guide": "multivariate_normal"},
}
SLOWLY = [pytest.param(*key[:2], own, marks=pytest.mark.slow) for key, own in LONG.items()]


@pytest.mark.parametrize(("engine", "backend", "options"), [*((*k, v) for k, v in ENGINES.items()), *SLOWLY])
def test_cut_off_at_every_commit_gives_the_same_bits(tmp_path, monkeypatch, small_chunks, engine, backend, options):
    begin = functools.partial(pg.infer, spread, DATA, engine, backend, seed=4, progress=False, **options)
    plain, whole = begin(), begin(checkpoint=tmp_path / "whole.zarr")
    assert_same(plain, whole)  # writing it down changes nothing
    begin = functools.partial(begin, checkpoint=tmp_path / "cut.zarr")
    cut, cuts = cut_at_every_commit(monkeypatch, tmp_path / "cut.zarr", begin)
    assert cuts >= 2
    assert_same(whole, cut)
    assert ends_of_phases(tmp_path / "whole.zarr") == ends_of_phases(tmp_path / "cut.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
@pytest.mark.parametrize("engine", ["em", "vbem"])
def test_engines_that_climb(tmp_path, monkeypatch, small_chunks, engine, backend):
    x = np.random.default_rng(1).normal(size=(60, 2)) + 4.0 * (np.arange(60)[:, None] % 2)
    model = pg.models.GaussianMixture(2) if engine == "em" else pg.models.BayesianGaussianMixture(2)
    options = {"engine": engine, "backend": backend, "progress": False, "num_restarts": 3, "num_steps": 60}
    plain = pg.infer(model, x, **options)
    begin = functools.partial(pg.infer, model, x, checkpoint=tmp_path / "cut.zarr", **options)
    assert_same(plain, cut_at_every_commit(monkeypatch, tmp_path / "cut.zarr", begin)[0])
