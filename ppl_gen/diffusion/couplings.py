"""Which noise goes with which datum of a minibatch, on the host: at random, or by optimal transport among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

Rows = dict[str, np.ndarray]
# ``(rng, x, e) -> index``: row i of x (n, numbers) goes with row index[i] of e (n, numbers).
Matching = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]

_SHARE, _FEW = 0.05, 20  # Sinkhorn's iterations before an assignment: strength in deviations of the costs, number
_FAST, _ROUNDS = 50, 200  # iterations between two that cannot overflow, and how many such rounds at most


def independent(rng: np.random.Generator, x: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Any with any: flow matching as such, "I-CFM" (Lipman et al. 2023; Tong et al. 2024)."""
    return rng.permutation(len(x))


def optimal_transport(rng: np.random.Generator, x: np.ndarray, e: np.ndarray) -> np.ndarray:
    """The pairs with the least sum of squared distances, "OT-CFM" (Tong et al. 2024; Pooladian et al. 2023).

    Between equally many points of equal weight a vertex of the transport polytope is a permutation (Birkhoff), so that
    the assignment problem is the exact plan.
    """
    return assignment(-(x @ e.T))  # |x|^2 and |e|^2 do not hang on who goes with whom


def assignment(costs: np.ndarray) -> np.ndarray:
    """The columns (n,) that rows of costs (n, n) go with at the least sum, exactly.

    Numbers taken off whole rows and columns do not change which is best. Those of a few iterations of Sinkhorn's leave
    little above zero at most of the best pairs, which then are found three to five times sooner.
    """
    reduced = costs - costs.min(axis=1, keepdims=True)
    reduced -= reduced.min(axis=0)
    strength = _SHARE * (costs.std() or 1.0)
    kernel = np.exp(-reduced / strength)  # 1 somewhere in every row and column
    v = np.ones(len(costs))
    for _ in range(_FEW):
        u = 1.0 / (kernel @ v)
        v = 1.0 / (u @ kernel)
    return linear_sum_assignment(reduced - strength * (np.log(u)[:, None] + np.log(v)))[1]


@dataclass(frozen=True)
class Entropic:
    """Draws of the entropic plan, one for each datum: with strength 2 s^2 that of "SB-CFM" (Tong et al. 2024).

    Attributes:
        strength: of the entropy, in squared distances.
    """

    strength: float

    def __call__(self, rng: np.random.Generator, x: np.ndarray, e: np.ndarray) -> np.ndarray:
        plan = sinkhorn(cdist(x, e, "sqeuclidean"), self.strength)
        shares = np.cumsum(plan, axis=1)
        return (shares < rng.random((len(x), 1)) * shares[:, -1:]).sum(axis=1)


def sinkhorn(costs: np.ndarray, strength: float, tolerance: float = 1e-3) -> np.ndarray:
    """The plan between uniform weights with the least <plan, costs> - strength entropy(plan); rows sum to 1 / n.

    Sinkhorn's iterations on the scalings, taken into the potentials from time to time (Schmitzer 2019, algorithm 2).

    Args:
        costs: (n, m). tolerance: by which columns may miss 1 / m, as a share of the whole.
    """
    n, m = costs.shape
    f, g = np.zeros(n), np.zeros(m)
    for _ in range(_ROUNDS):
        f = -strength * (logsumexp((g - costs) / strength, axis=1) + np.log(n))
        g = -strength * (logsumexp((f[:, None] - costs) / strength, axis=0) + np.log(m))
        kernel = np.exp((f[:, None] + g - costs) / strength)
        u, v = np.ones(n), np.ones(m)
        for _ in range(_FAST):
            u = 1.0 / (n * (kernel @ v))
            missing = np.abs(v * (kernel.T @ u) - 1.0 / m).sum()
            if missing < tolerance:
                break
            v = 1.0 / (m * (kernel.T @ u))
        if missing < tolerance:
            return u[:, None] * kernel * v
        with np.errstate(divide="ignore"):
            moved = strength * np.log(u), strength * np.log(v)
        if all(np.isfinite(x).all() for x in moved):
            f, g = f + moved[0], g + moved[1]
    f = -strength * (logsumexp((g - costs) / strength, axis=1) + np.log(n))
    return np.exp((f[:, None] + g - costs) / strength)


@dataclass(frozen=True)
class Coupling:
    """Puts ``noise`` beside the rows ``x`` of a batch: its own, in another order, or Gaussian where it has none.

    Where rows have labels, each class is matched by itself: matched across classes the noise of each would no longer be
    distributed as that of all, which is what draws of it start from.
    """

    match: Matching

    def __call__(self, rng: np.random.Generator, rows: Rows) -> Rows:
        x = rows["x"]
        e = rows["noise"] if "noise" in rows else rng.standard_normal(x.shape).astype(x.dtype)
        index = np.arange(len(x))
        label = rows.get("label", np.zeros(len(x)))
        for one in np.unique(label):
            own = np.flatnonzero(label == one)
            flat = (z[own].reshape(len(own), -1).astype(float) for z in (x, e))
            index[own] = own[self.match(rng, *flat)]
        return {**rows, "noise": e[index]}
