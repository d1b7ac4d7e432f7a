"""The engine that is chosen, and why."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist, xp
from tests.test_samplers import BACKENDS

Y = np.random.default_rng(0).normal(1.0, 1.0, 20)


@pg.program
def posterior(y):
    mu = pg.sample("mu", dist.Normal(0.0, 2.0))
    pg.sample("y", dist.Normal(mu, 1.0).expand([len(y)]).to_event(1), obs=y)


@pg.program
def lines(y):
    loc = pg.param("loc", xp.array([-1.0, 1.0]))
    with pg.plate("row", len(y)):
        k = pg.sample("k", dist.Bernoulli(probs=0.5))
        pg.sample("y", dist.Normal(loc[xp.astype(k, int)], 1.0), obs=y)


@pg.program
def point(y):
    loc = pg.param("loc", 0.0)
    with pg.plate("row", len(y)):
        pg.sample("y", dist.StudentT(4.0, loc, 1.0), obs=y)


@pg.program
def batches(y):
    mu = pg.sample("mu", dist.Normal(0.0, 2.0))
    with pg.plate("row", len(y), subsample_size=5) as rows:
        pg.sample("y", dist.Normal(mu, 1.0), obs=y[rows])


@pg.program
def endless(y):
    n = pg.sample("n", dist.Poisson(pg.param("rate", 3.0)))
    pg.sample("y", dist.Normal(xp.astype(n, float), 1.0).expand([len(y)]).to_event(1), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("program", "engine", "why", "exact"),
    [
        (posterior, "chees", "exact posterior of 1 continuous latents", True),
        (lines, "em", "params without a prior ('loc') beside latents of each datum", False),
        (point, "map", "their maximum is all there is", False),
        (batches, "svi", "'row' is subsampled", False),
    ],
)
def test_the_engine_fits_the_program(program, engine, why, exact, backend):
    run = pg.infer(program, {"y": Y}, "auto", backend, progress=False)
    assert run.engine == engine
    assert run.attrs["chosen"].startswith(f"{engine}: ") and why in run.attrs["chosen"]
    assert run.exact is exact and run.idata.attrs["exact"] == exact


def test_models_that_bring_their_steps_get_them():
    x = np.random.default_rng(1).normal(size=(60, 3))
    for model, engine in (
        (pg.models.ProbabilisticPCA(1), "closed_form"),
        (pg.models.GaussianMixture(2), "em"),
        (pg.models.BayesianGaussianMixture(2), "vbem"),
    ):
        assert pg.infer(model, x, "auto", progress=False).engine == engine


def test_a_dear_gradient_gets_few_chains(monkeypatch):
    """By the clock: one that says a second for each look."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("ppl_gen.inference.auto.time.perf_counter", lambda: float(next(ticks)))
    run = pg.infer(posterior, {"y": Y}, "auto", progress=False)
    assert run.engine == "nuts" and "takes 1 s" in run.attrs["chosen"]


def test_what_no_engine_takes_says_why_of_each():
    with pytest.raises(pg.UnsupportedError, match="no engine takes endless.*gibbs: .*'rate'.*params without"):
        pg.infer(endless, {"y": Y}, "auto", progress=False)


@pytest.mark.parametrize(("engine", "precision"), [("auto", "float64"), ("mclmc", "float32")])
def test_a_run_that_starts_from_an_approximation_is_resumed(engine, precision, tmp_path):
    run = pg.infer(plane, {"y": Y}, engine, progress=False, precision=precision, checkpoint=tmp_path / "run.zarr")
    again = pg.resume(tmp_path / "run.zarr", plane, progress=False)
    np.testing.assert_array_equal(np.asarray(run.posterior["mu"]), np.asarray(again.posterior["mu"]))


@pg.program
def plane(y):
    mu = pg.sample("mu", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    pg.sample("y", dist.Normal(mu[0] + mu[1], 1.0).expand([len(y)]).to_event(1), obs=y)


def test_calibration_by_the_engine_that_is_chosen():
    found = pg.sbc(posterior, {"y": Y}, "auto", num_replicates=3, progress=False)
    assert not found.failures


def test_options_are_not_for_auto():
    with pytest.raises(ValueError, match="'auto' takes no options, got 'num_samples'"):
        pg.infer(posterior, {"y": Y}, "auto", num_samples=10)
