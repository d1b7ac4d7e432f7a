"""Posteriors by conditional scores and velocities: against closed forms, on both backends, weighed and not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import ppl_gen as pg
from ppl_gen import backends
from ppl_gen.backends.protocol import Request
from ppl_gen.inference.engine import resolve
from ppl_gen.inference.posterior_network import Standard, Trained
from ppl_gen.target import Target
from tests.test_npe import Y, conjugate, off, posterior, sum_of_two

SLOW_ON_PYRO = ("numpyro", pytest.param("pyro", marks=pytest.mark.slow))  # steps one by one, of a network of 3 layers
SMALL = {"num_simulations": 2000, "num_epochs": 60, "batch_size": 100, "width": 32, "num_blocks": 2, "num_steps": 16}


@pytest.fixture(scope="module", params=["npse", pytest.param("fmpe", marks=pytest.mark.slow)])
def learned(request):
    return pg.infer(conjugate, Y, request.param, progress=False, learning_rate=3e-3, **SMALL)


def test_weighed_draws_are_those_of_the_posterior(learned):
    mean, sd, evidence = posterior(Y)
    errors, ratio = off(learned.posterior["z"][0], mean, sd, learned.attrs["ess"])
    assert errors < 4.5 and (np.abs(ratio - 1) < 4.5 / np.sqrt(2 * min(1000, learned.attrs["ess"]))).all()
    assert abs(learned.attrs["log_evidence"] - evidence) < 4.5 * learned.attrs["log_evidence_se"]
    assert learned.attrs["ess"] > 500 and learned.attrs["pareto_k"] < 0.7 and not learned.exact


def test_it_holds_for_other_data_and_knows_its_density(learned):
    """E_q log q - log p is the divergence of the network from the posterior, not below 0."""
    y = Y - 1.5
    run = learned.posterior_for({"y": y}, num_samples=2000, correction=False)
    z, (mean, sd, _) = run.posterior["z"][0], posterior(y)
    assert (np.abs(z.mean(0) - mean) < 0.6 * sd).all() and (np.abs(np.log(z.std(0) / sd)) < np.log(2.0)).all()
    gap = learned.posterior_log_prob({"z": z}, {"y": y}) - stats.norm(mean, sd).logpdf(z).sum(1)
    assert -4 * gap.std() / np.sqrt(len(z)) < gap.mean() < 1.0
    weighed = learned.posterior_for({"y": y})
    errors, _ = off(weighed.posterior["z"][0], mean, sd, weighed.attrs["ess"])
    assert errors < 4.5


def test_its_density_integrates_to_one(learned):
    """On a grid about the posterior, which is N(mean, sd^2) and narrower than what the network says."""
    mean, sd, _ = posterior(Y)
    a, b = (np.linspace(m - 12 * s, m + 12 * s, 81) for m, s in zip(mean, sd))
    z = np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2)
    mass = np.exp(learned.posterior_log_prob({"z": z})).sum() * (a[1] - a[0]) * (b[1] - b[0])
    assert mass == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("backend", SLOW_ON_PYRO)
@pytest.mark.parametrize(("engine", "path", "says"), [("npse", "vp", "noise"), ("fmpe", "ot", "velocity")])
def test_simulators_without_a_density(backend, engine, path, says):
    """z | x ~ N(x / 1.25, 0.2)."""
    run = pg.infer(
        sum_of_two, None, engine, backend, progress=False, latents="z", observe={"x": 1.0}, path=path, prediction=says,
        learning_rate=3e-3, **{**SMALL, "num_blocks": 1, "num_simulations": 10_000, "num_epochs": 20},
    )  # fmt: skip
    z, sd = run.posterior["z"][0], np.sqrt(0.2)
    assert abs(z.mean() - 0.8) < 0.5 * sd and abs(np.log(z.std() / sd)) < np.log(1.6)
    assert run.attrs["correction"].startswith("none: 'x' of sum_of_two are deterministic sites")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"path": "vpp"}, "unknown path 'vpp'"),
        ({"prediction": "nose"}, "prediction must be one of"),
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1"),
        ({"weighting": "none"}, "weighting must be one of"),
        ({"width": 0}, "width"),
    ],
)
def test_bad_input_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        pg.infer(conjugate, Y, "npse", progress=False, **options)


def untrained(engine, backend, num_steps):
    """Draws, their densities, and these again, by a network as it starts, in float64."""
    room, y = backends.get(backend), Y.reshape(-1)
    with room.scope(seed=0):
        target = Target(conjugate.bind({"y": Y}, room, ("float64", None)))
        estimator = resolve(engine, {"width": 8, "num_blocks": 1, "num_steps": num_steps}).estimator_of(target)
        sites = room.trace(estimator.denoiser.network, Request(key=room.key(0)))
        weights = {n: np.asarray(room.to_numpy(s.value)) for n, s in sites.items()}
        scales = (Standard(np.zeros(n), np.full(n, 2.0)) for n in (2, 6))
        trained = Trained(estimator, weights, *scales)
        u, log_q = trained.draw(target, y, 20, 0)
        return u, log_q, trained.log_prob(target, u, y)


@pytest.mark.parametrize("engine", ["npse", pytest.param("fmpe", marks=pytest.mark.slow)])
def test_both_backends_say_the_same(engine):
    """Of draws and densities, with the same weights and noise; of few steps, since a graph on Pyro holds each."""
    for one, other in zip(untrained(engine, "numpyro", 2), untrained(engine, "pyro", 2)):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    _, drawn, asked = untrained(engine, "numpyro", 200)
    np.testing.assert_allclose(drawn, asked, atol=0.01)  # to the solver's error
