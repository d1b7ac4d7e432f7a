"""Runs our side and the peer's by turns, each in a process of its own, and keeps medians, spread and machine.

A benchmark is a file of this folder with ``TITLE``, ``CASES`` (name -> what one run does) and two functions
``ours(case)`` and ``peer(case)``: each sets up and returns ``run() -> dict`` of quality figures, or a function that
gives them; only ``run`` is timed, unless its figures have ``seconds`` of their own. ``PER`` says how many operations a
run holds, where a time of one operation is wanted; ``RATE`` names the figure of quality that seconds are compared for
one of; with ``ONCE`` there is one run, for its quality alone, and nothing is timed; ``PEERS`` the peers, where there
are several, each with cases whose names end in its own. Where nobody else has what is measured, ``PEER`` is None and
there is no ``peer``; a dict has the name of each case's peer by the end of the case's own. ``picture(result, path)``
draws the kept results; with ``PICTURED`` it stands for the cases in the README's table.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_NOT_BENCHMARKS = {"__init__", "__main__", "harness", "table", "worker"}
_PACKAGES = ("ppl_gen", "torch", "pyro-ppl", "jax", "numpyro", "numpy", "optax", "scikit-learn")


def names() -> list[str]:
    """Every benchmark: a file of this folder."""
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in _NOT_BENCHMARKS and not p.stem.startswith("_"))


def peer_python(given: str | None) -> str:
    """The interpreter that has the peers: as given, ``.venv-peers`` where it is made, else this one."""
    own = HERE.parent / ".venv-peers" / "bin" / "python"
    return given or (str(own) if own.exists() else sys.executable)


class _Worker:
    """One side of a benchmark in a process of its own; answers a line of JSON for each run."""

    def __init__(self, python: str, benchmark: str, side: str, case: str, cache: str):
        env = {**os.environ, "XDG_CACHE_HOME": cache, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"}
        self.process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "benchmarks.worker", benchmark, side, case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent,
            env=env,
        )

    def run(self) -> dict[str, Any]:
        """Time one run: {"seconds": ..., "setup": seconds before the first, imports too, "quality": {...}}."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a benchmark process ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate("stop\n")


def run(name: str, repeats: int, python: str, only: str = "", go_on: bool = False) -> Iterator[dict[str, Any]]:
    """The result so far after each case of a benchmark that the pattern ``only`` finds, the two sides by turns.

    With ``go_on`` the cases that are kept of a run which was ended early are those of this one.
    """
    module = importlib.import_module(f"benchmarks.{name}")
    result: dict[str, Any] = {"benchmark": name, "title": module.TITLE, "peer": module.PEER, "cases": {}}
    if hasattr(module, "PEERS"):
        result["peers"] = module.PEERS
    if getattr(module, "PICTURED", False):
        result["picture"] = f"benchmarks/results/{name}.png"
    if module.PEER:
        result["peer_versions"] = _peer_versions(python)
    partial = HERE / "results" / f"{name}.partial"
    if go_on and partial.exists():
        result["cases"] = json.loads(partial.read_text())["cases"]
    for case in (c for c in module.CASES if re.search(only, c) and c not in result["cases"]):
        told = {"what": module.CASES[case], "per_run": getattr(module, "PER", {}).get(case, 1)}
        result["cases"][case] = told | _case(name, case, repeats, python if module.PEER else None)
        yield result


def _case(name: str, case: str, repeats: int, peer_python: str | None) -> dict[str, Any]:
    pythons = {"ours": sys.executable, **({"peer": peer_python} if peer_python else {})}
    with contextlib.ExitStack() as stack:
        caches = {side: stack.enter_context(tempfile.TemporaryDirectory()) for side in pythons}
        sides = {side: _Worker(python, name, side, case, caches[side]) for side, python in pythons.items()}
        first = {side: worker.run() for side, worker in sides.items()}
        once = getattr(importlib.import_module(f"benchmarks.{name}"), "ONCE", False)
        timed: dict[str, list[Any]] = {side: [] for side in sides}
        for _ in range(0 if once else repeats):
            for side, worker in sides.items():
                timed[side].append(worker.run())
        for worker in sides.values():
            worker.close()
    if once:
        return {side: {"quality": first[side]["quality"]} for side in sides}
    result = {side: _summary(first[side], timed[side]) for side in sides}
    rate = getattr(importlib.import_module(f"benchmarks.{name}"), "RATE", None)
    return {**result, **(_compared(first, timed, rate) if peer_python else {})}


def _compared(first: dict[str, Any], timed: dict[str, list[Any]], rate: str | None) -> dict[str, Any]:
    """How many times faster ours is: in the middle of pairs of runs, in each pair, and at first."""
    cost = {side: [r["seconds"] / (r["quality"][rate] if rate else 1.0) for r in runs] for side, runs in timed.items()}
    ratios = [p / o for o, p in zip(cost["ours"], cost["peer"], strict=True)]
    cold = {side: run["setup"] + run["seconds"] for side, run in first.items()}
    return {
        "times_faster": statistics.median(ratios),
        "ratios": ratios,
        "times_faster_first": cold["peer"] / cold["ours"],
    }


def _summary(first: dict[str, Any], timed: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = sorted(t["seconds"] for t in timed)
    quality = {k: statistics.median(t["quality"][k] for t in timed) for k in timed[0]["quality"]}
    return {
        "first_seconds": first["setup"] + first["seconds"],
        "first_quality": first["quality"],
        "median_seconds": statistics.median(seconds),
        "min_seconds": seconds[0],
        "max_seconds": seconds[-1],
        "quality": quality,
    }


def keep(result: dict[str, Any], command: list[str]) -> Path:
    """Write the results file of a run, with the command, machine and versions; beside it until all cases are there."""
    path = HERE / "results" / f"{result['benchmark']}.json"
    path.parent.mkdir(exist_ok=True)
    partial, whole = path.with_suffix(".partial"), path
    wanted = importlib.import_module(f"benchmarks.{result['benchmark']}").CASES
    path = whole if set(result["cases"]) == set(wanted) else partial
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    cases = {case: result["cases"][case] for case in wanted if case in result["cases"]}
    about = {"command": " ".join(command), "date": when, "machine": _machine(), "versions": _versions()}
    kept = {**result, "cases": cases, **about}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    if path == partial:
        return path
    partial.unlink(missing_ok=True)
    draw = getattr(importlib.import_module(f"benchmarks.{result['benchmark']}"), "picture", None)
    if draw is not None:
        draw(kept, path.with_suffix(".png"))
    return path


def _machine() -> dict[str, Any]:
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line for line in cpuinfo.read_text().splitlines() if line.startswith("model name"))
        model = next(lines, f": {model}").split(":", 1)[1].strip()
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _peer_versions(python: str) -> dict[str, str]:
    """What an interpreter has of ``requirements/peers.txt``, and of torchcfm."""
    lines = (HERE.parent / "requirements" / "peers.txt").read_text().splitlines()
    wanted = [line.split("==")[0] for line in lines if "==" in line] + ["torchcfm"]
    asked = "import importlib.metadata as m; print([(d.metadata['Name'], d.version) for d in m.distributions()])"
    listed = ast.literal_eval(subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout)
    return {name: number for name, number in sorted(listed) if name in wanted}
