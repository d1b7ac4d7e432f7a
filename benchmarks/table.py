"""The README's table, from the kept results files."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

START, END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"
_HEAD = (
    "| what | ours | peer | times faster | first run, times faster | quality, ours / peer |\n|---|---|---|---|---|---|"
)


def rows(results: list[dict[str, Any]]) -> str:
    """A Markdown table of results, one row a case, a peer or a picture."""
    return "\n".join([_HEAD, *(line for result in results for line in _lines(result))])


def latest(result: dict[str, Any]) -> str:
    """The row of the last case."""
    return _by_case(result)[-1]


def _lines(result: dict[str, Any]) -> list[str]:
    if "picture" in result:
        return [f"| [{result['title']}]({result['picture']}) | | | | | |"]
    return _by_peer(result) if "peers" in result else _by_case(result)


def _by_case(result: dict[str, Any]) -> list[str]:
    return [_row(result, name, case) for name, case in result["cases"].items()]


def _by_peer(result: dict[str, Any]) -> list[str]:
    """A row for each peer, over the cases in which its result passes."""
    lines = []
    for peer, said in result["peers"].items():
        cases = [c for n, c in result["cases"].items() if n.endswith(f" {peer}")]
        counted = [c for c in cases if c["peer"]["quality"].get("passes", 1.0) == 1.0]
        if not counted:
            continue
        ratios, first = ([c[key] for c in counted] for key in ("times_faster", "times_faster_first"))
        spread = f"**{median(ratios):.3g}** ({min(ratios):.3g} to {max(ratios):.3g})"
        what = f"{result['title']}: {len(counted)} of {len(cases)} posteriors, whose draws pass"
        lines.append(f"| {what} | | {said} | {spread} | {median(first):.2g} | |")
    return lines


def _row(result: dict[str, Any], name: str, case: dict[str, Any]) -> str:
    sides = [case[side] for side in ("ours", "peer") if side in case]
    times = [_time(side["median_seconds"] / case["per_run"]) if "median_seconds" in side else "" for side in sides]
    compared = ["", "", ""]
    if "peer" in case:
        faster, first = case["times_faster"], case["times_faster_first"]
        peer = result["peer"] if isinstance(result["peer"], str) else result["peer"][name.split()[-1]]
        compared = [f"{peer}: {times[1]}", f"**{faster:.3g}**", f"{first:.2g}"]
    figures = "; ".join(_figure(n, sides) for n, x in case["ours"]["quality"].items() if isinstance(x, int | float))
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
