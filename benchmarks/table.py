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
    per = case["per_run"]
    times = [_time(case[side]["median_seconds"] / per) for side in ("ours", "peer")]
    figures = (
        f"{k} {case['ours']['quality'][k]:.3g} / {case['peer']['quality'].get(k, float('nan')):.3g}"
        for k in case["ours"]["quality"]
    )
    cells = [
        case["what"],
        times[0],
        f"{result['peer']}: {times[1]}",
        f"**{case['times_faster']:.3g}**",
        f"{case['times_faster_first']:.2g}",
        "; ".join(figures),
    ]
    return f"| {' | '.join(cells)} |"


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
    machine, date = results[0]["machine"], max(r["date"] for r in results)
    note = f"Medians of the runs, the two sides by turns; {machine['processor']}, {machine['cores']} cores, {date}."
    before, after = text.split(START)[0], text.split(END)[1]
    readme.write_text(f"{before}{START}\n{rows(results)}\n\n{note}\n{END}{after}")
