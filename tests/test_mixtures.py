"""Mixtures: scikit-learn's iterations, brute force with gaps, laws of mixtures of factor analysers, hard data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from scipy.special import logsumexp
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Yardstick

import ppl_gen as pg
from ppl_gen.missing import Missing, split
from ppl_gen.models import FactorAnalysis, GaussianMixture, ProbabilisticPCA
from ppl_gen.models import MixtureOfFactorAnalyzers as _mfa

BACKENDS = ("numpyro", "pyro")
KINDS = ("full", "tied", "diag", "spherical")
NOISES = ("diag", "tied", "isotropic")
IRIS = load_iris().data


def _simulated(n=80, d=3, gaps=0.0, seed=0):
    """Two clusters, the second one wide and oblique."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    x[n // 2 :] = 2.0 + x[n // 2 :] @ rng.normal(0, 1, (d, d))
    x[rng.random(x.shape) < gaps] = np.nan
    return x


GAPS = _simulated(gaps=0.3)
GAPS[0] = np.nan


def _sigma(model, params):
    """Covariances (K, D, D)."""
    k, d = params["locs"].shape
    if "loadings" in params:
        scales = params["scales"][:, None] if model.noise == "isotropic" else params["scales"]
        noise = np.broadcast_to(scales, (k, d)) ** 2
        return params["loadings"] @ np.swapaxes(params["loadings"], 1, 2) + noise[:, :, None] * np.eye(d)
    if "correlation" in params:
        root = params["scales"][..., None] * params["correlation"]
        return np.broadcast_to(root @ np.swapaxes(root, -1, -2), (k, d, d))
    scales = params["scales"][:, None] if model.covariance_type == "spherical" else params["scales"]
    return np.broadcast_to(scales, (k, d))[:, :, None] ** 2 * np.eye(d)


def _log_joint(x, weights, locs, sigma):
    """log pi_k + log N(observed part of x_n | k), shape (N, K)."""
    found = np.zeros((len(x), len(weights)))
    for n, row in enumerate(x):
        seen = ~np.isnan(row)
        for k in range(len(weights)):
            off, part = (row - locs[k])[seen], 2 * np.pi * sigma[k][np.ix_(seen, seen)]
            found[n, k] = -np.pi * off @ np.linalg.solve(part, off) - 0.5 * np.linalg.slogdet(part)[1]
    return found + np.log(weights)


def _completed(x, weights, locs, sigma):
    """Responsibilities, and mean and covariance of each row given its observed entries and each component."""
    joint = _log_joint(x, weights, locs, sigma)
    r = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    means, covs = np.repeat(x[:, None], len(weights), 1), np.zeros((*r.shape, *sigma.shape[1:]))
    for n, row in enumerate(x):
        seen = ~np.isnan(row)
        for k, s in enumerate(sigma):
            gain = np.linalg.solve(s[np.ix_(seen, seen)], s[np.ix_(seen, ~seen)]).T
            means[n, k, ~seen] = locs[k][~seen] + gain @ (row - locs[k])[seen]
            covs[n, k][np.ix_(~seen, ~seen)] = s[np.ix_(~seen, ~seen)] - gain @ s[np.ix_(seen, ~seen)]
    return r, means, covs


def _on_device(room, data):
    """An array, or the pair of an array with gaps, on the backend."""
    return Missing(*map(room.asarray, split(data))) if np.isnan(data).any() else room.asarray(data)


def _one_step(room, model, params, data, weights=None):
    device = {n: room.asarray(v) for n, v in params.items()}
    counts = None if weights is None else room.asarray(weights)
    statistics, value = model.em_statistics(device, device, {"x": _on_device(room, data)}, counts)
    return room.to_numpy(model.em_update(statistics, device)), float(value)


def _start(model, data, seed=1):
    return {n: v[0] for n, v in model.starts({"x": data}, 1, np.random.default_rng(seed)).items()}


