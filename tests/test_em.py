"""Maximum likelihood: EM, closed forms and MAP against published optima, scikit-learn, scipy and enumeration."""

from __future__ import annotations

import gzip
import itertools
import struct

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Yardstick

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.expectation import Expectation
from ppl_gen.inference.program_steps import counted
from ppl_gen.models import GaussianMixture, ProbabilisticPCA
from ppl_gen.target import Target

BACKENDS = ("numpyro", "pyro")
IRIS = load_iris().data
_rng = np.random.default_rng(0)
BLOBS = np.concatenate([_rng.normal([0, 0], [1.0, 0.5], (70, 2)), _rng.normal([2.5, 1], [0.7, 1.2], (50, 2))])


def _infer(program, data, engine, backend="numpyro", **options):
    """A run whose log likelihood never fell by more than rounding."""
    run = pg.infer(program, data, engine, backend, progress=False, **options)
    for values in run.history.values():
        assert (np.diff(values) >= -1e-8 * np.abs(values[1:])).all()
    return run


def _total(run, x):
    return run.log_prob(x).sum()


# Published optima --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ["em", "closed_form"])
def test_ppca_of_iris(engine, backend):
    run = _infer(ProbabilisticPCA(2), IRIS, engine, backend)
    assert _total(run, IRIS) == pytest.approx(-404.9628, abs=1e-3)


