"""A user's own programs: em ends where direct maximisation does; closed M-steps are found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special, stats

import ppl_gen as pg
from ppl_gen import dist, xp

BACKENDS = ["numpyro", "pyro"]
RNG = np.random.default_rng(11)
COUNTS = np.where(RNG.random(300) < 0.3, 0, RNG.poisson(np.where(RNG.random(300) < 0.5, 2.0, 9.0)))
T = RNG.uniform(-2, 2, 200)
LINES = np.where(RNG.random(200) < 0.4, 2 * T + 1 + 0.3 * RNG.normal(size=200), -T + 0.6 * RNG.normal(size=200))
TIMES = np.array([0.0, 0.5, 1.0, 2.0, 4.0])
DECAYS = RNG.normal(1.0, 0.7, (120, 1)) * np.exp(-0.6 * TIMES) + RNG.normal(size=(120, 5)) * [0.2, 0.2, 0.2, 0.5, 0.5]


@pg.program
def zero_inflated_mixture(y):
    """Zeros of their own, and two kinds of counts."""
    weights = pg.sample("weights", dist.Dirichlet(xp.ones(3)))
    rates = pg.sample("rates", dist.Gamma(2.0, 0.5).expand([2]).to_event(1))
    with pg.plate("row", len(y)):
        k = pg.sample("k", dist.Categorical(probs=weights))
        pg.sample("y", dist.Poisson(xp.concatenate([xp.array([1e-12]), rates])[k]), obs=y)


def _counts(v):
    log_weights = np.array([0.0, *v[:2]]) - special.logsumexp([0.0, *v[:2]])
    terms = stats.poisson.logpmf(COUNTS[:, None], [1e-12, *np.exp(v[2:])])
    return special.logsumexp(log_weights + terms, axis=1).sum()


@pg.program
def two_regressions(t, y):
    weight = pg.param("weight", 0.5, constraint=dist.constraints.unit_interval)
    slope, intercept = pg.param("slope", xp.array([1.0, -0.5])), pg.param("intercept", xp.array([0.5, 0.0]))
    scale = pg.param("scale", xp.ones(2), constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        k = xp.astype(pg.sample("k", dist.Bernoulli(probs=weight)), int)
        pg.sample("y", dist.Normal(intercept[k] + slope[k] * t, scale[k]), obs=y)


def _lines(v):
    terms = stats.norm.logpdf(LINES[:, None], v[3:5] + v[1:3] * T[:, None], np.exp(v[5:7]))
    return special.logsumexp(np.array([special.log_expit(-v[0]), special.log_expit(v[0])]) + terms, axis=1).sum()


@pg.program
def shared_decay(times, y):
    """Each row is a curve a exp(-r t) with its own Gaussian a, early and late noise apart."""
    rate = pg.param("rate", 1.0, constraint=dist.constraints.positive)
    mean, spread = pg.param("mean", 0.0), pg.param("spread", 1.0, constraint=dist.constraints.positive)
    noise = pg.param("noise", xp.array([0.5, 0.5]), constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        a = pg.sample("a", dist.Normal(mean, spread))
        curve = a[..., None] * xp.exp(-rate * times)
        pg.sample("y", dist.Normal(curve, xp.where(times > 1.5, noise[1], noise[0])).to_event(1), obs=y)


def _decays(v):
    w, sd = np.exp(-np.exp(v[0]) * TIMES), np.exp(np.where(TIMES > 1.5, v[4], v[3]))
    cov = np.exp(2 * v[2]) * np.outer(w, w) + np.diag(sd**2)
    return stats.multivariate_normal.logpdf(DECAYS, v[1] * w, cov).sum()


CASES = {
    "counts": (zero_inflated_mixture, COUNTS, _counts, [0.0, 0, 0.5, 2], "closed form of weights"),
    "lines": (two_regressions, {"t": T, "y": LINES}, _lines, [0, 1, -0.5, 0.5, 0, 0, 0], "closed form of weight, s"),
    "decays": (shared_decay, {"times": TIMES, "y": DECAYS}, _decays, [0, 0, 0, -1, -1], "closed form of mean, spread"),
}
LONG = [pytest.param(case, "pyro", marks=pytest.mark.slow) for case in ("counts", "decays")]
EACH = [*((case, "numpyro") for case in CASES), ("lines", "pyro"), *LONG]


@pytest.mark.parametrize(("case", "backend"), EACH)
def test_em_ends_where_direct_maximisation_does(case, backend):
    program, data, log_likelihood, start, m_step = CASES[case]
    exact = optimize.minimize(lambda v: -log_likelihood(np.asarray(v)), start, method="BFGS", options={"gtol": 1e-6})
    run = pg.infer(program, data, engine="em", backend=backend, num_restarts=3, tolerance=1e-12, progress=False)
    history = run.history["log_likelihood"]
    assert history[-1] == pytest.approx(-exact.fun, abs=1e-3)
    assert (np.diff(history) > -1e-9 * np.abs(history[-1])).all()
    assert run.attrs["m_step"].startswith(m_step)


@pg.program
def every_family(counts, shares, waits, flags, tries, sizes):
    """Two classes of rows, seen through sites of six families."""
    weights = pg.sample("weights", dist.Dirichlet(xp.ones(2)))
    rate = pg.sample("rate", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    mix = pg.sample("mix", dist.Dirichlet(xp.ones((2, 3))).to_event(1))
    pace = pg.sample("pace", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    chance = pg.sample("chance", dist.Beta(2.0, 2.0).expand([2, 2]).to_event(2))
    hit = pg.sample("hit", dist.Beta(2.0, 2.0))
    middle = pg.param("middle", xp.array([0.0, 1.0]))
    width = pg.param("width", 1.0, constraint=dist.constraints.positive)
    with pg.plate("row", len(counts)):
        k = pg.sample("k", dist.Categorical(probs=weights))
        pg.sample("counts", dist.Poisson(rate[k]), obs=counts)
        pg.sample("shares", dist.Multinomial(probs=mix[k], total_count=5), obs=shares)
        pg.sample("waits", dist.Exponential(pace[k]), obs=waits)
        pg.sample("flags", dist.Bernoulli(probs=chance[k]).to_event(1), obs=flags)
        pg.sample("tries", dist.Geometric(probs=hit), obs=tries)
        pg.sample("sizes", dist.LogNormal(middle[k], width), obs=sizes)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_closed_m_steps_by_family(backend):
    """One E- and M-step from given params against the weighted averages written out."""
    rng, n = np.random.default_rng(0), 50
    shares = rng.multinomial(5, [0.2, 0.3, 0.5], n)
    data = {
        "counts": rng.poisson(3, n), "shares": shares, "waits": rng.exponential(2.0, n),
        "flags": rng.integers(0, 2, (n, 2)).astype(float), "tries": rng.geometric(0.4, n) - 1,
        "sizes": rng.lognormal(0.5, 0.7, n),
    }  # fmt: skip
    init = {
        "weights": [0.4, 0.6], "rate": [2.0, 4.0], "mix": [[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]], "pace": [0.4, 0.7],
        "chance": [[0.3, 0.6], [0.7, 0.5]], "hit": 0.5, "middle": [0.2, 0.9], "width": 0.8,
    }  # fmt: skip
    with pytest.warns(RuntimeWarning, match="converged"):
        run = pg.infer(
            every_family, data, engine="em", backend=backend, init=init, num_steps=1, num_restarts=1, progress=False
        )
    assert run.attrs["m_step"] == "closed form"
    i = {name: np.asarray(v) for name, v in init.items()}
    joint = np.log(i["weights"]) + stats.poisson.logpmf(data["counts"][:, None], i["rate"])
    joint = joint + np.stack([stats.multinomial.logpmf(shares, 5, p) for p in i["mix"]], axis=1)
    joint = joint + stats.expon.logpdf(data["waits"][:, None], scale=1 / i["pace"])
    joint = joint + stats.bernoulli.logpmf(data["flags"][:, None, :].astype(int), i["chance"]).sum(-1)
    joint = joint + stats.lognorm.logpdf(data["sizes"][:, None], i["width"], scale=np.exp(i["middle"]))
    r = np.exp(joint - special.logsumexp(joint, axis=1, keepdims=True))
    size, logs = r.sum(0), np.log(data["sizes"])
    middle = r.T @ logs / size
    expected = {
        "weights": size / n,
        "rate": r.T @ data["counts"] / size,
        "mix": r.T @ shares / (5 * size[:, None]),
        "pace": size / (r.T @ data["waits"]),
        "chance": r.T @ data["flags"] / size[:, None],
        "hit": n / (n + data["tries"].sum()),
        "middle": middle,
        "width": np.sqrt((r * (logs[:, None] - middle) ** 2).sum() / n),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(run.params[name], value, rtol=1e-9, err_msg=name)


RARE = np.concatenate([np.random.default_rng(4).poisson(0.3, 180), np.random.default_rng(5).poisson(9.0, 20)])


def _two_rates(constraint):
    @pg.program
    def model(y):
        weight = pg.param("weight", 0.5, constraint=dist.constraints.unit_interval)
        rate = pg.param("rate", xp.array([1.0, 4.0]), constraint=constraint())
        with pg.plate("row", len(y)):
            k = xp.astype(pg.sample("k", dist.Bernoulli(probs=weight)), int)
            pg.sample("y", dist.Poisson(rate[k]), obs=y)

    return model


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bound_on_a_parameter_is_kept(backend):
    """The bound binds at the optimum only; SciPy climbs the same likelihood within the same box."""

    def loss(v):
        terms = np.log([1 - v[0], v[0]]) + stats.poisson.logpmf(RARE[:, None], v[1:])
        return -special.logsumexp(terms, axis=1).sum()

    box = [(1e-6, 1 - 1e-6), (1e-6, 5.0), (1e-6, 5.0)]
    exact = optimize.minimize(loss, [0.3, 1.0, 4.0], bounds=box, method="L-BFGS-B", options={"ftol": 1e-14})
    assert exact.x[2] == 5.0
    model = _two_rates(lambda: dist.constraints.interval(0.0, 5.0))
    run = pg.infer(model, RARE, engine="em", backend=backend, num_restarts=1, num_steps=300, progress=False)
    assert run.params["rate"].max() <= 5.0
    assert run.history["log_likelihood"][-1] == pytest.approx(-exact.fun, abs=1e-2)
    assert "closed form of weight" in run.attrs["m_step"] and "gradient of rate" in run.attrs["m_step"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rate_of_what_was_never_seen(backend):
    """Nothing but zeros in one class: the maximum lies on the edge, where a closed M-step gets, inside the support."""
    y = np.concatenate([np.zeros(30), 20.0 + np.arange(10)])
    model = _two_rates(lambda: dist.constraints.positive)
    run = pg.infer(model, y, engine="em", backend=backend, num_restarts=1, progress=False)
    assert run.attrs["m_step"] == "closed form" and 0 < run.params["rate"].min() < 1e-6
    exact = 30 * np.log(0.75) + 10 * np.log(0.25) + stats.poisson.logpmf(y[30:], y[30:].mean()).sum()
    assert run.log_prob(y).sum() == pytest.approx(exact, abs=1e-6)


# Where runs end ----------------------------------------------------------------------------------------------------

COLLAPSING = np.concatenate([np.zeros(30), 3.0 + np.random.default_rng(0).standard_normal(30)])


@pg.program
def two_normals(y):
    weight = pg.param("weight", 0.5, constraint=dist.constraints.unit_interval)
    loc = pg.param("loc", xp.array([0.0, 3.0]))
    scale = pg.param("scale", xp.ones(2), constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        k = xp.astype(pg.sample("k", dist.Bernoulli(probs=weight)), int)
        pg.sample("y", dist.Normal(loc[k], scale[k]), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_steps", [3, 4, 1000])
def test_restarts_that_break_down_are_told(num_steps, backend):
    """Thirty equal rows: the likelihood of two normals has no upper bound, and some starts run into it."""
    with pytest.warns(RuntimeWarning, match="of 8 restarts broke down"):
        run = pg.infer(two_normals, COLLAPSING, engine="em", backend=backend, num_steps=num_steps, progress=False)
    p = run.params
    assert (p["scale"] > 0).all() and all(np.isfinite(v).all() for v in p.values())
    terms = np.log([1 - p["weight"], p["weight"]]) + stats.norm.logpdf(COLLAPSING[:, None], p["loc"], p["scale"])
    exact = special.logsumexp(terms, axis=1).sum()
    assert np.isfinite(exact) and run.log_prob(COLLAPSING).sum() == pytest.approx(exact, rel=1e-9)


def test_all_restarts_broken_down_is_an_error():
    with pytest.raises(ValueError, match="no finite log likelihood"):
        pg.infer(two_normals, COLLAPSING, engine="em", backend="pyro", num_restarts=1, progress=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block_rows", [65536, 50])
def test_a_run_ends_at_its_first_settled_iteration(block_rows, backend):
    """The one before gained more than the tolerance, and the last entry is the log likelihood of what is returned."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(200, 2)) + 2.0 * rng.integers(0, 2, (200, 1))
    run = pg.infer(
        pg.models.GaussianMixture(2), x, engine="em", backend=backend, tolerance=1e-4, num_restarts=3,
        block_rows=block_rows, progress=False,
    )  # fmt: skip
    history = run.history["log_likelihood"]
    gains = np.diff(history) / np.abs(history[1:])
    assert gains[-1] <= 1e-4 < gains[:-1].min() and len(history) < 100
    assert run.log_prob(x).sum() == pytest.approx(history[-1], abs=1e-8)
