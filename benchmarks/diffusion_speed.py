"""Training steps and draws of diffusion and flow matching against plain loops on the same network, and torchcfm's.

By hand is what the papers' code does: PyTorch uncompiled; on JAX a jitted step that is called in a loop. Both sides
have the same network, optimiser, batches and numbers of evaluations, in single precision, and everything is compiled
before it is timed. ``mlp`` is a perceptron of 3 x 64 on eight Gaussians in the plane, ``unet`` a U-Net on MNIST.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import _diffusion_peers, _mnist

TITLE = "Diffusion and flow matching"
PEER = "by hand"
_NETS = {"mlp": "MLP 3 x 64, 2 features", "unet": "U-Net, 28 x 28"}
_BACKENDS = ("numpyro", "pyro")
CASES = {
    **{f"train {n} {b} byhand": f"one step of denoising, {said}, {b}" for n, said in _NETS.items() for b in _BACKENDS},
    **{f"draw {n} {b} byhand": f"draws of a batch, {said}, {b}" for n, said in _NETS.items() for b in _BACKENDS},
    **{f"train cfm {b} torchcfm": f"one step of flow matching, {b} (torchcfm)" for b in _BACKENDS},
    **{f"train otcfm {b} torchcfm": f"one step of OT flow matching, {b} (torchcfm)" for b in _BACKENDS},
    **{f"draw cfm {b} torchcfm": f"draws of a batch, flow matching, {b} (torchcfm)" for b in _BACKENDS},
}
_STEPS = {"mlp": 2000, "unet": 20, "cfm": 2000, "otcfm": 1000}  # of training, in a run
_BATCH = {"mlp": 256, "unet": 64, "cfm": 256, "otcfm": 256}
_DRAWS, _EVALUATIONS = {"mlp": 2000, "unet": 64, "cfm": 2000}, {"mlp": 100, "unet": 20, "cfm": 100}
PER = {case: _STEPS[case.split()[1]] if case.startswith("train") else 1 for case in CASES}
_WIDTH, _RATE = 64, 1e-3


def ours(case: str) -> Callable[[], dict[str, float]]:
    task, kind, backend, _ = case.split()
    return _training(kind, backend) if task == "train" else _drawing(kind, backend)


def peer(case: str) -> Callable[[], dict[str, float]]:
    task, kind, backend, whose = case.split()
    if whose == "torchcfm":
        made: Any = _diffusion_peers.TorchCFM(2, _WIDTH, _BATCH[kind], _RATE, optimal=kind == "otcfm")
    else:
        library = _diffusion_peers.Jax if backend == "numpyro" else _diffusion_peers.Torch
        made = library(_model(kind)._net(), _BATCH[kind], _RATE)
    if task == "train":
        run = made.train(_rows(kind), _STEPS[kind])
        return lambda: {"loss": float(np.mean(run()[-_STEPS[kind] // 4 :]))}
    run = made.draws((_DRAWS[kind], *_model(kind).shape), _EVALUATIONS[kind])
    return lambda: {"spread": float(np.std(run()))}


def _training(kind: str, backend: str) -> Callable[[], dict[str, float]]:
    """The steps of an engine, without what ``pg.infer`` does once before and after them."""
    from ppl_gen import backends
    from ppl_gen.inference.driver import Driver
    from ppl_gen.inference.fitting import Fit
    from ppl_gen.program import as_program
    from ppl_gen.target import Target

    room, engine, model = backends.get(backend), _engine(kind), as_program(_model(kind))
    with room.scope(precision="float32"):
        stated = engine.stated(model)
        target = Target(stated.bind(_rows(kind), room, ("float32", None), engine.rows_at_once(model), True))
        driver = Driver(room.to_numpy, progress=False)

    def run() -> dict[str, float]:
        with room.scope(precision="float32"):
            _, report, _ = Fit(engine, target, stated.guide, 0).run(driver)
        return {"loss": float(np.mean(report["loss"][-_STEPS[kind] // 4 :]))}

    return run


def _drawing(kind: str, backend: str) -> Callable[[], dict[str, float]]:
    import ppl_gen as pg
    from ppl_gen.diffusion.samplers.euler import Euler

    run = pg.infer(
        _model(kind), _rows(kind)[:512], _engine(kind, 2), backend, precision="float32", progress=False
    )
    sampler, seeds = Euler(num_steps=_EVALUATIONS[kind]), iter(range(10**6))
    return lambda: {"spread": float(np.std(run.sample(_DRAWS[kind], next(seeds), sampler=sampler, progress=False)))}


def _engine(kind: str, num_steps: int | None = None) -> Any:
    from ppl_gen import inference

    options = {"num_steps": num_steps or _STEPS[kind], "batch_size": _BATCH[kind], "learning_rate": _RATE}
    if kind in ("cfm", "otcfm"):
        coupling = "optimal_transport" if kind == "otcfm" else "independent"
        return inference.FlowMatching(coupling=coupling, schedule="constant", **options)
    return inference.ScoreMatching(schedule="constant", **options)


def _model(kind: str) -> Any:
    from ppl_gen import models
    from ppl_gen.nets.time_mlp import TimeMLP

    if kind == "unet":
        return models.Diffusion((28, 28, 1), channels=(16, 32, 32))
    if kind == "mlp":
        return models.Diffusion((2,), hidden=(_WIDTH,) * 3)
    return models.FlowMatching((2,), net=TimeMLP(2, (_WIDTH,) * 3, num_waves=0))


def _rows(kind: str) -> np.ndarray:
    if kind == "unet":
        return (_mnist.images("train")[:4096].reshape(-1, 28, 28, 1) * 2.0 - 1.0).astype(np.float32)
    rng = np.random.default_rng(0)
    angle = rng.integers(8, size=8192) * np.pi / 4
    centres = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (centres + 0.1 * rng.standard_normal((8192, 2))).astype(np.float32) * np.float32(np.sqrt(2.0))
