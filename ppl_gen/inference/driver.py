"""The one loop: chunks of compiled steps, progress, thinning, moving reports to the host, stopping."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ppl_gen.inference.journal import Journal, Memory, Phase, Record, Report
from ppl_gen.inference.progress import progress_bar

ENDLESS = 10**9  # steps of a run that ends when its data do


@dataclass(frozen=True)
class Driver:
    """Runs an algorithm that is given as ``advance(state, start, num_steps) -> (state, report)``.

    Attributes:
        to_numpy: moves a tree of the backend's arrays to the host.
        progress: show a bar on what takes more than two seconds.
        journal: where it is written down how far each run has come; what it finds there, it does not run again.
        spread: ``(engine, target, held) -> (held, reports)``: does the draws of all chains elsewhere.
    """

    to_numpy: Callable[[Any], Any]
    progress: bool = True
    journal: Journal = field(default_factory=Memory)
    spread: Callable[..., tuple[Any, Report]] | None = None

    def alone(self) -> AbstractContextManager[Any]:
        """For what runs a program through its handlers outside of :meth:`run`, where other threads may do so too."""
        return nullcontext()

    def run(
        self,
        advance: Callable[[Any, int, int], tuple[Any, Any]],
        state: Any,
        num_steps: int,
        *,
        label: str,
        chunk: int,
        thinning: int = 1,
        keep: bool = True,
        stop: Callable[[Any, Any, Report], str | None] = lambda before, after, report: None,
        describe: Callable[[Report], str] = lambda report: "",
    ) -> tuple[Any, Report, str | None]:
        """Advance ``state`` by ``num_steps`` in chunks.

        Args:
            chunk: steps at most in one compiled call; all calls but the last have the same length.
            thinning: every how many-th step is kept.
            keep: False drops the reports (warm-up).
            stop: called after each chunk with the states before and after it; a reason ends the run. One that
                ``remembers`` what it saw is called again, on resuming, with the chunks that have been.
            describe: what the bar says of the last chunk.

        Returns:
            the last state; the kept reports, name -> (kept steps, ...); why it stopped early, or None.
        """
        size = chunk_size(num_steps, chunk)
        record = self.journal.begin(Phase(label, num_steps, size, thinning, keep), state)
        before, state, done, reason = record.before, record.state, record.done, record.reason
        if done and getattr(stop, "remembers", False):
            _remind(stop, record, size)
        total = num_steps if num_steps < ENDLESS else None
        with progress_bar(total=total, initial=done, desc=label, disable=not self.progress) as bar:
            while done < num_steps and reason is None:
                count = min(size, num_steps - done)
                before = state
                state, report = advance(state, done, count)
                report = self.to_numpy(report)
                reason = stop(before, state, report)
                kept = _thinned(report, done, thinning) if keep else {}
                done += count
                record.add(state, kept, done, last=done >= num_steps or reason is not None)
                bar.update(count)
                if self.progress:
                    bar.set_postfix_str(describe(report), refresh=False)
        record.close(before, state, reason)
        return state, record.reports(), reason

    def once(self, label: str, make: Callable[[Driver], Any], like: Any) -> Any:
        """What ``make`` makes, a tree of arrays ``like`` this one; a run that goes on does not make it again.

        Args:
            make: given a driver whose own loops are not written down.
        """
        inner = self.unwritten()
        state, _, _ = self.run(lambda state, start, count: (make(inner), {}), like, 1, label=label, chunk=1, keep=False)
        return state

    def unwritten(self) -> Driver:
        """One for loops that are run again on resuming: they are short, or a part of a step of another."""
        return replace(self, journal=Memory())


def _remind(stop: Callable[[Any, Any, Report], str | None], record: Record, size: int) -> None:
    """Show the chunks that have been to what decides on stopping; it had the states of the last one only to keep."""
    reports = {k: np.asarray(v) for k, v in record.reports().items()}
    for first in range(0, record.done, size):
        stop(record.before, record.state, {k: v[first : first + size] for k, v in reports.items()})


def _thinned(report: Report, done: int, thinning: int) -> Report:
    """What is kept of a chunk; copies, since a view would keep all of it in memory."""
    if thinning == 1:
        return report
    return {k: v[_first(done, thinning) :: thinning].copy() for k, v in report.items()}


def _first(done: int, thinning: int) -> int:
    """Index in the chunk of the first step whose number is a multiple of ``thinning``."""
    return (thinning - 1 - done) % thinning


def chunk_size(num_steps: int, most: int) -> int:
    """The largest divisor of ``num_steps`` up to ``most``, so that one compiled length serves; ``most`` if small."""
    if num_steps <= most:
        return max(num_steps, 1)
    best = max(d for d in range(1, most + 1) if num_steps % d == 0)
    return best if best >= most // 4 else most
