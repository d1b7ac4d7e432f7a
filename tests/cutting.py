"""Runs that are cut off at every commit, and go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen.results.checkpoint import Checkpoint
from ppl_gen.results.files import read_npz


class Cut(Exception):
    pass


def cut_at_every_commit(monkeypatch, path, begin, **again) -> tuple[pg.Run, int]:
    """The run that goes on each time after one commit more, handed ``again``; and how often it was cut off."""
    commit = Checkpoint.commit

    def once(self, *args, **options):
        commit(self, *args, **options)
        raise Cut

    monkeypatch.setattr(Checkpoint, "commit", once)
    with pytest.raises(Cut):
        begin()
    for cuts in range(1, 200):
        try:
            return pg.resume(path, progress=False, **again), cuts
        except Cut:
            continue
    raise AssertionError("the run does not come to its end")


def assert_same(one, other):
    """Two runs to the bit."""
    for name in ("posterior", "stats", "params", "history"):
        left, right = getattr(one, name), getattr(other, name)
        assert list(left) == list(right), name
        for key in left:
            x, y = np.asarray(left[key]), np.asarray(right[key])
            assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes(), (name, key)
    assert one.warnings == other.warnings and one.exact == other.exact
    assert {**one.attrs, "inference_time": 0} == {**other.attrs, "inference_time": 0}


def ends_of_phases(path):
    held = sorted((Path(path) / "journal").glob("phase-*.npz"))
    return {f.name: {n: x.tobytes() for n, x in read_npz(f).items()} for f in held}
