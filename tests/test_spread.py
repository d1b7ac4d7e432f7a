"""The same draws whichever way chains are spread: over threads, processes, devices."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist
from ppl_gen.inference import spreading

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ["numpyro", "pyro"]
Y = np.array([1.2, -0.3, 2.5, 0.4, 1.9, 0.7])
SHORT = {"num_warmup": 30, "num_samples": 30, "thinning": 1, "progress": False}
ENGINES: dict[str, dict[str, Any]] = {
    "mala": {"num_chains": 5, "init": {"mu": 0.5}},
    "chees": {"num_chains": 18, "preconditioner": "low_rank"},
    "sgld": {"num_chains": 3, "batch_size": 2},
    "gibbs": {"num_chains": 10},
    "nuts": {"num_chains": 3, "num_warmup": 5, "num_samples": 10},  # chaotic: rounding grows fast
}
ALL, FEW = ("threads", "one process", "two processes", "another"), ("threads", "one process")  # executors


def spread_normal(y):
    mu = pg.sample("mu", dist.Normal(0.0, 3.0))
    tau = pg.sample("tau", dist.HalfNormal(2.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(mu, tau), obs=y)


@pg.program
def spread_counts(y):
    rate = pg.sample("rate", dist.Gamma(2.0, 0.2))
    with pg.plate("row", len(y)):
        n = pg.sample("n", dist.Poisson(rate))
        pg.sample("y", dist.Normal(n, 1.0), obs=y)


PRIOR_SCALE = 3.0


@pg.program
def of_a_setting(y):
    mu = pg.sample("mu", dist.Normal(0.0, PRIOR_SCALE))
    pg.sample("y", dist.Normal(mu, 1.0).expand([len(y)]).to_event(1), obs=y)


@pg.program
def deadly(y):
    """Ends the process that runs it, unless that is the first one."""
    if multiprocessing.parent_process() is not None:
        os._exit(1)
    spread_normal(y)


class Inline:
    """An executor that is none of the standard library's, whose jobs may be made to fail."""

    def __init__(self, error: Exception | None = None):
        self.error, self.cancelled, self.done = error, 0, 0

    def submit(self, function: Any, *args: Any) -> Any:
        future: Future = Future()
        if self.error is not None and function is spreading.work and self.done == 2:
            future.set_exception(self.error)
        else:
            self.done += function is spreading.work
            future.set_result(function(*args))
        return future


def spawning(num_workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[str, Any]]:
    with ThreadPoolExecutor(3) as threads, spawning(1) as one, spawning(2) as two:
        yield {"threads": threads, "one process": one, "two processes": two, "another": Inline()}


def infer(engine: str, backend: str, executor: Any = None) -> pg.Run:
    program = spread_counts if engine == "gibbs" else spread_normal
    return pg.infer(program, {"y": Y}, engine, backend, seed=3, executor=executor, **{**SHORT, **ENGINES[engine]})


