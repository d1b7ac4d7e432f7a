"""EM by rows of declared programs: one step on all rows is that of ``em``; stepwise ends near its end."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.inference.own_rows import by_rows
from ppl_gen.target import Target

BACKENDS = ["numpyro", "pyro"]
RNG = np.random.default_rng(8)
N = 400
Z = RNG.random(N) < 0.4
ROWS = {
    "x": np.where(Z[:, None], 2.0, -1.0) + RNG.normal(size=(N, 2)) * np.where(Z[:, None], 0.5, 1.5),
    "count": RNG.poisson(np.where(Z, 1.0, 6.0)),
}


@pg.program
def counts_and_features(x, count):
    """Two groups; features with scales of their own, spherical in one of two ways, and counts."""
    weight = pg.param("weight", 0.5, constraint=dist.constraints.unit_interval)
    locs = pg.param("locs", xp.array([[0.5, 1.0], [-0.5, 0.0]]))
    scale = pg.param("scale", xp.array([1.0, 1.5]), constraint=dist.constraints.positive)
    rate = pg.param("rate", xp.array([2.0, 3.0]), constraint=dist.constraints.positive)
    with pg.plate("row", len(x)):
        k = xp.astype(pg.sample("k", dist.Bernoulli(probs=weight)), int)
        pg.sample("x", dist.Normal(locs[k], scale[k][..., None]).to_event(1), obs=x)
        pg.sample("count", dist.Poisson(rate[k]), obs=count)


@pg.program
def one_covariance(x):
    weights = pg.param("weights", xp.array([0.3, 0.3, 0.4]), constraint=dist.constraints.simplex)
    locs = pg.param("locs", xp.array([[1.0, 1.0], [-1.0, 0.0], [2.5, 1.0]]))
    tril = pg.param("tril", xp.eye(2), constraint=dist.constraints.lower_cholesky)
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Categorical(probs=weights))
        pg.sample("x", dist.MultivariateNormal(locs[z], scale_tril=tril), obs=x)


@pg.program
def known_noise(x, noise):
    """Each row has a known noise beside one of two locations."""
    locs = pg.param("locs", xp.array([-0.5, 0.5]))
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Categorical(probs=xp.array([0.6, 0.4])))
        pg.sample("x", dist.Normal(locs[z], noise), obs=x)


CASES = {
    "counts": (counts_and_features, ROWS),
    "covariance": (one_covariance, {"x": ROWS["x"]}),
    "noise": (known_noise, {"x": ROWS["x"][:, 0], "noise": RNG.uniform(0.5, 1.5, N)}),
}
LONG = [pytest.param(*c, marks=pytest.mark.slow) for c in (("counts", "pyro"), ("covariance", "numpyro"))]
EACH = [("counts", "numpyro"), ("covariance", "pyro"), *(("noise", b) for b in BACKENDS), *LONG]


@pytest.mark.parametrize(("case", "backend"), EACH)
@pytest.mark.filterwarnings("ignore:em stopped")
def test_a_step_on_all_rows_is_that_of_em(case, backend):
    """Three steps from sums over two blocks, with moments about the first params, against three of em."""
    program, data = CASES[case]
    weights = RNG.integers(1, 4, N).astype(float)
    options = {"weights": weights, "num_restarts": 1, "tolerance": 0, "progress": False}
    with pg.on(backend) as room:
        bound = program.bind(data, room)
        model = by_rows(Target(bound), "stepwise").model
        at = {n: v[0] for n, v in model.starts(data, 1, np.random.default_rng(0)).items()}
        around = {n: room.asarray(v) for n, v in at.items()}
        params, values = dict(around), []
        for _ in range(3):
            total: dict = {}
            for rows in (slice(0, 150), slice(150, N)):
                arrays = {n: room.asarray(v[rows]) for n, v in data.items()}
                found, value = model.em_statistics(params, around, arrays, room.asarray(weights[rows]))
                total = {n: x + total.get(n, 0.0) for n, x in {**found, "value": value}.items()}
            values.append(float(total.pop("value")))
            params = model.em_update(total, around)
        params = room.to_numpy(params)
    run = pg.infer(program, data, "em", backend, init=at, num_steps=3, **options)
    np.testing.assert_allclose(values, run.history["log_likelihood"], rtol=1e-10)
    after = pg.infer(program, data, "em", backend, init=params, num_steps=1, **options)
    more = pg.infer(program, data, "em", backend, init=at, num_steps=4, **options)
    assert after.history["log_likelihood"][0] == pytest.approx(more.history["log_likelihood"][3], rel=1e-8)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
@pytest.mark.parametrize("stream", [False, True])
def test_stepwise_ends_near_the_maximum(backend, stream):
    """The share of a thousand rows' log likelihood that stepwise leaves is small beside what its noise explains."""
    rng = np.random.default_rng(1)

    def drawn(n):
        z = rng.random(n) < 0.4
        x = np.where(z[:, None], 2.0, -1.0) + rng.normal(size=(n, 2)) * np.where(z[:, None], 0.5, 1.5)
        return {"x": x, "count": rng.poisson(np.where(z, 1.0, 6.0))}

    data = drawn(4000)
    best = pg.infer(counts_and_features, data, "em", backend, num_restarts=1, progress=False)
    options = {"stream": (drawn(500) for _ in range(60))} if stream else {"batch_size": 500, "num_steps": 80}
    run = pg.infer(counts_and_features, data, "stepwise", backend, progress=False, **options)
    assert run.attrs["e_step"] == "enumeration" and run.attrs["m_step"] == "closed form"
    found = run.log_prob(data).sum()
    # the excess of an estimate from n rows is about params / 2 nats per n; here n is 500 / decay's memory at least
    assert best.history["log_likelihood"][-1] - 9 / 2 * 4000 / 500 < found
    assert found <= best.history["log_likelihood"][-1] + (9 if stream else 1e-6)


