"""Topics against scikit-learn, the evidence of tiny corpora by quadrature, and conjugate closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import digamma, gammaln
from sklearn.decomposition import LatentDirichletAllocation as Yardstick

import ppl_gen as pg
from ppl_gen.models import LatentDirichlet
from ppl_gen.program import DataError, as_program
from ppl_gen.target import Target

BACKENDS = ("numpyro", "pyro")
_rng = np.random.default_rng(0)
TOPICS = _rng.dirichlet(np.full(12, 0.3), 3)
SHARES = _rng.dirichlet(np.full(3, 0.4), 40)
WORDS = np.stack([_rng.multinomial(_rng.integers(30, 90), p) for p in SHARES @ TOPICS])
ORDERS = gammaln(WORDS.sum(1) + 1.0) - gammaln(WORDS + 1.0).sum(1)  # log number of orders of each document's words


def _start(model, seed=0, words=WORDS):
    return {n: v[0] for n, v in model.vb_starts({"x": words}, 1, np.random.default_rng(seed)).items()}


class Settled(Yardstick):
    """scikit-learn, started at given topics, with its documents' q from ones until nothing moves."""

    def put(self, lam):
        self.components_ = lam
        self.exp_dirichlet_component_ = np.exp(digamma(lam) - digamma(lam.sum(1, keepdims=True)))
        return self

    def step(self, words):
        return self.put(self.topic_word_prior_ + self._e_step(words, cal_sstats=True, random_init=False)[1])


def test_every_iteration_is_scikit_learns():
    """The same start, and each iteration with the documents' q from ones until nothing moves."""
    model, words = LatentDirichlet(3, 0.3, 0.2, document_steps=1500), 1.0 * WORDS
    settled = {"mean_change_tol": 1e-13, "max_doc_update_iter": 3000, "random_state": 0}
    theirs = Settled(3, doc_topic_prior=0.3, topic_word_prior=0.2, **settled).partial_fit(words)
    theirs.put(_start(model)["topics_concentration"])
    with pg.on("numpyro") as room:
        x = room.asarray(words)
        q = {n: room.asarray(v) for n, v in _start(model).items()}
        step = room.compile(lambda q, x: model.vb_step(q, {"x": x}, None))
        for _ in range(10):
            q, _ = step({**q, "proportions_concentration": room.asarray(np.ones((40, 3)))}, x)
            theirs.step(words)
            np.testing.assert_allclose(np.asarray(q["topics_concentration"]), theirs.components_, rtol=1e-6)
        gamma = np.asarray(q["proportions_concentration"])
        bound = float(step(q, x)[1])
    assert bound - ORDERS.sum() == pytest.approx(theirs._approx_bound(WORDS, gamma, False), rel=1e-9)
    of_topics = theirs._approx_bound(0 * WORDS[:1], np.full((1, 3), 0.3), False)  # no words: what is left is of topics
    expected = np.log(theirs.perplexity(WORDS)) * WORDS.sum() + of_topics
    found = np.log(model.perplexity({"q.topics_concentration": theirs.components_}, WORDS)) * WORDS.sum()
    assert found == pytest.approx(expected, abs=1e-3)
    proportions = _latent(model, theirs.components_)
    np.testing.assert_allclose(proportions, theirs.transform(WORDS), atol=1e-4)  # by 100 sweeps


def _latent(model, lam):
    with pg.on("numpyro") as room:
        found = model.vb_latent({"topics_concentration": room.asarray(lam)}, {"x": room.asarray(WORDS)})
        return room.to_numpy(found)["proportions"]


# The evidence ------------------------------------------------------------------------------------------------------


def _climb(model, words, num_steps):
    q, bounds = _start(model, words=words), []
    with pg.on("pyro") as room:
        q = {n: room.asarray(v) for n, v in q.items()}
        for _ in range(num_steps):
            q, bound = model.vb_step(q, {"x": room.asarray(words)}, None)
            bounds.append(float(bound))
    return np.array(bounds)


def test_one_topic_is_a_dirichlet_multinomial():
    """All words are from one distribution: the bound is the evidence, by conjugacy."""
    eta, n = 0.4, WORDS.sum(0)
    exact = gammaln(12 * eta) - gammaln(12 * eta + n.sum()) + (gammaln(eta + n) - gammaln(eta)).sum() + ORDERS.sum()
    assert _climb(LatentDirichlet(1, 1.0, eta), WORDS, 3)[-1] == pytest.approx(exact, abs=1e-8)