@pytest.mark.parametrize(
    "engine, backend, among",
    [
        ("mala", "numpyro", ALL),
        ("mala", "pyro", FEW),
        ("chees", "numpyro", ("another", "two processes")),
        ("chees", "pyro", FEW),
        ("sgld", "numpyro", FEW),
        ("gibbs", "numpyro", FEW),
        ("nuts", "numpyro", FEW),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_same_draws_from_any_executor(engine, backend, among, executors):
    """To the bit among executors, and to rounding with none."""
    alone = infer(engine, backend)
    runs = {name: infer(engine, backend, executors[name]) for name in among}
    first = runs[among[0]]
    for name, run in runs.items():
        for site in first.posterior:
            np.testing.assert_array_equal(run.posterior[site], first.posterior[site], err_msg=name)
        for stat in first.stats:
            np.testing.assert_array_equal(run.stats[stat], first.stats[stat], err_msg=name)
    for site, value in alone.posterior.items():
        np.testing.assert_allclose(first.posterior[site], value, rtol=1e-6, atol=1e-6)
    assert set(first.stats) == set(alone.stats)
    numbers = {k: v for k, v in alone.attrs.items() if isinstance(v, float) and "time" not in k}
    assert numbers == pytest.approx({k: first.attrs[k] for k in numbers})


def test_moments(executors):
    """Of a run long enough for rounding to have grown; the posterior of mu is within 2% of that without an executor."""
    options = {"num_warmup": 300, "num_samples": 500, "num_chains": 16, "progress": False}
    runs = [pg.infer(spread_normal, {"y": Y}, "chees", executor=e, **options) for e in (None, executors["threads"])]
    (mean, deviation), (other, spread) = ((r.posterior["mu"].mean(), r.posterior["mu"].std()) for r in runs)
    assert other == pytest.approx(mean, abs=0.04 * deviation)
    assert spread == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("num_chains", [1, 3, 8, 11, 64, 250, 300, 1024])
def test_groups_cover_the_chains(num_chains):
    found = spreading.groups(num_chains)
    assert [i for rows in found for i in range(num_chains)[rows]] == list(range(num_chains))
    sizes = {rows.stop - rows.start for rows in found}
    assert max(sizes) - min(sizes) <= 1
    assert len(found) >= min(num_chains, 8)


# What cannot be done ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [3, ThreadPoolExecutor, "pool"])
def test_not_an_executor(executor):
    with pytest.raises(TypeError, match=r"submit\(\)"):
        pg.infer(spread_normal, {"y": Y}, "mala", executor=executor)


def test_a_setting_that_the_worker_would_not_have_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PRIOR_SCALE", 10.0)
    with spawning(1) as pool, pytest.raises(pg.UnsupportedError, match="PRIOR_SCALE.*another value in the worker"):
        pg.infer(of_a_setting, {"y": Y}, "mala", executor=pool, **SHORT)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork")
def test_a_fork_is_refused():
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool,
        pytest.raises(pg.UnsupportedError, match="get_context\\('spawn'\\)"),
    ):
        pg.infer(spread_normal, {"y": Y}, "mala", executor=pool)


@pytest.mark.parametrize(
    "engine, backend, options, says",
    [
        ("svi", "numpyro", {}, "svi on numpyro does all of its work in one process.*'chees'.*'nuts'"),
        ("nuts", "pyro", {}, "one generator, as it does not with backend='numpyro': leave out executor=.*'mala'"),
        ("mala", "numpyro", {"checkpoint": "run.zarr"}, "leave out checkpoint= or executor="),
    ],
)
def test_unsupported(engine, backend, options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pg.UnsupportedError, match=says):
        pg.infer(spread_normal, {"y": Y}, engine, backend, executor=Inline(), **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_program_that_no_module_holds(executors):
    """Refused before anything is computed where it must be pickled; threads need no pickle."""

    @pg.program
    def local(y):
        spread_normal(y)

    with pytest.raises(pg.UnsupportedError, match=r"local with its data and mala cannot be sent.*ProcessPoolExecutor"):
        pg.infer(local, {"y": Y}, "mala", executor=executors["one process"], num_warmup=10**9)  # would never end
    pg.infer(local, {"y": Y}, "mala", executor=executors["threads"], num_chains=2, **SHORT)


def test_a_job_that_fails():
    with pytest.raises(RuntimeError, match="a job of the Inline with chains of spread_normal failed: ZeroDiv.*no"):
        pg.infer(spread_normal, {"y": Y}, "mala", executor=Inline(ZeroDivisionError("no")), **SHORT)


def test_a_worker_that_dies():
    with spawning(1) as pool, pytest.raises(RuntimeError, match="a worker of the ProcessPoolExecutor died.*deadly"):
        pg.infer(deadly, {"y": Y}, "mala", executor=pool, **SHORT)


# Scripts and devices ----------------------------------------------------------------------------------------------

SCRIPT = '''
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import numpy as np
import ppl_gen as pg
from ppl_gen import dist

@pg.program
def in_main(y):
    mu = pg.sample("mu", dist.Normal(0.0, 3.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(mu, 1.0), obs=y)

def draws(**options):
    run = pg.infer(in_main, {"y": np.arange(4.0)}, "chees", num_chains=4, num_warmup=25, num_samples=25, progress=False,
                   **options)
    return run.posterior["mu"]

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        spread = draws(executor=pool)
    np.testing.assert_allclose(spread, draws(device="cpu:0"), rtol=1e-6, atol=1e-6)
'''

DEVICES = '''
import numpy as np
import jax
import ppl_gen as pg
from ppl_gen.inference import chain_axis
from tests.test_spread import Y, SHORT, spread_normal

place, seen = chain_axis.All.state, {}

def noted(self, state):
    placed = place(self, state)
    seen[len(placed.position)] = {d.id for d in placed.position.sharding.device_set}
    return placed

chain_axis.All.state = noted
for engine, num_chains, devices in (("mala", 4, 2), ("chees", 8, 2), ("mala", 3, 1)):
    options = dict(SHORT, num_chains=num_chains, start="uniform")
    two, one = (pg.infer(spread_normal, {"y": Y}, engine, device=d, **options) for d in (None, "cpu:0"))
    assert len(jax.devices()) == 2 and len(seen) == 1
    for name, value in one.posterior.items():
        np.testing.assert_allclose(two.posterior[name], value, rtol=1e-6, atol=1e-6)
    pg.infer(spread_normal, {"y": Y}, engine, **options)
    assert len(seen.pop(num_chains)) == devices, (engine, devices)
'''


def _python(*args: str, **surroundings: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **surroundings}
    done = subprocess.run([sys.executable, "-W", "ignore", *args], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_program_of_a_script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    _python(str(tmp_path / "script.py"))


def test_chains_lie_along_devices():
    """Two devices where they divide the number of chains, one elsewhere; the draws of one, to rounding."""
    _python("-c", DEVICES, XLA_FLAGS="--xla_force_host_platform_device_count=2")
