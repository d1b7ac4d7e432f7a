"""`pg.check`: what it says of good programs, of improper and native ones, and of those whose backends differ."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import backends, dist, xp
from tests.programs import PROGRAMS

Y = np.array([0.3, -1.0, 2.0, 0.5])


def row(report, name):
    return next(s for s in report.sites if s["name"] == name)


def test_a_good_program():
    """Each site as it is; both backends agree to rounding; engines with the reason where they do not apply."""
    program, data = PROGRAMS["eight_schools"]
    report = pg.check(program, data)
    assert report.ok and not report.problems
    assert [s["name"] for s in report.sites] == ["mu", "tau", "theta", "y"]
    theta = row(report, "theta")
    assert (theta["kind"], theta["distribution"], theta["shape"]) == ("latent", "Normal", (8,))
    assert theta["plates"] == ("school[8]",) and theta["support"] == "real"
    assert row(report, "y")["kind"] == "observed"
    assert report.value_difference < 1e-12 and report.gradient_difference < 1e-12
    assert report.engines["nuts"] == report.engines["em"] == "yes"
    assert "continuous latents of single rows" in report.engines["stepwise"]
    assert set(report.engines) == set(pg.engines())


def test_it_prints_as_an_aligned_table():
    program, data = PROGRAMS["two_in_a_plate"]
    report = pg.check(program, data)
    text = str(report)
    assert text == repr(report)
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("site"))
    start = lines[head].index("distribution")
    rows = lines[head + 2 : head + 2 + len(report.sites)]
    assert all(line[start - 2 : start] == "  " and line[start] != " " for line in rows)
    assert "discrete, 3 values" in text and "Categorical" in text
    page = report._repr_html_()
    assert page.count("<tr>") == len(report.sites) + len(report.engines) + 2


def test_discrete_latents_are_described():
    program, data = PROGRAMS["two_in_a_plate"]
    report = pg.check(program, data)
    z = row(report, "z")
    assert report.ok and z["discrete"] and z["cardinality"] == 3
    assert report.engines["em"] == "yes"


def test_improper_pieces_are_flagged_not_refused():
    program, data = PROGRAMS["flat_matrices"]
    report = pg.check(program, data)
    assert report.ok
    assert {s["name"] for s in report.sites if s["improper"]} == {"corr", "cov", "chol"}
    assert str(report).count("improper") == 3


def test_params_say_why_samplers_do_not_apply():
    program, data = PROGRAMS["with_params"]
    report = pg.check(program, data)
    assert report.ok and report.engines["svi"] == "yes"
    assert "learnable params" in report.engines["nuts"]
    assert (row(report, "scale")["support"], row(report, "mix")["support"]) == ("positive", "simplex")


def different_density(y):
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    spread = 1.0 if backends.active().name == "pyro" else 1.001
    with pg.plate("row", 4):
        pg.sample("y", dist.Normal(loc, spread), obs=y)


def different_names(y):
    loc = pg.sample("loc_" + backends.active().name, dist.Normal(0.0, 1.0))
    with pg.plate("row", 4):
        pg.sample("y", dist.Normal(loc, 1.0), obs=y)


def different_order(y):
    names = ("a", "b") if backends.active().name == "pyro" else ("b", "a")
    total = sum(pg.sample(n, dist.Normal(0.0, 1.0)) for n in names)
    with pg.plate("row", 4):
        pg.sample("y", dist.Normal(total, 1.0), obs=y)


def different_shape(y):
    shape = (2,) if backends.active().name == "pyro" else (3,)
    loc = pg.sample("loc", dist.Normal(xp.zeros(shape), 1.0).to_event(1))
    with pg.plate("row", 4):
        pg.sample("y", dist.Normal(xp.sum(loc), 1.0), obs=y)


def fails_on_pyro(y):
    if backends.active().name == "pyro":
        raise FloatingPointError("nothing works here")
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    with pg.plate("row", 4):
        pg.sample("y", dist.Normal(loc, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (different_density, "the backends disagree: log density differs"),
        (different_names, r"sites differ: numpyro has \['loc_numpyro', 'y'\], pyro has \['loc_pyro', 'y'\]"),
        (different_order, r"sites differ: numpyro has \['b', 'a', 'y'\]"),
        (different_shape, "site 'loc': its shape is 3 on numpyro and 2 on pyro"),
        (fails_on_pyro, "pyro: .*FloatingPointError: nothing works here"),
    ],
)
def test_differences_are_problems(model, says):
    """Reported, never raised, with what differs."""
    import re

    report = pg.check(model, {"y": Y})
    assert not report.ok
    assert any(re.search(says, p) for p in report.problems), report.problems
    assert "problem" in str(report) and report.sites


def test_nothing_finite_is_a_problem():
    def nowhere(y):
        loc = pg.sample("loc", dist.Normal(0.0, 1.0))
        pg.factor("never", -xp.inf + 0.0 * loc)

    report = pg.check(nowhere, {"y": Y})
    assert any("no finite one" in p for p in report.problems)


def test_endless_latents_are_reported():
    def endless(y):
        rate = pg.sample("rate", dist.Gamma(2.0, 1.0))
        n = pg.sample("n", dist.Poisson(rate))
        with pg.plate("row", 4):
            pg.sample("y", dist.Normal(1.0 * n, 1.0), obs=y)

    report = pg.check(endless, {"y": Y})
    assert report.ok and "no finite set of values" in report.engines["nuts"] and report.engines["gibbs"] == "yes"
    assert "endless" in row(report, "n")["notes"] and report.value_difference < 1e-12


def test_data_errors_are_raised():
    program, data = PROGRAMS["eight_schools"]
    with pytest.raises(pg.DataError, match="NaN"):
        pg.check(program, {**data, "sigma": np.full(8, np.nan)})
    with pytest.raises(pg.DataError, match="do not fit"):
        pg.check(program, {"nonsense": Y})


def test_a_native_program_is_checked_on_its_own():
    import numpyro
    import numpyro.distributions as nd

    def native(y):
        loc = numpyro.sample("loc", nd.Normal(0.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", nd.Normal(loc, 1.0), obs=y)

    report = pg.check(pg.program(native, backend="numpyro"), {"y": Y})
    assert report.ok and report.backends == ("numpyro",)
    assert report.value_difference is None and "not compared" in str(report)
    assert row(report, "y")["plates"] == ("row[4]",)
