"""EM iterations of hidden Markov models: ours from pg.infer's loop, the peer's from hmmlearn's own fit.

Both sides start from the same parameters and end at the same log likelihood, which is asserted. hmmlearn has two
implementations, "log" and "scaling": the faster one is the peer. Peak memory is that of the whole process.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

TITLE = "EM iterations of hidden Markov models"
PEER = "hmmlearn"
_SIZES = {  # sequences, steps, states; and the log likelihood after the iterations of a run
    "long_4": (1, 1_000_000, 4, -3082038.8796),
    "long_16": (1, 1_000_000, 16, -3265749.5219),
    "many_4": (200, 5_000, 4, -3082142.9165),
    "many_16": (200, 5_000, 16, -3265988.7801),
    "longer_4": (1, 4_000_000, 4, -12529625.4418),  # four times the memory, less what the libraries take
}
_BACKENDS = {"numpyro": tuple(_SIZES), "pyro": ("long_4", "long_16", "many_4", "many_16")}
CASES = {
    f"{backend}_{size}": f"one EM iteration, {_SIZES[size][2]} states, 2 features, diagonal, {_SIZES[size][0]} x "
    f"{_SIZES[size][1]:,} steps, float64, {backend}"
    for backend, sizes in _BACKENDS.items()
    for size in sizes
}
_ITERATIONS = 5
PER = dict.fromkeys(CASES, _ITERATIONS)


def _data(case: str) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Observations (sequences, steps, 2), starting parameters, and the log likelihood where they lead."""
    sequences, steps, k, log_likelihood = _SIZES[case.partition("_")[2]]
    rng = np.random.default_rng(0)
    transition = 0.9 * np.eye(k) + 0.1 / k
    moved = rng.random(sequences * steps) >= 0.9
    drawn = rng.integers(k, size=sequences * steps)
    states = drawn[np.maximum.accumulate(np.where(moved, np.arange(len(moved)), 0))]
    locs = 3.0 * rng.standard_normal((k, 2))
    x = locs[states] + rng.standard_normal((len(states), 2))
    start = {
        "initial_probs": np.full(k, 1.0 / k),
        "transition_probs": transition,
        "locs": locs + 0.1,
        "scales": np.full((k, 2), np.sqrt(1.5)),
    }
    return x.reshape(sequences, steps, 2), start, log_likelihood


def _quality(found: float, expected: float) -> dict[str, float]:
    if not abs(found - expected) <= 1e-7 * abs(expected):
        raise AssertionError(f"log likelihood {found:.4f}, expected {expected:.4f}")
    return {"log likelihood": found, "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def ours(case: str) -> Callable[[], dict[str, float]]:
    from ppl_gen import backends
    from ppl_gen.inference.closed_steps import ClosedSteps
    from ppl_gen.inference.settling import begin
    from ppl_gen.models import HiddenMarkov
    from ppl_gen.program import as_program
    from ppl_gen.target import Target

    x, start, expected = _data(case)
    room = backends.get(case.partition("_")[0])
    model = HiddenMarkov(len(start["locs"]), covariance_type="diag", regularization=0.0)
    with room.scope():
        target = Target(as_program(model).bind({"x": x}, room, ("float64", None)))
        steps = ClosedSteps(target, None, len(x), False)
        held = begin(room, steps.start(1, 0, start), 1)

    def run() -> dict[str, float]:
        with room.scope():
            _, report = steps.advance(held, _ITERATIONS)
            return _quality(float(room.to_numpy(report["value"])[-1, 0]), expected)

    return run


def peer(case: str) -> Callable[[], dict[str, float]]:
    x, start, expected = _data(case)
    lengths, flat = [x.shape[1]] * x.shape[0], x.reshape(-1, 2)

    def fitted(implementation: str, iterations: int) -> Any:
        from hmmlearn.hmm import GaussianHMM

        model = GaussianHMM(
            len(start["locs"]), "diag", covars_prior=0.0, covars_weight=1.0, init_params="", n_iter=iterations,
            tol=-np.inf, implementation=implementation,
        )  # fmt: skip
        model.startprob_, model.transmat_ = start["initial_probs"], start["transition_probs"]
        model.means_, model.covars_ = start["locs"], start["scales"] ** 2
        return model.fit(flat, lengths)

    def seconds(implementation: str) -> float:
        began = time.perf_counter()
        fitted(implementation, 1)
        return time.perf_counter() - began

    faster = min(("scaling", "log"), key=seconds)

    def run() -> dict[str, float]:
        return _quality(fitted(faster, _ITERATIONS).monitor_.history[-1], expected)

    return run