# Gaussian mixtures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_iteration_is_scikit_learns(kind, backend):
    model = GaussianMixture(3, kind)
    params = _start(model, IRIS)
    with pg.on(backend) as room:
        for _ in range(8):
            sigma = _sigma(model, params)
            precision = {
                "full": lambda s: np.linalg.inv(s),
                "tied": lambda s: np.linalg.inv(s[0]),
                "diag": lambda s: 1 / np.diagonal(s, 0, 1, 2),
                "spherical": lambda s: 1 / s[:, 0, 0],
            }[kind](sigma)
            peer = Yardstick(
                3, covariance_type=kind, reg_covar=1e-6, max_iter=1,
                weights_init=params["weights"], means_init=params["locs"], precisions_init=precision,
            ).fit(IRIS)  # fmt: skip
            params, value = _one_step(room, model, params, IRIS)
            assert value == pytest.approx(peer.lower_bound_ * len(IRIS), abs=1e-6)
            np.testing.assert_allclose(params["weights"], peer.weights_, atol=1e-9)
            np.testing.assert_allclose(params["locs"], peer.means_, atol=1e-9)
            found = _sigma(model, params)
            own = {"tied": found[0], "diag": np.diagonal(found, 0, 1, 2), "spherical": found[:, 0, 0]}.get(kind, found)
            np.testing.assert_allclose(own, peer.covariances_, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_step_with_gaps_is_brute_force(kind, backend):
    """Row by row and entry by entry, with rows that count unequally (Ghahramani & Jordan 1994)."""
    model, counts = GaussianMixture(2, kind, regularization=0.0), np.random.default_rng(3).random(len(GAPS))
    params = _start(model, GAPS)
    sigma = _sigma(model, params)
    with pg.on(backend) as room:
        new, value = _one_step(room, model, params, GAPS, counts)
        device = {n: room.asarray(v) for n, v in params.items()}
        latent = room.to_numpy(model.latent(device, {"x": _on_device(room, GAPS)}))["z"]
    r, means, covs = _completed(GAPS, params["weights"], params["locs"], sigma)
    np.testing.assert_allclose(latent, r, atol=1e-12)
    joint = _log_joint(GAPS, params["weights"], params["locs"], sigma)
    assert value == pytest.approx(counts @ logsumexp(joint, axis=1), abs=1e-9)
    r = r * counts[:, None]
    size = r.sum(0)
    locs = np.einsum("nk,nkd->kd", r, means) / size[:, None]
    off = means - locs
    each = (np.einsum("nk,nkd,nke->kde", r, off, off) + np.einsum("nk,nkde->kde", r, covs)) / size[:, None, None]
    expected = {
        "full": lambda: each,
        "tied": lambda: np.broadcast_to(np.einsum("k,kde->de", size / size.sum(), each), each.shape),
        "diag": lambda: each * np.eye(3),
        "spherical": lambda: np.trace(each, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3),
    }[kind]()
    np.testing.assert_allclose(new["weights"], size / size.sum(), atol=1e-12)
    np.testing.assert_allclose(new["locs"], locs, atol=1e-11)
    np.testing.assert_allclose(_sigma(model, new), expected, atol=1e-11)


def test_gaps_against_direct_maximisation():
    """EM ends at a maximum of the observed likelihood: scipy, started beside it, comes back and climbs no higher."""
    model = GaussianMixture(2, regularization=0.0)
    run = pg.infer(model, GAPS, "em", progress=False, tolerance=1e-13, num_steps=3000, num_restarts=4)
    weights, locs, sigma = run.params["weights"], run.params["locs"], _sigma(model, run.params)
    joint = _log_joint(GAPS, weights, locs, sigma)
    np.testing.assert_allclose(run.log_prob(GAPS), logsumexp(joint, axis=1), atol=1e-9)
    lower = np.tril_indices(3)

    def parts(u):
        roots = np.zeros((2, 3, 3))
        roots[:, lower[0], lower[1]] = u[7:].reshape(2, 6)
        return np.array([u[0], 1 - u[0]]), u[1:7].reshape(2, 3), roots @ np.swapaxes(roots, 1, 2)

    top = np.concatenate([weights[:1], locs.ravel(), np.linalg.cholesky(sigma)[:, lower[0], lower[1]].ravel()])
    loss = lambda u: -logsumexp(_log_joint(GAPS, *parts(u)), axis=1).sum()
    beside = top + np.random.default_rng(2).normal(0, 0.02, len(top))
    found = optimize.minimize(loss, beside, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-5})
    assert loss(beside) > loss(top) + 0.05
    assert run.history["log_likelihood"][-1] == pytest.approx(-found.fun, abs=1e-5)
    np.testing.assert_allclose(found.x, top, atol=2e-2)


