"""One side of one case: sets up, then times a run for each line on standard input."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time


def main(benchmark: str, side: str, case: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    began = time.perf_counter()
    run = getattr(importlib.import_module(f"benchmarks.{benchmark}"), side)(case)
    setup = time.perf_counter() - began
    for line in sys.stdin:
        if line.strip() != "run":
            break
        began = time.perf_counter()
        found = run() or {}
        seconds = time.perf_counter() - began
        quality = dict(found() if callable(found) else found)
        seconds = quality.pop("seconds", seconds)
        answers.write(json.dumps({"seconds": seconds, "setup": setup, "quality": quality}) + "\n")
        answers.flush()


main(*sys.argv[1:])
