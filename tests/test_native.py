"""Unchanged Pyro and NumPyro functions go through the engines of their backend as their portable twins do."""

from __future__ import annotations

import functools

import numpy as np
import numpyro
import numpyro.distributions as nd
import pyro
import pyro.distributions as pd
import pytest
import torch

import ppl_gen as pg
from ppl_gen import backends, dist, xp
from ppl_gen.evaluation import ess
from ppl_gen.target import Target

SCHOOLS = {
    "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
}
CLUMPS = {"y": np.array([-2.3, -1.9, -2.1, 1.4, 2.2, 1.9, 2.4, 2.0])}
ROWS = {"y": np.array([0.4, 1.9, 1.1, -0.3, 2.2])}


# Eight schools, non-centred so that short chains are enough --------------------------------------------------------


def schools_portable(sigma, y=None):
    mu = pg.sample("mu", dist.Normal(0.0, 5.0))
    tau = pg.sample("tau", dist.HalfNormal(5.0))
    with pg.plate("school", len(sigma)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        theta = pg.deterministic("theta", mu + tau * z)
        pg.sample("y", dist.Normal(theta, sigma), obs=y)


def schools_numpyro(sigma, y=None):
    mu = numpyro.sample("mu", nd.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", nd.HalfNormal(5.0))
    with numpyro.plate("school", len(sigma)):
        z = numpyro.sample("z", nd.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", nd.Normal(theta, sigma), obs=y)


def schools_pyro(sigma, y=None):
    mu = pyro.sample("mu", pd.Normal(0.0, 5.0))
    tau = pyro.sample("tau", pd.HalfNormal(torch.tensor(5.0)))
    with pyro.plate("school", len(sigma)):
        z = pyro.sample("z", pd.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * z)
        pyro.sample("y", pd.Normal(theta, sigma), obs=y)


# A mixture with a discrete latent and params ------------------------------------------------------------------------


def mixture_portable(y):
    share = pg.param("share", xp.array([0.5, 0.5]), constraint=dist.constraints.simplex)
    loc = pg.param("loc", xp.array([-1.0, 1.0]))
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Categorical(share))
        pg.sample("y", dist.Normal(loc[z], 0.5), obs=y)


def mixture_numpyro(y):
    share = numpyro.param("share", np.array([0.5, 0.5]), constraint=nd.constraints.simplex)
    loc = numpyro.param("loc", np.array([-1.0, 1.0]))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", nd.Categorical(share), infer={"enumerate": "parallel"})
        numpyro.sample("y", nd.Normal(loc[z], 0.5), obs=y)


def mixture_pyro(y):
    share = pyro.param("share", torch.tensor([0.5, 0.5]), constraint=pd.constraints.simplex)
    loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", pd.Categorical(share), infer={"enumerate": "parallel"})
        pyro.sample("y", pd.Normal(loc[z], 0.5), obs=y)


# A Gaussian mean with a guide by hand, whose posterior is known -----------------------------------------------------


def mean_portable(y):
    mu = pg.sample("mu", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(mu, 1.0), obs=y)


def mean_portable_guide(y):
    loc = pg.param("guide_loc", xp.array(0.0))
    scale = pg.param("guide_scale", xp.array(1.0), constraint=dist.constraints.positive)
    pg.sample("mu", dist.Normal(loc, scale))


def mean_numpyro(y):
    mu = numpyro.sample("mu", nd.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", nd.Normal(mu, 1.0), obs=y)


def mean_numpyro_guide(y):
    loc = numpyro.param("guide_loc", 0.0)
    scale = numpyro.param("guide_scale", 1.0, constraint=nd.constraints.positive)
    numpyro.sample("mu", nd.Normal(loc, scale))


def mean_pyro(y):
    mu = pyro.sample("mu", pd.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", pd.Normal(mu, 1.0), obs=y)


def mean_pyro_guide(y):
    loc = pyro.param("guide_loc", torch.tensor(0.0))
    scale = pyro.param("guide_scale", torch.tensor(1.0), constraint=pd.constraints.positive)
    pyro.sample("mu", pd.Normal(loc, scale))


TWINS = {
    "schools": (schools_portable, {"numpyro": schools_numpyro, "pyro": schools_pyro}, SCHOOLS),
    "mixture": (mixture_portable, {"numpyro": mixture_numpyro, "pyro": mixture_pyro}, CLUMPS),
    "mean": (mean_portable, {"numpyro": mean_numpyro, "pyro": mean_pyro}, ROWS),
}
GUIDES = {"numpyro": mean_numpyro_guide, "pyro": mean_pyro_guide}


@functools.cache
def programs(name, backend):
    portable, natives, data = TWINS[name]
    return pg.program(portable), pg.program(natives[backend], backend=backend), data


def both(name, backend, **options):
    """The runs of a portable program and of its native twin."""
    portable, native, data = programs(name, backend)
    return [pg.infer(p, data, backend=backend, progress=False, **options) for p in (portable, native)]


@pytest.mark.parametrize("backend", backends.NAMES)
@pytest.mark.parametrize("name", TWINS)
def test_same_density(name, backend):
    """The same sites and, to rounding, the same log density and gradient."""
    room = backends.get(backend)
    portable, native, data = programs(name, backend)
    found = []
    with room.scope():
        for program in (portable, native):
            target = Target(program.bind(data, room))
            points = room.asarray(np.random.default_rng(0).uniform(-2.0, 2.0, (3, target.everything.dim)))
            sites = [(s.name, s.kind, tuple(s.value.shape), s.cardinality, s.plates) for s in target.sites.values()]
            found.append((sites, room.to_numpy(target.value_and_grad()(points, target.arrays))))
    assert found[0][0] == found[1][0]
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("nuts", {"num_warmup": 200, "num_samples": 300, "num_chains": 1}),
        ("mala", {"num_warmup": 500, "num_samples": 2000, "num_chains": 2, "thinning": 5}),
    ],
)
def test_samplers_agree_with_the_twin(backend, engine, options):
    """Means of both runs differ by less than 6 of their standard errors: false once in 1e8 comparisons.

    The number of effective draws is itself an estimate from few draws, hence the floor of 20 under it.
    """
    portable, native = both("schools", backend, engine=engine, seed=1, **options)
    assert set(portable.posterior) == set(native.posterior) == {"mu", "tau", "z", "theta"}
    for site in ("mu", "theta"):
        a, b = (r.posterior[site].reshape(*r.posterior[site].shape[:2], -1) for r in (portable, native))
        for j in range(a.shape[-1]):
            error = np.sqrt(sum(x[..., j].var() / max(20.0, float(ess(x[..., j]))) for x in (a, b)))
            assert abs(a[..., j].mean() - b[..., j].mean()) < 6.0 * error
    assert native.idata.posterior["theta"].dims == ("chain", "draw", "school")


@pytest.mark.parametrize("backend", backends.NAMES)
def test_svi_agrees_with_the_twin(backend):
    """The same seed, autoguide and order of sites: the same losses to rounding, grown over 200 steps."""
    portable, native = both("schools", backend, engine="svi", num_steps=200, seed=3, num_samples=50)
    np.testing.assert_allclose(native.history["loss"], portable.history["loss"], rtol=1e-6)


# Each engine on one of the backends.
LONG = [pytest.param(*c, marks=pytest.mark.slow) for c in (("map", "numpyro"), ("em", "pyro"))]
POINTS = [("map", "pyro"), ("em", "numpyro"), *LONG]


@pytest.mark.parametrize(("engine", "backend"), POINTS)
def test_points_agree_with_the_twin(engine, backend):
    """The same optimum from the same start, to what the stopping rule leaves (1e-9 in the objective)."""
    options = {"num_restarts": 1} if engine == "map" else {"num_restarts": 2}
    portable, native = both("mixture", backend, engine=engine, seed=0, **options)
    for name in ("share", "loc"):
        np.testing.assert_allclose(native.params[name], portable.params[name], atol=1e-4)
    # well-separated clumps: the shares are 3 and 5 out of 8, the means theirs, up to the order of the two
    order = np.argsort(native.params["loc"])
    np.testing.assert_allclose(native.params["loc"][order], [-2.1, 1.98], atol=1e-2)
    np.testing.assert_allclose(native.params["share"][order], [3 / 8, 5 / 8], atol=1e-2)


@pytest.mark.parametrize("backend", backends.NAMES)
def test_map_with_priors(backend):
    """The posterior mode of a Gaussian mean is sum(y) / (n + 1)."""
    for run in both("mean", backend, engine="map"):
        np.testing.assert_allclose(run.params["mu"], ROWS["y"].sum() / 6.0, atol=1e-5)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_guide_by_hand(backend):
    """N(sum(y) / (n + 1), 1 / (n + 1)), to the noise that the last steps of Adam leave (0.02)."""
    portable = pg.program(mean_portable, guide=mean_portable_guide)
    native = pg.program(TWINS["mean"][1][backend], guide=GUIDES[backend], backend=backend)
    options = {"engine": "svi", "backend": backend, "num_steps": 600, "num_particles": 3, "progress": False, "seed": 2}
    for run in (pg.infer(p, ROWS, **options) for p in (portable, native)):
        np.testing.assert_allclose(run.params["guide_loc"], ROWS["y"].sum() / 6.0, atol=0.1)
        np.testing.assert_allclose(run.params["guide_scale"], 6.0**-0.5, atol=0.1)


@pytest.mark.parametrize("backend", backends.NAMES)
def test_wrong_backend(backend):
    """Said before any work, with what to pass."""
    _, native, data = programs("schools", backend)
    other = next(b for b in backends.NAMES if b != backend)
    with pytest.raises(ValueError, match=f"native {backend} program and cannot run on {other}: pass backend="):
        pg.infer(native, data, backend=other, progress=False)


def flat_numpyro(y):
    mu = numpyro.sample("mu", nd.ImproperUniform(nd.constraints.real, (), ()))
    scale = numpyro.sample("scale", nd.ImproperUniform(nd.constraints.positive, (), ()))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", nd.Normal(mu, scale), obs=y)


def flat_pyro(y):
    mu = pyro.sample("mu", pd.ImproperUniform(pd.constraints.real, (), ()))
    scale = pyro.sample("scale", pd.ImproperUniform(pd.constraints.positive, (), ()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", pd.Normal(mu, scale), obs=y)


@pytest.mark.parametrize(("backend", "model"), [("numpyro", flat_numpyro), ("pyro", flat_pyro)])
def test_improper_uniform_just_runs(backend, model):
    """No start, no plate nesting, nothing to set; the mode of a flat prior is the maximum likelihood."""
    program = pg.program(model, backend=backend)
    assert pg.check(program, ROWS).ok
    point = pg.infer(program, ROWS, engine="map", backend=backend, progress=False)
    np.testing.assert_allclose(point.params["mu"], ROWS["y"].mean(), atol=1e-4)
    np.testing.assert_allclose(point.params["scale"], ROWS["y"].std(), atol=1e-4)
    run = pg.infer(program, ROWS, num_warmup=200, num_samples=200, num_chains=1, backend=backend, progress=False)
    mu = run.posterior["mu"]
    # the posterior of mu is Student's t, with 3 degrees of freedom: its spread is finite, as are its means
    assert np.isfinite(mu).all() and abs(np.median(mu) - ROWS["y"].mean()) < 1.0
