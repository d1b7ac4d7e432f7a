"""Latent class analysis against published estimates, sums over classes and closed-form evidence."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import optimize
from scipy.special import gammaln, log_softmax, logsumexp, softmax

import ppl_gen as pg
from ppl_gen.checks import ProgramError
from ppl_gen.models import LatentClass
from ppl_gen.program import DataError

BACKENDS = ("numpyro", "pyro")

# Stouffer & Toby (1951): 216 students, four situations of role conflict, universalistic (0) or particularistic (1).
PATTERNS = np.array(list(itertools.product((0, 1), repeat=4)))
COUNTS = np.array([42, 23, 6, 25, 6, 24, 7, 38, 1, 4, 1, 6, 2, 9, 2, 20])
_rng = np.random.default_rng(0)
_class = _rng.choice(3, 80, p=[0.5, 0.3, 0.2])
_probs = _rng.dirichlet(np.full(3, 0.5), (3, 4))
ANSWERS = np.array([[_rng.choice(3, p=_probs[z, i]) for i in range(4)] for z in _class])


def _infer(model, x, engine="em", backend="numpyro", **options):
    return pg.infer(model, x, engine, backend, progress=False, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_role_conflict_as_published(backend):
    """Goodman (1974), Exploratory latent structure analysis: two classes have a likelihood-ratio chi-square of 2.72."""
    run = _infer(LatentClass(2, 2), PATTERNS, backend=backend, weights=COUNTS, tolerance=1e-13)
    value = run.history["log_likelihood"]
    assert (np.diff(value) > -1e-9).all()
    chi_square = 2 * ((COUNTS * np.log(COUNTS / COUNTS.sum())).sum() - value[-1])
    assert chi_square == pytest.approx(2.720, abs=5e-4)
    order = np.argsort(run.params["weights"])
    np.testing.assert_allclose(run.params["weights"][order], [0.279, 0.721], atol=5e-4)
    published = [[0.993, 0.940, 0.927, 0.769], [0.714, 0.330, 0.354, 0.132]]
    np.testing.assert_allclose(run.params["probs"][order, :, 0], published, atol=5e-4)


def _log_likelihood(weights, probs, x):
    """Of each row, by a loop over items; NaN and -1 are left out."""
    joint = np.log(weights) + np.zeros((len(x), 1))
    for i, column in enumerate(x.T):
        seen = column >= 0
        joint[seen] += np.log(probs[:, i, column[seen].astype(int)]).T
    return logsumexp(joint, axis=1)


def _holes(x, share=0.3):
    return np.where(np.random.default_rng(1).random(x.shape) < share, np.nan, x)


@pytest.mark.filterwarnings("ignore:em stopped")
@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_answers_are_left_out_exactly(backend):
    """30 % missing: EM ends where direct maximisation of the observed likelihood does, and says so of each row."""
    x = _holes(ANSWERS)
    assert np.isnan(x).all(1).any()  # somebody answered nothing
    run = _infer(LatentClass(2, 3), x, backend=backend, tolerance=1e-14, num_restarts=2, num_steps=3000)
    total = run.history["log_likelihood"][-1]
    expected = _log_likelihood(run.params["weights"], run.params["probs"], x)
    np.testing.assert_allclose(run.log_prob(x), expected, atol=1e-9)
    shape = run.params["probs"].shape

    def loss(u):
        probs = softmax(u[2:].reshape(*shape), axis=-1)
        return -_log_likelihood(np.exp(log_softmax(u[:2])), probs, x).sum()

    start = np.concatenate([np.log(run.params[n] + 1e-12).ravel() for n in ("weights", "probs")])
    start += 0.05 * np.random.default_rng(2).standard_normal(len(start))
    found = optimize.minimize(loss, start, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15})
    assert total == pytest.approx(-found.fun, abs=1e-4)
    z = run.latent(x)["z"]
    np.testing.assert_allclose(z[np.isnan(x).all(1)], run.params["weights"][None], rtol=1e-9)
    np.testing.assert_allclose(z.sum(1), 1.0)


def test_codes_of_every_kind_are_the_same_data():
    """Whole numbers with -1, floating point with -1, and NaN."""
    x = _holes(ANSWERS)
    kinds = (np.where(np.isnan(x), -1, x).astype(int), np.where(np.isnan(x), -1.0, x), x)
    model = LatentClass(2, 3)
    with pg.on("pyro") as room:
        start = {n: room.asarray(v[0]) for n, v in model.starts({"x": x}, 1, np.random.default_rng(0)).items()}
        found = []
        for codes in kinds:
            bound = pg.program(model).bind({"x": codes}, room)
            found.append(room.to_numpy(model.em_statistics(start, start, bound.arrays, None)))
    for statistics, value in found[1:]:
        assert value == pytest.approx(found[0][1], abs=1e-12)
        np.testing.assert_allclose(statistics["probs"], found[0][0]["probs"])


@pytest.mark.filterwarnings("ignore:em stopped")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_code_that_was_never_seen_is_impossible(backend):
    """Zero probability is -inf, in one item or in all; an answer left out is not."""
    run = _infer(LatentClass(2, 3), PATTERNS, backend=backend, num_steps=5, num_restarts=1)
    x = np.array([[2, 2, 2, 2], [0, 1, 2, 0], [0, 1, -1, 0], [0, 1, 1, 0]])
    found = run.log_prob(x)
    assert (found[:2] == -np.inf).all()
    expected = _log_likelihood(run.params["weights"], run.params["probs"], x[2:])
    np.testing.assert_allclose(found[2:], expected, rtol=1e-10)
    np.testing.assert_allclose(run.latent(x)["z"].sum(1), 1.0)


# Variational Bayes -------------------------------------------------------------------------------------------------


def _log_multinomial(counts, concentration):
    """log of the integral of prod p^counts under a symmetric Dirichlet; counts (..., C)."""
    total, c = counts.sum(-1), counts.shape[-1]
    a = concentration
    return (gammaln(c * a) - gammaln(c * a + total) + (gammaln(a + counts) - gammaln(a)).sum(-1)).sum()


def _log_evidence(x, model):
    """Sum over all assignments of rows to classes."""
    member = x[..., None] == np.arange(model.num_categories)
    terms = []
    for z in itertools.product(range(model.num_classes), repeat=len(x)):
        r = np.eye(model.num_classes)[list(z)]
        items = np.einsum("nk,nic->kic", r, member)
        of_rows = _log_multinomial(r.sum(0), model.weight_concentration)
        terms.append(of_rows + _log_multinomial(items, model.concentration))
    return np.logaddexp.reduce(terms)


def _climb(model, x, num_steps):
    q = {n: v[0] for n, v in model.vb_starts({"x": x}, 1, np.random.default_rng(0)).items()}
    with pg.on("pyro") as room:
        q, bounds = {n: room.asarray(v) for n, v in q.items()}, []
        for _ in range(num_steps):
            q, bound = model.vb_step(q, {"x": room.asarray(x)}, None)
            bounds.append(float(bound))
    return np.array(bounds)


def test_bound_and_evidence():
    """One class: the bound is the evidence, by conjugacy. Two: it is below, and never falls."""
    x = np.array([[0, 2, 1], [1, 2, -1], [0, 0, 1], [2, 2, 2], [-1, 0, 1]])
    one, two = (LatentClass(k, 3, weight_concentration=1.3, concentration=0.7) for k in (1, 2))
    assert _climb(one, x, 3)[-1] == pytest.approx(_log_evidence(x, one), abs=1e-9)
    bounds = _climb(two, x, 100)
    assert _log_evidence(x, two) - 3.0 < bounds[-1] < _log_evidence(x, two)
    assert (np.diff(bounds) > -1e-10).all()


def test_both_backends_agree_to_rounding():
    runs = [_infer(LatentClass(2, 3), _holes(ANSWERS), "vbem", b, num_restarts=2, num_steps=400) for b in BACKENDS]
    np.testing.assert_allclose(runs[0].history["elbo"], runs[1].history["elbo"], rtol=1e-9)
    for name, value in runs[0].params.items():
        np.testing.assert_allclose(value, runs[1].params[name], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(runs[0].posterior["probs"].sum(-1), 1.0)
    z = [run.latent(ANSWERS)["z"] for run in runs]
    np.testing.assert_allclose(*z, atol=1e-7)
    assert runs[0].sample(9).shape == (9, 4)


# Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[0, 1], [2, 3]], "whole numbers from 0 to 2"),
        ([[0.0, 1.5], [2.0, 0.0]], "whole numbers from 0 to 2"),
        ([[0, -2], [1, 1]], "whole numbers from 0 to 2"),
        ([[-1, -1], [-1, -1]], "x holds no answer at all"),
    ],
)
def test_codes_that_cannot_be(x, message):
    with pytest.raises((DataError, ProgramError), match=message):
        _infer(LatentClass(2, 3), np.array(x))


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="num_categories must be a whole number"):
        LatentClass(2, 2.5)
    with pytest.raises(ValueError, match=r"of shape \(num_data, num_items\), got \(3,\); a single item goes in as"):
        _infer(LatentClass(2, 2), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="concentration must be a number above 0, got 0"):
        LatentClass(2, 2, concentration=0)


def test_more_classes_than_patterns_stay_finite():
    run = _infer(LatentClass(4, 2), np.array([[0, 1], [0, 1], [1, 1]]), num_restarts=2, num_steps=50)
    assert all(np.isfinite(v).all() for v in run.params.values())
