"""A mixture of Gaussians on rows in a file, which are never all in memory, and on a stream that is seen once.

EM reads the file block by block in every iteration; stepwise EM updates after each batch of the stream. Both end near
the log likelihood of the parameters that the rows were drawn from.

    python examples/rows_in_a_file.py [numpyro|pyro]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import ppl_gen as pg

ROWS, BATCH = 200_000, 10_000
rng = np.random.default_rng(0)
weights, locs, scales = np.array([0.5, 0.3, 0.2]), 3.0 * rng.standard_normal((3, 4)), np.array([0.5, 1.0, 1.5])


def batch(count=BATCH):
    z = rng.choice(3, count, p=weights)
    return (locs[z] + scales[z][:, None] * rng.standard_normal((count, 4))).astype("float32")


def written(path):
    """A file of rows, made a batch at a time."""
    held = np.lib.format.open_memmap(path, "w+", np.float32, (ROWS, 4))
    for first in range(0, ROWS, BATCH):
        held[first : first + BATCH] = batch()
    held.flush()
    return path


def main(backend="numpyro"):
    model, new = pg.models.GaussianMixture(3, covariance_type="spherical"), batch()
    distances = ((new[:, None] - locs) ** 2).sum(-1) / scales**2
    terms = np.log(weights) - 0.5 * distances - 4 * np.log(scales) - 2 * np.log(2 * np.pi)
    known = np.logaddexp.reduce(terms, axis=1).mean()

    with tempfile.TemporaryDirectory() as folder:
        rows = np.load(written(Path(folder) / "rows.npy"), mmap_mode="r")
        run = pg.infer(model, rows, engine="em", backend=backend, num_restarts=2, precision="float32")
        found = run.log_prob(new).mean()
        print(f"em on {len(rows):,} rows in a file: {found:.4f} nats a new row, by the true parameters {known:.4f}")
        assert abs(found - known) < 0.01

    stream = (batch() for _ in range(100))
    run = pg.infer(model, batch(), engine="stepwise", backend=backend, stream=stream, precision="float32")
    found = run.log_prob(new).mean()
    print(f"stepwise on a stream of 100 batches: {found:.4f}")
    assert abs(found - known) < 0.05


if __name__ == "__main__":
    main(*sys.argv[1:2])
