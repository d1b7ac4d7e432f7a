"""Markov chains in declared programs, against the sum over all paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import optimize, special, stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.target import Target

BACKENDS = ["numpyro", "pyro"]
T, K = 6, 3
RNG = np.random.default_rng(4)
X = RNG.normal(size=T) * 2
INITIAL = np.array([0.5, 0.3, 0.2])
TABLE = RNG.dirichlet(np.ones(K), size=K)
LOCS = np.array([-1.5, 0.2, 1.9])


@pg.program
def hmm(x, initial, table):
    locs = pg.sample("locs", dist.Normal(0.0, 3.0).expand([K]).to_event(1))
    z = pg.sample("z", dist.MarkovChain(initial, table, len(x)))
    with pg.plate("time", len(x)):
        pg.sample("x", dist.Normal(locs[z], 0.8), obs=x)


def _paths(initial, table, log_emission):
    """All paths (K^T, T) and their log joints."""
    paths = np.array(list(itertools.product(range(K), repeat=len(log_emission))))
    log_p = np.log(initial)[paths[:, 0]] + np.log(table)[paths[:, :-1], paths[:, 1:]].sum(1)
    return paths, log_p + log_emission[np.arange(len(log_emission)), paths].sum(1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chain_is_summed_out(backend):
    """The log joint, and the gradient and smoothed states that come of it, over all 3^6 paths."""
    data = {"x": X, "initial": INITIAL, "table": TABLE}
    with pg.on(backend) as room:
        target = Target(hmm.bind(data, room))
        value, gradient = room.to_numpy(
            room.value_and_grad(target.log_likelihood)(room.asarray(LOCS), target.arrays)
        )
    paths, joint = _paths(INITIAL, TABLE, stats.norm.logpdf(X[:, None], LOCS, 0.8))
    assert float(value) == pytest.approx(special.logsumexp(joint), abs=1e-10)
    posterior = np.exp(joint - special.logsumexp(joint))
    smoothed = np.stack([[posterior[paths[:, t] == k].sum() for k in range(K)] for t in range(T)])
    np.testing.assert_allclose(gradient, (smoothed * (X[:, None] - LOCS) / 0.64).sum(0), atol=1e-10)


@pg.program
def chains_of_two_kinds(x):
    """Sequences of either of two kinds: a chain under a discrete latent of its sequence, mixture emissions inside."""
    stay = pg.param("stay", xp.array([0.6, 0.9]), constraint=dist.constraints.unit_interval)
    locs = pg.param("locs", xp.array([-1.0, 1.0]))
    with pg.plate("sequence", x.shape[0], dim=-2):
        kind = pg.sample("kind", dist.Bernoulli(probs=0.4))
        p = stay[xp.astype(kind, int)]
        rows = xp.stack([xp.stack([p, 1 - p], axis=-1), xp.stack([1 - p, p], axis=-1)], axis=-2)
        z = pg.sample("z", dist.MarkovChain(xp.array([0.7, 0.3]), rows, x.shape[1]))
        with pg.plate("time", x.shape[1], dim=-1):
            wide = pg.sample("wide", dist.Bernoulli(probs=0.25))
            state = xp.squeeze(z, -2)
            pg.sample("x", dist.Normal(locs[state], 0.5 + wide), obs=x)


def _of_two_kinds(x, stay, locs):
    total = 0.0
    for row in x:
        wide = stats.norm.logpdf(row[:, None], locs, 1.5) + np.log(0.25)
        emission = np.logaddexp(stats.norm.logpdf(row[:, None], locs, 0.5) + np.log(0.75), wide)
        terms = []
        for p, weight in zip(stay, (0.6, 0.4)):
            table = np.array([[p, 1 - p], [1 - p, p]])
            paths = np.array(list(itertools.product(range(2), repeat=len(row))))
            log_p = np.log([0.7, 0.3])[paths[:, 0]] + np.log(table)[paths[:, :-1], paths[:, 1:]].sum(1)
            terms.append(np.log(weight) + special.logsumexp(log_p + emission[np.arange(len(row)), paths].sum(1)))
        total += special.logsumexp(terms)
    return total


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_em_on_chains_under_other_latents(backend):
    x = RNG.normal(size=(4, 5)) + np.sign(RNG.normal(size=(4, 1)))
    run = pg.infer(
        chains_of_two_kinds, x, engine="em", backend=backend, num_restarts=1, tolerance=1e-13, progress=False
    )

    def loss(v):
        return -_of_two_kinds(x, special.expit(v[:2]), v[2:])

    start = [*special.logit([0.6, 0.9]), -1.0, 1.0]
    assert run.history["log_likelihood"][0] == pytest.approx(-loss(start), abs=1e-9)
    found = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-8})
    assert run.history["log_likelihood"][-1] == pytest.approx(-found.fun, abs=1e-4)  # where em stops
    assert (np.diff(run.history["log_likelihood"]) > -1e-9).all()
    assert "forward-backward" in run.attrs["e_step"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_latent_states(backend):
    data = {"x": X, "initial": INITIAL, "table": TABLE}
    run = pg.infer(hmm, data, engine="em", backend=backend, num_restarts=1, init={"locs": LOCS}, progress=False)
    paths, joint = _paths(INITIAL, TABLE, stats.norm.logpdf(X[:, None], run.params["locs"], 0.8))
    posterior = np.exp(joint - special.logsumexp(joint))
    smoothed = np.stack([[posterior[paths[:, t] == k].sum() for k in range(K)] for t in range(T)])
    np.testing.assert_allclose(run.latent()["z"], smoothed, atol=1e-9)
    assert run.log_prob(data).sum() == pytest.approx(special.logsumexp(joint), abs=1e-9)


@pg.program
def no_plate(x, initial, table):
    locs = pg.sample("locs", dist.Normal(0.0, 3.0).expand([K]).to_event(1))
    z = pg.sample("z", dist.MarkovChain(initial, table, len(x)))
    pg.sample("x", dist.Normal(locs[z], 0.8).to_event(1), obs=x)


def test_a_chain_without_a_plate_is_refused():
    with pytest.raises(pg.UnsupportedError, match="one plate of 6 rows"):
        pg.infer(no_plate, {"x": X, "initial": INITIAL, "table": TABLE}, engine="em", progress=False)
