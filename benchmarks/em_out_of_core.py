"""EM of a mixture on rows in a memory-mapped file, against the same rows in memory, at several lengths.

What is timed are iterations of pg.infer's own loop. Peak memory is that of the whole process, with its start.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TITLE = "EM on rows in a file"
_ROWS = {"1e5": 100_000, "1e6": 1_000_000, "2e7": 20_000_000}
_ITERATIONS = {"1e5": 200, "1e6": 20, "2e7": 2}
_FEATURES, _COMPONENTS = 16, 8
CASES = {
    f"{backend} {name}": f"one EM iteration a row, mixture of {_COMPONENTS}, {name} x {_FEATURES} float32 in a file, "
    f"{backend} (peer: the same rows in memory)"
    for backend in ("numpyro", "pyro")
    for name in _ROWS
}
PEER = "in memory"
PER = {case: _ITERATIONS[name] * _ROWS[name] for case in CASES for name in [case.split()[1]]}
_BLOCK = 500_000


def _file(rows: int) -> Path:
    """Rows around eight centres, written block by block; made once, by whichever side comes first."""
    path = Path(tempfile.gettempdir()) / f"ppl_gen-benchmark-{rows}x{_FEATURES}.npy"
    if path.exists():
        return path
    rng, beside = np.random.default_rng(0), path.with_suffix(f".{os.getpid()}.npy")
    centres = 3.0 * rng.standard_normal((_COMPONENTS, _FEATURES))
    held = np.lib.format.open_memmap(beside, "w+", np.float32, (rows, _FEATURES))
    for i in range(0, rows, _BLOCK):
        count = min(_BLOCK, rows - i)
        held[i : i + count] = centres[rng.integers(0, _COMPONENTS, count)] + rng.standard_normal((count, _FEATURES))
    held.flush()
    beside.rename(path)
    return path


def ours(case: str) -> Callable[[], dict[str, float]]:
    return _side(case, "r")


def peer(case: str) -> Callable[[], dict[str, float]]:
    return _side(case, None)


def _side(case: str, mode: Any) -> Callable[[], dict[str, float]]:
    from ppl_gen import backends
    from ppl_gen.inference.closed_steps import ClosedSteps
    from ppl_gen.inference.em import EM
    from ppl_gen.inference.settling import begin
    from ppl_gen.models import GaussianMixture
    from ppl_gen.program import as_program
    from ppl_gen.target import Target

    backend, name = case.split()
    x, room = np.load(_file(_ROWS[name]), mmap_mode=mode), backends.get(backend)
    with room.scope(precision="float32"):
        bound = as_program(GaussianMixture(_COMPONENTS)).bind({"x": x}, room, ("float32", None), EM().block_rows)
        steps = ClosedSteps(Target(bound), None, EM().block_rows, False)
        held = begin(room, steps.start(1, 0, None), 1)

    def run() -> dict[str, float]:
        with room.scope(precision="float32"):
            _, report = steps.advance(held, _ITERATIONS[name])
            value = float(room.to_numpy(report["value"])[-1, 0]) / len(x)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of Linux, in KiB
        return {"log likelihood of a row": value, "peak GiB": peak}

    return run


def picture(result: dict[str, Any], path: Path) -> None:
    """Time of a row over the number of rows, both sides, both backends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for backend, colour in (("numpyro", "C0"), ("pyro", "C1")):
        for side, label, style in (("ours", "in a file", "o-"), ("peer", "in memory", "s--")):
            cases = {_ROWS[n]: result["cases"].get(f"{backend} {n}") for n in _ROWS}
            held = {rows: case for rows, case in cases.items() if case}
            times = [1e9 * case[side]["median_seconds"] / case["per_run"] for case in held.values()]
            axis.plot(list(held), times, style, color=colour, label=f"{backend}, {label}")
    axis.set(xscale="log", xlabel="rows", ylabel="ns a row and iteration", title="EM of 8 Gaussians, 16 features")
    axis.set_ylim(bottom=0)
    axis.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":  # the picture again, from the kept results
    kept = Path(__file__).parent / "results" / "em_out_of_core.json"
    picture(json.loads(kept.read_text()), kept.with_suffix(".png"))