def test_rows_in_a_file_are_read_in_part(tmp_path):
    """Starts look at 20,000 rows, whatever the array holds."""

    class Counted(np.ndarray):
        rows = 0

        def __getitem__(self, index):
            found = super().__getitem__(index)
            Counted.rows += len(found)
            return np.asarray(found)

    x = np.random.default_rng(0).standard_normal((50_000, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    counted = np.load(tmp_path / "x.npy", mmap_mode="r").view(Counted)
    starts = GaussianMixture(3).starts({"x": counted}, 2, np.random.default_rng(0))
    assert Counted.rows == 20_000
    assert starts["locs"].shape == (2, 3, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the log likelihood fell")  # by its last digits, in float32
def test_float32_bears_far_and_narrow_clusters():
    """Clusters of width 0.05 at a distance of 1000 from the origin and 10 from each other: beside float64."""
    centres = np.array([[1000.0, 0.0], [1000.0, 10.0], [1010.0, 0.0]])
    x = (centres[np.arange(300) % 3] + 0.05 * np.random.default_rng(0).standard_normal((300, 2))).astype(np.float32)
    options = {"engine": "em", "progress": False, "num_restarts": 1, "num_steps": 20}
    coarse, fine = (pg.infer(GaussianMixture(3), x, precision=p, **options) for p in ("float32", "float64"))
    np.testing.assert_allclose(coarse.params["locs"], fine.params["locs"], atol=2e-4)  # the spacing of float32 there
    np.testing.assert_allclose(coarse.params["scales"], fine.params["scales"], rtol=0.02)
    assert coarse.log_prob(x).sum() == pytest.approx(fine.log_prob(x).sum(), abs=0.1)


# Mixtures of factor analysers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize("noise", NOISES)
def test_mixture_of_factor_analyzers_climbs_its_likelihood(noise, gaps, backend):
    """The value of each step is that of dense Gaussians, row by row, and never falls; both backends go the same way."""
    x, model = _simulated(n=60, d=4, gaps=gaps), _mfa(2, 1, noise)
    counts = np.random.default_rng(4).random(60)
    params, values = _start(model, x), []
    with pg.on(backend) as room:
        for _ in range(6):
            exact = logsumexp(_log_joint(x, params["weights"], params["locs"], _sigma(model, params)), axis=1)
            params, value = _one_step(room, model, params, x, counts)
            assert value == pytest.approx(counts @ exact, abs=1e-9)
            values.append(value)
    assert (np.diff(values) > 0).all()
    _same_on_both(("mfa", noise, gaps), params)


_found: dict = {}


def _same_on_both(case, params):
    """Params that the first backend to come leaves, and the second is held to."""
    for name, value in _found.setdefault(case, params).items():
        np.testing.assert_allclose(params[name], value, rtol=1e-9, atol=1e-9)


_NAMES = {"locs": "loc", "loadings": "loadings", "scales": "scales"}


@pytest.mark.slow
def test_one_component_is_the_plain_model():
    x = _simulated(n=120, d=5)
    options = {"tolerance": 1e-13, "num_steps": 3000, "num_restarts": 1}
    run = pg.infer(_mfa(1, 2, "isotropic"), x, "em", progress=False, **options)
    exact = ProbabilisticPCA(2).closed_form({"x": x})
    np.testing.assert_allclose(run.params["locs"][0], exact["loc"], atol=1e-9)
    np.testing.assert_allclose(run.params["scales"][0], exact["scale"], atol=1e-6)
    own, w = run.params["loadings"][0], exact["loadings"]
    np.testing.assert_allclose(own @ own.T, w @ w.T, atol=1e-5)
    mixture, plain = _mfa(1, 1, min_noise=1e-6), FactorAnalysis(1)
    start = _start(plain, x)
    both = {"weights": np.ones(1), **{n: start[o][None] for n, o in _NAMES.items()}}
    with pg.on("numpyro") as room:
        for _ in range(5):
            start, value = _one_step(room, plain, start, x)
            both, other = _one_step(room, mixture, both, x)
            assert other == pytest.approx(value, abs=1e-9)
    for name, plainly in _NAMES.items():
        np.testing.assert_allclose(both[name][0], start[plainly], atol=1e-9)


def test_mixture_of_factor_analyzers_with_all_factors_is_the_full_mixture():
    """q = D - 1 factors and free noise make any covariance: the same maximum from the same clusters."""
    x = np.concatenate([_simulated(n=100, d=3), _simulated(n=100, d=3, seed=1) + 8.0])
    options = {"engine": "em", "progress": False, "tolerance": 1e-12, "num_steps": 5000, "num_restarts": 1}
    run = pg.infer(_mfa(2, 2, min_noise=1e-6), x, **options)
    full = pg.infer(GaussianMixture(2, regularization=0.0), x, **options)
    assert run.log_prob(x).sum() == pytest.approx(full.log_prob(x).sum(), abs=1e-4)
    np.testing.assert_allclose(run.latent(x)["z"], full.latent(x)["z"], atol=1e-3)


# Bad input: a result or a clear error, never NaN -------------------------------------------------------------------


def _hard(kind):
    x = _simulated(n=24, d=3)
    if kind == "constant column":
        x[:, 1] = 5.0
    elif kind == "all constant":
        x[:] = 1.0
    elif kind == "duplicated points":
        x = np.repeat(x[:3], 8, 0)
    elif kind == "singular":
        x[:, 2] = x[:, 0] - x[:, 1]
    elif kind == "as many rows as components":
        x = x[:4]
    elif kind == "rows without entries":
        x[[3, 7]] = np.nan
    elif kind == "one entry a row":
        x[:] = np.where(np.arange(3) == (np.arange(24) % 3)[:, None], x, np.nan)
    elif kind == "an empty cluster":
        x = np.concatenate([x[:1] + 1e6, np.repeat(x[:1], 23, 0)])
    elif kind == "wide ranges":
        x = x * [1e-6, 1.0, 1e6]
    return x


MODELS = [*(GaussianMixture(4, k) for k in KINDS), *(_mfa(4, 1, n) for n in NOISES)]
HARD = (
    "constant column", "all constant", "duplicated points", "singular", "as many rows as components",
    "rows without entries", "one entry a row", "an empty cluster", "wide ranges",
)  # fmt: skip


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_hard_data_end_in_numbers(model, kind, precision):
    x = _hard(kind)
    with pg.on("numpyro", precision=precision) as room:
        params = _start(model, x)
        for _ in range(15):
            params, value = _one_step(room, model, params, x)
            assert np.isfinite(value)
    for value in params.values():
        assert np.isfinite(value).all()
    assert (params["scales"] > 0).all()


def test_clear_errors():
    x = _simulated(n=12)
    gone, rng = np.where([0, 1, 0], np.nan, x), np.random.default_rng(0)
    for model, few in [(GaussianMixture(13), GaussianMixture(2)), (_mfa(13, 1), _mfa(2, 1))]:
        with pytest.raises(ValueError, match="13 components need at least as many rows, got 12"):
            model.starts({"x": x}, 1, rng)
        with pytest.raises(ValueError, match=r"columns \[1\] of x have no entry"):
            few.starts({"x": gone}, 1, rng)
    with pytest.raises(ValueError, match="noise must be one of 'diag', 'tied', 'isotropic'"):
        _mfa(2, 1, "full")
    with pytest.raises(ValueError, match="latent_dim 3 must be below the 3 features"):
        pg.infer(_mfa(2, 3), x, "em", progress=False)
