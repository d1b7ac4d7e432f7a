"""Pairwise Markov random fields of binary variables, and the Ising model on a lattice."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models._binary_energy import BinaryEnergy
from ppl_gen.models._field_graph import FieldGraph, lattice
from ppl_gen.models._options import count
from ppl_gen.primitives import param, xp


class _Field(BinaryEnergy):
    """What both have in common: natural parameters are ``biases`` (D,) and ``couplings`` (edges,)."""

    @cached_property
    def graph(self) -> FieldGraph:
        """Who is whose neighbour."""
        raise TypeError(f"{type(self).__name__} defines no graph")

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.graph.width

    @property
    def num_uniforms(self) -> int:
        """That a sweep of a row takes."""
        return self.graph.size

    def log_density(self, natural: Mapping[str, Any], x: Any) -> Any:
        """sum_i b_i x_i + sum_(ij) J_ij x_i x_j of rows (rows, *event_shape)."""
        return self.graph.log_density(natural["biases"], natural["couplings"], 1.0 * self._flat(x))

    def _flat(self, x: Any) -> Any:
        return x.reshape((*x.shape[: x.ndim - len(self.event_shape)], self.graph.size))

    def sweep(self, natural: Mapping[str, Any], x: Any, u: Any) -> Any:
        """All variables given the others, colour by colour; on a lattice a chequerboard."""
        moved = self.graph.sweep(natural["biases"], natural["couplings"], self._flat(x), u)
        return moved.reshape(tuple(x.shape))

    def independent(self, share: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        """Natural parameters without couplings, variables high with these shares (*event_shape); and their log Z."""
        low, high = self.values
        p = share.ravel()
        biases = (np.log(p) - np.log1p(-p)) / (high - low)
        natural = {"biases": biases, "couplings": np.zeros(len(self.graph.edges))}
        return natural, float(np.logaddexp(biases * low, biases * high).sum())

    def log_normalizer(self, natural: Mapping[str, Any]) -> Any:
        """log Z, variables summed out one by one."""
        return self.graph.log_normalizer(natural["biases"], natural["couplings"])


@dataclass(frozen=True)
class PairwiseMarkovField(_Field):
    """p(x) proportional to exp(sum_i b_i x_i + sum_(ij) J_ij x_i x_j), x_i 0 or 1.

    A Boltzmann machine without hidden units (Ackley, Hinton & Sejnowski 1985). Site: ``x`` (N, D), zeros and ones;
    params: ``biases`` (D,) and ``couplings``, one for each edge in their order. Train it by ``contrastive_divergence``
    or ``noise_contrastive``; by ``svi`` with a ``batch_size`` where log Z is exact, which is maximum likelihood.

    Attributes:
        num_variables: D. edges: pairs of indices (i, j); all of them where None.
        exact: sum log Z exactly, by elimination; None for where at most 14 variables are open at a time.
    """

    num_variables: int
    edges: tuple[tuple[int, int], ...] | None = None
    exact: bool | None = None

    def __post_init__(self) -> None:
        count("num_variables", self.num_variables, 2)
        if self.edges is not None:
            _check_edges(self.num_variables, self.edges)
        self._check_exact()

    @property
    def event_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.num_variables,)

    @cached_property
    def graph(self) -> FieldGraph:
        """Who is whose neighbour."""
        edges = self.edges or tuple(itertools.combinations(range(self.num_variables), 2))
        return FieldGraph(self.num_variables, edges)

    def natural(self) -> dict[str, Any]:
        """Biases and couplings; all 0 to start with."""
        return {
            "biases": param("biases", xp.zeros((self.num_variables,))),
            "couplings": param("couplings", xp.zeros((len(self.graph.edges),))),
        }


@dataclass(frozen=True)
class Ising(_Field):
    """p(x) proportional to exp(J sum_(ij) x_i x_j + h sum_i x_i) on a lattice, x_i -1 or 1 (Ising 1925).

    Site: ``x`` (N, *shape); params: ``coupling`` J and ``field`` h, at a temperature of 1. With ``homogeneous=False``
    each edge and each site has its own: ``couplings`` (edges,), ``biases`` (sites,). Block Gibbs moves go by a
    chequerboard. Train it as a ``PairwiseMarkovField``.

    Attributes:
        shape: of the lattice, of any number of axes. periodic: the ends of every axis are neighbours.
        exact: as of ``PairwiseMarkovField``; on a lattice that is the transfer matrix, for widths up to 14, or half of
            that where it is periodic.
    """

    shape: tuple[int, ...]
    periodic: bool = True
    homogeneous: bool = True
    exact: bool | None = None

    values: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple) or not self.shape:
            raise ValueError(f"shape must be a tuple of lengths, e.g. (4, 4), got {self.shape!r}")
        for n in self.shape:
            count("shape", n)
        if self.graph.size < 2:
            raise ValueError(f"a lattice of shape {self.shape} has one site: expected at least two")
        self._check_exact()

    @property
    def event_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.shape

    @cached_property
    def graph(self) -> FieldGraph:
        """Next neighbours of the lattice."""
        return FieldGraph(int(np.prod(self.shape)), lattice(self.shape, self.periodic), *self.values)

    def natural(self) -> dict[str, Any]:
        """Biases and couplings; all 0 to start with."""
        size, edges = self.graph.size, len(self.graph.edges)
        if self.homogeneous:
            field, coupling = param("field", xp.zeros(())), param("coupling", xp.zeros(()))
            return {"biases": field + xp.zeros((size,)), "couplings": coupling + xp.zeros((edges,))}
        return {"biases": param("biases", xp.zeros((size,))), "couplings": param("couplings", xp.zeros((edges,)))}


def _check_edges(size: int, edges: tuple[tuple[int, int], ...]) -> None:
    """Raises ValueError: no edges, one that is no pair of two variables, or one that comes twice."""
    if not isinstance(edges, tuple) or not edges:
        raise ValueError(f"edges must be a tuple of pairs of indices, e.g. ((0, 1), (1, 2)), got {edges!r}")
    seen = set()
    for edge in edges:
        pair = isinstance(edge, tuple) and len(edge) == 2 and all(isinstance(i, int | np.integer) for i in edge)
        if not pair or edge[0] == edge[1] or not all(0 <= i < size for i in edge):
            raise ValueError(f"an edge is a pair of two of the {size} variables, counted from 0, got {edge!r}")
        if (min(edge), max(edge)) in seen:
            raise ValueError(f"the edge {edge!r} comes twice: leave one of them out")
        seen.add((min(edge), max(edge)))
