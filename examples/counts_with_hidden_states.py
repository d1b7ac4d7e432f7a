"""A hidden Markov model of one's own: counts whose rate depends on a hidden state.

The states are summed out by the forward algorithm, the rates have a closed M-step, found by test. The end is compared
with the forward algorithm and direct maximisation in NumPy; run.latent() is the probability of each state at each
time (smoothing).

    python examples/counts_with_hidden_states.py [numpyro|pyro]
"""

import sys

import numpy as np
from scipy import optimize, special, stats

import ppl_gen as pg
from ppl_gen import dist, xp

T = 400
rng = np.random.default_rng(4)
moved = rng.random(T) < 0.05
states = np.cumsum(moved) % 2
counts = rng.poisson(np.array([2.0, 7.0])[states])


@pg.program(coords={"time": np.arange(T)})
def two_regimes(counts):
    stay = pg.param("stay", xp.array([0.8, 0.8]), constraint=dist.constraints.unit_interval)
    rate = pg.param("rate", xp.array([1.0, 10.0]), constraint=dist.constraints.positive)
    rows = xp.stack([xp.stack([stay[0], 1 - stay[0]]), xp.stack([1 - stay[1], stay[1]])])
    z = pg.sample("z", dist.MarkovChain(xp.array([0.5, 0.5]), rows, len(counts)))
    with pg.plate("time", len(counts)):
        pg.sample("counts", dist.Poisson(rate[z]), obs=counts)


def log_likelihood(v):
    """By the forward algorithm, a step at a time; v = (logits of staying, log rates)."""
    stay = special.expit(v[:2])
    table = np.array([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]])
    emission = stats.poisson.pmf(counts[:, None], np.exp(v[2:]))
    forward, total = np.array([0.5, 0.5]), 0.0
    for t in range(T):
        forward = (forward if t == 0 else forward @ table) * emission[t]
        total += np.log(forward.sum())
        forward /= forward.sum()
    return total


def main(backend="numpyro"):
    run = pg.infer(two_regimes, counts, engine="em", backend=backend, num_restarts=1)
    print(f"E-step: {run.attrs['e_step']}; M-step: {run.attrs['m_step']}")
    print(f"rates {np.round(run.params['rate'], 2)}, staying {np.round(run.params['stay'], 3)}")

    smoothed = run.latent()["z"]
    right = (smoothed.argmax(1) == states).mean()
    print(f"the likelier state is the true one at {right:.0%} of times")
    assert right > 0.9

    direct = optimize.minimize(lambda v: -log_likelihood(v), [1.0, 1.0, 0.0, 2.3])
    print(f"log likelihood {run.history['log_likelihood'][-1]:.4f}, by direct maximisation {-direct.fun:.4f}")
    assert abs(run.history["log_likelihood"][-1] + direct.fun) < 1e-3


if __name__ == "__main__":
    main(*sys.argv[1:2])
