"""Settings and fixtures that every test shares."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# Before any test imports a library that reads them. One thread: the arrays here are small, and several
# workers or a busy machine are then no slower and no less reproducible.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notes on the machine it finds

import pytest

ROOT = Path(__file__).resolve().parent.parent
NO_DATA = "no data folder"
NO_TIME = "no time left"


def _data_folder() -> tuple[Path, bool]:
    """The folder of data sets, and whether the user named it."""
    named = os.environ.get("PPL_GEN_DATA")
    return (Path(named).expanduser() if named else ROOT.parent / "shared" / "data"), bool(named)


@pytest.fixture(scope="module", autouse=True)
def _forget_machine_code() -> Iterator[None]:
    """What one file had compiled is of no use to the next, and all of it together takes gigabytes.

    What is left is held by the libraries and stays: it is not looked through again by every later collection.
    """
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder named by PPL_GEN_DATA (by default ../shared/data); skips where there is none."""
    folder, named = _data_folder()
    if folder.is_dir():
        return folder
    if named:  # a mistyped name must not pass as "no data here"
        pytest.fail(f"PPL_GEN_DATA names {folder}, which is not a folder", pytrace=False)
    pytest.skip(f"{NO_DATA}: {folder} is not there; set PPL_GEN_DATA")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunk files in a short run, and a commit after every chunk of the driver."""
    from ppl_gen.results import checkpoint, chunked

    monkeypatch.setattr(chunked, "_CHUNK_BYTES", 2**11)
    monkeypatch.setattr(checkpoint, "_SECONDS", 0)
    monkeypatch.setattr(checkpoint, "_SHARE", 0)


def pytest_configure(config: pytest.Config) -> None:
    until = os.environ.get("PPL_GEN_SLOW_UNTIL", "0")
    if not until.isdecimal():
        raise pytest.UsageError(f"PPL_GEN_SLOW_UNTIL must be seconds since 1970, got {until!r}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where the time for all tests has an end, slow ones do not begin after it: they are named, not killed with it."""
    until = os.environ.get("PPL_GEN_SLOW_UNTIL")
    if until and item.get_closest_marker("slow") and time.time() > float(until):
        pytest.skip(f"{NO_TIME}: PPL_GEN_SLOW_UNTIL has passed")


def pytest_report_header() -> str:
    folder, _ = _data_folder()
    return f"data: {folder}" if folder.is_dir() else f"data: none ({folder} is not there; set PPL_GEN_DATA)"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A test that did not run for want of data or time is named: a green line alone would hide it."""
    for why, what in ((NO_DATA, "DATA, see PPL_GEN_DATA"), (NO_TIME, "TIME, see PPL_GEN_SLOW_UNTIL")):
        missing = [
            report.nodeid
            for report in terminalreporter.getreports("skipped")
            if isinstance(report.longrepr, tuple) and why in report.longrepr[2]
        ]
        if missing:
            terminalreporter.section(f"SKIPPED FOR WANT OF {what}", sep="!", red=True, bold=True)
            terminalreporter.line(f"{len(missing)} tests did not run:")
            for nodeid in missing:
                terminalreporter.line(f"  {nodeid}")
