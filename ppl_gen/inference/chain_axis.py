"""Where the chains lie in what a kernel carries and takes: to pick some of them, or to lay them along devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# By all chains, with so many axes at most; scalars are too.
_SHARED = {"step_size": 1, "scale": 2, "width": 1, "rate": 1}


def own(state: Any) -> dict[str, Any]:
    """The fields of a state that have a row for each chain."""
    return {n: x for n, x in state._asdict().items() if getattr(x, "ndim", 0) > _SHARED.get(n, 0)}


def some(state: Any, rows: slice) -> Any:
    """The state of some chains."""
    return state._replace(**{n: x[rows] for n, x in own(state).items()})


def joined(states: list[Any]) -> Any:
    """The state of all chains, of those of groups on the host."""
    return states[0]._replace(**{n: np.concatenate([getattr(s, n) for s in states]) for n in own(states[0])})


class Chosen(Protocol):
    """Which chains a loop runs, and where: what is done to its state, noise and data before each chunk."""

    def state(self, state: Any) -> Any: ...
    def noise(self, noise: Mapping[str, Any]) -> Mapping[str, Any]: ...
    def shared(self, tree: Any) -> Any: ...


@dataclass(frozen=True)
class All:
    """All chains, laid along the devices of the process.

    Attributes:
        place: of the backend, see ``spread`` of its protocol.
    """

    place: Callable[[Any, int | None], Any]

    def state(self, state: Any) -> Any:
        rows = own(state)
        return state._replace(**{n: self.place(x, 0 if n in rows else None) for n, x in state._asdict().items()})

    def noise(self, noise: Mapping[str, Any]) -> Mapping[str, Any]:
        return {n: self.place(x, 1 if _of_chains(x) else None) for n, x in noise.items()}

    def shared(self, tree: Any) -> Any:
        return self.place(tree, None)


@dataclass(frozen=True)
class Some:
    """A group of chains, whose state is their own already; the noise is drawn for all and theirs is taken."""

    rows: slice

    def state(self, state: Any) -> Any:
        return state

    def noise(self, noise: Mapping[str, Any]) -> Mapping[str, Any]:
        return {n: _taken(x, self.rows) if _of_chains(x) else x for n, x in noise.items()}

    def shared(self, tree: Any) -> Any:
        return tree


def _of_chains(x: Any) -> bool:
    """Noise is (steps, chains, ...), or (steps,) where one number is for all."""
    return len(x.shape) > 1


def _taken(x: Any, rows: slice) -> Any:
    return type(x)(*(_taken(part, rows) for part in x)) if isinstance(x, tuple) else x[:, rows]
