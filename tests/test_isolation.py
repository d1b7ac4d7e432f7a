"""Runs do not disturb one another, nor anything of the caller's."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import numpyro
import pyro
import pytest
import torch

import ppl_gen as pg
from ppl_gen import dist

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("numpyro", "pyro")
SIGMA = np.array([15.0, 10.0, 16.0, 11.0])
Y = np.array([28.0, 8.0, -3.0, 7.0])
CHAINS = {"num_warmup": 20, "num_samples": 20, "num_chains": 2}
ENGINES = {
    "nuts": CHAINS,
    "mala": {**CHAINS, "thinning": 1},
    "smc": {"num_particles": 30, "num_chains": 2},
    "map": {"num_steps": 50},
    "svi": {"num_steps": 50, "num_samples": 20},
}

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pg.program
def schools(sigma, y=None):
    mu = pg.sample("mu", dist.Normal(0.0, 5.0))
    with pg.plate("school", len(sigma)):
        theta = pg.sample("theta", dist.Normal(mu, 5.0))
        pg.sample("y", dist.Normal(theta, sigma), obs=y)


def fit(backend, engine="nuts", shift=0.0, seed=3, program=schools, **options):
    data = {"sigma": SIGMA, "y": Y + shift}
    options = {**ENGINES[engine], **options}
    return pg.infer(program, data, engine, backend=backend, seed=seed, progress=False, **options)


def numbers(run):
    """Everything of a run that is a number, also of what is asked of it later."""
    return np.concatenate([
        *(np.ravel(x).astype(float) for x in run.posterior.values()),
        *(np.ravel(x).astype(float) for x in run.stats.values()),
        np.ravel(run.sample(2, seed=1)),
        np.ravel(run.log_prob(run.data)),
    ])


# --- One run and another -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What each engine gives on each backend in a process of its own: every backend is the first there."""
    folder = tmp_path_factory.mktemp("alone")
    for backend in BACKENDS:
        code = (
            "import sys, warnings; warnings.simplefilter('ignore')\n"
            "import numpy as np, tests.test_isolation as t\n"
            "found = {e: t.numbers(t.fit(sys.argv[1], e)) for e in t.ENGINES}\n"
            "np.savez(sys.argv[2], **found)\n"
        )
        file = folder / f"{backend}.npz"
        subprocess.run([sys.executable, "-c", code, backend, str(file)], cwd=ROOT, check=True)
    return {backend: dict(np.load(folder / f"{backend}.npz")) for backend in BACKENDS}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_after_anything(alone, backend, engine):
    """After the other backend, other data, another engine, an error: the numbers of a fresh process, to the bit."""
    other = BACKENDS[1 - BACKENDS.index(backend)]
    fit(other, engine)
    assert np.array_equal(numbers(fit(backend, engine)), alone[backend][engine]), "after the other backend"
    fit(backend, engine, shift=50.0, seed=9)
    assert np.array_equal(numbers(fit(backend, engine)), alone[backend][engine]), "after other data and another seed"
    fit(backend, "map" if engine != "map" else "svi")
    with pytest.raises(pg.DataError):
        fit(backend, engine, shift=np.nan)
    fit(other, "map")
    assert np.array_equal(numbers(fit(backend, engine)), alone[backend][engine]), "after another engine and an error"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_whether_or_not_it_was_compiled(backend, engine):
    """A program of its own, so that its first run makes the graphs that the second one finds."""

    def fresh(sigma, y=None):
        schools.model(sigma, y)

    assert np.array_equal(*(numbers(fit(backend, engine, program=fresh)) for _ in range(2)))


