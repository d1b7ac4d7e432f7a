"""Training by minibatches: what is the same again, what rows come from, what a step may be changed by."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import tqdm
from scipy import stats
from torch.utils.data import DataLoader, TensorDataset

import ppl_gen as pg
from ppl_gen import backends, dist
from ppl_gen.inference import fitting
from ppl_gen.inference.feed import Finish
from ppl_gen.inference.streams import Stream
from tests.cutting import cut_at_every_commit

BACKENDS = ("numpyro", "pyro")
X = np.random.default_rng(0).random((60, 6)).astype("f4")
MODEL = pg.models.VAE(2, (6,), hidden=(5,))
QUIET = {"progress": False, "precision": "float32"}


def weights(backend, seed, engine="svi", **options):
    run = pg.infer(MODEL, X, engine, backend, seed, **QUIET, **options)
    return {n: x.tolist() for n, x in run.params.items() if "out" in n}


WAYS = {
    "minibatches": {"batch_size": 20, "num_steps": 4},
    "all rows": {"num_steps": 3, "num_samples": 1},
    "map": {"engine": "map", "num_steps": 2},
}


@pytest.fixture(scope="module")
def fresh():
    """What a new process finds of seed 2, by way and backend."""
    program = (
        "import json, warnings; warnings.simplefilter('ignore'); from tests import test_training as t; "
        "print(json.dumps({f'{w} {b}': t.weights(b, 2, **o) for w, o in t.WAYS.items() for b in t.BACKENDS}))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return json.loads(found.stdout)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_networks_start_by_the_seed_whatever_ran_before(fresh, way, backend):
    one, two = (weights(backend, seed, **WAYS[way]) for seed in (1, 2))
    assert two == fresh[f"{way} {backend}"]
    assert all(not np.allclose(one[n], two[n]) for n in one if "bias" not in n)


# Steps ------------------------------------------------------------------------------------------------------------

Y = np.random.default_rng(1).normal(0.0, np.sqrt(2.0), 240).astype("f4").astype(float)  # no digits that a form has not


def toy(x):
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        pg.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    """The exact posterior has a = 1/2, b = 0, s^2 = 1/2."""
    a, b = pg.param("a", 0.0), pg.param("b", 0.5)
    s = pg.param("s", 1.0, constraint=dist.constraints.positive)
    with pg.plate("row", len(x)):
        pg.sample("z", dist.Normal(a * x + b, s))


TOY = pg.program(toy, guide)


def trained(backend, data=Y, **options):
    chosen = {"batch_size": 24, "num_epochs": 100, "learning_rate": 0.02, "elbo": "mean_field", "progress": False}
    return pg.infer(TOY, {"x": data}, "svi", backend, **{**chosen, **options})


def is_exact(run, tolerance=0.05):
    found = np.array([run.params[n] for n in "abs"])
    return np.abs(found - [0.5, 0.0, np.sqrt(0.5)]).max() < tolerance


OPTIMISERS = {
    "numpyro": [
        optax.nadam,
        optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(optax.cosine_decay_schedule(0.05, 1000))),
    ],
    "pyro": [torch.optim.NAdam, lambda tensors: torch.optim.SGD(tensors, lr=0.05, momentum=0.5)],
}


@pytest.mark.parametrize(("backend", "which"), [(b, i) for b in BACKENDS for i in range(2)])
def test_any_optimiser_of_the_library(backend, which):
    assert is_exact(trained(backend, optimizer=OPTIMISERS[backend][which]))


@pytest.mark.parametrize(
    ("backend", "optimizer", "message"),
    [
        ("numpyro", "nadem", "a function that makes one of a learning rate"),
        ("numpyro", abs, "unknown optimizer"),
        ("pyro", 3, "a class of torch.optim"),
        ("pyro", torch.optim.LBFGS, "asks for the loss more than once a step"),
    ],
)
def test_what_is_no_optimiser_of_minibatches(backend, optimizer, message):
    with pytest.raises(ValueError, match=message):
        trained(backend, optimizer=optimizer, num_epochs=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_run_compiles_nothing(backend):
    room = backends.get(backend)
    options = {"num_epochs": 2, "validation": 0.2, "ema": 0.9}
    trained(backend, **options)
    before = room.compilations()
    trained(backend, Y + 1.0, seed=3, **options)
    assert room.compilations() == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_networks_compute_in_bfloat16_and_learn_in_float32(backend):
    options = {"engine": "svi", "batch_size": 20, "num_steps": 30, "learning_rate": 1e-2}
    full, mixed = (
        pg.infer(MODEL, X, backend=backend, **QUIET, **options, mixed_precision=m) for m in (False, True)
    )
    off = np.abs(mixed.history["loss"] / full.history["loss"] - 1.0)
    assert 1e-6 < off[0] < 2e-2 and off.max() < 5e-2
    assert all(x.dtype == np.float32 for x in mixed.params.values())
    moved = mixed.params["encoder.hidden.0.bias"]
    assert (moved != moved.astype(jnp.bfloat16)).any()  # weights have digits that bfloat16 has not


def test_mixed_precision_is_refused_where_there_is_none(monkeypatch):
    with pytest.raises(ValueError, match="pass precision='float32'"):
        trained("numpyro", mixed_precision=True)
    monkeypatch.setattr(type(backends.get("numpyro")), "has_bfloat16", staticmethod(lambda: False))
    with pytest.raises(pg.UnsupportedError, match="does not compute in bfloat16"):
        trained("numpyro", mixed_precision=True, precision="float32")


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_kept_back_are_looked_at_once_an_epoch_of_any_length(backend, monkeypatch):
    monkeypatch.setattr(fitting, "_CHUNK", 3)
    run = trained(backend, validation=44 / 240, num_epochs=5, batch_size=28)  # 7 steps an epoch
    assert np.isfinite(run.history["validation"]).sum() == 5


def test_the_bar_says_the_bound_and_examples_per_second(monkeypatch):
    said = []
    monkeypatch.setattr(tqdm.std.tqdm, "set_postfix_str", lambda self, text, refresh: said.append(text))
    run = trained("numpyro", num_epochs=1, progress=True)
    assert re.fullmatch(r"ELBO -?\d+\.\d\d, [\d,]+ examples/s", said[-1])
    assert float(said[-1].split()[1].rstrip(",")) == pytest.approx(-run.history["loss"].mean(), abs=0.006)


OPTIONS = [
    ({"validation": 0.1}, "validation is an option of training by minibatches: set batch_size"),
    ({"stream": iter([Y])}, "stream must be what can be gone through once for each epoch, got a list_iterator"),
    ({"stream": 3}, "stream must be"),
    ({"num_data": 0}, "num_data must be a whole number"),
    ({"processes": True, "batch_size": 24}, "there is only one process"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        pg.infer(TOY, {"x": Y}, "svi", progress=False, **options)


# Where rows come from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_a_file_are_read_as_they_are_needed(backend, tmp_path, monkeypatch):
    """Of a program that does not name what holds rows; the numbers are those of rows in memory."""
    x = np.random.default_rng(2).normal(size=5000)
    np.save(tmp_path / "x.npy", x)
    options = {"num_epochs": 2, "batch_size": 200, "validation": 0.1}
    whole, longest, asarray = trained(backend, x, **options), [], type(backends.get(backend)).asarray

    def seen(value, *args):
        longest.append(len(value) if np.ndim(value) else 0)
        return asarray(value, *args)

    monkeypatch.setattr(type(backends.get(backend)), "asarray", staticmethod(seen))
    read = trained(backend, np.load(tmp_path / "x.npy", mmap_mode="r"), **options)
    assert max(longest) <= 1024
    for name in "abs":
        assert read.params[name] == whole.params[name]


def test_a_file_that_holds_no_rows(tmp_path):
    np.save(tmp_path / "table.npy", np.ones(3000))

    def model(x, table):
        with pg.plate("row", len(x)):
            pg.sample("x", dist.Normal(pg.param("a", 0.0) * table[0], 1.0), obs=x)

    data = {"x": Y, "table": np.load(tmp_path / "table.npy", mmap_mode="r")}
    with pytest.raises(pg.UnsupportedError, match="'table' of model holds something else"):
        pg.infer(model, data, "svi", batch_size=24, progress=False)


def stream_of(batches, size, **options):
    with pg.on("numpyro") as room:
        first = TOY.bind({"x": Y[:5]}, room, ("float64", None))
        return Stream(batches, first, ("x",), size, Finish(0, None, np.dtype(float)), **options)


def test_a_stream_is_cut_to_batches_and_goes_on_where_it_ended():
    made = stream_of([{"x": Y[:5]}, {"x": Y[5:6]}, {"x": Y[6:17]}], 4)
    assert (made.num_rows, made.steps_per_epoch) == (17, 4)
    twice = np.concatenate([Y[:17], Y[:17]])[:32].reshape(8, 4)
    assert np.array_equal(np.concatenate([made.rows(0, 3)["x"], made.rows(3, 5)["x"]]), twice)
    assert np.array_equal(made.rows(5, 2)["x"], twice[5:7])  # back again, as after a kill
    assert np.array_equal(made.rows(7, 1)["x"], twice[7:])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "the stream holds no batch"),
        ([{"x": Y[:4]}, {"x": np.ones((4, 2))}], r"'x' of batch 1 of the stream has rows of shape \(2,\): expected"),
        ([{"y": Y[:4]}], "do not fit toy"),
        ([{"x": 3.0}], "batch 0 of the stream holds no 'x'"),
    ],
)
def test_a_stream_of_something_else(batches, message):
    with pytest.raises(pg.DataError, match=message):
        stream_of(batches, 2)


class Loader:
    """What can be gone through again, as Grain's loaders can; its batches are ``form`` of the rows."""

    def __init__(self, form, size=30):
        self.form, self.size = form, size

    def __iter__(self):
        return (self.form(Y[i : i + self.size]) for i in range(0, len(Y), self.size))


