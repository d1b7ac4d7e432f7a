"""Hidden Markov models against hmmlearn, the sum over all paths, SciPy's densities, and their own laws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import ppl_gen as pg
from ppl_gen import backends
from ppl_gen.checks import ProgramError
from ppl_gen.missing import split
from ppl_gen.models import HiddenMarkov, hidden_markov
from ppl_gen.program import DataError

BACKENDS = ("numpyro", "pyro")
K = 3
START = {
    "initial_probs": np.array([0.5, 0.3, 0.2]),
    "transition_probs": np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]),
    "locs": np.array([[-1.5, 1.5], [0.2, 0.1], [2.5, 0.8]]),
}
VARIANCES = np.array([[1.0, 2.0], [1.5, 1.0], [0.8, 1.2]])
_centres = np.repeat([[0.0, 0.0], [3.0, 1.0], [-2.0, 2.0]], [15, 15, 10], axis=0)
SERIES = np.round(np.random.default_rng(7).normal(size=(40, 2)) + _centres, 2)
LENGTHS = np.array([25, 15])
PADDED = np.stack([SERIES[:25], np.concatenate([SERIES[25:], np.full((10, 2), 50.0)])])


@pytest.fixture(params=BACKENDS)
def room(request):
    with backends.get(request.param).scope() as active:
        yield active


def gaussians(kind):
    """Starting parameters with variances, or covariances with 0.2 (0.3 where they are tied) off their diagonals."""
    if kind == "diag":
        return {**START, "scales": np.sqrt(VARIANCES)}
    if kind == "spherical":
        return {**START, "scales": np.sqrt(VARIANCES[:, 0])}
    off = 1.0 - np.eye(2)
    diagonal = np.diag(VARIANCES.mean(0)) + 0.3 * off if kind == "tied" else np.stack([np.diag(v) for v in VARIANCES])
    tril = np.linalg.cholesky(diagonal if kind == "tied" else diagonal + 0.2 * off)
    scales = np.sqrt((tril**2).sum(-1))
    return {**START, "scales": scales, "correlation": tril / scales[..., None]}


def covariance(params):
    tril = params["scales"][..., None] * params["correlation"]
    return tril @ np.swapaxes(tril, -1, -2)


def iterate(room, model, params, data, num_steps, weights=None):
    """The history of so many EM iterations, and the parameters after them."""
    data = {name: on_device(room, x) for name, x in data.items()}
    weights = None if weights is None else room.asarray(weights)
    params = {name: room.asarray(x) for name, x in params.items()}

    def step(params, data, weights):
        statistics, value = model.em_statistics(params, params, data, weights)
        return model.em_update(statistics, params), value

    history, step = [], room.compile(step)
    for _ in range(num_steps):
        params, value = step(params, data, weights)
        history.append(float(value))
    return np.array(history), room.to_numpy(params)


def on_device(room, x):
    """An array, or the pair of one with gaps."""
    return type(x)(*map(room.asarray, x)) if isinstance(x, tuple) else room.asarray(x)


def known(room, model, params, x):
    """Posterior of the states of x, and their best path."""
    both = room.compile(lambda p, x: (model.latent(p, {"x": x})["z"], model.viterbi(p, {"x": x})))
    return room.to_numpy(both({name: room.asarray(v) for name, v in params.items()}, on_device(room, x)))


# Another package ----------------------------------------------------------------------------------------------------

# Log likelihoods before each of six iterations by hmmlearn 0.3.3, without its priors, of SERIES as two sequences.
HMMLEARN = {
    "diag": [-128.4726711519, -111.4559210963, -108.2827586330, -108.1395105635, -108.1381775540, -108.1380764862],
    "full": [-128.9484638534, -107.3873935356, -104.5048300672, -104.3276040297, -104.2481448353, -104.1895831592],
    "tied": [-129.8635311607, -112.5574606569, -109.4428121780, -109.3593501510, -109.3590747105, -109.3590736955],
    "spherical": [-129.6711003096, -111.0583895983, -109.2519338449, -109.2108948581, -109.2107629178, -109.2107607419],
}


@pytest.mark.parametrize("kind", HMMLEARN)
def test_iterations_are_hmmlearns(kind, room):
    model = HiddenMarkov(K, covariance_type=kind, regularization=0.0)
    history, _ = iterate(room, model, gaussians(kind), {"x": PADDED, "lengths": LENGTHS}, 6)
    np.testing.assert_allclose(history, HMMLEARN[kind], rtol=0, atol=1e-9)


def test_smoothing_and_the_best_path_are_hmmlearns(room):
    """Of the whole of SERIES at the start, with diagonal covariances; hmmlearn 0.3.3."""
    model = HiddenMarkov(K, covariance_type="diag")
    z, path = known(room, model, gaussians("diag"), SERIES)
    expected = [[0.0575545443, 0.940282425, 0.00216303048], [0.0219366111, 0.977903222, 0.000160167160]]
    np.testing.assert_allclose(z[:2], expected, rtol=1e-8)
    np.testing.assert_array_equal(path, np.repeat([1, 2, 0], [15, 15, 10]))


# All paths, and SciPy's densities -----------------------------------------------------------------------------------


def all_paths(params, density):
    """Log marginal, posterior (T, K) and the best path, of log densities (T, K)."""
    z = np.array(list(itertools.product(range(density.shape[1]), repeat=len(density))))
    links = np.log(params["transition_probs"])[z[:, :-1], z[:, 1:]].sum(1)
    weight = np.log(params["initial_probs"])[z[:, 0]] + links + density[np.arange(len(density)), z].sum(1)
    posterior = np.exp(weight - logsumexp(weight))
    return logsumexp(weight), np.einsum("p,ptk->tk", posterior, np.eye(density.shape[1])[z]), z[weight.argmax()]


def _mixture():
    rng = np.random.default_rng(2)
    return {
        "initial_probs": START["initial_probs"],
        "transition_probs": START["transition_probs"],
        "weights": rng.dirichlet([2.0, 2.0], K),
        "locs": 2.0 * rng.normal(size=(K, 2, 2)),
        "scales": rng.uniform(0.5, 2.0, (K, 2, 2)),
    }


def _of_mixture(x, p):
    parts = stats.norm.logpdf(x[:, None, None], p["locs"], p["scales"]).sum(-1) + np.log(p["weights"])
    return logsumexp(parts, axis=-1)


def _of_full(x, p):
    """What was observed of each step under each state's marginal."""
    found = np.zeros((len(x), K))
    for t, k in itertools.product(range(len(x)), range(K)):
        seen = ~np.isnan(x[t])
        if seen.any():
            normal = stats.multivariate_normal(p["locs"][k][seen], covariance(p)[k][np.ix_(seen, seen)])
            found[t, k] = normal.logpdf(x[t][seen])
    return found