def _idx(path):
    """Images (n, pixels) of an idx file, scaled to [0, 1]."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        _, n, rows, columns = struct.unpack(">4I", file.read(16))
        return np.frombuffer(file.read(), np.uint8).reshape(n, rows * columns) / 255


def test_ppca_of_mnist(data_dir):
    train, test = (_idx(next((data_dir / "mnist").glob(f"{part}-images*"))) for part in ("train", "t10k"))
    run = _infer(ProbabilisticPCA(10), train, "closed_form")
    assert run.params["scale"] ** 2 == pytest.approx(0.03486734, abs=1e-8)
    assert run.log_prob(test).mean() == pytest.approx(186.0241, abs=0.01)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixture_of_faithful(backend, data_dir):
    x = np.loadtxt(data_dir / "tables" / "faithful.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    run = _infer(GaussianMixture(2), x, "em", backend)
    assert _total(run, x) == pytest.approx(-1130.2640, abs=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixture_of_iris(backend):
    run = _infer(GaussianMixture(3), IRIS, "em", backend, num_restarts=20)
    assert _total(run, IRIS) == pytest.approx(-180.1855, abs=0.02)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_mixture_ends_where_scikit_learn_does(kind):
    """The same start, regularisation and data: the same optimum, both iterated until nothing moves."""
    model = GaussianMixture(3, covariance_type=kind, regularization=1e-6)
    init = {n: v[0] for n, v in model.starts({"x": IRIS}, 1, np.random.default_rng(5)).items()}
    scales = init["scales"]
    precision = {
        "full": lambda: np.linalg.inv(_covariance(scales, init["correlation"])),
        "tied": lambda: np.linalg.inv(_covariance(scales, init["correlation"])),
        "diag": lambda: scales**-2,
        "spherical": lambda: scales**-2,
    }[kind]()
    yardstick = Yardstick(
        3, covariance_type=kind, reg_covar=1e-6, tol=1e-13, max_iter=5000,
        weights_init=init["weights"], means_init=init["locs"], precisions_init=precision,
    ).fit(IRIS)  # fmt: skip
    run = _infer(model, IRIS, "em", num_restarts=1, init=init, tolerance=1e-14, num_steps=5000)
    assert _total(run, IRIS) == pytest.approx(yardstick.score_samples(IRIS).sum(), abs=1e-6)
    order = np.argsort(yardstick.means_[:, 0])
    np.testing.assert_allclose(run.params["locs"], yardstick.means_[order], atol=1e-4)


def _covariance(scales, correlation):
    root = scales[..., None] * correlation
    return root @ np.swapaxes(root, -1, -2)


# A mixture that a user declares ------------------------------------------------------------------------------------


@pg.program
def declared(x):
    weights = pg.sample("weights", dist.Dirichlet(2.0 * xp.ones((2,))))
    locs = pg.sample("locs", dist.Normal(0.0, 5.0).expand([2, 2]).to_event(2))
    scales = pg.sample("scales", dist.HalfNormal(3.0).expand([2, 2]).to_event(2))
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Categorical(probs=weights))
        pg.sample("x", dist.Normal(locs[z], scales[z]).to_event(1), obs=x)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_gradient_m_step_reaches_the_closed_form(backend):
    exact = _infer(GaussianMixture(2, "diag", regularization=0.0), BLOBS, "em", backend, num_restarts=4)
    run = _infer(declared, BLOBS, "em", backend, num_restarts=4)
    assert run.history["log_likelihood"][-1] == pytest.approx(_total(exact, BLOBS), abs=1e-3)
    assert _total(run, BLOBS) == pytest.approx(_total(exact, BLOBS), abs=1e-3)


def test_posterior_objective_is_that_of_map():
    """Both maximise log p(x, weights, locs, scales); from one start they climb the same hill."""
    init = {"locs": [[0.0, 0.0], [2.0, 1.0]], "scales": np.ones((2, 2)), "weights": [0.5, 0.5]}
    by_em = _infer(declared, BLOBS, "em", objective="posterior", num_restarts=1, init=init, tolerance=1e-12)
    by_map = _infer(declared, BLOBS, "map", init=init)
    assert by_em.history["log_posterior"][-1] == pytest.approx(by_map.history["log_posterior"][-1], abs=1e-5)
    assert "log_likelihood" not in by_em.history
    for name, value in by_map.params.items():
        np.testing.assert_allclose(by_em.params[name], value, atol=1e-3)
    likelihood = _infer(declared, BLOBS, "em", num_restarts=1, init=init)
    assert _total(likelihood, BLOBS) > _total(by_em, BLOBS) + 1e-4  # the priors do pull


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_starts_end_at_the_same_maximum(backend):
    """From the prior as from k-means++; the blobs have one maximum that counts."""
    model = GaussianMixture(2, "diag")
    one = _infer(model, BLOBS, "em", backend)
    other = _infer(model, BLOBS, "em", backend, starts="prior", num_restarts=10)
    assert other.history["log_likelihood"][0] != one.history["log_likelihood"][0]
    assert other.history["log_likelihood"][-1] == pytest.approx(one.history["log_likelihood"][-1], rel=1e-6)


TABLE = np.array([[0.9, 0.1], [0.35, 0.65]])  # p(b | a)


@pg.program
def nested(y):
    loc = pg.sample("loc", dist.Normal(0.0, 2.0).expand([2, 2]).to_event(2))
    with pg.plate("group", y.shape[0], dim=-2):
        a = pg.sample("a", dist.Categorical(probs=xp.array([0.3, 0.7])))
        with pg.plate("row", y.shape[1], dim=-1):
            b = pg.sample("b", dist.Categorical(probs=xp.array(TABLE)[a]))
            pg.sample("y", dist.Normal(loc[a, b], 1.0), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_e_step_is_enumeration(backend):
    """Weights and log marginal against the sum over all 2 * 2^3 assignments of each group."""
    rng = np.random.default_rng(3)
    y, loc = rng.normal(size=(4, 3)) * 2, rng.normal(size=(2, 2)) * 2
    with pg.on(backend) as room:
        target = Target(nested.bind(y, room))
        u, e_step, terms = room.asarray(loc.ravel()), Expectation(target), counted("likelihood")
        held, value = e_step.expect(u, target.arrays, terms)
        completed = e_step.weighted_factors(u, held, target.arrays, terms)
        found = {f.sites: np.asarray(room.to_numpy(w)) for f, w, _ in completed}
        value = room.to_numpy(value)

    joint = np.zeros((4, 2, 3, 2))  # p(a_g = a, b_gr = b, y_g)
    for g, a, b in itertools.product(range(4), range(2), itertools.product(range(2), repeat=3)):
        p = [0.3, 0.7][a] * np.prod(TABLE[a, list(b)] * stats.norm.pdf(y[g], loc[a, list(b)], 1.0))
        joint[g, a, np.arange(3), list(b)] += p
    evidence = joint.sum((1, 3))[:, 0]
    posterior = joint / evidence[:, None, None, None]
    assert float(value) == pytest.approx(np.log(evidence).sum(), abs=1e-10)

    assert set(found) == {("a",), ("b",), ("y",)}
    of_a = np.moveaxis(posterior.sum(3)[:, :, 0], 0, -1)  # (a, group)
    np.testing.assert_allclose(np.squeeze(found[("a",)]), of_a, atol=1e-12)
    of_both = posterior.transpose(3, 1, 0, 2)  # (b, a, group, row)
    for site in ("b", "y"):
        w = found[(site,)]
        np.testing.assert_allclose(np.broadcast_to(w, of_both.shape) if w.ndim == 4 else w, of_both, atol=1e-12)


# Maximum a posteriori ----------------------------------------------------------------------------------------------

DESIGN = np.column_stack([np.ones(80), np.random.default_rng(8).normal(size=(80, 2))])
LABELS = (np.random.default_rng(9).random(80) < 1 / (1 + np.exp(-DESIGN @ [0.3, 1.0, -2.0]))).astype(float)


@pg.program
def logistic(x, y):
    beta = pg.sample("beta", dist.Normal(0.0, 1.5).expand([3]).to_event(1))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("objective", ["posterior", "likelihood"])
def test_logistic_regression_against_scipy(objective, backend):
    def loss(beta):
        eta = DESIGN @ beta
        prior = (beta**2).sum() / (2 * 1.5**2) if objective == "posterior" else 0.0
        return np.logaddexp(0, eta).sum() - LABELS @ eta + prior

    exact = optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    run = _infer(logistic, {"x": DESIGN, "y": LABELS}, "map", backend, objective=objective)
    np.testing.assert_allclose(run.params["beta"], exact.x, atol=1e-4)
    constant = stats.norm.logpdf(0, 0, 1.5) * 3 if objective == "posterior" else 0.0
    assert run.history[f"log_{objective}"][-1] == pytest.approx(constant - exact.fun, abs=1e-8)
