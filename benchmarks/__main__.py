"""``python -m benchmarks [NAME ...]``: run, write one JSON file a benchmark, fill the README's table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import harness, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"among {', '.join(harness.names())}; all where none is given")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side, after one that is not counted")
    parser.add_argument(
        "--peer-python", default=None, help="interpreter with the peers (default: .venv-peers, else this)"
    )
    parser.add_argument("--only", default="", help="run the cases alone that this pattern finds, keep nothing")
    parser.add_argument("--go-on", action="store_true", help="keep the cases of a run that was ended early, add others")
    parser.add_argument("--only-table", action="store_true", help="fill the README's table from the kept results")
    options = parser.parse_args()
    unknown = set(options.names) - set(harness.names())
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}: expected among {', '.join(harness.names())}")
    for name in [] if options.only_table else options.names or harness.names():
        peer = harness.peer_python(options.peer_python)
        for result in harness.run(name, options.repeats, peer, options.only, options.go_on):  # kept as they end
            if options.go_on or not options.only:
                harness.keep(result, ["python", "-m", "benchmarks", *sys.argv[1:]])
            print(table.latest(result), flush=True)
    table.fill(Path(__file__).parents[1] / "README.md")
    return 0


sys.exit(main())