PROBS = np.random.default_rng(4).dirichlet(np.ones(4), K)
GAPS = SERIES[:6].copy()
GAPS[[0, 2, 2, 5], [1, 0, 1, 0]] = np.nan
CASES = {  # model, parameters, data, log densities (T, K)
    "full": (HiddenMarkov(K), gaussians("full"), SERIES[:6], _of_full),
    "full, missing": (HiddenMarkov(K), gaussians("full"), GAPS, _of_full),
    "diagonal, missing": (
        HiddenMarkov(K, covariance_type="diag"),
        gaussians("diag"),
        GAPS,
        lambda x, p: np.nansum(stats.norm.logpdf(x[:, None], p["locs"], p["scales"]), -1),
    ),
    "mixture": (HiddenMarkov(K, "mixture", "diag", num_mixtures=2), _mixture(), SERIES[:6], _of_mixture),
    "categorical": (
        HiddenMarkov(K, "categorical", num_categories=4),
        {**{n: START[n] for n in ("initial_probs", "transition_probs")}, "probs": PROBS},
        np.array([0, 3, 1, 1, 2, 0]),
        lambda x, p: np.log(p["probs"][:, x].T),
    ),
    "one step": (HiddenMarkov(K), gaussians("full"), SERIES[:1], _of_full),
}


@pytest.mark.parametrize("case", CASES)
def test_posterior_and_best_path_are_those_of_all_paths(case, room):
    model, params, x, density = CASES[case]
    total, posterior, best = all_paths(params, density(x, params))
    data = split(x) if x.dtype.kind == "f" and np.isnan(x).any() else x
    z, path = known(room, model, params, data)
    np.testing.assert_allclose(z, posterior, atol=1e-10)
    np.testing.assert_array_equal(path, best)
    history, _ = iterate(room, model, params, {"x": data}, 1)
    assert history[0] == pytest.approx(total, abs=1e-10)


# Laws ---------------------------------------------------------------------------------------------------------------


def _blanked(x, share=0.3):
    return np.where(np.random.default_rng(5).random(x.shape) < share, np.nan, x)