def test_seeds_differ():
    for backend in BACKENDS:
        assert not np.array_equal(numbers(fit(backend, seed=1)), numbers(fit(backend, seed=2)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_precision_is_of_one_run(backend):
    before = numbers(fit(backend, "map"))
    assert fit(backend, "map", precision="float32").posterior["mu"].dtype == np.float32
    after = fit(backend, "map")
    assert after.posterior["mu"].dtype == np.float64
    assert np.array_equal(numbers(after), before)


# --- The caller's state ------------------------------------------------------------------------------


def fingerprint():
    """All that is global in the libraries below."""
    store = pyro.get_param_store()
    kind, words, *rest = np.random.get_state()  # noqa: NPY002 (the caller's, which must stay as it is)
    return {
        "parameter store": {n: store[n].tolist() for n in store},
        "constraints": {n: str(c) for n, c in store._constraints.items()},
        "torch": torch.get_rng_state().tolist(),
        "numpy": (kind, words.tolist(), *rest),
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "torch validation": torch.distributions.Distribution._validate_args,
        "pyro validation": (pyro.infer.util.is_validation_enabled(), pyro.poutine.runtime._PYRO_STACK[:]),
        "numpyro validation": numpyro.distributions.distribution._VALIDATION_ENABLED,
        "numpyro stack": numpyro.primitives._PYRO_STACK[:],
        "x64": jax.config.jax_enable_x64,
        "jax device": jax.config.jax_default_device,
        "numpy errors": np.geterr(),
    }


@pytest.fixture(params=["defaults", "changed"])
def surroundings(request):
    """A caller with settings and parameters of their own."""
    changed = request.param == "changed"
    store = pyro.get_param_store().get_state()
    validation = torch.distributions.Distribution._validate_args
    pyro.param("mine", torch.tensor([1.0, 2.0]), constraint=pyro.distributions.constraints.positive)
    torch.set_default_dtype(torch.float16 if changed else torch.float32)
    pyro.enable_validation(not changed)
    numpyro.enable_validation(not changed)
    with jax.enable_x64(changed):
        yield fingerprint()
    torch.set_default_dtype(torch.float32)
    numpyro.enable_validation(True)
    pyro.enable_validation(True)
    torch.distributions.Distribution.set_default_validate_args(validation)
    pyro.clear_param_store()
    pyro.get_param_store().set_state(store)


def breaks(sigma, y=None):
    pg.sample("mu", dist.Normal(pg.param("mine", 3.0), 5.0))
    pg.sample("y", dist.Normal(0.0, sigma).to_event(1), obs=y)


def breaks_half_way(sigma, y=None):
    pg.sample("mu", dist.Normal(pg.param("mine", 3.0), 5.0))
    raise ZeroDivisionError("half way")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_caller_finds_everything_as_it_was(backend, surroundings):
    for engine in ENGINES:
        run = fit(backend, engine)
        assert fingerprint() == surroundings, engine
    run.predict(seed=4)
    run.sample(2, seed=5)
    run.log_prob(run.data)
    _ = run.idata
    assert fingerprint() == surroundings, "questions to the run"
    with pg.on(backend):
        dist.Normal(0.0, 1.0)
    assert fingerprint() == surroundings, "pg.on"


@pytest.mark.parametrize("backend", BACKENDS)
def test_also_after_an_error(backend, surroundings, monkeypatch):
    from ppl_gen.inference.driver import Driver

    with pytest.raises(pg.DataError):
        fit(backend, shift=np.inf)
    with pytest.raises(pg.UnsupportedError):
        fit(backend, program=breaks)
    with pytest.raises(pg.ProgramError, match="half way"):
        fit(backend, program=breaks_half_way)
    monkeypatch.setattr(Driver, "run", lambda *a, **k: 1 / 0)
    for engine in ENGINES:
        with pytest.raises(ZeroDivisionError):
            fit(backend, engine)
    assert fingerprint() == surroundings


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_param_of_the_same_name_is_another(backend, surroundings):
    run = fit(backend, "svi", program=breaks)
    assert run.params["mine"].shape == ()
    assert fingerprint() == surroundings


# --- What is handed in -------------------------------------------------------------------------------


def greedy(y, start):
    """A program that writes into whatever it can reach."""
    if hasattr(y, "mul_"):
        y.mul_(2.0)
    level = pg.param("level", start)
    pg.sample("mu", dist.Normal(0.0, 1.0))
    pg.sample("y", dist.Normal(level, 1.0).to_event(1), obs=y)


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax", "list", "read-only", "strided"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_data_are_not_written_to(backend, kind):
    made = {
        "numpy": np.copy,
        "torch": torch.tensor,
        "jax": jax.numpy.asarray,
        "list": np.ndarray.tolist,
        "read-only": lambda x: np.frombuffer(x.tobytes()),
        "strided": lambda x: np.repeat(x, 2)[::2],
    }
    y, start = made[kind](Y), made[kind](Y + 1.0)
    run = pg.infer(greedy, {"y": y, "start": start}, "svi", backend=backend, progress=False, num_steps=30)
    assert np.allclose(np.asarray(y), Y) and np.allclose(np.asarray(start), Y + 1.0)
    assert not np.allclose(run.params["level"], Y + 1.0, atol=0.01)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_keeps_what_it_was_fitted_to(backend):
    """Data that the caller changes later do not change the run."""
    y, sigma = Y.copy(), SIGMA.copy()
    run = pg.infer(schools, {"sigma": sigma, "y": y}, "map", backend=backend, progress=False)
    before = run.log_prob({"sigma": SIGMA, "y": Y})
    y += 100.0
    sigma *= 3.0
    assert np.array_equal(run.observed["y"], Y)
    assert np.array_equal(run.constants["sigma"], SIGMA)
    assert np.allclose(run.log_likelihood["y"].ravel(), before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_init_and_init_of_params_are_not_written_to(backend):
    start = np.array([1.0, 2.0, 3.0, 4.0])
    init = {"theta": start, "mu": 0.5}
    fit(backend, "map", init=init)
    fit(backend, "nuts", init=init)
    assert start.tolist() == [1.0, 2.0, 3.0, 4.0] and init["theta"] is start and init["mu"] == 0.5


class Net(torch.nn.Module):
    """Weights in single precision, a running mean, and dropout, in training mode."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(1, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.outer = torch.nn.Linear(3, 1)

    def forward(self, x):
        return self.outer(torch.tanh(self.norm(self.inner(x))))


@pytest.mark.parametrize("engine", ["svi", "map"])
def test_a_users_torch_module_is_not_touched(engine):
    net = Net()
    net.outer.bias.requires_grad_(False)
    state = net.state_dict(keep_vars=True)
    before = {n: (x.clone(), x.dtype, x.device, x.data_ptr(), x.requires_grad) for n, x in state.items()}

    def regression(x, y):
        f = pg.module("net", net)
        scale = pg.sample("scale", dist.HalfNormal(1.0))
        pg.sample("y", dist.Normal(f(x)[:, 0], scale).to_event(1), obs=y)

    data = {"x": Y[:, None] / 10, "y": Y / 10}
    run = pg.infer(regression, data, engine, backend="pyro", progress=False, num_steps=20)
    learned = run.params["net.outer.bias"]
    assert learned.dtype == np.float64 and not np.allclose(learned, net.outer.bias.numpy(), atol=1e-3)
    for name, x in net.state_dict(keep_vars=True).items():
        value, dtype, device, place, grad = before[name]
        assert (x.dtype, x.device, x.data_ptr(), x.requires_grad) == (dtype, device, place, grad), name
        assert torch.equal(x, value) and x.grad is None, name
    assert net.training
    assert all(type(p) is torch.nn.Parameter for p in net.parameters())


def test_a_users_nnx_module_is_not_touched():
    from flax import nnx

    net = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    kernel = np.asarray(net.kernel[...]).copy()

    def regression(x, y):
        f = pg.module("net", net)
        scale = pg.sample("scale", dist.HalfNormal(1.0))
        pg.sample("y", dist.Normal(f(x)[:, 0], scale).to_event(1), obs=y)

    run = pg.infer(regression, {"x": Y[:, None] / 10, "y": Y / 10}, "svi", progress=False, num_steps=20)
    assert run.params["net.kernel"].dtype == np.float64
    assert net.kernel[...].dtype == np.float32 and np.array_equal(np.asarray(net.kernel[...]), kernel)


def test_a_network_made_in_a_program_is_made_outside_of_compiled_code():
    """Its numbers are known wherever it is used again, and by the next run on other data of the same shape."""
    from flax import nnx

    @pg.program
    def line(x, y):
        net = pg.module("net", lambda: nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
        with pg.plate("row", len(x)):
            pg.sample("y", pg.dist.Normal(net(x[:, None])[:, 0], 1.0), obs=y)

    x = np.linspace(-1.0, 1.0, 20)
    for slope in (2.0, -3.0):
        run = pg.infer(line, {"x": x, "y": slope * x}, "map", progress=False, num_steps=500)
        assert run.params["net.kernel"].ravel() == pytest.approx([slope], abs=1e-3)
