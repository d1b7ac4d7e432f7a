"""Questions that a run cannot answer, and files that cannot be read."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen.results.storage import CorruptFileError
from tests.bad_programs import (
    X,
    Y,
    changed,
    complaint,
    counts,
    flat,
    line,
    local,
)

BACKENDS = ("numpyro", "pyro")


@pytest.fixture(scope="module", params=BACKENDS)
def fitted(request):
    return pg.infer(line, {"x": X, "y": Y}, "map", backend=request.param, progress=False)


@pytest.fixture
def saved(fitted, tmp_path):
    return fitted.save(tmp_path / "run")


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_sample_wants_a_count(fitted, n):
    complaint(ValueError, ("whole number", repr(n)), lambda: fitted.sample(n))


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_predict_wants_a_count(fitted, n):
    complaint(ValueError, ("num_samples", "whole number", repr(n)), lambda: fitted.predict(num_samples=n))


def test_log_prob_wants_observations(fitted):
    complaint(pg.ProgramError, ("log_prob", "'y'", "pass"), lambda: fitted.log_prob({"x": X}))


def test_log_prob_wants_good_data(fitted):
    complaint(pg.DataError, ("'y'", "(0,)"), lambda: fitted.log_prob({"x": X, "y": changed(Y, 0, np.nan)}))


def test_latents_of_single_data_do_not_fit_other_data():
    run = pg.infer(local, Y, "map", progress=False)
    complaint(pg.ProgramError, ("'z'", "(5,)", "(3,)", "fitted shape"), lambda: run.log_prob(Y[:3]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_flat_prior_has_no_draws(backend):
    run = pg.infer(flat, Y, "map", backend=backend, progress=False)
    run.posterior = {}
    run.params = {}
    words = ("'loc'", "flat", "no draws")
    complaint(pg.ProgramError, words, lambda: run.sample(2))
    complaint(pg.ProgramError, words, lambda: run.predict())


def test_loaded_without_program(saved):
    run = pg.load(saved)
    for ask in (run.predict, run.sample, lambda: run.log_prob({"x": X, "y": Y})):
        complaint(ValueError, ("no code", "pg.load(path, program, data)"), ask)


def test_loaded_without_data(saved):
    complaint(ValueError, ("without its data", "pg.load"), lambda: pg.load(saved, line).predict())


def test_loaded_with_another_program(saved):
    complaint(ValueError, ("'line'", "'counts'"), lambda: pg.load(saved, counts))


def test_missing_file(tmp_path):
    complaint(
        FileNotFoundError, ("nowhere", "does not exist", "pass the folder"), lambda: pg.load(tmp_path / "nowhere")
    )


@pytest.mark.parametrize("name", ["draws.nc", "params.npz", "history.npz", "run.json"])
def test_files_cut_short_altered_and_gone(saved, name):
    file = saved / name
    whole = file.read_bytes()
    middle = len(whole) // 2
    for broken in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], b""):
        file.write_bytes(broken)
        complaint(CorruptFileError, (name, "expected"), lambda: pg.load(saved))
    file.unlink()
    complaint(CorruptFileError, (name, "no such file"), lambda: pg.load(saved))


def test_file_of_another_version(saved):
    file = saved / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 99}))
    complaint(CorruptFileError, ("version 1", "99", "release"), lambda: pg.load(saved))