CLIMBS = {
    "full, missing": (HiddenMarkov(2, regularization=0.0), {"x": split(_blanked(SERIES))}),
    "diagonal, missing": (HiddenMarkov(2, covariance_type="diag"), {"x": split(_blanked(SERIES))}),
    "mixture": (HiddenMarkov(2, "mixture", "full", num_mixtures=2), {"x": SERIES}),
    "categorical": (
        HiddenMarkov(2, "categorical", num_categories=3),
        {"x": np.random.default_rng(6).integers(3, size=(2, 25)), "lengths": LENGTHS},
    ),
}


@pytest.mark.parametrize("case", CLIMBS)
def test_em_climbs_alike_on_both_backends_to_where_nothing_moves(case):
    model, data = CLIMBS[case]
    host = {n: np.where(x.observed > 0, x.values, np.nan) if isinstance(x, tuple) else x for n, x in data.items()}
    start = {name: x[0] for name, x in model.starts(host, 1, np.random.default_rng(0)).items()}
    found = {}
    for name in BACKENDS:
        with backends.get(name).scope() as room:
            found[name] = iterate(room, model, start, data, 25)
    history, params = found["numpyro"]
    assert (np.diff(history) >= -1e-9).all()
    np.testing.assert_allclose(found["pyro"][0], history, rtol=1e-9)
    for site, value in params.items():
        np.testing.assert_allclose(found["pyro"][1][site], value, rtol=1e-6, atol=1e-9)


def test_a_gradient_vanishes_where_em_ends_with_missing_entries():
    """EM's fixed point is one of the observed likelihood: its derivative by the means, by autodiff, is 0."""
    room = backends.get("numpyro")
    model, data = CLIMBS["full, missing"]
    host = {"x": np.where(data["x"].observed > 0, data["x"].values, np.nan)}
    start = {name: x[0] for name, x in model.starts(host, 1, np.random.default_rng(0)).items()}
    with room.scope():
        _, params = iterate(room, model, start, data, 400)
        x, params = on_device(room, data["x"]), {name: room.asarray(value) for name, value in params.items()}

        def value(locs):
            here = {**params, "locs": locs}
            return hidden_markov._log_prob(model, here, here, x.values, {"observed": x.observed})

        gradient = room.to_numpy(room.compile(room.grad(value))(params["locs"]))
    assert np.abs(gradient).max() < 1e-5


def test_weights_count_sequences(room):
    """Twice the first sequence is its weight of 2."""
    model = HiddenMarkov(K, covariance_type="diag", regularization=0.0)
    twice = {"x": PADDED[[0, 0, 1]], "lengths": LENGTHS[[0, 0, 1]]}
    repeated = iterate(room, model, gaussians("diag"), twice, 3)
    weighted = iterate(
        room, model, gaussians("diag"), {"x": PADDED, "lengths": LENGTHS}, 3, weights=np.array([2.0, 1.0])
    )
    np.testing.assert_allclose(weighted[0], repeated[0], rtol=1e-12)
    for name, value in repeated[1].items():
        np.testing.assert_allclose(weighted[1][name], value, rtol=1e-10)


def test_blocks_of_long_sequences_are_the_sequences(room):
    """Two sequences of 1,500 steps, one of them cut short, in blocks of time: as the recursion over each."""
    rng = np.random.default_rng(8)
    x, lengths, params = rng.normal(size=(2, 1500, 2)) * 2, np.array([1500, 911]), gaussians("diag")
    history, _ = iterate(room, HiddenMarkov(K, covariance_type="diag"), params, {"x": x, "lengths": lengths}, 1)
    total = 0.0
    for series, length in zip(x, lengths, strict=True):
        density = stats.norm.logpdf(series[:length, None], params["locs"], params["scales"]).sum(-1)
        predicted = np.log(params["initial_probs"])
        for step in density:
            evidence = logsumexp(predicted + step)
            predicted = logsumexp((predicted + step - evidence)[:, None] + np.log(params["transition_probs"]), 0)
            total += evidence
    assert history[0] == pytest.approx(total, rel=1e-12)


