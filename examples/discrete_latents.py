"""Discrete latents are summed out exactly: no annotation, no relaxation, the same on both backends.

    python examples/discrete_latents.py [numpyro|pyro]
"""

import itertools
import math
import os
import sys

import numpy as np

import ppl_gen as pg
from ppl_gen import dist, xp

NUM_SAMPLES = int(os.environ.get("PPL_GEN_EXAMPLE_SAMPLES", 1000))  # fewer in the tests

RATES = np.array([1.0, 5.0])  # events an hour when calm, when busy


@pg.program
def hours(counts):
    busy = pg.sample("busy", dist.Beta(1.0, 1.0))  # share of busy hours
    with pg.plate("hour", len(counts)):
        state = pg.sample("state", dist.Categorical(xp.stack([1.0 - busy, busy])))
        pg.sample("count", dist.Poisson(xp.asarray(RATES)[state]), obs=counts)


def exact_mean(counts):
    """E[busy | counts], by brute force: the sum over all 2^n assignments of states."""
    likelihood = np.exp(-RATES) * RATES ** counts[:, None]  # the factorials cancel
    total = first = 0.0
    for states in itertools.product((0, 1), repeat=len(counts)):
        weight = np.prod(likelihood[range(len(counts)), list(states)])
        a, b = 1 + sum(states), 1 + len(counts) - sum(states)  # busy given the states: Beta(a, b)
        weight *= math.factorial(a - 1) * math.factorial(b - 1)  # its normaliser, but for a constant
        total, first = total + weight, first + weight * a / (a + b)
    return first / total


def main(backend="numpyro", num_samples=NUM_SAMPLES):
    counts = np.array([0, 1, 6, 4, 2, 0, 7, 1, 1, 5])
    run = pg.infer(hours, counts, engine="nuts", backend=backend, num_warmup=num_samples, num_samples=num_samples,
                   progress=False)  # fmt: skip
    busy, expected = run.posterior["busy"], exact_mean(counts)
    print(f"{backend}: mean share of busy hours {busy.mean():.3f}; exactly {expected:.3f}")
    assert abs(busy.mean() - expected) < 0.02 * np.sqrt(4000 / busy.size)


if __name__ == "__main__":
    main(*sys.argv[1:2])
