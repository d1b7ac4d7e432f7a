"""Runs that are cut off at any moment and go on: the same numbers to the bit, or a clear word on why not."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.results import chunked
from ppl_gen.results.checkpoint import Checkpoint, CheckpointError
from ppl_gen.results.files import CorruptFileError, read_npz
from ppl_gen.results.groups import Group
from tests.cutting import Cut, assert_same, ends_of_phases
from tests.killing import DATA, OPTIONS, spread

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SHORT = {"num_warmup": 100, "num_samples": 300, "num_chains": 2}
SLOW_KILLS = [(25, "mala", "numpyro"), (4, "nuts", "pyro")]


def infer(path, engine="mala", backend="numpyro", seed=4, **options):
    return pg.infer(spread, DATA, engine, backend, seed=seed, progress=False, checkpoint=path, **options)


# The same numbers ------------------------------------------------------------------------------------------------


def killed_and_whole(folder, kills, *engine):
    command = [sys.executable, "-m", "tests.killing", str(folder), str(kills), str(kills), *engine]
    found = subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=Path(__file__).parent.parent)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])


KILLS = [(2, "mala", "numpyro"), *(pytest.param(*k, marks=pytest.mark.slow) for k in SLOW_KILLS)]


@pytest.mark.parametrize(("kills", "engine", "backend"), KILLS)
def test_a_run_killed_in_the_middle_of_writing_gives_the_same_bits(tmp_path, kills, engine, backend):
    left = killed_and_whole(tmp_path, kills, engine, backend)
    assert len(left) == kills
    if kills > 20:
        assert len({steps for steps, _ in left}) > 2  # in warm-up and among the draws
    whole, killed = (Checkpoint.open(tmp_path / name) for name in ("whole.zarr", "killed.zarr"))
    assert whole.finished == killed.finished
    assert ends_of_phases(whole.path) == ends_of_phases(killed.path)
    for group, index in whole.finished.items():
        for name in index:
            one, other = (Group(c.path / group, index)[name] for c in (whole, killed))
            options = OPTIONS[engine]
            assert one.shape[:2] == (options["num_chains"], options["num_samples"] // options["thinning"])
            assert one.tobytes() == other.tobytes(), name


# What is in the folder -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return path, infer(path, **SHORT)


def test_xarray_reads_it_and_the_run_reads_its_variables_one_by_one(finished):
    path, run = finished
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xr.open_datatree(path, engine="zarr")
    assert tree["posterior"].sizes == {"chain": 2, "draw": 30}
    np.testing.assert_array_equal(tree["posterior"]["draw"], np.arange(30))
    for name in ("mu", "tau"):
        np.testing.assert_array_equal(tree["posterior"][name], run.posterior[name])
    assert tree["sample_stats"]["diverging"].dtype == bool == run.stats["diverging"].dtype
    np.testing.assert_array_equal(tree["observed_data"]["y"], DATA["y"])
    assert tree.attrs["inference"] == "mala" and tree.attrs["seed"] == 4
    assert set(run.posterior) == {"mu", "tau"} and "mu" in run.posterior and "nu" not in run.posterior
    assert run.idata.posterior["mu"].shape == (2, 30)


def test_a_finished_run_is_returned(finished):
    path, run = finished
    before = {f: f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file()}
    assert_same(run, pg.resume(path))
    assert before == {f: f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file()}


def test_saved_and_loaded_like_any_other(finished, tmp_path):
    _, run = finished
    loaded = pg.load(run.save(tmp_path / "saved"), spread, DATA)
    np.testing.assert_array_equal(loaded.posterior["tau"], run.posterior["tau"])


def test_a_place_that_is_taken(finished, tmp_path):
    path, _ = finished
    with pytest.raises(FileExistsError, match="finished run: pg.resume"):
        infer(path, **SHORT)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("...")
    with pytest.raises(FileExistsError, match="something other than a checkpoint"):
        infer(tmp_path / "other", **SHORT)
    with pytest.raises(CorruptFileError, match="about.json.*pass the folder"):
        pg.resume(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        pg.resume(tmp_path / "nothing")
    assert (tmp_path / "other" / "thesis.tex").read_text() == "..."


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(self, *args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OSError, match=r"Read-only file system: no checkpoint can be written to .*; choose a folder"):
        infer(tmp_path / "run.zarr", **SHORT)


def test_nothing_is_left_of_a_run_that_never_began(tmp_path):
    with pytest.raises(pg.UnsupportedError, match="a LBFGS in the state.*'mala', 'chees'"):
        infer(tmp_path / "run.zarr", "map", "pyro", num_steps=5, num_restarts=1)
    with pytest.raises(pg.UnsupportedError, match="mcem cannot be kept in a checkpoint.*'chees', .*'em'"):
        infer(tmp_path / "run.zarr", "mcem")
    assert not list(tmp_path.iterdir())


# Damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def half(tmp_path, monkeypatch, small_chunks):
    """A run that was cut off among its draws."""
    commit = Checkpoint.commit

    def until(self, index=0, *args, **options):
        commit(self, index, *args, **options)
        if options.get("rows", 0) > 20:
            raise Cut

    with monkeypatch.context() as patched, pytest.raises(Cut):
        patched.setattr(Checkpoint, "commit", until)
        infer(tmp_path / "run.zarr", **SHORT, thinning=2)
    return tmp_path / "run.zarr"


def test_one_that_has_not_ended_is_not_begun_again(half):
    with pytest.raises(FileExistsError, match="has not ended: pg.resume"):
        infer(half, **SHORT)


def test_a_chunk_cut_short_is_named_and_nothing_deleted(half):
    broken = next(half.glob("journal/reports/*/lp/c.0.0"))
    broken.write_bytes(broken.read_bytes()[:-9])
    files = set(half.rglob("*"))
    with pytest.raises(CorruptFileError, match=r"lp/c.0.0: expected a whole chunk.*restore the folder"):
        pg.resume(half, progress=False)
    assert files <= set(half.rglob("*"))


@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
def test_a_damaged_state_is_named(half, damage):
    held = json.loads((half / "journal" / "manifest.json").read_text())["body"]["phases"][-1]["state"]["file"]
    file = half / "journal" / held
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(whole[:-5] if damage == "cut" else whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    with pytest.raises(CorruptFileError, match=held):
        pg.resume(half, progress=False)


def test_a_full_disk_says_what_is_safe_and_the_run_goes_on_from_there(tmp_path, monkeypatch, small_chunks):
    options = {**SHORT, "thinning": 2}
    whole = infer(tmp_path / "whole.zarr", **options)
    write, calls = chunked.Rows.write, []

    def full(self, *args):
        calls.append(args)
        if len(calls) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, *args)

    path = tmp_path / "full.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(chunked.Rows, "write", full)
        said = r"No space left.*is safe: mala .*up to step \d+ of \d+.*pg.resume\("
        with pytest.raises(CheckpointError, match=said) as caught:
            infer(path, **options)
    assert caught.value.errno == errno.ENOSPC
    assert_same(whole, pg.resume(path, progress=False))


def test_two_processes_do_not_run_one_checkpoint(half):
    held = Checkpoint.open(half)
    with pytest.raises(BlockingIOError, match="being run by another process"):
        pg.resume(half, progress=False)
    held.close()
    pg.resume(half, progress=False)


# Another program, other data, other options ------------------------------------------------------------------------


def test_another_program_other_data_or_options_are_refused(half):
    @pg.program
    def other(y):
        mu = pg.sample("mu", dist.Normal(0.0, 3.0))
        pg.sample("y", dist.Normal(mu, 1.0).expand([len(y)]).to_event(1), obs=y)

    with pytest.raises(ValueError, match=r"run of the program 'spread', and 'other' was passed"):
        pg.resume(half, other)
    other.name = "spread"
    with pytest.raises(ValueError, match="a run of another 'spread': its code"):
        pg.resume(half, other)
    with pytest.raises(ValueError, match="on other data: 'y' differs"):
        pg.resume(half, spread, {"y": DATA["y"] + 1e-9})
    with pytest.raises(ValueError, match="begun with num_samples=300, not 400"):
        pg.resume(half, engine=pg.inference.mala.MALA(**{**SHORT, "num_samples": 400}))
    pg.resume(half, spread, DATA, pg.inference.mala.MALA(**SHORT, thinning=2), progress=False)


def prior(scale):
    @pg.program
    def scaled(y):
        mu = pg.sample("mu", dist.Normal(0.0, scale))
        pg.sample("y", dist.Normal(mu, xp.ones(5)).to_event(1), obs=y)

    return scaled


def test_the_program_is_found_where_this_process_has_declared_it(tmp_path):
    program = prior(2.0)
    run = pg.infer(program, DATA, "svi", progress=False, checkpoint=tmp_path / "run.zarr", num_steps=100)
    assert_same(run, pg.resume(tmp_path / "run.zarr"))
    with pytest.raises(ValueError, match="its code, or what it reads"):
        pg.resume(tmp_path / "run.zarr", prior(2.5))
    del program, run
    import gc

    gc.collect()
    with pytest.raises(ValueError, match="a file holds no code: pass the program"):
        pg.resume(tmp_path / "run.zarr")
    pg.resume(tmp_path / "run.zarr", prior(2.0))


def test_a_model_of_ours_is_made_again_from_its_name_and_data_in_a_file_are_read_from_there(tmp_path):
    x = np.random.default_rng(3).normal(size=(40, 2))
    np.save(tmp_path / "x.npy", x)
    rows, path = np.load(tmp_path / "x.npy", mmap_mode="r"), tmp_path / "run.zarr"
    options = {"progress": False, "num_restarts": 2, "num_steps": 30}
    run = pg.infer(pg.models.GaussianMixture(2, "diag"), rows, "em", checkpoint=path, **options)
    again = pg.resume(path)
    assert again.program.model == run.program.model and isinstance(again.data[0], np.memmap)
    assert_same(run, again)
    assert not read_npz(path / "journal" / "data.npz")  # nothing was copied
    np.save(tmp_path / "x.npy", x + 1)
    with pytest.raises(ValueError, match=r"x.npy, which holds the argument .* has changed"):
        pg.resume(path)


# Cost ------------------------------------------------------------------------------------------------------------

_MEASURED = """
import resource, sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
import ppl_gen as pg
from ppl_gen import dist
from ppl_gen.results import checkpoint, groups

@pg.program
def wide():
    pg.sample("x", dist.Normal(np.zeros(20), 1.0).to_event(1))

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
finish = groups.keeping
def keeping(journal):
    print("run", peak())
    return finish(journal)
groups.keeping = keeping
pg.infer(wide, None, "mala", seed=1, progress=False, checkpoint=sys.argv[1], num_chains=4, num_warmup=200, thinning=1,
         num_samples=int(sys.argv[2]))
print("end", peak())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_draws(tmp_path):
    """Four times the draws, 166 MB of them, in the same memory while they come; all of one variable, at the end."""
    peaks = []
    for count in (50_000, 200_000):
        command = [sys.executable, "-c", _MEASURED, str(tmp_path / str(count)), str(count)]
        found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
        assert found.returncode == 0, found.stderr
        peaks.append({line.split()[0]: float(line.split()[1]) for line in found.stdout.splitlines()})
    assert os.path.getsize(next((tmp_path / "200000").glob("journal/reports/*/position/c.0.0.0"))) < 2e7
    assert peaks[1]["run"] < peaks[0]["run"] + 30, peaks
