"""The README's table, from the kept results files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

START, END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"
_HEAD = (
    "| what | ours | peer | times faster | first run, times faster | quality, ours / peer |\n|---|---|---|---|---|---|"
)


def rows(results: list[dict[str, Any]]) -> str:
    """A Markdown table of results, one row a case."""
    lines = [_row(r, case) for r in results for case in r["cases"].values()]
    return "\n".join([_HEAD, *lines])


def _row(result: dict[str, Any], case: dict[str, Any]) -> str:
    sides = [case[side] for side in ("ours", "peer") if side in case]
    times = [_time(side["median_seconds"] / case["per_run"]) for side in sides]
    compared = ["", "", ""]
    if "peer" in case:
        faster, first = case["times_faster"], case["times_faster_first"]
        compared = [f"{result['peer']}: {times[1]}", f"**{faster:.3g}**", f"{first:.2g}"]
    figures = "; ".join(_figure(name, sides) for name in case["ours"]["quality"])
    return f"| {' | '.join([case['what'], times[0], *compared, figures])} |"


def _figure(name: str, sides: list[dict[str, Any]]) -> str:
    return f"{name} " + " / ".join(f"{side['quality'].get(name, float('nan')):.6g}" for side in sides)


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def fill(readme: Path) -> None:
    """Put the table of all kept results between the README's markers."""
    results = [json.loads(p.read_text()) for p in sorted((Path(__file__).parent / "results").glob("*.json"))]
    text = readme.read_text() if readme.exists() else ""
    if START not in text or END not in text or not results:
        return
    before, after = text.split(START)[0], text.split(END)[1]
    readme.write_text(f"{before}{START}\n{_by_machine(results)}\n{END}{after}")


def _by_machine(results: list[dict[str, Any]]) -> str:
    """A table for each machine that results were taken on, and under it which one that was."""
    machines: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        machine = result["machine"]
        machines.setdefault(f"{machine['processor']}, {machine['cores']} cores", []).append(result)
    return "\n\n".join(
        f"{rows(held)}\n\nMedians of the runs, the two sides by turns; {machine}, {max(r['date'] for r in held)}."
        for machine, held in machines.items()
    )
