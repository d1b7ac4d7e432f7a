"""Runs on disk: to the bit, whole or not at all, and every damage named."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ppl_gen.results import durable, storage
from ppl_gen.results.arviz import datasets_of, to_idata
from ppl_gen.results.storage import CorruptFileError, load_result, save_result

SCHOOLS = ["Choate", "Deerfield", "Exeter"]
rng = np.random.default_rng(0)


def whole_run():
    """One of everything that has ever gone wrong in a file."""
    nans = np.array([0x7FF8000000000123, 0xFFF8000000000001, 0x8000000000000000], np.uint64).view(float)
    shape = (2, 5)
    names = ("mu", "a/b", "a.b", "µ β", "", ".", " x[0]\n", "chain")
    posterior = {name: rng.normal(size=shape) for name in names}
    posterior |= {"theta": rng.normal(size=(*shape, 3)), "cov": rng.normal(size=(*shape, 2, 2)),
                  "f4": rng.normal(size=shape).astype("f4"), "f2": rng.normal(size=shape).astype("f2"),
                  "i1": np.ones(shape, "i1"), "u8": np.full(shape, 2**64 - 1, "u8"),
                  "c16": rng.normal(size=shape) + 1j, "c8": (rng.normal(size=(*shape, 2)) + 1j).astype("c8"),
                  "big": rng.normal(size=shape).astype(">f8"), "empty": np.zeros((*shape, 0))}
    days = np.array(["2020-01-01", "NaT", "1700-02-03"], "datetime64[D]")
    observed = {"y": nans, "text": np.array(["a", "", "ß"]), "flag": np.array([True, False]),
                "day": days, "ns": days.astype("datetime64[ns]"),
                "span": np.array([1, 2], "timedelta64[s]"), "one": np.array(3.5)}
    return {
        "meta": {"program": "eight", "nan": float("inf"), "list": [1, "two", None],
                 "attrs": {"exact": False}},
        "params": {"file": np.ones(3, "f2"), "a/b": np.zeros((2, 0)), "x": np.array(1, "f4"),
                   "x.npy": np.arange(3)},
        "groups": {"posterior": posterior, "observed_data": observed, "prior": {},
                   "sample_stats": {"diverging": rng.random(shape) < 0.5}},
        "history": {"loss": np.array([3.0, 2.0, np.nan])},
        "dims": {"theta": ["school"], "cov": ["x", None]},
        "coords": {"school": np.array(SCHOOLS), "x": np.array([0.5, np.nan])},
    }


def same_bits(one, two):
    assert list(one) == list(two)
    for name in one:
        assert (one[name].dtype, one[name].shape) == (two[name].dtype, two[name].shape), name
        assert one[name].tobytes() == two[name].tobytes(), name


def test_a_run_comes_back_to_the_bit(tmp_path):
    run = whole_run()
    path = save_result(str(tmp_path / "sub" / "run"), **run)
    back = load_result(str(path))
    assert back.keys() == run.keys()
    assert back["meta"] == run["meta"] and back["dims"] == run["dims"]
    for part in ("params", "history", "coords"):
        same_bits(run[part], back[part])
    assert back["groups"].keys() == run["groups"].keys()
    for group in run["groups"]:
        same_bits(run["groups"][group], back["groups"][group])
    assert {entry.name for entry in path.iterdir()} == {"draws.nc", "history.npz", "params.npz", "run.json"}
    assert list(path.parent.iterdir()) == [path]


def test_what_is_loaded_makes_the_same_idata(tmp_path):
    groups = {"posterior": {"mu": rng.normal(size=(2, 9)), "theta": rng.normal(size=(2, 9, 3))},
              "sample_stats": {"diverging": rng.random((2, 9)) < 0.1}, "observed_data": {"y": np.arange(3.0)}}
    dims = {"theta": ["school"], "y": ["school"]}
    attrs = {"inference": "nuts", "exact": False}
    save_result(tmp_path / "run", meta={"attrs": attrs}, params={}, groups=groups, history={}, dims=dims,
                coords={"school": SCHOOLS})
    back = load_result(tmp_path / "run")
    once = to_idata(groups, dims=dims, coords={"school": SCHOOLS}, attrs=attrs)
    again = to_idata(back["groups"], dims=back["dims"], coords=back["coords"], attrs=back["meta"]["attrs"])
    assert once.attrs == again.attrs
    for name, dataset in datasets_of(once).items():
        assert dataset.identical(datasets_of(again)[name])
    with xr.open_datatree(tmp_path / "run" / "draws.nc", engine="h5netcdf") as tree:  # without ppl_gen
        assert tree["posterior"]["theta"].dims == ("chain", "draw", "school")
        assert {name: int(v) if name == "exact" else v for name, v in tree.attrs.items()} == once.attrs


def test_the_same_run_is_the_same_bytes(tmp_path):
    run = whole_run()
    one, two = (save_result(tmp_path / name, **run) for name in "ab")
    for name in ("params.npz", "history.npz"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_numpy_reads_the_parameters(tmp_path):
    path = save_result(tmp_path / "run", **whole_run())
    with np.load(path / "params.npz", allow_pickle=False) as held:
        np.testing.assert_array_equal(held["file"], np.ones(3))


@pytest.mark.parametrize(("part", "value"), [
    ("params", {"a": np.array([{}], object)}), ("meta", {"a": object()}), ("meta", {1: "a"}),
    ("groups", {"posterior": {"a": np.full((1, 2), None)}}),
])
def test_what_cannot_be_saved_is_refused_and_leaves_nothing(tmp_path, part, value):
    with pytest.raises(TypeError, match="saved|key"):
        save_result(tmp_path / "run", **{**whole_run(), part: value})
    assert list(tmp_path.iterdir()) == []


def edit_manifest(change):
    def damage(run):
        manifest = json.loads((run / "run.json").read_text())
        change(manifest)
        (run / "run.json").write_text(json.dumps(manifest))
    return damage


def flip_a_bit(name):
    def damage(run):
        content = bytearray((run / name).read_bytes())
        content[len(content) // 2] ^= 1
        (run / name).write_bytes(content)
    return damage


def cut(name, share):
    return lambda run: os.truncate(run / name, int((run / name).stat().st_size * share))


def swap_files(run):
    for one, two in (("params.npz", "x"), ("history.npz", "params.npz"), ("x", "history.npz")):
        (run / one).rename(run / two)


DAMAGES = {
    "draws missing": (lambda run: (run / "draws.nc").unlink(), "draws.nc", "no such file"),
    "params missing": (lambda run: (run / "params.npz").unlink(), "params.npz", "no such file"),
    "history missing": (lambda run: (run / "history.npz").unlink(), "history.npz", "no such file"),
    "manifest missing": (lambda run: (run / "run.json").unlink(), "run.json", "no such file"),
    "draws cut": (cut("draws.nc", 0.5), "draws.nc", "bytes"),
    "draws empty": (cut("draws.nc", 0), "draws.nc", "found 0 bytes"),
    "params cut": (cut("params.npz", 0.9), "params.npz", "bytes"),
    "manifest cut": (cut("run.json", 0.7), "run.json", "expected JSON"),
    "manifest empty": (cut("run.json", 0), "run.json", "expected JSON"),
    "draws altered": (flip_a_bit("draws.nc"), "draws.nc", "SHA-256"),
    "params altered": (flip_a_bit("params.npz"), "params.npz", "SHA-256"),
    "history altered": (flip_a_bit("history.npz"), "history.npz", "SHA-256"),
    "files swapped": (swap_files, "params.npz", "bytes"),
    "newer version": (edit_manifest(lambda m: m.update(version=99)), "run.json", "version 99"),
    "no version": (edit_manifest(lambda m: m.pop("version")), "run.json", "version None"),
    "other JSON": (lambda run: (run / "run.json").write_text('{"a": 1}'), "run.json", "another kind"),
    "JSON list": (lambda run: (run / "run.json").write_text("[]"), "run.json", "another kind"),
    "binary manifest": (lambda run: (run / "run.json").write_bytes(b"\xff\x00"), "run.json", "expected JSON"),
    "meta altered": (edit_manifest(lambda m: m["run"]["meta"].update(program="x")), "run.json", "altered"),
    "checksum altered": (edit_manifest(lambda m: m["run"]["files"].clear()), "run.json", "altered"),
    "a folder for a file": (lambda run: ((run / "draws.nc").unlink(), (run / "draws.nc").mkdir()), "draws.nc",
                            "no such file"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_result(tmp_path_factory.mktemp("saved") / "run", **whole_run())


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_named(tmp_path, saved, case):
    damage, file, words = DAMAGES[case]
    run = Path(shutil.copytree(saved, tmp_path / "run"))
    damage(run)
    with pytest.raises(CorruptFileError, match=words) as error:
        load_result(run)
    assert error.value.path.name == file and str(run / file) in str(error.value)
    assert error.value.expected and error.value.found and "To go on:" in str(error.value)


def sign_again(run, name):
    """What is in the folder now matches its checksums: as if something else had written it."""
    def change(manifest):
        manifest["run"]["files"][name] = durable.fingerprint(run / name)
        manifest["sha256"] = durable.body_hash(manifest["run"])
    edit_manifest(change)(run)


@pytest.mark.parametrize("name", ["draws.nc", "params.npz", "history.npz"])
def test_content_that_only_the_checksums_call_right_is_named(tmp_path, name):
    path = save_result(tmp_path / "run", **whole_run())
    (path / name).write_bytes(b"not this")
    sign_again(path, name)
    with pytest.raises(CorruptFileError, match=re.escape(name)):
        load_result(path)


def test_a_pickle_is_not_run(tmp_path):
    path, flag = save_result(tmp_path / "run", **whole_run()), tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return flag.touch, ()

    np.savez(path / "params.npz", a=np.array([Evil()], object))
    sign_again(path, "params.npz")
    with pytest.raises(CorruptFileError, match=r"params\.npz"):
        load_result(path)
    assert not flag.exists()


def test_nothing_there_and_a_file_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_result(tmp_path / "run")
    (tmp_path / "file").write_text("hello")
    with pytest.raises(CorruptFileError, match="a run's folder"):
        load_result(tmp_path / "file")


@pytest.mark.parametrize("make", [
    lambda path: path.write_text("mine"),
    lambda path: (path.mkdir(), (path / "mine.txt").write_text("mine")),
    lambda path: (path.mkdir(), (path / "run.json").write_text('{"mine": 1}')),
])
def test_what_is_no_run_is_not_replaced(tmp_path, make):
    make(tmp_path / "run")
    with pytest.raises(FileExistsError, match="choose another path"):
        save_result(tmp_path / "run", **whole_run())
    left = [p.read_text() for p in [tmp_path / "run", *(tmp_path / "run").rglob("*")] if p.is_file()]
    assert len(left) == 1 and "mine" in left[0] and list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_a_run_is_replaced_and_files_beside_it_are_kept(tmp_path):
    run = whole_run()
    path = save_result(tmp_path / "run", **run)
    (path / "report.html").write_text("page")
    (path / "notes").mkdir()
    (path / "notes" / "a.txt").write_text("note")
    save_result(path, **{**run, "meta": {"second": True}})
    assert load_result(path)["meta"] == {"second": True}
    assert (path / "report.html").read_text() == "page" and (path / "notes" / "a.txt").read_text() == "note"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_folder_and_a_damaged_run_may_be_replaced(tmp_path):
    (tmp_path / "run").mkdir()
    path = save_result(tmp_path / "run", **whole_run())
    cut("run.json", 0.5)(path)
    save_result(path, **whole_run())
    load_result(path)


@pytest.mark.parametrize("function", ["rename", "fsync"])
@pytest.mark.parametrize("call", range(7))
def test_a_disk_error_leaves_the_old_run(tmp_path, monkeypatch, function, call):
    run = whole_run()
    path = save_result(tmp_path / "run", **{**run, "meta": {"n": 1}})
    true, calls = getattr(os, function), []

    def failing(*args):
        calls.append(args)
        if len(calls) == call + 1:
            raise OSError(28, "No space left on device")
        return true(*args)

    monkeypatch.setattr(storage.os, function, failing)
    try:
        save_result(path, **{**run, "meta": {"n": 2}})
        failed = False
    except OSError:
        failed = True
    monkeypatch.undo()
    assert failed == (len(calls) > call)
    # The last fsync comes after the new run is in place: either run is whole then.
    assert load_result(path)["meta"]["n"] in ((1, 2) if failed else (2,))
    if function == "rename" and failed:
        assert load_result(path)["meta"]["n"] == 1 and list(tmp_path.iterdir()) == [path]
    save_result(path, **{**run, "meta": {"n": 3}})
    assert load_result(path)["meta"]["n"] == 3


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
@pytest.mark.parametrize(("renames", "syncs"), [(0, 99), (1, 99), (2, 99), (99, 0), (99, 3)])
def test_a_kill_leaves_a_run(tmp_path, renames, syncs):
    """The process dies at once, before or between the renames; no clean-up runs."""
    arguments = {"params": {}, "groups": {"posterior": {"a": np.zeros((1, 3))}}, "history": {}}
    save_result(tmp_path / "run", meta={"n": 1}, **arguments)
    code = textwrap.dedent(f"""
        import os, signal, numpy as np
        from ppl_gen.results import storage
        def dying(true, left):
            def call(*args):
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left.pop()
                return true(*args)
            return call
        os.rename, os.fsync = dying(os.rename, [0] * {renames}), dying(os.fsync, [0] * {syncs})
        storage.save_result({str(tmp_path / "run")!r}, meta={{"n": 2}}, params={{}}, history={{}},
                            groups={{"posterior": {{"a": np.ones((1, 3))}}}})
    """)
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == (0 if renames == 2 else -signal.SIGKILL)
    assert load_result(tmp_path / "run")["meta"] == {"n": 2 if renames == 2 else 1}
    save_result(tmp_path / "run", meta={"n": 3}, **arguments)
    assert load_result(tmp_path / "run")["meta"] == {"n": 3}
