"""The graph of a pairwise field of binary variables: who is whose neighbour, colours, and sums over all states."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ppl_gen.primitives import xp

_DENSE = 8  # neighbours among so many variables for each of them: then products with a matrix are the faster ones


@dataclass(frozen=True)
class FieldGraph:
    """Edges between ``size`` variables, each a pair of indices.

    Attributes:
        low, high: the two values of a variable, 0 and 1 or -1 and 1.
    """

    size: int
    edges: tuple[tuple[int, int], ...]
    low: float = 0.0
    high: float = 1.0

    @cached_property
    def ends(self) -> np.ndarray:
        """(2, edges)."""
        return np.asarray(self.edges, int).reshape(-1, 2).T

    @cached_property
    def neighbours(self) -> list[dict[int, int]]:
        """Of each variable: neighbour -> edge."""
        found: list[dict[int, int]] = [{} for _ in range(self.size)]
        for e, (i, j) in enumerate(self.edges):
            found[i][j] = found[j][i] = e
        return found

    @cached_property
    def colours(self) -> list[np.ndarray]:
        """Variables by colours, none beside one of its own colour; two where that is possible, as on a chequerboard."""
        colour = np.full(self.size, -1)
        for root in range(self.size):
            reached = deque([root] if colour[root] < 0 else [])
            while reached:
                i = reached.popleft()
                if colour[i] < 0:
                    taken = {colour[j] for j in self.neighbours[i]}
                    colour[i] = next(c for c in range(self.size) if c not in taken)
                    reached.extend(j for j in self.neighbours[i] if colour[j] < 0)
        return [np.flatnonzero(colour == c) for c in range(colour.max() + 1)]

    # Energies -------------------------------------------------------------------------------------------------

    def log_density(self, biases: Any, couplings: Any, x: Any) -> Any:
        """sum_i b_i x_i + sum_(ij) J_ij x_i x_j of rows x (..., size), (...)."""
        first, second = self.ends
        pairs = xp.take(x, first, axis=-1) * xp.take(x, second, axis=-1)
        return x @ biases + pairs @ couplings

    def sweep(self, biases: Any, couplings: Any, x: Any, u: Any) -> Any:
        """All variables of rows x drawn anew given the others, colour by colour, by uniforms u like x."""
        matrix = self._matrix(couplings) if self._is_dense else None
        padded = xp.concatenate([couplings, xp.zeros((1,))])
        for members in self.colours:
            if matrix is not None:
                pull = x @ xp.take(matrix, members, axis=1)
            else:
                others, edges = (table[members] for table in self._table)
                pull = xp.sum(xp.take(x, others, axis=-1) * xp.take(padded, edges), axis=-1)
            field = (self.high - self.low) * (xp.take(biases, members) + pull)
            up = xp.take(u, members, axis=-1) < xp.sigmoid(field)
            place = np.arange(self.size)
            place[members] = self.size + np.arange(len(members))
            x = xp.take(xp.concatenate([x, xp.where(up, self.high, self.low)], axis=-1), place, axis=-1)
        return x

    @property
    def _is_dense(self) -> bool:
        return _DENSE * max(map(len, self.neighbours)) > self.size

    def _matrix(self, couplings: Any) -> Any:
        """(size, size), symmetric, 0 where there is no edge."""
        place = np.full((self.size, self.size), len(self.edges))
        first, second = self.ends
        place[first, second] = place[second, first] = np.arange(len(self.edges))
        return xp.take(xp.concatenate([couplings, xp.zeros((1,))]), place)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each variable its neighbours and the edges to them, (size, most of them), the last edge for none."""
        most = max(map(len, self.neighbours))
        others, edges = np.zeros((self.size, most), int), np.full((self.size, most), len(self.edges))
        for i, held in enumerate(self.neighbours):
            others[i, : len(held)], edges[i, : len(held)] = list(held), list(held.values())
        return others, edges

    # Sums over all states -------------------------------------------------------------------------------------

    @cached_property
    def order(self) -> list[int]:
        """An order of elimination; the one of few that keeps the frontier narrow."""
        return min((list(range(self.size)), self._by_neighbours()), key=self._width)

    @property
    def width(self) -> int:
        """Variables whose joint values are kept at a time, in that order."""
        return self._width(self.order)

    def _by_neighbours(self) -> list[int]:
        """Next always the variable whose coming widens the frontier least."""
        left, found, frontier = set(range(self.size)), list[int](), set[int]()
        while left:
            near = {j for i in frontier for j in self.neighbours[i]} & left or left
            i = min(near, key=lambda i: (len(left.intersection(self.neighbours[i])), i))
            left.remove(i)
            found.append(i)
            frontier = {j for j in {*frontier, i} if left.intersection(self.neighbours[j])}
        return found

    def _width(self, order: Sequence[int]) -> int:
        left, frontier, width = set(order), set[int](), 0
        for i in order:
            left.remove(i)
            frontier.add(i)
            width = max(width, len(frontier))
            frontier = {j for j in frontier if left.intersection(self.neighbours[j])}
        return width

    def log_normalizer(self, biases: Any, couplings: Any) -> Any:
        """log of the sum of exp(log density) over all states, 2^width of them at a time.

        Variables come one by one and are summed out as soon as the last of their neighbours has come: on a lattice that
        is the transfer matrix (Kramers & Wannier 1941), taken apart into single sites.
        """
        values, left = xp.array([self.low, self.high]), set(self.order)
        table, frontier = xp.zeros(()), list[int]()  # one axis for each variable of the frontier
        for i in self.order:
            left.remove(i)
            table = table[..., None] + biases[i] * values
            for axis, j in enumerate(frontier):
                if j in self.neighbours[i]:
                    shape = [1] * (len(frontier) + 1)
                    shape[axis] = shape[-1] = 2
                    term = couplings[self.neighbours[i][j]] * values[:, None] * values
                    table = table + term.reshape(shape)
            frontier.append(i)
            done = tuple(a for a, j in enumerate(frontier) if not left.intersection(self.neighbours[j]))
            if done:
                table = xp.logsumexp(table, axis=done)
                frontier = [j for a, j in enumerate(frontier) if a not in done]
        return table


def lattice(shape: Sequence[int], periodic: bool) -> tuple[tuple[int, int], ...]:
    """Edges between next neighbours along every axis, round the ends where ``periodic``."""
    sites = np.arange(int(np.prod(shape))).reshape(tuple(shape))
    found = []
    for axis, length in enumerate(shape):
        first, second = sites, np.roll(sites, -1, axis)
        if not periodic or length < 3:  # two rows are neighbours once
            first, second = (np.take(x, range(length - 1), axis) for x in (first, second))
        found += list(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    return tuple(found)
