"""Bayesian Gaussian mixtures with missing entries, against quadrature over what may stand in the gaps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import digamma

import ppl_gen as pg
from ppl_gen import xp
from ppl_gen.missing import Missing, split
from ppl_gen.models import BayesianGaussianMixture
from ppl_gen.models._gaussian_rows import centred
from ppl_gen.program import as_program
from ppl_gen.target import Target
from tests.test_bayesian_mixture import BACKENDS, BETA, IRIS, KINDS, M0, NU, S0, X, _climb, _fit, _log_evidence, _small

GAPS = np.where(np.array([[0, 1], [0, 0], [1, 0], [0, 0], [0, 1]]) > 0, np.nan, X)
GRID = np.linspace(-60.0, 60.0, 6001)  # of a missing entry


def _expected_log_joint(kind, q, x):
    """E log p(x_n, z_n = k) under a Dirichlet, (N, K), term by term; complete rows."""
    d, rate, columns = x.shape[1], q["rate"], []
    for k in range(len(q["locs"])):
        dof = float(np.broadcast_to(q["degrees_of_freedom"], (len(q["locs"]),))[k])
        own = rate if kind == "tied" else rate[k]
        if kind in ("full", "tied"):
            precision = dof * np.linalg.inv(own)
            log_det = sum(digamma((dof - i) / 2) for i in range(d)) + d * math.log(2) - np.linalg.slogdet(own)[1]
        else:
            size = 1 if kind == "diag" else d
            precision = np.diag(dof / own * np.ones(d))
            log_det = np.sum(digamma(size * dof / 2) - np.log(size * own / 2) * np.ones(d))
        off = x - q["locs"][k]
        a = q["weights_concentration"]
        distance = np.einsum("ni,ij,nj->n", off, precision, off) + d / q["mean_precision"][k]
        level = digamma(a[k]) - digamma(a.sum()) - d / 2 * math.log(2 * math.pi) + log_det / 2
        columns.append(level - distance / 2)
    return np.stack(columns, 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_entry_is_integrated_over(kind, backend):
    """The same step as on complete rows that have every value in the gap, weighted as q does, and the same bound."""
    model = _small(kind, 2)
    q = _climb(model, X)[0]
    rows, weights, evidence = [], [], []
    for row in GAPS:
        gap = np.isnan(row)
        filled = np.where(gap, GRID[:, None], row) if gap.any() else row[None]
        each = np.logaddexp.reduce(_expected_log_joint(kind, q, filled), 1)
        each = each + math.log(GRID[1] - GRID[0]) if gap.any() else each
        evidence.append(np.logaddexp.reduce(each))
        rows.append(filled)
        weights.append(np.exp(each - evidence[-1]))
    with pg.on(backend) as room:
        q_there = {n: room.asarray(v) for n, v in q.items()}
        gaps = Missing(*map(room.asarray, split(GAPS)))
        found, bound = model.vb_step(q_there, {"x": gaps}, None)
        spread, dense = room.asarray(np.concatenate(weights)), room.asarray(np.concatenate(rows))
        expected = room.to_numpy(model.vb_step(q_there, {"x": dense}, spread)[0])
        complete = float(model.vb_step(q_there, {"x": room.asarray(X)}, None)[1])
        found = room.to_numpy(found)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6)
    of_complete = np.logaddexp.reduce(_expected_log_joint(kind, q, X), 1).sum()
    assert float(bound) == pytest.approx(complete - of_complete + sum(evidence), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_bound_with_gaps_is_below_the_evidence_and_near(kind):
    """Of one component: the evidence of complete rows, summed over what may stand in the two gaps."""
    x = np.where(np.isnan(GAPS) & (np.arange(5) != 4)[:, None], np.nan, X)
    u = np.linspace(-5, 5, 61)
    grid, step, full = np.sinh(u), np.cosh(u) * (u[1] - u[0]), x.copy()
    terms = np.empty((len(grid), len(grid)))
    if kind in ("diag", "spherical"):
        seen = [x[~np.isnan(x[:, j]), j : j + 1] for j in range(2)]
    if kind == "diag":
        exact = sum(_log_evidence(seen[j], M0[[j]], S0["diag"][[j], None]) for j in range(2))
    elif kind == "spherical":

        def density(rate):
            prior = stats.gamma.logpdf(rate, NU, scale=1 / S0["spherical"])
            given = [
                stats.multivariate_normal(np.full(len(s), m), (np.eye(len(s)) + 1 / BETA) / rate).logpdf(s[:, 0])
                for s, m in zip(seen, M0, strict=True)
            ]
            return math.exp(prior + sum(given))

        exact = math.log(integrate.quad(density, 0, 30, epsabs=1e-14)[0])
    else:
        for i, j in itertools.product(range(len(grid)), repeat=2):
            full[0, 1], full[2, 0] = grid[i], grid[j]
            terms[i, j] = _log_evidence(full, M0, S0["full"]) + math.log(step[i] * step[j])
        exact = np.logaddexp.reduce(terms, axis=None)
    bounds = _climb(_small(kind, 1), x, num_steps=60)[1]
    assert exact - 0.7 < bounds[-1] < exact
    assert (np.diff(bounds) >= -1e-10).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_entry_missing_is_complete_data(kind):
    with pg.on("pyro") as room:
        start = _small(kind, 2).vb_starts({"x": X}, 1, np.random.default_rng(0))
        q = {n: room.asarray(v[0]) for n, v in start.items()}
        whole = Missing(room.asarray(X), room.asarray(np.ones_like(X)))
        for model in (_small(kind, 2), BayesianGaussianMixture(2, kind)):  # given priors, and those of the data
            steps = [model.vb_step(q, {"x": x}, None) for x in (room.asarray(X), whole)]
            assert float(steps[0][1]) == pytest.approx(float(steps[1][1]), abs=1e-10)
            for name, value in steps[0][0].items():
                np.testing.assert_allclose(np.asarray(value), np.asarray(steps[1][0][name]), rtol=1e-10)


def test_prior_of_data_with_gaps_is_that_of_what_was_observed():
    with pg.on("pyro") as room:
        mean, y = centred(np, split(GAPS))
        there = centred(xp, Missing(*map(room.asarray, split(GAPS))))
    np.testing.assert_allclose(mean, np.nanmean(GAPS, 0))
    np.testing.assert_allclose((y**2).sum(0) / 5, np.nanvar(GAPS, 0))
    for one, other in zip((mean, y), there, strict=True):
        np.testing.assert_allclose(one, np.asarray(other))


SPARSE = np.where(np.random.default_rng(3).random(IRIS.shape) < 0.3, np.nan, IRIS)


@pytest.mark.filterwarnings("ignore:vbem stopped")
@pytest.mark.parametrize("kind", KINDS)
def test_gaps_climb_alike_on_both_backends(kind):
    """30 % of the entries missing, one row without any; the bound never falls."""
    x = np.vstack([SPARSE, np.full(4, np.nan)])
    model = BayesianGaussianMixture(3, kind)
    runs = [_fit(model, x, b, num_restarts=2, num_steps=30, tolerance=0) for b in BACKENDS]
    for run in runs:
        assert (np.diff(run.history["elbo"]) >= -1e-9 * np.abs(run.history["elbo"][1:])).all()
    np.testing.assert_allclose(runs[0].history["elbo"], runs[1].history["elbo"], rtol=1e-9)
    for name, value in runs[0].params.items():
        np.testing.assert_allclose(value, runs[1].params[name], rtol=1e-7, atol=1e-9)
    z = runs[0].latent(x[-2:])["z"]
    np.testing.assert_allclose(z.sum(1), 1.0)
    assert np.isfinite(runs[0].latent(IRIS[:3])["z"]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_program_integrates_gaps_out(kind, backend):
    model, data = _small(kind, 2), {"gaps": GAPS, "whole": X}
    q = _climb(model, X)[0]
    values = {n: v[0] for n, v in model.vb_draws(q, 1, np.random.default_rng(0)).items()}
    p = values["precisions"]
    matrices = np.broadcast_to(p, (2, 2, 2)) if kind in ("full", "tied") else [np.diag(v * np.ones(2)) for v in p]
    found, expected = {}, {}
    with pg.on(backend) as room:
        for name, x in data.items():
            target = Target(as_program(model).bind(x, room))
            found[name] = float(target.describe({n: room.asarray(v) for n, v in values.items()}, target.arrays)[1])
            expected[name] = 0.0
            for row in x:
                seen = ~np.isnan(row)
                parts = [
                    stats.multivariate_normal(m[seen], np.linalg.inv(c)[np.ix_(seen, seen)]).logpdf(row[seen])
                    for m, c in zip(values["locs"], matrices, strict=True)
                ]
                expected[name] += np.logaddexp.reduce(np.log(values["weights"]) + parts)
    assert found["gaps"] - found["whole"] == pytest.approx(expected["gaps"] - expected["whole"], abs=1e-8)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of runs that are short
@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("em", {"num_steps": 3, "num_restarts": 1}),
        ("svi", {"num_steps": 20}),
        ("nuts", {"num_samples": 5, "num_warmup": 5, "num_chains": 1}),
    ],
)
def test_other_engines_take_gaps(engine, options):
    run = pg.infer(BayesianGaussianMixture(2, "full"), SPARSE[:, :2], engine, "numpyro", progress=False, **options)
    assert all(np.isfinite(v).all() for v in (run.posterior or run.params).values())