@pg.program
def gradient(x):
    slope = pg.param("slope", 0.5)
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Bernoulli(probs=0.5))
        pg.sample("x", dist.Normal(slope * xp.exp(slope) * z, 1.0), obs=x)


@pg.program
def shared(x):
    loc = pg.param("loc", xp.array([-1.0, 1.0]))
    kind = pg.sample("kind", dist.Bernoulli(probs=0.5))
    with pg.plate("row", len(x)):
        z = xp.astype(pg.sample("z", dist.Bernoulli(probs=0.3 + 0.4 * kind)), int)
        pg.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@pg.program
def one_mean(x):
    """A location that two scales share."""
    loc = pg.param("loc", 0.0)
    scale = pg.param("scale", xp.array([0.5, 2.0]), constraint=dist.constraints.positive)
    with pg.plate("row", len(x)):
        z = xp.astype(pg.sample("z", dist.Bernoulli(probs=0.5)), int)
        pg.sample("x", dist.Normal(loc, scale[z]), obs=x)


@pg.program
def fixed_number(x):
    loc = pg.param("loc", xp.array([-1.0, 1.0]))
    with pg.plate("row", 600):
        z = xp.astype(pg.sample("z", dist.Bernoulli(probs=0.5)), int)
        pg.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("program", "says"),
    [
        (gradient, "no closed M-step of 'slope'"),
        (shared, "0 plates that hold all"),
        (one_mean, "one 'loc' for several values of 'scale'"),
        (fixed_number, "does not run on its first rows"),
    ],
)
def test_refusals(program, says, backend):
    x = np.resize(ROWS["x"][:, 0], 600)
    with pytest.raises(pg.UnsupportedError, match=says):
        pg.infer(program, x, "stepwise", backend, progress=False)


@pg.program
def square(x, sd):
    loc = pg.param("loc", xp.array([-1.0, 1.0]))
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Categorical(probs=xp.array([0.4, 0.6])))
        pg.sample("x", dist.Normal(loc[z][..., None] + xp.zeros(x.shape[1]), sd).to_event(1), obs=x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_argument_as_long_as_the_rows_is_named(backend):
    with pytest.raises(pg.UnsupportedError, match="'x', 'sd' are taken to hold"):
        pg.infer(square, {"x": ROWS["x"][:20].reshape(-1)[:36].reshape(6, 6), "sd": np.ones(6)}, "stepwise", backend)
    with pytest.raises(pg.UnsupportedError, match="1 rows alone"):
        pg.infer(known_noise, {"x": np.ones(1), "noise": np.ones(1)}, "stepwise", backend)