# Through the engine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run(backend):
    model, data = HiddenMarkov(K, covariance_type="diag"), {"x": PADDED, "lengths": LENGTHS}
    run = pg.infer(model, data, "em", backend, progress=False, num_restarts=3, seed=1)
    assert run.history["log_likelihood"][-1] >= HMMLEARN["diag"][-1] - 1e-6
    assert run.log_prob_kind == "exact"
    assert run.log_prob(data).sum() == pytest.approx(run.history["log_likelihood"][-1], abs=1e-6)
    nans = np.where(np.arange(25)[:, None] < LENGTHS[:, None, None], PADDED, np.nan)
    np.testing.assert_allclose(run.log_prob(nans), run.log_prob(data), atol=1e-10)
    assert (np.diff(run.params["locs"][:, 0]) > 0).all()
    z = run.latent()["z"]
    assert z.shape == (2, 25, K)
    np.testing.assert_allclose(z.sum(-1), 1.0, atol=1e-12)
    assert run.sample(2, seed=0).shape == (2, 2, 25, 2)
    assert run.idata.observed_data["x"].shape == (2, 25, 2)
    assert run.idata.log_likelihood["x"].shape == (1, 1, 2)


def test_what_is_drawn_has_the_probabilities_of_the_model():
    """Shares of codes over 400 sequences of 50 steps, within five standard errors of a chain that forgets at once."""
    transition = np.array([[0.5, 0.5], [0.5, 0.5]])
    probs = np.array([[0.9, 0.1], [0.3, 0.7]])
    params = {"initial_probs": np.full(2, 0.5), "transition_probs": transition, "probs": probs}
    model = HiddenMarkov(2, "categorical", num_categories=2)
    for name in BACKENDS:
        with pg.on(name) as room:
            noise = room.asarray(np.random.default_rng(1).normal(size=(400, 50, 2)))
            x = room.to_numpy(hidden_markov._generate(model, {n: room.asarray(v) for n, v in params.items()}, noise))
        share = 0.5 * 0.9 + 0.5 * 0.3
        assert abs((x == 0).mean() - share) < 5 * np.sqrt(share * (1 - share) / x.size)


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_states": 0}, "num_states"),
        ({"num_states": 2, "emission": "poisson"}, "emission must be one of"),
        ({"num_states": 2, "emission": "categorical"}, "num_categories"),
        ({"num_states": 2, "covariance_type": "round"}, "covariance_type"),
        ({"num_states": 2, "num_mixtures": -1}, "num_mixtures"),
        ({"num_states": 2, "regularization": -1.0}, "regularization"),
    ],
)
def test_settings_that_make_no_model(options, message):
    with pytest.raises(ValueError, match=message):
        HiddenMarkov(**options)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (HiddenMarkov(2), {"x": SERIES[:, 0]}, r"x\[:, None\]"),
        (HiddenMarkov(2), {"x": SERIES[:1]}, "at least as many rows"),
        (HiddenMarkov(2, "mixture", num_mixtures=30), {"x": SERIES}, "as many rows"),
        (HiddenMarkov(2), {"x": PADDED, "lengths": np.array([25, 26])}, "lengths must be one whole number"),
        (HiddenMarkov(2), {"x": PADDED, "lengths": np.array([25])}, "lengths"),
        (HiddenMarkov(2), {"x": np.where([True, False], SERIES, np.nan)}, "no entry"),
        (HiddenMarkov(2, "categorical", num_categories=2), {"x": np.array([0, 1, 2])}, "codes from 0 to 2"),
    ],
)
def test_data_that_are_no_sequences(model, data, message):
    with pytest.raises((ValueError, DataError), match=message):
        model.starts(data, 1, np.random.default_rng(0))


@pytest.mark.parametrize(
    "x",
    [np.ones((20, 2)), np.repeat(SERIES[:2], 10, axis=0), np.column_stack([SERIES[:20, 0], np.full(20, 3.0)])],
    ids=["constant", "two points", "constant column"],
)
def test_degenerate_data_give_a_result(x, room):
    model = HiddenMarkov(3)
    start = {name: v[0] for name, v in model.starts({"x": x}, 1, np.random.default_rng(0)).items()}
    history, params = iterate(room, model, start, {"x": x}, 10)
    assert np.isfinite(history).all()
    assert all(np.isfinite(v).all() for v in params.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:em stopped")
def test_lengths_are_looked_at_wherever_data_come_in(backend):
    model, good = HiddenMarkov(2, covariance_type="diag"), {"x": PADDED, "lengths": np.array([25, 20])}
    run = pg.infer(model, good, "em", backend, progress=False, num_steps=2, num_restarts=1)
    assert run.latent(good)["z"].shape == (2, 25, 2)
    for lengths in ([25, -1], [25, 26], [25.0, 3.5], [25], [25, 3, 3]):
        bad = {**good, "lengths": np.array(lengths)}
        for use in (run.latent, run.log_prob, lambda d: model.viterbi(run.params, d)):
            with pg.on(backend), pytest.raises((DataError, ProgramError), match="lengths must be one whole number"):
                use(bad)