def test_bound_is_below_the_evidence():
    """Two topics, two words, flat priors: a polynomial of which Gauss-Legendre quadrature is exact."""
    words = np.array([[4, 1], [0, 3], [2, 2]])
    nodes, w = np.polynomial.legendre.leggauss(20)
    p, w = 0.5 * (nodes + 1), 0.5 * w
    of_word = np.einsum("t,a->ta", p, p)[:, :, None] + np.einsum("t,b->tb", 1 - p, p)[:, None, :]  # theta, beta1, beta2
    joint = w[:, None] * w
    for row in words:
        joint = joint * np.einsum("t,tab->ab", w, stats.binom.pmf(row[0], row.sum(), of_word))
    evidence = np.log(joint.sum())
    bounds = _climb(LatentDirichlet(2, 1.0, 1.0), words, 200)
    assert evidence - 3.0 < bounds[-1] < evidence
    assert (np.diff(bounds) > -1e-10).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_program_is_the_model(backend):
    """log p(x, topics, proportions) against SciPy's densities."""
    log_joint = stats.dirichlet(np.full(12, 0.2)).logpdf(TOPICS.T).sum()
    log_joint += stats.dirichlet(np.full(3, 0.3)).logpdf(SHARES.T).sum()
    log_joint += stats.multinomial(WORDS.sum(1), SHARES @ TOPICS).logpmf(WORDS).sum()
    with pg.on(backend) as room:
        target = Target(as_program(LatentDirichlet(3, 0.3, 0.2)).bind(WORDS, room))
        values = {"topics": room.asarray(TOPICS), "proportions": room.asarray(SHARES)}
        assert float(target.describe(values, target.arrays)[1]) == pytest.approx(log_joint, rel=1e-12)


# A run -------------------------------------------------------------------------------------------------------------


def test_runs_on_both_backends_agree_and_find_the_topics():
    model = LatentDirichlet(3)
    options = {"num_restarts": 2, "num_samples": 30, "tolerance": 1e-7, "progress": False}
    runs = [pg.infer(model, WORDS, "vbem", b, **options) for b in BACKENDS]
    bounds = runs[0].history["elbo"]
    assert (np.diff(bounds) > -1e-9 * np.abs(bounds[1:])).all() and not runs[0].warnings
    np.testing.assert_allclose(bounds, runs[1].history["elbo"], rtol=1e-9)
    np.testing.assert_allclose(runs[0].params["topics"], runs[1].params["topics"], rtol=1e-6)
    np.testing.assert_allclose(runs[0].posterior["proportions"], runs[1].posterior["proportions"], rtol=1e-5, atol=1e-9)
    distance = np.abs(runs[0].params["topics"][:, None] - TOPICS).sum(-1)
    assert (distance.min(0) < 0.35).all()  # of at most 2
    new = WORDS[:7]
    found = [run.latent(new)["proportions"] for run in runs]
    np.testing.assert_allclose(*found, atol=1e-7)
    np.testing.assert_allclose(found[0], runs[0].params["proportions"][:7], atol=0.02)
    uniform = float(WORDS.shape[1])
    assert all(1.0 < model.perplexity(run.params, new, run.setting.backend) < 0.8 * uniform for run in runs)
    for run in runs:
        assert (run.sample(5).sum(1) == model.num_words).all()  # new documents
        drawn = run.predict(num_samples=3).posterior_predictive["x"].values
        np.testing.assert_array_equal(drawn.sum(-1)[0], np.tile(WORDS.sum(1), (3, 1)))  # these documents again
        assert set(run.idata.posterior["proportions"].dims) == {"chain", "draw", "document", "topic"}


def test_a_document_without_words_has_the_prior():
    words = np.vstack([WORDS[:5], np.zeros((1, 12), int)])
    model = LatentDirichlet(2)
    assert np.isfinite(_climb(model, words, 5)).all()
    with pg.on("pyro") as room:
        q = {n: room.asarray(v) for n, v in _start(model, words=words).items()}
        found = room.to_numpy(model.vb_latent(q, {"x": room.asarray(words)}))["proportions"]
    np.testing.assert_allclose(found[-1], 0.5)


def test_a_weight_is_a_repeated_document():
    model, times = LatentDirichlet(2, document_steps=1), np.array([2, 0, 1])
    words = WORDS[:3]
    start = _start(model, words=words)
    rows = np.repeat(np.arange(3), times)
    with pg.on("pyro") as room:
        one = {n: room.asarray(v) for n, v in start.items()}
        other = {**one, "proportions_concentration": one["proportions_concentration"][rows]}
        for _ in range(5):
            one, bound = model.vb_step(one, {"x": room.asarray(words)}, room.asarray(1.0 * times))
            other, expected = model.vb_step(other, {"x": room.asarray(words[rows])}, None)
            assert float(bound) == pytest.approx(float(expected), abs=1e-9)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="topic_concentration must be a number above 0"):
        LatentDirichlet(2, topic_concentration=-1.0)
    for words in (-WORDS, 0 * WORDS):
        with pytest.raises(DataError, match="counts of words, at least 0 and some above 0"):
            LatentDirichlet(2).vb_starts({"x": words}, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"x of shape \(num_documents, vocabulary\), got \(12,\); .* x\[None\]"):
        pg.infer(LatentDirichlet(2), WORDS[0], "vbem", progress=False)
