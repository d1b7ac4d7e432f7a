"""MALA with its draws on disk, against the same run in memory, at several lengths.

What is timed is the whole of pg.infer, with the groups that ArviZ reads and the diagnostics. Memory is what the process
took at most from its start until all draws of its first run were there; the diagnostics then take one variable after
the other.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

TITLE = "Draws in a checkpoint"
_DRAWS = {"1e5": 100_000, "4e5": 400_000}
_CHAINS, _DIM = 4, 20
CASES = {
    name: f"{_CHAINS} x {name} draws of {_DIM} numbers by MALA on NumPyro, in a folder (peer: in memory)"
    for name in _DRAWS
}
PEER = "in memory"
PER = {case: _DRAWS[case] for case in CASES}


def _run(case: str, place: Path | None) -> Callable[[], dict[str, float]]:
    import ppl_gen as pg
    from ppl_gen import dist
    from ppl_gen.results import run as results

    @pg.program
    def normal() -> None:
        pg.sample("x", dist.Normal(np.zeros(_DIM), 1.0).to_event(1))

    options: dict[str, Any] = {"num_samples": _DRAWS[case], "num_warmup": 200, "num_chains": _CHAINS, "thinning": 1}
    drawn = 0.0
    of = results.Run.of.__func__  # type: ignore[attr-defined]

    def noted(*args: Any) -> Any:
        nonlocal drawn
        drawn = drawn or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return of(results.Run, *args)

    def once() -> dict[str, float]:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        with warnings.catch_warnings(), mock.patch.object(results.Run, "of", noted):
            warnings.simplefilter("ignore")
            run = pg.infer(normal, None, "mala", seed=1, progress=False, checkpoint=place, **options)
        second = float(np.mean(run.posterior["x"][..., 0] ** 2))
        return {"MiB until drawn": drawn, "second moment": second}

    return once


def ours(case: str) -> Callable[[], dict[str, float]]:
    return _run(case, Path(tempfile.mkdtemp(prefix="ppl_gen-benchmark-")) / "run.zarr")


def peer(case: str) -> Callable[[], dict[str, float]]:
    return _run(case, None)
