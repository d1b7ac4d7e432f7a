"""The command: what it prints, its exit codes, and errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import cli, demo, reading
from ppl_gen.demo_answers import eight_schools_posterior, mixture_density, mixture_parts

PROGRAM = """
import ppl_gen as pg
from ppl_gen import dist

def mean(y):
    m = pg.sample("m", dist.Normal(0.0, 1.0))
    with pg.plate("n", len(y)):
        pg.sample("y", dist.Normal(m, 1.0), obs=y)
"""


def fails(capsys, *arguments):
    """The one line of an error."""
    assert cli.main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ppl_gen: error: ") and captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_engines_are_listed(capsys):
    assert cli.main(["engines"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in pg.engines()) and "needs continuous latents" in text


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["demo", "--help"]])
def test_help_and_version(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 0 and "ppl_gen" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["check", "a:b"], ["demo", "--slow"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2 and "usage" in capsys.readouterr().err


def test_the_command_loads_no_heavy_library():
    code = ("import sys; from ppl_gen import cli; cli.main(['engines']);"
            "print([n for n in ('jax', 'torch', 'arviz', 'matplotlib', 'pandas') if n in sys.modules])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_check_compares_the_backends(tmp_path, capsys):
    (tmp_path / "programs.py").write_text(PROGRAM)
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"y": [0.1, 0.4, -1.0]}))
    place = f"{tmp_path / 'programs.py'}:mean"
    assert cli.main(["check", place, "--data", str(data)]) == 0
    assert "m" in capsys.readouterr().out
    assert "no 'median'" in fails(capsys, "check", place.replace(":mean", ":median"), "--data", str(data))
    assert "MODULE:PROGRAM" in fails(capsys, "check", "programs", "--data", str(data))
    assert "no_such_module" in fails(capsys, "check", "no_such_module:mean", "--data", str(data))
    assert "cannot read" in fails(capsys, "check", place, "--data", str(tmp_path / "none.json"))
    data.write_text("{")
    assert "not JSON" in fails(capsys, "check", place, "--data", str(data))


def test_report_writes_the_page_of_a_saved_run(tmp_path, capsys):
    run = pg.infer(pg.models.ProbabilisticPCA(1), np.random.default_rng(0).normal(size=(20, 3)), engine="closed_form")
    run.save(tmp_path / "run")
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    page = tmp_path / "run" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text("utf-8")
    assert "ProbabilisticPCA: closed_form on numpyro" in text and "a point, no uncertainty" in text
    assert "does not exist" in fails(capsys, "report", str(tmp_path / "other"))


# Data from files --------------------------------------------------------------------------------------------------


def test_csv_columns_with_text_and_gaps(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("\ufeffa,name,b\n1,x,2\n3,y,\n5,z,6\n\n", "utf-8")
    columns, notes = reading.read_columns(path)
    assert {n: x.tolist() for n, x in columns.items()} == {"a": [1.0, 5.0], "b": [2.0, 6.0]}
    assert len(notes) == 2 and "'name'" in notes[0] and "1 of 3 rows" in notes[1]
    path.write_text("1,2\n3,4\n")
    assert list(reading.read_columns(path)[0]) == ["column 0", "column 1"]


def test_csv_columns_are_arguments_or_one_matrix(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("y,x\n1,2\n3,4\n")
    assert reading.read_data(path, ["x", "y"])["x"].tolist() == [2.0, 4.0]
    assert reading.read_data(path, ["data"]).tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(("text", "words"), [
    ("", "is empty"), ("a,b\n1,2\n3\n", "row 3: 1 cells"), ("a\nx\ny\n", "no numeric column"),
    ("a\n1\n", "1 complete rows"),
])  # fmt: skip
def test_files_that_are_no_data(text, words, tmp_path, capsys):
    path = tmp_path / "data.csv"
    path.write_text(text)
    assert words in fails(capsys, "demo", "--out", str(tmp_path / "out"), "--data", str(path))
    assert not (tmp_path / "out").exists()


# The demo's own answers -------------------------------------------------------------------------------------------


def test_the_reference_of_eight_schools_is_that_of_importance_sampling():
    draws, evidence = eight_schools_posterior(demo.EFFECT, demo.ERROR)
    rng = np.random.default_rng(1)
    mu, tau = 5 * rng.standard_normal(400_000), 5 * np.abs(rng.standard_cauchy(400_000))
    variance = tau[:, None] ** 2 + demo.ERROR**2
    log_weight = -0.5 * ((demo.EFFECT - mu[:, None]) ** 2 / variance + np.log(2 * np.pi * variance)).sum(1)
    weight = np.exp(log_weight)
    assert abs(np.log(weight.mean()) - evidence) < 0.01
    assert abs(np.average(mu, weights=weight) - draws["mu"].mean()) < 0.15
    assert abs(np.average(tau, weights=weight) - draws["tau"].mean()) < 0.15


def test_the_drawn_density_of_a_mixture_is_that_of_its_run():
    x = np.random.default_rng(0).normal(size=(60, 2)) * [1.0, 3.0]
    run = pg.infer(pg.models.GaussianMixture(2), x, engine="em", progress=False)
    density = mixture_density(mixture_parts(run.posterior, [0, 1]))
    np.testing.assert_allclose(np.log(density(x)), run.log_prob({"x": x}), rtol=1e-9)
    one = mixture_density(mixture_parts(run.posterior, [1]))
    places = np.linspace(-40, 40, 4001)[:, None]
    np.testing.assert_allclose(one(places).sum() * 0.02, 1.0, rtol=1e-6)


@pytest.mark.slow
def test_the_quick_demo(tmp_path, capsys):
    assert cli.main(["demo", "--quick", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "[10/10]" in text and "Reference" in text and str(tmp_path / "index.html") in text
    assert (tmp_path / "overview.png").stat().st_size < 300_000
    assert pg.load(tmp_path / "runs" / "mixture_em_pyro").params["weights"].shape == (3,)
