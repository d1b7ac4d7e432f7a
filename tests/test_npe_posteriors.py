"""Learned posteriors at full size: posteriordb by importance weights, and simulation-based calibration in one pass."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist, nets, xp
from ppl_gen.inference.amortised import Amortised
from tests.posteriors import POSTERIORS, by_reference_name
from tests.test_npe import Y, conjugate

pytestmark = pytest.mark.slow
# Independent draws after resampling: as many effective ones as the samplers' tests ask for.
ENOUGH = 700


@pg.program
def hidden_markov(y):
    """That of ``POSTERIORS`` as something that can be run: there a factor stands for what is hidden."""
    rows = [pg.sample(name, dist.Dirichlet(xp.ones((2,)))) for name in ("theta1", "theta2")]
    low, high = (pg.sample(name, dist.Normal(mean, 1.0)) for name, mean in (("low", 3.0), ("high", 10.0)))
    mu = pg.deterministic("mu", xp.stack([low, high]))  # 0 < low < high, but for prior mass that data rule out
    z = pg.sample("z", dist.MarkovChain(xp.array([0.5, 0.5]), xp.stack(rows), len(y)))
    with pg.plate("time", len(y)):
        pg.sample("y", dist.Normal(mu[z], 1.0), obs=y)


POSTERIORDB = {
    "eight_schools": (POSTERIORS["eight_schools"].program, {}),
    "gp": (POSTERIORS["gp"].program, {}),
    "hmm": (hidden_markov, {"embedding": nets.MLP(100, 16, (128, 64)), "oversampling": 40}),
}


@pytest.mark.parametrize("name", POSTERIORDB)
def test_posteriordb_by_weighed_draws(name, data_dir):
    held, (program, own) = POSTERIORS[name], POSTERIORDB[name]
    options = {"num_samples": 4000, "num_epochs": 60, "oversampling": 20, "num_layers": 3, **own}
    run = pg.infer(program, held.data(data_dir), "npe", progress=False, precision="float32", **options)
    draws = by_reference_name(run.posterior)
    parameters, heavy_tailed = held.reference(data_dir)
    assert parameters and set(parameters) <= set(draws) and run.attrs["ess"] >= ENOUGH and run.attrs["pareto_k"] < 0.7
    failed = {}
    for parameter, reference in parameters.items():
        x = draws[parameter]
        off, ratio = abs(x.mean() - reference["mean"]) / reference["sd"], x.std() / reference["sd"]
        if off > 0.15 or not (parameter in heavy_tailed or 0.85 <= ratio <= 1.15):
            failed[parameter] = {"off": off, "sd ratio": ratio}
    assert not failed, failed


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_a_network_trained_once_is_calibrated(backend, correction):
    """Ranks of true latents among draws for 300 simulated data sets; p-values below 1e-5 do not come by chance."""
    run = pg.infer(
        conjugate, Y, "npe", backend, progress=False, flow="maf", num_layers=1, hidden=(32,), num_simulations=20_000,
        num_epochs=40, learning_rate=3e-3, num_samples=300,
    )  # fmt: skip
    found = pg.sbc(conjugate, Y, Amortised(trained=run, correction=correction), 300, backend=backend, progress=False)
    assert worst(found) > 1e-5 and not found.failures
    assert found.num_replicates == 300
    narrow = dict(run.params)
    narrow["standard.u_scale"] = 0.8 * narrow["standard.u_scale"]  # draws too near to the median of the prior
    run.params = narrow
    spoilt = pg.sbc(conjugate, Y, Amortised(trained=run, correction=False), 300, backend=backend, progress=False)
    assert worst(spoilt) < 1e-5


def worst(calibration):
    return min(np.min(p) for p in calibration.p_values.values())
