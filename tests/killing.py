"""A run that is killed again and again by SIGKILL, and one that is not; each attempt is a fork of one process.

``python -m tests.killing FOLDER KILLS SEED ENGINE BACKEND`` writes FOLDER/killed.zarr and FOLDER/whole.zarr.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import ppl_gen as pg
from ppl_gen import backends, dist
from ppl_gen.results import checkpoint, chunked

OPTIONS: dict[str, dict[str, Any]] = {
    "mala": {"num_warmup": 300, "num_samples": 15000, "num_chains": 3, "thinning": 5},
    "nuts": {"num_warmup": 100, "num_samples": 425, "num_chains": 3, "thinning": 1},
}
DATA = {"y": np.array([1.2, -0.3, 2.5, 0.4, 1.9])}


@pg.program
def spread(y):
    mu = pg.sample("mu", dist.Normal(0.0, 3.0))
    tau = pg.sample("tau", dist.HalfNormal(2.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(mu, tau), obs=y)


def slow(write: Any) -> Any:
    """A writer of files that first writes a part of what it should, and takes its time."""

    def in_parts(path: Path, arrays: Any, what: str) -> None:
        write(path, arrays, what)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        time.sleep(0.01)
        path.write_bytes(whole)

    return in_parts


def slow_rows(write: Any) -> Any:
    def in_parts(self: Any, index: int, rows: np.ndarray) -> None:
        write(self, index, rows)
        file = self._file(index)
        whole = file.read_bytes()
        file.write_bytes(whole[:-7])
        time.sleep(0.005)
        file.write_bytes(whole)

    return in_parts


def attempt(folder: Path, engine: str, backend: str, hooked: bool, begun: int) -> None:
    """One process's part of the run; says through the pipe when a commit begins."""
    warnings.simplefilter("ignore")
    chunked._CHUNK_BYTES = 2**16  # several chunk files
    if hooked:
        checkpoint._SECONDS = checkpoint._SHARE = 0
        checkpoint.write_npz = slow(checkpoint.write_npz)
        chunked.Rows.write = slow_rows(chunked.Rows.write)  # type: ignore[method-assign]
        commit = checkpoint.Checkpoint.commit

        def announced(self: Any, *args: Any, **options: Any) -> None:
            os.write(begun, b"x")
            commit(self, *args, **options)

        checkpoint.Checkpoint.commit = announced  # type: ignore[method-assign]
    if (folder / "journal" / "manifest.json").exists():
        pg.resume(folder, progress=False)
    else:
        pg.infer(spread, DATA, engine, backend, seed=5, progress=False, checkpoint=folder, **OPTIONS[engine])


def forked(folder: Path, engine: str, backend: str, kill: tuple[int, float] | None) -> bool:
    """Run in a fork, killed so many seconds after it has begun so many commits; whether it came to its end."""
    readable, begun = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            attempt(folder, engine, backend, kill is not None, begun)
            code = 0
        finally:
            os._exit(code)
    os.close(begun)
    if kill is not None:
        while kill[0] and os.read(readable, 1):
            kill = (kill[0] - 1, kill[1])
        time.sleep(kill[1])
        os.kill(child, signal.SIGKILL)
    os.close(readable)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return not os.WIFSIGNALED(status)


def main(folder: Path, kills: int, seed: int, engine: str, backend: str) -> list[tuple[int, int]]:
    """Where each kill left the run: the steps of the phase that was under way, and those of them that were done."""
    backends.get(backend)  # imported once; no fork has started JAX or PyTorch's threads yet
    rng, killed = random.Random(seed), folder / "killed.zarr"
    left: list[tuple[int, int]] = []
    forked(folder / "whole.zarr", engine, backend, None)
    while len(left) < kills and not forked(killed, engine, backend, (rng.randint(1, 4), rng.uniform(0.0, 0.03))):
        last = json.loads((killed / "journal" / "manifest.json").read_text())["body"]["phases"][-1:]
        left += [(last[0]["num_steps"], last[0]["done"]) if last else (0, 0)]
    forked(killed, engine, backend, None)
    return left


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])))
