"""SVI updates: ours from pg.infer's loop, the peer's own loop written as fast as its documentation shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TITLE = "SVI updates"
CASES = {
    "numpyro": "one SVI update, logistic regression 1,000 x 10, NumPyro (peer: its own update in a jitted scan)",
    "pyro": "one SVI update, logistic regression 1,000 x 10, Pyro (peer: its own SVI.step)",
}
PEER = "raw library"
_STEPS = {"numpyro": 20_000, "pyro": 2_000}
PER = _STEPS
_RATE = 0.01


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 10))
    return x, (rng.random(1000) < 1 / (1 + np.exp(-x @ np.linspace(-1, 1, 10)))).astype(float)


def ours(case: str) -> Callable[[], dict[str, float]]:
    import torch

    import ppl_gen as pg
    from ppl_gen import backends, dist
    from ppl_gen.inference.driver import Driver
    from ppl_gen.inference.svi import SVI
    from ppl_gen.program import as_program
    from ppl_gen.target import Target

    torch.set_num_threads(1)

    def regression(x, y):
        b = pg.sample("b", dist.Normal(0.0, 1.0).expand([10]).to_event(1))
        with pg.plate("row", len(y)):
            pg.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    x, y = _data()
    room, engine = backends.get(case), SVI(num_steps=_STEPS[case], learning_rate=_RATE)
    with room.scope(precision="float32"):
        target = Target(as_program(regression).bind({"x": x, "y": y}, room, ("float32", None)))
        native, _ = engine._native(target, "normal")
        driver = Driver(room.to_numpy, progress=False)

    def run() -> dict[str, float]:
        with room.scope(precision="float32"):
            state = native.init(0, target.arrays)
            _, report, _ = engine._loop(target, driver, native, state)
        return {"final loss": float(report["loss"][-1000:].mean())}

    return run


def peer(case: str) -> Callable[[], dict[str, float]]:
    return _numpyro() if case == "numpyro" else _pyro()


def _numpyro() -> Callable[[], dict[str, float]]:
    import jax
    import numpyro
    import optax
    from numpyro import distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import optax_to_numpyro

    def regression(x: Any, y: Any) -> None:
        b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([10]).to_event(1))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    x, y = (jax.numpy.asarray(a, "float32") for a in _data())
    svi = SVI(regression, AutoNormal(regression), optax_to_numpyro(optax.adam(_RATE)), Trace_ELBO())
    advance = jax.jit(lambda s: jax.lax.scan(lambda s, _: svi.update(s, x, y), s, None, length=_STEPS["numpyro"]))

    def run() -> dict[str, float]:
        _, losses = advance(svi.init(jax.random.PRNGKey(0), x, y))
        return {"final loss": float(losses[-1000:].mean())}

    return run


def _pyro() -> Callable[[], dict[str, float]]:
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import SVI, Trace_ELBO
    from pyro.infer.autoguide import AutoNormal
    from pyro.optim import Adam

    torch.set_num_threads(1)
    pyro.enable_validation(False)

    def regression(x: Any, y: Any) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([10]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    x, y = (torch.as_tensor(a, dtype=torch.float32) for a in _data())

    def run() -> dict[str, float]:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        svi = SVI(regression, AutoNormal(regression), Adam({"lr": _RATE}), Trace_ELBO())
        losses = [svi.step(x, y) for _ in range(_STEPS["pyro"])]
        return {"final loss": float(np.mean(losses[-1000:]))}

    return run
