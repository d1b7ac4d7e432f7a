"""Value and gradient of a log density on the Pyro side: ours compiled, Pyro's potential under autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._schools import SIGMA, Y, portable, pyro_model

TITLE = "Gradient of a Pyro program"
PEER = "Pyro"
CASES = {
    "one": "value and gradient, eight schools, one chain",
    "many": "value and gradient, eight schools, 64 chains at once (the peer: one chain)",
    "chains": "value and gradient, eight schools, 64 chains at once (the peer: one chain of ours, compiled too)",
}
PER = {"one": 1000, "many": 1000, "chains": 1000}
_CALLS = 1000


def ours(case: str) -> Callable[[], dict[str, float]]:
    return _compiled(1 if case == "one" else 64)


def _compiled(chains: int) -> Callable[[], dict[str, float]]:
    import torch

    from ppl_gen import backends
    from ppl_gen.program import as_program
    from ppl_gen.target import Target

    torch.set_num_threads(1)
    room = backends.get("pyro")
    with room.scope():
        target = Target(as_program(portable()).bind({"sigma": SIGMA, "y": Y}, room))
        evaluate = target.value_and_grad(calls=10**6)
        position = room.asarray(np.tile(_point(), (chains, 1)))
        evaluate(position, target.arrays)

    def run() -> dict[str, float]:
        with room.scope():
            for _ in range(_CALLS):
                value, _gradient = evaluate(position, target.arrays)
        return {"log density": float(value[0])}

    return run


def peer(case: str) -> Callable[[], dict[str, float]]:
    return _compiled(1) if case == "chains" else _autograd()


def _autograd() -> Callable[[], dict[str, float]]:
    import pyro
    import torch
    from pyro.infer.mcmc.util import initialize_model

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    pyro.enable_validation(False)
    data = (torch.as_tensor(SIGMA), torch.as_tensor(Y))
    _, potential, _, _ = initialize_model(pyro_model, data)
    u = torch.as_tensor(_point())
    start = {"mu": u[0], "tau": u[1], "z": u[2:]}

    def run() -> dict[str, float]:
        for _ in range(_CALLS):
            z: dict[str, Any] = {n: x.detach().requires_grad_() for n, x in start.items()}
            value = potential(z)
            torch.autograd.grad(value, list(z.values()))
        return {"log density": -float(value)}

    return run


def _point() -> np.ndarray:
    return np.linspace(-1.0, 1.0, 10)