FORMS = {
    "dicts": lambda x: {"x": x},
    "tuples": lambda x: (x,),
    "lists of tensors": lambda x: [torch.as_tensor(x)],
    "arrays": lambda x: jnp.asarray(x),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_of_any_form(backend):
    runs = [trained(backend, Y[:24], stream=Loader(f), num_data=240, num_epochs=3) for f in FORMS.values()]
    assert all(run.attrs["num_epochs"] == 3 and len(run.history["loss"]) == 30 for run in runs)
    assert len({run.history["loss"].tobytes() for run in runs}) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_with_all_of_the_data_to_look_at(backend):
    run = trained(backend, Y[:48], stream=Loader(FORMS["tuples"]), validation=1, num_epochs=500, patience=3)
    assert run.attrs["stopped"] == "settled" and is_exact(run, 0.15)
    assert np.isfinite(run.history["validation"]).sum() == run.attrs["num_epochs"] < 500


def shuffled():
    """A DataLoader of PyTorch that draws its order from the generator of all."""
    return DataLoader(TensorDataset(torch.as_tensor(Y)), batch_size=30, shuffle=True)


def test_the_order_of_a_loader_hangs_on_the_seed_and_survives_a_kill(tmp_path, monkeypatch, small_chunks):
    monkeypatch.setattr(fitting, "_CHUNK", 4)
    options = {"stream": shuffled(), "num_epochs": 2, "num_data": 240, "batch_size": 24}
    torch.manual_seed(5)
    plain = trained("pyro", Y[:24], **options)
    torch.manual_seed(6)
    path, engine = tmp_path / "cut.zarr", pg.inference.SVI(learning_rate=0.02, elbo="mean_field", **options)
    begin = lambda: trained("pyro", Y[:24], checkpoint=path, **options)
    cut, cuts = cut_at_every_commit(monkeypatch, path, begin, engine=engine)
    assert cuts >= 3 and plain.history["loss"].tobytes() == cut.history["loss"].tobytes()
    assert not np.array_equal(plain.history["loss"], trained("pyro", Y[:24], seed=1, **options).history["loss"])


# What is kept -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    options = {"engine": "svi", "batch_size": 20, "num_steps": 3, "checkpoint": tmp_path / "run.zarr"}
    run = pg.infer(MODEL, {"x": X}, **QUIET, **options)
    with pytest.raises(ValueError, match=r"is a run of VAE with latent_dim=2, not 3: pass the model that was fitted"):
        pg.resume(tmp_path / "run.zarr", pg.models.VAE(3, (6,), hidden=(5,)))
    with pytest.raises(ValueError, match="is a run on other data: 'x' differs"):
        pg.resume(tmp_path / "run.zarr", MODEL, {"x": X[::-1]})
    again = pg.resume(tmp_path / "run.zarr", progress=False)
    assert all(np.array_equal(x, again.params[n]) for n, x in run.params.items())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_leaves_the_last_good_state_in_the_checkpoint(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "_CHUNK", 5)
    x = np.where(np.arange(240) < 239, Y, 1e300)  # one row blows it up
    options = {"num_steps": 100, "batch_size": 24, "learning_rate": 1e-3, "checkpoint": tmp_path / "run.zarr"}
    run, again = trained(backend, x, num_epochs=None, **options), pg.resume(tmp_path / "run.zarr", TOY, progress=False)
    bad = int(np.argmax(~np.isfinite(run.history["loss"])))
    assert f"svi stopped at step {bad + 1}: the loss is not finite" in run.warnings[0]
    good = trained(backend, x, num_epochs=None, num_steps=max(bad // 5 * 5, 1), batch_size=24, learning_rate=1e-3)
    for name in "abs":
        assert np.isfinite(run.params[name]) and run.params[name] == again.params[name]
        assert bad < 5 or run.params[name] == good.params[name]


# Several devices and processes ------------------------------------------------------------------------------------


def test_two_devices_are_one():
    """To rounding: sums over rows are taken in another order."""
    program = (
        "import jax, numpy as np; from tests.test_training import Y, trained\n"
        "assert len(jax.devices()) == 2\n"
        "one, two = (trained('numpyro', num_epochs=5, validation=0.2, device=d) for d in ('cpu:0', 'cpu'))\n"
        "np.testing.assert_allclose(one.history['loss'], two.history['loss'], rtol=1e-9)\n"
        "np.testing.assert_allclose(one.history['validation'], two.history['validation'], rtol=1e-9)\n"
        "assert all(np.allclose(x, two.params[n], rtol=1e-9) for n, x in one.params.items())\n"
        "from ppl_gen.backends.numpyro.devices import share, using\n"
        "with using('cpu'): assert len(share(24, False).place(np.ones(24), 0).sharding.device_set) == 2\n"
    )
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", program], check=True, env=env, capture_output=True, text=True)


def counted(x):
    """Its loss has no noise, though processes draw on their own; where it starts hangs on the data of the process."""
    loc, scale = pg.param("loc", x[0]), pg.param("scale", 3.0, constraint=dist.constraints.positive)
    with pg.plate("row", len(x)):
        pg.sample("x", dist.Normal(loc, scale), obs=x)


ALL_ROWS = {"batch_size": 240, "num_epochs": 60, "clip_norm": 0.1, "ema": 0.5}
HALF = {"batch_size": 120, "num_epochs": 3, "validation": 1 / 2}


def described(backend, x, **options):
    return pg.infer(counted, x, "svi", backend, learning_rate=0.02, progress=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes_are_one(backend, tmp_path):
    """Each of two processes trains on its half, in one batch; the loss is that of all rows, and params are the same."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    script = [str(Path(__file__).with_name("part_of_training.py")), str(tmp_path), backend]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    told = [[*script, port, str(i)] for i in range(2)] if backend == "numpyro" else [[*torchrun, *script]]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    running = [subprocess.Popen([sys.executable, *t], env=env, stdout=PIPE, stderr=STDOUT, text=True) for t in told]
    for process in running:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    one, two = (np.load(tmp_path / f"{i}.npz") for i in range(2))
    assert all(one[n].tobytes() == two[n].tobytes() for n in one.files)
    whole = described(backend, Y, **ALL_ROWS)
    for name, x in {**whole.history, **whole.params}.items():
        np.testing.assert_allclose(one[name], x, rtol=1e-9, err_msg=name)
    kept_back = np.random.default_rng([0, 7]).permutation(120)[:60]
    rows = np.concatenate([Y[i::2][kept_back] for i in range(2)])
    looked = stats.norm(one["half loc"], one["half scale"]).logpdf(rows).mean()
    assert one["half validation"].max() == pytest.approx(looked, rel=1e-9)
