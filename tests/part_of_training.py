"""One of two processes that train on halves of the rows; run by test_training.py."""

import os
import sys
from pathlib import Path

import numpy as np


def main(folder: str, backend: str, port: str = "", rank: str = "") -> None:
    if backend == "numpyro":
        import jax

        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(rank))
    from tests.test_training import ALL_ROWS, HALF, Y, described

    rank = rank or os.environ["RANK"]
    rows = Y[int(rank) :: 2]
    whole, half = (described(backend, rows, **options, processes=True) for options in (ALL_ROWS, HALF))
    held = {f"half {n}": x for n, x in {**half.history, **half.params}.items()}
    np.savez(Path(folder) / f"{rank}.npz", **whole.history, **whole.params, **held)


main(*sys.argv[1:])
