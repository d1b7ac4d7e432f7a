"""One run of posterior_cold in this process: ``python -m benchmarks._cold SIDE CASE BEGAN`` writes a line of JSON.

BEGAN is ``time.perf_counter()`` of who started it; the clock is the machine's.
"""

from __future__ import annotations

import json
import os
import sys
import time

_WANTED = 1000.0  # effective draws
_DRAWS = {"nutpie": 1000 / 1400}  # share of the draws in all transitions; of the others:
_HALF = 0.5


def main(side: str, case: str, began: str) -> None:
    start, answers = float(began), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    from benchmarks import posterior_speed
    from benchmarks._posteriors import data

    name, which = case.split()
    which = "ours" if side == "ours" else which
    if side == "peer":
        before = time.perf_counter()
        data(name)
        start += time.perf_counter() - before
    compiling = _Compilation() if which != "nutpie" else None
    run = getattr(posterior_speed, side)(case)
    ready = time.perf_counter()
    found = run()
    spent, sampling = time.perf_counter() - start, time.perf_counter() - ready
    compiled = compiling.seconds() if compiling else 0.0
    sampling -= compiling.seconds(ready) if compiling else 0.0
    quality = found()
    short = max(_WANTED / quality["min ESS"], 1.0) - 1.0
    seconds = spent + short * sampling * (1.0 if which == "ours" else _DRAWS.get(which, _HALF))
    said = {"s of compilation": compiled, "s of it in XLA": compiling.in_xla()} if compiling else {}
    answers.write(json.dumps({"seconds": seconds, **said, **quality}) + "\n")
    answers.flush()


class _Compilation:
    """What JAX spends on tracing, lowering and compiling from now on; events inside others count once."""

    _XLA = "/jax/core/compile/backend_compile_duration"
    _EVENTS = (_XLA, "/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")

    def __init__(self) -> None:
        import jax

        self.spans: list[tuple[float, float, str]] = []
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, seconds: float, **_: object) -> None:
        if event in self._EVENTS:
            now = time.perf_counter()
            self.spans.append((now - seconds, now, event))

    def seconds(self, since: float = 0.0) -> float:
        total = 0.0
        for begin, end, _ in sorted(self.spans):
            total += max(end - max(begin, since), 0.0)
            since = max(since, end)
        return total

    def in_xla(self) -> float:
        return sum(end - begin for begin, end, event in self.spans if event == self._XLA)


main(*sys.argv[1:])
