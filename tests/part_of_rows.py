"""One of two processes that fit a model to halves of the rows; run by test_rows.py."""

import os
import sys
import warnings
from pathlib import Path

import numpy as np

import ppl_gen as pg

folder, backend = Path(sys.argv[1]), sys.argv[2]
if backend == "numpyro":
    import jax

    rank = int(sys.argv[4])
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[3]}", num_processes=2, process_id=rank)
else:
    rank = int(os.environ["RANK"])
warnings.simplefilter("ignore")
x, gaps = np.load(folder / "x.npy"), np.load(folder / "gaps.npy")  # the gaps are all in one half
start = {
    "mixture": {"weights": [0.5, 0.5], "locs": x[[0, -1]], "scales": np.ones((2, 3)), "correlation": [np.eye(3)] * 2},
    "ppca": {"loc": x.mean(0), "loadings": np.ones((3, 1)), "scale": 1.0},
    "gaps": {"loc": x.mean(0), "loadings": np.ones((3, 1)), "scales": np.ones(3)},
}
models = {
    "mixture": (pg.models.GaussianMixture(2), x),
    "ppca": (pg.models.ProbabilisticPCA(1), x),
    "gaps": (pg.models.FactorAnalysis(1), gaps),
}
for name, (model, rows) in models.items():
    options = {"num_steps": 8, "num_restarts": 1, "tolerance": 0, "init": start[name], "processes": True}
    run = pg.infer(model, rows[rank::2], engine="em", backend=backend, progress=False, **options)
    np.savez(folder / f"{name}-{rank}.npz", history=run.history["log_likelihood"], **run.params)
