"""Effective draws per second of larger posteriors: 1e4 x 100 rows, 1,000 groups, a Gaussian of 1,000 dimensions."""

from __future__ import annotations

from benchmarks import posterior_speed
from benchmarks._posteriors import LARGER

TITLE = "Effective draws per second of larger posteriors, once compiled"
PEER, RATE, PEERS = posterior_speed.PEER, posterior_speed.RATE, posterior_speed.PEERS
CASES = {f"{name} {peer}": f"{name}, against {said}" for name in LARGER for peer, said in PEERS.items()}
ours, peer = posterior_speed.ours, posterior_speed.peer
