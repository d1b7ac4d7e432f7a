"""Flow matching from a Gaussian to eight Gaussians, with optimal transport in each minibatch, without it, and reflowed.

As in Tong et al. (2024): a perceptron of 3 x 64, 3,000 iterations, 100 steps of Euler's method, and exact distances of
2,000 draws to 2,000 of the target, in single precision. "floor" is the distance of two samples of the target; "path
energy error" by how much the energy of the paths differs from the squared distance between 2,000 draws of source and
target, as a share of it; "one-step W2" is the distance of draws of a single step. "SB-CFM" has bridges of deviation
0.5; "reflowed" is a second model, trained on 10,000 pairs of one without transport.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TITLE = "Flow matching with minibatch optimal transport, Gaussian to eight Gaussians"
PEER = None
ONCE = True
_COUPLINGS = {"OT-CFM": "optimal_transport", "I-CFM": "independent", "SB-CFM": "schroedinger_bridge"}
CASES = {
    f"{backend} {name}": f"3,000 iterations of {name}, 3 x 64, {backend}"
    for backend in ("numpyro", "pyro")
    for name in (*_COUPLINGS, "reflowed")
}
_DRAWS, _ROWS = 2000, 100_000
_TRAINING: dict[str, Any] = {
    "num_steps": 3000, "batch_size": 256, "learning_rate": 2e-3, "precision": "float32", "progress": False,
}  # fmt: skip


def ours(case: str) -> Callable[[], dict[str, float]]:
    from benchmarks._toys import TOYS

    backend, name = case.split()
    draw = TOYS["wide_gaussians"].draw
    x = draw(_ROWS, np.random.default_rng(1))

    def run() -> dict[str, float]:
        fitted = _fitted(backend, name, x)
        return figures(fitted, draw)

    return run


def _fitted(backend: str, name: str, x: np.ndarray) -> Any:
    import ppl_gen as pg
    from ppl_gen.diffusion.samplers import Euler

    model = pg.models.FlowMatching((2,), hidden=(64, 64, 64))
    coupling = _COUPLINGS.get(name, "independent")
    fitted = pg.infer(model, x, "flow_matching", backend, coupling=coupling, **_TRAINING)
    if name != "reflowed":
        return fitted
    pairs = fitted.pairs(10_000, seed=3, sampler=Euler(100), progress=False)
    return pg.infer(model, pairs, "flow_matching", backend, **_TRAINING)


def figures(fitted: Any, draw: Callable[[int, np.random.Generator], np.ndarray]) -> dict[str, float]:
    """What a flow of the plane is worth beside draws of the target."""
    from ppl_gen import evaluation
    from ppl_gen.diffusion.samplers import Euler

    rng = np.random.default_rng(2)
    target, other = draw(_DRAWS, rng), draw(_DRAWS, rng)
    noise = rng.standard_normal((_DRAWS, 2))
    often, once = (fitted.sample(_DRAWS, noise=noise, sampler=Euler(n), progress=False) for n in (100, 1))
    path = fitted.sample(_DRAWS, noise=noise, sampler=Euler(100), trajectory=True, progress=False)
    apart = evaluation.wasserstein_exact(noise, target)
    energy = evaluation.path_energy(np.concatenate([noise[None], path]), w2=apart)
    return {
        "W2": evaluation.wasserstein_exact(often, target),
        "floor": evaluation.wasserstein_exact(target, other),
        "path energy error": float(energy.normalised),
        "its standard error": energy.standard_error / apart**2,
        "one-step W2": evaluation.wasserstein_exact(once, target),
    }
