"""A program bound to the same shapes is compiled once per process; data are arguments, never constants."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import backends, dist, xp

V = np.concatenate([np.random.default_rng(0).normal(-2, 0.5, 12), np.random.default_rng(1).normal(2, 0.5, 12)])
TABLE = np.stack([V, np.random.default_rng(2).normal(size=V.size)], 1)
CHAINS = {"num_warmup": 100, "num_samples": 100, "num_chains": 2}


def schools(sigma, y=None):
    mu = pg.sample("mu", dist.Normal(0.0, 5.0))
    tau = pg.sample("tau", dist.HalfCauchy(5.0))
    with pg.plate("school", len(sigma)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        theta = pg.deterministic("theta", mu + tau * z)
        pg.sample("y", dist.Normal(theta, sigma), obs=y)


def mixture(x):
    weights = pg.sample("weights", dist.Dirichlet(xp.ones((2,))))
    locs = pg.sample("locs", dist.Normal(xp.zeros((2,)), 3.0).to_event(1))
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Categorical(probs=weights))
        pg.sample("x", dist.Normal(locs[z], 1.0), obs=x)


def autoregression(y):
    phi = pg.sample("phi", dist.Normal(0.0, 1.0))
    scale = pg.sample("scale", dist.HalfNormal(1.0))
    _, mean = xp.scan(lambda before, now: (now, phi * before), xp.zeros(()), y)
    pg.sample("y", dist.Normal(mean, scale).to_event(1), obs=y)


def normal(y):
    loc = pg.sample("loc", dist.Normal(0.0, 100.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(loc, 1.0), obs=y)


def normal_guide(y):
    m = pg.param("m", 0.0)
    pg.sample("loc", dist.Normal(m, pg.param("s", 1.0, constraint=dist.constraints.positive)))


def schools_data(shift):
    return {"sigma": np.full(8, 10.0) + shift, "y": np.arange(8.0) - shift}


CASES = {
    "nuts": (schools, schools_data, {**CHAINS, "engine": "nuts"}),
    "mala": (schools, schools_data, {**CHAINS, "engine": "mala"}),
    "ula": (schools, schools_data, {**CHAINS, "engine": "ula", "preconditioner": "dense"}),
    "map": (schools, schools_data, {"engine": "map", "num_steps": 100}),
    "em": (mixture, lambda shift: V + shift, {"engine": "em", "num_steps": 20}),
    "closed em": (pg.models.GaussianMixture(2), lambda shift: TABLE + shift, {"engine": "em", "num_steps": 40}),
    "svi": (schools, schools_data, {"engine": "svi", "num_steps": 100, "num_samples": 50}),
    "svi on a mixture": (mixture, lambda shift: V + shift, {"engine": "svi", "num_steps": 100, "num_samples": 50}),
    "svi by hand": (normal, lambda s: V + s, {"engine": "svi", "guide": normal_guide, "num_steps": 100}),
    "laplace": (normal, lambda s: V + s, {"engine": "svi", "guide": "laplace", "num_samples": 50}),
    "scan": (autoregression, lambda shift: V + shift, {**CHAINS, "engine": "nuts"}),
    "map of a scan": (autoregression, lambda shift: V + shift, {"engine": "map", "num_steps": 50}),
}


def ask(run, seed):
    """Everything that can be asked of a run, the way its user asks."""
    return run.idata, run.predict(seed=seed), run.sample(3, seed=seed), run.log_prob(run.data)


def infer(name, backend, shift=0.0, seed=0):
    program, data, options = CASES[name]
    return pg.infer(program, data(shift), backend=backend, seed=seed, progress=False, **options)


def quiet(f):
    return pytest.mark.filterwarnings("ignore::RuntimeWarning")(f)


@quiet
@pytest.mark.parametrize("name", CASES)
def test_numpyro_compiles_once(name):
    compilations = backends.get("numpyro").compilations
    ask(infer(name, "numpyro"), 0)
    before = compilations()
    assert before > 0
    infer(name, "numpyro")
    assert compilations() == before, "the same again"
    other = infer(name, "numpyro", shift=0.3, seed=7)
    assert compilations() == before, "other data of the same shapes, another seed"
    ask(other, 5)
    assert compilations() == before, "questions to the run"


@quiet
def test_another_shape_is_compiled():
    compilations = backends.get("numpyro").compilations
    pg.infer(normal, V, "map", progress=False)
    before = compilations()
    pg.infer(normal, V[:-1], "map", progress=False)
    assert compilations() > before


@quiet
@pytest.mark.parametrize("name", ["nuts", "mala", "map", "em", "closed em", "svi", "svi by hand", "scan", "laplace"])
def test_pyro_makes_each_graph_once(name, monkeypatch):
    compilations = backends.get("pyro").compilations
    small = {"num_warmup": 10, "num_samples": 20, "num_chains": 2}
    program, data, options = CASES[name]
    shorter = {k: min(v, small.get(k, 30)) if isinstance(v, int) else v for k, v in options.items()}
    monkeypatch.setitem(CASES, name, (program, data, shorter))
    _ = infer(name, "pyro").idata
    before = compilations()
    assert before > 0
    _ = infer(name, "pyro", shift=0.3, seed=7).idata
    assert compilations() == before


@quiet
@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("nuts", {"num_warmup": 100, "num_samples": 100, "num_chains": 1}),
        ("mala", {"num_warmup": 200, "num_samples": 400, "num_chains": 2}),
        ("map", {}),
        ("svi", {"num_steps": 600, "learning_rate": 0.1, "num_samples": 200}),
        ("svi", {"guide": "laplace", "num_samples": 200}),
    ],
)
def test_new_data_give_a_new_answer(backend, engine, options):
    """The posterior of a normal mean, whose prior is wide, follows the data."""
    for y in (V, V + 8.0):
        run = pg.infer(normal, y, engine, backend=backend, progress=False, **options)
        assert abs(run.posterior["loc"].mean() - y.mean()) < 0.35
        assert np.array_equal(run.observed["y"], y)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_new_data_give_a_new_mixture(backend):
    for shift in (0.0, 30.0):
        run = pg.infer(pg.models.GaussianMixture(2), TABLE + shift, "em", backend=backend, progress=False)
        expected = np.stack([TABLE[:12].mean(0), TABLE[12:].mean(0)]) + shift
        assert np.allclose(run.params["locs"], expected, atol=0.05)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_numbers_that_are_no_arrays_are_part_of_the_program(backend):
    """A number handed in is not traced: another one is another program."""

    def scaled(y, width):
        loc = pg.sample("loc", dist.Normal(0.0, 100.0))
        with pg.plate("row", len(y)):
            pg.sample("y", dist.Normal(loc * width, 1.0), obs=y)

    for width in (1.0, 2.0, 1.0):
        run = pg.infer(scaled, {"y": V + 8.0, "width": width}, "map", backend=backend, progress=False)
        assert np.allclose(run.params["loc"] * width, (V + 8.0).mean(), rtol=1e-3)
