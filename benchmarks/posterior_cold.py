"""Time from the start of a process to 1,000 effective draws of the worst parameter, of the eight public posteriors.

Each run is a process of its own, timed from before it is started: imports, compilation, warm-up and draws, at the
lengths of posterior_speed. A run that has 1,000 effective draws or more takes the time it took. One that falls short
is given the rest of them at the pace of its transitions: what its draws took of the time after compilation, by their
share in all transitions, is scaled by 1,000 over the effective draws. Reading the data is not counted for the peers,
since it brings ppl_gen with it.

Our first run, which is reported apart, begins with empty caches, the others with what it left in the persistent one;
the peers have the caches that they keep by default. ``s of compilation`` is JAX's: tracing, lowering, and XLA or
reading what the persistent cache holds of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks import posterior_speed
from benchmarks._posteriors import PUBLIC

TITLE = "From a new process to 1,000 effective draws of the worst parameter (first run: with empty caches)"
_PEERS = ("nutpie", "numpyro", "blackjax")
PEER, PEERS = "NumPyro, BlackJAX, nutpie", {peer: posterior_speed.PEERS[peer] for peer in _PEERS}
CASES = {f"{name} {peer}": f"{name}, against {said}" for name in PUBLIC for peer, said in PEERS.items()}


def ours(case: str) -> Callable[[], dict[str, float]]:
    return _process("ours", case)


def peer(case: str) -> Callable[[], dict[str, float]]:
    return _process("peer", case)


def _process(side: str, case: str) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks._cold", side, case, str(time.perf_counter())]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    return run
