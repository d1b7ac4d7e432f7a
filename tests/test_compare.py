"""Runs side by side: their numbers against SciPy's, and against the truth."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from scipy import stats

import ppl_gen as pg
from ppl_gen import dist, evaluation, xp
from ppl_gen.evaluation.wasserstein import null_distance
from ppl_gen.results.run import Run, Setting

matplotlib.use("Agg")
X = np.random.default_rng(0).normal(size=(30, 2))
Y = X @ [1.0, -0.5] + np.random.default_rng(1).normal(size=30)


@pg.program
def regression(X, y):
    b = pg.sample("b", dist.Normal(xp.zeros(2), 2.0).to_event(1))
    scale = pg.sample("scale", dist.HalfNormal(2.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(X @ b, scale), obs=y)


def made(engine="mala", shift=0.0, shape=(4, 500), rng=None, **options):
    """A run of independent draws."""
    rng = rng or np.random.default_rng()
    posterior = {"mu": shift + rng.normal(size=shape), "z": 2.0 * rng.normal(size=(*shape, 3)) + shift}
    return Run(engine, Setting("numpyro", "float64", None, 0), posterior, **options)


@pytest.fixture(scope="module")
def runs():
    data, quick = {"X": X, "y": Y}, {"progress": False, "num_warmup": 300, "num_chains": 4}
    return {
        "nuts": pg.infer(regression, data, "nuts", num_samples=400, **quick),
        "mala": pg.infer(regression, data, "mala", num_samples=4000, **quick),
        "ula": pg.infer(regression, data, "ula", num_samples=1000, step_size=0.5, thinning=2, **quick),
        "map": pg.infer(regression, data, "map", progress=False),
    }


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_table_of_engines(runs):
    table = pg.compare(runs).table
    assert list(table.index) == ["nuts", "mala", "ula", "map"]
    assert list(table["exact"]) == [True, True, False, False]
    assert list(table["draws"]) == [1600, 1600, 2000, 1]
    assert (table["seconds"] > 0).all()
    for label in ("nuts", "mala"):
        run = runs[label]
        sizes = np.concatenate([evaluation.ess(x).ravel() for x in run.posterior.values()])
        ratios = np.concatenate([evaluation.rhat(x).ravel() for x in run.posterior.values()])
        assert table.loc[label, "ess_min"] == pytest.approx(sizes.min())
        assert table.loc[label, "r_hat_max"] == pytest.approx(ratios.max())
        assert table.loc[label, "ess_per_second"] == pytest.approx(sizes.min() / run.attrs["inference_time"])
        assert table.loc[label, "warnings"] == len(run.warnings)
    assert table.loc["nuts", "gradients"] == runs["nuts"].stats["n_steps"].sum()
    assert table.loc["mala", "gradients"] == 4 * 4000 and table.loc["ula", "gradients"] == 4 * 1000  # thinned ones too
    assert table.loc["map"].isna()[["ess_min", "gradients", "r_hat_max", "ess_per_second"]].all()


def test_moments(runs):
    moments = pg.compare(runs).moments
    assert list(moments.index) == ["b[0]", "b[1]", "scale"]
    b = runs["nuts"].posterior["b"].reshape(-1, 2)
    assert np.allclose(moments["nuts", "mean"].iloc[:2], b.mean(0))
    assert np.allclose(moments["nuts", "sd"].iloc[:2], b.std(0, ddof=1))
    assert np.allclose(moments["map", "mean"].iloc[:2], runs["map"].posterior["b"].ravel())
    assert moments["map", "sd"].isna().all()


def test_distances_are_those_of_scipy(runs):
    found = pg.compare(runs).distances
    assert len(found) == 3 * 3  # a point has no distance
    for row in found.itertuples():
        name, _, entry = row.variable.partition("[")
        x, y = (runs[label].posterior[name] for label in (row.first, row.second))
        x, y = ((v[..., int(entry[0])] if entry else v).ravel() for v in (x, y))
        scale = np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
        assert row.distance == pytest.approx(stats.wasserstein_distance(x, y) / scale, rel=1e-10)


def test_exact_engines_agree_and_a_biased_one_does_not(runs):
    found = pg.compare(runs, prob=1 - 1e-3).distances.set_index(["first", "second"])
    assert (found.loc[("nuts", "mala"), "distance"] < 2 * found.loc[("nuts", "mala"), "noise"]).all()
    far = pg.compare([made(), made("nuts", shift=0.5)]).distances
    assert far["apart"].all() and np.allclose(far["distance"], [0.5, 0.25, 0.25, 0.25], atol=0.15)


@pytest.mark.parametrize("draw", ["normal", "exponential"])
@pytest.mark.parametrize("sizes", [(300, 300), (2000, 200)])
def test_the_noise_level_is_that_of_independent_samples(draw, sizes):
    rng, prob, repeats = np.random.default_rng(), 0.9, 800
    x, y = (getattr(rng, draw)(size=(n, repeats)) for n in sizes)
    below = evaluation.wasserstein(x, y) < null_distance(getattr(rng, draw)(size=20000), sizes, prob)
    assert abs(below.mean() - prob) < 5 * np.sqrt(prob * (1 - prob) / repeats) + 0.01
    for i in range(5):
        assert evaluation.wasserstein(x, y)[i] == pytest.approx(stats.wasserstein_distance(x[:, i], y[:, i]))


def test_noise_counts_dependent_draws_for_what_they_are():
    """Each draw is there ten times: the noise level is that of a tenth."""
    rng = np.random.default_rng(0)
    few = [made(rng=rng, shape=(4, 400)), made(rng=rng, shape=(4, 400))]
    for run in few:
        run.posterior = {n: np.repeat(x[:, :40], 10, axis=1) for n, x in run.posterior.items()}
    noise = pg.compare(few).distances["noise"].mean()
    expected = pg.compare([made(rng=rng, shape=(4, 40)), made(rng=rng, shape=(4, 40))]).distances["noise"].mean()
    assert noise == pytest.approx(expected, rel=0.3)


def test_what_is_shown(runs, tmp_path):
    found = pg.compare(runs)
    page, text = found._repr_html_(), repr(found)
    assert "<table" in page and "ess_per_second" in text and "above their Monte Carlo noise level" in text
    assert any("biased" in w for w in found.warnings["ula"]) and "ula: ula takes every proposal" in text
    assert "ula: ula takes every proposal" in page
    for figure in (found.plot(), found.plot(max_rows=2), pg.compare({"a": runs["map"], "b": runs["nuts"]}).plot()):
        figure.savefig(tmp_path / "picture.png", dpi=50)
    assert [axis.get_title("left") for axis in found.plot().axes] == ["posterior", "how far apart"]


def test_labels_tell_runs_apart():
    other = Run("mala", Setting("pyro", "float64", None, 0), made().posterior)
    assert list(pg.compare([made(), made("nuts")]).runs) == ["mala", "nuts"]
    assert list(pg.compare([made(), other]).runs) == ["mala, numpyro", "mala, pyro"]
    assert list(pg.compare([made(), made()]).runs) == ["mala, numpyro, 0", "mala, numpyro, 1"]


def test_variables_of_one_run_alone_are_left_out_or_asked_for():
    one, two = made(), made("nuts")
    del two.posterior["z"]
    assert pg.compare([one, two]).names == ["mu"]
    both = pg.compare([one, two], ["z", "mu"])
    assert list(both.moments.index) == ["z[0]", "z[1]", "z[2]", "mu"] and len(both.distances) == 1
    assert both.moments["nuts", "mean"].isna().sum() == 3
    both.plot()


def test_what_cannot_be_compared_is_refused():
    wide = made("nuts")
    wide.posterior["z"] = np.zeros((4, 500, 5))
    other = Run("nuts", Setting("numpyro", "float64", None, 0), {"other": np.zeros((2, 9))})
    for error, words, runs, options in (
        (ValueError, "at least two", [made()], {}),
        (TypeError, "no run of pg.infer", [made(), 3.0], {}),
        (ValueError, "no variable 'nu'", [made(), made("nuts")], {"var_names": ["nu"]}),
        (ValueError, "no variable in common", [made(), other], {}),
        (ValueError, "has shapes", [made(), wide], {}),
        (ValueError, "prob must be", [made(), made("nuts")], {"prob": 95}),
    ):
        with pytest.raises(error, match=words):
            pg.compare(runs, **options)
