"""Where the driver writes down how far it has come: in memory, or in a file from which a killed run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Report = dict[str, np.ndarray]


@dataclass(frozen=True)
class Phase:
    """One loop of the driver: what it is called, how long it is, and what is kept of it.

    Attributes:
        num_steps, chunk: in all, and in one compiled call; all calls but the last have the same length.
        thinning: every how many-th step is kept.
        keep: False where no reports are.
    """

    label: str
    num_steps: int
    chunk: int
    thinning: int
    keep: bool


class Record(Protocol):
    """What is written of one phase.

    Attributes:
        state: that the phase goes on from, after ``done`` steps; ``before`` it, that of the chunk before.
        reason: why it ended early, if it has ended; else None.
    """

    state: Any
    before: Any
    done: int
    reason: str | None

    def add(self, state: Any, report: Report, done: int, last: bool) -> None:
        """Another chunk has led to ``state``, after ``done`` steps; the report holds what is kept of it.

        After the ``last`` one comes :meth:`close`; it must not be taken for one after which more would come.
        """

    def close(self, before: Any, state: Any, reason: str | None) -> None:
        """The phase has ended."""

    def reports(self) -> Report:
        """All that is kept, name -> (kept steps, ...), as arrays or as what reads them from a file."""
        raise NotImplementedError


class Journal(Protocol):
    """The records of the phases of a run, in their order."""

    def begin(self, phase: Phase, state: Any) -> Record:
        """The record of the next phase, which has just begun with ``state`` or begun before and been cut off."""
        raise NotImplementedError


@dataclass
class _InMemory:
    state: Any
    before: Any = None
    done: int = 0
    reason: str | None = None
    kept: list[Report] = field(default_factory=list)

    def add(self, state: Any, report: Report, done: int, last: bool) -> None:
        if report:
            self.kept.append(report)

    def close(self, before: Any, state: Any, reason: str | None) -> None:
        pass

    def reports(self) -> Report:
        return joined(self.kept)


class Memory:
    """A journal that is gone with the process."""

    def begin(self, phase: Phase, state: Any) -> Record:
        return _InMemory(state)


def joined(reports: list[Report]) -> Report:
    """Reports one after the other."""
    if not reports:
        return {}
    return {k: np.concatenate([r[k] for r in reports]) for k in reports[0]}
