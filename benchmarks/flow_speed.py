"""Training steps, densities and draws of flows against Zuko and FlowJAX at equal sizes.

These are 5 maps, hidden (64, 64), 8 bins; batches of 512 rows in single precision. Steps are of Adam: ours as pg.infer
takes them, FlowJAX's in one jitted scan, Zuko's in a plain loop, uncompiled as its guide shows it. Densities and draws
are of a fitted model, from rows in memory to numbers in memory: run.log_prob and run.sample, FlowJAX's jitted, Zuko's
without gradients. Spline flows of ours have an invertible linear map before each spline, which the peers have not.
Everything is called before it is timed, ours on Pyro for a minute, as what is asked for again and again becomes machine
code there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import _flow_peers

TITLE = "Flows"
PEER = "by hand"
_PAIRS = (("numpyro", "flowjax"), ("numpyro", "zuko"), ("pyro", "zuko"))
_FLOWS = (("nsf", 2), ("nsf", 20), ("maf", 20))
_TASKS = {"step": "one training step", "density": "densities of a batch", "draws": "draws of a batch"}
CASES = {
    f"{task} {kind} {features} {ours} {peer}": f"{said}, {kind.upper()}, {features} features, {ours} ({peer})"
    for kind, features in _FLOWS
    for task, said in _TASKS.items()
    for ours, peer in _PAIRS
}
_ROWS, _MAPS, _HIDDEN, _BINS, _RATE = 512, 5, (64, 64), 8, 1e-3
_CALLS = 20
PER = dict.fromkeys(CASES, _CALLS)
_FIRST_CALLS, _FIRST_SECONDS = 3, {"numpyro": 0.0, "pyro": 60.0}
_LIBRARIES = {"flowjax": _flow_peers.FlowJAX, "zuko": _flow_peers.Zuko}


def _rows(features: int) -> np.ndarray:
    """Correlated Gaussians: (rows, features)."""
    rng = np.random.default_rng(0)
    mixed = np.eye(features) + 0.5 * rng.standard_normal((features, features)) / np.sqrt(features)
    return (rng.standard_normal((_ROWS, features)) @ mixed).astype(np.float32)


def _by_calls(call: Callable[[], Any], seconds: float = 0.0) -> Callable[[], dict[str, float]]:
    """Some calls, after a few and so many seconds of them."""
    for _ in range(_FIRST_CALLS):
        call()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        call()

    def run() -> dict[str, float]:
        for _ in range(_CALLS):
            call()
        return {}

    return run


def ours(case: str) -> Callable[[], dict[str, float]]:
    task, kind, features, backend, _ = case.split()
    from ppl_gen.models import Flow

    spline = {"num_bins": _BINS} if kind == "nsf" else {}
    model, x = Flow(kind, int(features), _MAPS, _HIDDEN, **spline), _rows(int(features))
    if task == "step":
        return _steps(backend, model, x)
    import ppl_gen as pg

    fitted = pg.infer(model, x, "svi", backend, batch_size=_ROWS, num_steps=1, precision="float32", progress=False)
    call = (lambda: fitted.log_prob(x)) if task == "density" else lambda: fitted.sample(_ROWS)
    return _by_calls(call, _FIRST_SECONDS[backend])


def _steps(backend: str, model: Any, x: np.ndarray) -> Callable[[], dict[str, float]]:
    """So many steps on one batch at a time, on from those before."""
    from ppl_gen import backends
    from ppl_gen.inference.elbo import RowBound
    from ppl_gen.inference.training import trainer
    from ppl_gen.program import as_program
    from ppl_gen.target import Target

    room = backends.get(backend)
    with room.scope(precision="float32"):
        target = Target(as_program(model).bind(x, room, ("float32", None)))
        made = trainer(target, lambda *_, **__: None, RowBound(len(x)), len(x))
        init, advance = room.descend(made.loss, optimizer="adam", learning_rate=_RATE, calls=10_000)
        ones = room.asarray(np.ones(_CALLS))
        inputs = {"x": room.asarray(np.stack([x] * _CALLS)), "rate": ones, "beta": ones, **room.keys(0, 0, _CALLS)}
        held = [init(made.start(0))]

    def run() -> dict[str, float]:
        with room.scope(precision="float32"):
            held[0], report = advance(held[0], inputs, {})
            return {"loss": float(room.to_numpy(report)["loss"][-1])}

    run()
    return run


def peer(case: str) -> Callable[[], dict[str, float]]:
    task, kind, features, _, library = case.split()
    made = _LIBRARIES[library](kind, int(features), _MAPS, _HIDDEN, _BINS)
    x = _rows(int(features))
    if task == "step":
        run = made.steps(x, _RATE, _CALLS)
        run()
        return lambda: {"loss": run()}
    return _by_calls((lambda: made.density(x)) if task == "density" else lambda: made.draws(_ROWS))
