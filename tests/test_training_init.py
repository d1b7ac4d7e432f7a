"""Where training starts: params that a user says, such as those of another run."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ppl_gen as pg
from ppl_gen import dist, param, plate, sample
from ppl_gen.inference import fitting
from tests.cutting import cut_at_every_commit

BACKENDS = ("numpyro", "pyro")
X = np.random.default_rng(0).normal(3.0, 2.0, (200, 2))
STILL = {"batch_size": 50, "num_steps": 1, "learning_rate": 1e-12, "progress": False}


def program(x):
    scale = param("scale", 1.0, constraint=dist.constraints.positive)
    shift = param("shift", [0.0, 0.0])
    param("share", 0.5, constraint=dist.constraints.unit_interval)
    param("parts", [0.2, 0.3, 0.5], constraint=dist.constraints.simplex)
    param("root", [[1.0, 0.0], [0.0, 1.0]], constraint=dist.constraints.lower_cholesky)
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
    again = pg.infer(model, X / 4, engine, backend, init=first.params, **common)
    for name, x in first.params.items():
        np.testing.assert_allclose(again.params[name], x, rtol=1e-9, atol=1e-9)
    fresh = pg.infer(model, X / 4, engine, backend, **common)
    assert any(np.abs(fresh.params[n] - x).max() > 1e-3 for n, x in first.params.items())


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
    ({"scale": -1.0}, r"'scale' \(-1.0, support .* is outside or on the edge of its support"),
    ({"share": 5.0}, "'share' .* is outside or on the edge of its support"),
    ({"parts": [1.0, 2.0, 3.0]}, "'parts' .* is outside or on the edge of its support"),
    ({"root": [[1.0, 0.5], [0.0, 1.0]]}, "'root' .* is outside or on the edge of its support"),
    ({1: 2.0}, "1, which is no param"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("init", "message"), WRONG)
def test_starts_that_do_not_fit(init, message, backend):
    with pytest.raises(ValueError, match=message):
        pg.infer(program, X, "svi", backend, init=init, **STILL)


def test_an_init_of_another_type():
    with pytest.raises(TypeError, match="init must be a dict of names and values, got ndarray"):
        pg.infer(program, X, "svi", init=np.ones(2), **STILL)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("library", [np.asarray, jnp.asarray, torch.tensor])
def test_a_run_whose_init_is_of_any_library_resumes(library, backend, tmp_path, monkeypatch):
    options = {**STILL, "num_steps": 6, "learning_rate": 0.1, "init": {"shift": library([2.0, 3.0])}}
    monkeypatch.setattr(fitting, "_CHUNK", 3)
    whole = pg.infer(program, X, "svi", backend, **options)
    path = tmp_path / "run.zarr"
    begin = lambda: pg.infer(program, X, "svi", backend, checkpoint=path, **options)
    cut, _ = cut_at_every_commit(monkeypatch, path, begin, program=program)
    np.testing.assert_array_equal(cut.params["shift"], whole.params["shift"])


def test_an_init_beside_a_guide_that_is_a_function():
    with pytest.raises(ValueError, match="the guide of guided is a function: give its params"):
        pg.infer(guided, X, "svi", guide=guide, init={"z": np.zeros(200)}, num_steps=1, progress=False)
