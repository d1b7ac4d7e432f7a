"""Where training starts: params that a user says, such as those of another run."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist, param, plate, sample

BACKENDS = ("numpyro", "pyro")
X = np.random.default_rng(0).normal(3.0, 2.0, (200, 2))
STILL = {"batch_size": 50, "num_steps": 1, "learning_rate": 1e-12, "progress": False}


def program(x):
    scale = param("scale", 1.0, constraint=dist.constraints.positive)
    shift = param("shift", [0.0, 0.0])
    with plate("rows", len(x)):
        sample("x", dist.Normal(shift, scale).to_event(1), obs=x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_params_start_where_they_are_told_to(backend):
    run = pg.infer(program, X, "svi", backend, init={"scale": 2.5, "shift": 7.0}, **STILL)
    np.testing.assert_allclose(run.params["scale"], 2.5, rtol=1e-9)
    np.testing.assert_allclose(run.params["shift"], [7.0, 7.0], rtol=1e-9)
    other = pg.infer(program, X, "svi", backend, init={"scale": 2.5}, **STILL)
    np.testing.assert_allclose(other.params["shift"], 0.0, atol=1e-9)


MODELS = {
    "score_matching": (pg.models.Diffusion((2,), hidden=(8,)), {}),
    "noise_contrastive": (pg.models.EnergyModel(pg.nets.MLP(2, 1, (8,)), (2,)), {}),
    "svi": (pg.models.VAE(1, (2,), "gaussian", hidden=(5,)), {}),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", MODELS)
@pytest.mark.filterwarnings("ignore:the posterior of:RuntimeWarning")
def test_training_goes_on_from_the_params_of_another_run(engine, backend):
    model, options = MODELS[engine]
    common = {**STILL, **options, "precision": "float64"}
    first = pg.infer(model, X / 4, engine, backend, **{**common, "num_steps": 30, "learning_rate": 1e-2})
    held = {n: x for n, x in first.params.items() if n != "log_normalizer"}  # which is found anew
    again = pg.infer(model, X / 4, engine, backend, init=held, **common)
    for name, x in held.items():
        np.testing.assert_allclose(again.params[name], x, rtol=1e-9, atol=1e-9)
    fresh = pg.infer(model, X / 4, engine, backend, **common)
    assert any(np.abs(fresh.params[n] - x).max() > 1e-3 for n, x in held.items())


def guided(x):
    with plate("rows", len(x)):
        z = sample("z", dist.Normal(0.0, 1.0))
        sample("x", dist.Normal(z[:, None], 1.0).to_event(1), obs=x)


def guide(x):
    with plate("rows", len(x)):
        sample("z", dist.Normal(param("middle", 0.0), 1.0))


WRONG = [
    ({"scael": 1.0}, r"'scael', which is no param \(did you mean 'scale'\?\)"),
    ({"shift": np.zeros(3)}, r"shape \(3,\): expected \(2,\)"),
    ({"scale": np.nan}, "not finite"),
    ({"scale": -1.0}, "'scale' is not in its support"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("init", "message"), WRONG)
def test_starts_that_do_not_fit(init, message, backend):
    with pytest.raises(ValueError, match=message):
        pg.infer(program, X, "svi", backend, init=init, **STILL)


def test_an_init_beside_a_guide_that_is_a_function():
    with pytest.raises(ValueError, match="the guide of guided is a function: give its params"):
        pg.infer(guided, X, "svi", guide=guide, init={"z": np.zeros(200)}, num_steps=1, progress=False)
