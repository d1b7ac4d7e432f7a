"""Topics of documents: the ten bars of Griffiths & Steyvers (2004), found again from counts of words alone.

The vocabulary is a 5 x 5 picture whose pixels are the words; a topic is a row or a column of it. Variational Bayes EM
climbs a lower bound on the log evidence; found topics are printed as pictures and matched with the true ones.

    python examples/topics.py [numpyro|pyro]
"""

import sys

import numpy as np
from scipy.optimize import linear_sum_assignment

import ppl_gen as pg

SIDE, DOCUMENTS, WORDS = 5, 1000, 100
rows = np.kron(np.eye(SIDE), np.ones(SIDE)) / SIDE
columns = np.kron(np.ones(SIDE), np.eye(SIDE)) / SIDE
true = np.concatenate([rows, columns])  # (10, 25)


def drawn(rng):
    """Counts of words (documents, 25)."""
    shares = rng.dirichlet(np.full(len(true), 0.1), DOCUMENTS)
    return np.stack([rng.multinomial(WORDS, p) for p in shares @ true]).astype(float)


def main(backend="numpyro"):
    counts = drawn(np.random.default_rng(0))
    model = pg.models.LatentDirichlet(10, topic_concentration=0.1, word_concentration=0.1)
    run = pg.infer(model, counts, engine="vbem", backend=backend, num_restarts=8, num_samples=100, tolerance=1e-6)
    print(f"evidence of at least {run.history['elbo'][-1]:.1f} nats after {len(run.history['elbo'])} iterations")

    topics = run.posterior["topics"].mean((0, 1))
    overlap = np.minimum(topics[:, None], true).sum(-1)  # 1 where two topics are the same
    own, match = linear_sum_assignment(-overlap)
    for line in range(SIDE):
        picture = topics.reshape(-1, SIDE, SIDE)[:, line]
        print("  ".join("".join("#" if p > 0.1 else "." for p in topic) for topic in picture))
    print(f"overlap with the true topics: {overlap[own, match].min():.2f} to {overlap[own, match].max():.2f}")
    assert overlap[own, match].min() > 0.6  # every bar is found; q spreads some of each over the other words


if __name__ == "__main__":
    main(*sys.argv[1:2])
