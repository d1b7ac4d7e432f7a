"""Training steps and draws of diffusion and flow matching against plain loops on the same network, and their peers.

By hand is what the papers' code does: PyTorch uncompiled; on JAX a jitted step that is called in a loop, with the same
network, optimiser, batches and numbers of evaluations. torchcfm has a network of its own, of the same widths. All is in
single precision and compiled before it is timed; draws are of networks that are hardly trained. ``mlp`` is a perceptron
of 3 x 64 on eight Gaussians in the plane, ``unet`` a U-Net on MNIST. ``langevin`` are the ends of 1,000 chains of 1,000
steps in ten double wells, with the energy that they come to. ``npse`` is the whole of an inference of two moons, 10,000
simulations, 30 epochs of batches of 200 and 1,000 draws, by residual networks of six layers of 64; path, weighting,
learning rate, looks at rows kept back and sampler are each library's own defaults. "C2ST" is that of the draws against
the reference, of one run, and varies from run to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import _diffusion_peers, _mnist, sbi_two_moons

TITLE = "Diffusion and flow matching"
PEER = {"byhand": "by hand", "torchcfm": "torchcfm", "torchebm": "torchebm", "sbi": "sbi"}
_NETS = {"mlp": "MLP 3 x 64, 2 features", "unet": "U-Net, 28 x 28"}
_BACKENDS = ("numpyro", "pyro")
CASES = {
    **{f"train {n} {b} byhand": f"one step of denoising, {said}, {b}" for n, said in _NETS.items() for b in _BACKENDS},
    **{f"draw {n} {b} byhand": f"draws of a batch, {said}, {b}" for n, said in _NETS.items() for b in _BACKENDS},
    **{f"train cfm {b} torchcfm": f"one step of flow matching, {b}" for b in _BACKENDS},
    **{f"train otcfm {b} torchcfm": f"one step of OT flow matching, {b}" for b in _BACKENDS},
    **{f"draw cfm {b} torchcfm": f"draws of a batch, flow matching, {b}" for b in _BACKENDS},
    **{f"draw langevin {b} torchebm": f"chains of Langevin steps, {b}" for b in _BACKENDS},
    **{f"infer npse {b} sbi": f"posterior of two moons by npse, {b}" for b in _BACKENDS},
}
_STEPS = {"mlp": 2000, "unet": 60, "cfm": 2000, "otcfm": 1000}  # of training, in a run
_BATCH = {"mlp": 256, "unet": 64, "cfm": 256, "otcfm": 256}
_DRAWS, _EVALUATIONS = {"mlp": 2000, "unet": 64, "cfm": 2000}, {"mlp": 100, "unet": 20, "cfm": 100}
PER = {case: _STEPS[case.split()[1]] if case.startswith("train") else 1 for case in CASES}
_WIDTH, _RATE = 64, 1e-3
_CHAINS, _WELLS, _BARRIER, _STEP = 1000, 10, 2.0, 0.01  # the step is dt of dx = -grad E dt + sqrt(2 dt) dw
_NPSE = {"num_simulations": 10_000, "num_epochs": 30, "batch_size": 200}
_POSTERIOR = 1000  # draws


def ours(case: str) -> Callable[[], Any]:
    task, kind, backend, _ = case.split()
    if kind == "langevin":
        return _langevin(backend)
    if kind == "npse":
        return _npse(backend)
    return _training(kind, backend) if task == "train" else _drawing(kind, backend)


def peer(case: str) -> Callable[[], Any]:
    task, kind, backend, whose = case.split()
    if kind == "langevin":
        chains = _diffusion_peers.torchebm(_BARRIER, (_CHAINS, _WELLS), 1000, _STEP)
        return lambda: {"energy": _energy(chains())}
    if kind == "npse":
        how = {"epochs": _NPSE["num_epochs"], "batch": _NPSE["batch_size"], "width": _WIDTH, "layers": 6, "rate": 5e-4}
        infer = _diffusion_peers.sbi(sbi_two_moons.task()[0], _NPSE["num_simulations"], _POSTERIOR, **how)
        return lambda: _c2st(infer())
    if whose == "torchcfm":
        made: Any = _diffusion_peers.TorchCFM(2, _WIDTH, _BATCH[kind], _RATE, optimal=kind == "otcfm")
    else:
        library = _diffusion_peers.Jax if backend == "numpyro" else _diffusion_peers.Torch
        made = library(_model(kind)._net(), _BATCH[kind], _RATE)
    if task == "train":
        run = made.train(_rows(kind), _STEPS[kind])
        return lambda: {"loss": float(np.mean(run()[-_STEPS[kind] // 4 :]))}
    return _silent(made.draws((_DRAWS[kind], *_model(kind).shape), _EVALUATIONS[kind]))


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
    return _silent(lambda: run.sample(_DRAWS[kind], next(seeds), sampler=sampler, progress=False))


def _silent(draw: Callable[[], np.ndarray]) -> Callable[[], dict[str, float]]:
    """Without figures: networks that are hardly trained draw nothing worth a look."""

    def run() -> dict[str, float]:
        draw()
        return {}

    return run


def _langevin(backend: str) -> Callable[[], dict[str, float]]:
    import ppl_gen as pg
    from ppl_gen import dist, xp

    @pg.program
    def double_wells() -> None:
        x = pg.sample("x", dist.Normal(0.0, 1.0).expand([_WELLS]).to_event(1))
        pg.factor("wells", xp.sum(0.5 * x**2 - _BARRIER * (x**2 - 1.0) ** 2))

    engine = pg.inference.ULA(
        num_chains=_CHAINS, num_warmup=1, num_samples=1000, thinning=1000, preconditioner="identity",
        step_size=float(np.sqrt(2.0 * _STEP)),
    )  # fmt: skip
    seeds = iter(range(10**6))

    def run() -> dict[str, float]:
        made = pg.infer(double_wells, {}, engine, backend, seed=next(seeds), precision="float32", progress=False)
        return {"energy": _energy(made.posterior["x"][:, -1])}

    return run


def _energy(x: np.ndarray) -> float:
    return float(_BARRIER * ((np.asarray(x, float) ** 2 - 1.0) ** 2).sum(-1).mean())


def _npse(backend: str) -> Callable[[], Any]:
    import ppl_gen as pg

    model, observed, seeds = sbi_two_moons.two_moons(), sbi_two_moons.task()[0], iter(range(10**6))

    def run() -> Any:
        made = pg.infer(
            model, observed, "npse", backend, seed=next(seeds), precision="float32", progress=False, correction=False,
            num_samples=_POSTERIOR, width=_WIDTH, patience=_NPSE["num_epochs"], **_NPSE,
        )  # fmt: skip
        return _c2st(np.asarray(made.posterior["theta"][0], float))

    return run


def _c2st(draws: np.ndarray) -> Callable[[], dict[str, float]]:
    """Said when the time has been taken."""
    from ppl_gen import evaluation

    return lambda: {"C2ST": evaluation.c2st(sbi_two_moons.task()[1][: len(draws)], draws)}


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
