"""What can be asked of a run, whichever engine and backend made it."""

from __future__ import annotations

import warnings

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.results.arviz import datasets_of

BACKENDS = ("numpyro", "pyro")
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
NAMES = ["Choate", "Deerfield", "Andover", "Exeter", "Hotchkiss", "Lawrenceville", "St Paul's", "Mt Hermon"]
DATA = {"sigma": SIGMA, "y": Y}
V = np.concatenate([np.random.default_rng(0).normal(-2, 0.5, 15), np.random.default_rng(1).normal(2, 0.5, 10)])


@pg.program(coords={"school": NAMES})
def schools(sigma, y=None):
    mu = pg.sample("mu", dist.Normal(0.0, 5.0))
    tau = pg.sample("tau", dist.HalfCauchy(5.0))
    with pg.plate("school", len(sigma)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        theta = pg.deterministic("theta", mu + tau * z)
        pg.sample("y", dist.Normal(theta, sigma), obs=y)
    pg.factor("nudge", -0.001 * mu**2)


def centred(sigma, y=None):
    mu = pg.sample("mu", dist.Normal(0.0, 5.0))
    tau = pg.sample("tau", dist.HalfCauchy(5.0))
    with pg.plate("school", len(sigma)):
        theta = pg.sample("theta", dist.Normal(mu, tau))
        pg.sample("y", dist.Normal(theta, sigma), obs=y)


def mixture(x):
    weights = pg.sample("weights", dist.Dirichlet(xp.ones((2,))))
    locs = pg.sample("locs", dist.Normal(xp.array([-2.0, 2.0]), 1.0).to_event(1))
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Categorical(probs=weights))
        pg.sample("x", dist.Normal(locs[z], 0.5), obs=x)


def two_outcomes(x, y=None, n=None):
    slope = pg.sample("slope", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(x)):
        pg.sample("y", dist.Normal(slope * x, 1.0), obs=y)
        pg.sample("n", dist.Poisson(xp.exp(slope * x)), obs=n)


def grid(y):
    with pg.plate("row", 3, dim=-2):
        a = pg.sample("a", dist.Normal(0.0, 1.0))
        with pg.plate("column", 4, dim=-1):
            b = pg.sample("b", dist.Normal(a, 1.0).expand([3, 4]))
            pg.sample("y", dist.Normal(b[..., None], xp.ones((2,))).to_event(1), obs=y)


CHAINS = {"num_warmup": 200, "num_samples": 200, "num_chains": 2}
OPTIONS = {
    "nuts": CHAINS,
    "hmc": {**CHAINS, "trajectory_length": 2.0},
    "mala": {**CHAINS, "thinning": 2},
    "ula": {**CHAINS, "thinning": 2},
    "svi": {"num_steps": 200, "num_samples": 100},
    "map": {},
    "em": {},
}


def fit(engine, backend="numpyro", program=None, data=None, **options):
    own = (mixture, V) if engine == "em" else (schools, DATA)
    program, data = (program or own[0]), (own[1] if data is None else data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return pg.infer(program, data, engine, backend=backend, progress=False, **{**OPTIONS[engine], **options})


@pytest.fixture(scope="module")
def runs():
    """engine, backend -> its run; made when first asked for."""
    made = {}

    def run(engine, backend="numpyro"):
        small = {"num_warmup": 50, "num_samples": 50} if backend == "pyro" and engine in ("nuts", "hmc") else {}
        if (engine, backend) not in made:
            made[engine, backend] = fit(engine, backend, **small)
        return made[engine, backend]

    return run


def groups(run):
    return {name: set(map(str, d.data_vars)) for name, d in datasets_of(run.idata).items()}


# --- InferenceData -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ["nuts", "mala", "svi", "map"])
def test_groups(runs, engine, backend):
    run = runs(engine, backend)
    found = groups(run)
    assert found["posterior"] == {"mu", "tau", "z", "theta"}
    assert found["observed_data"] == {"y"} == found["log_likelihood"], "no factor, no deterministic"
    assert found["constant_data"] == {"sigma"}
    posterior = datasets_of(run.idata)["posterior"]
    assert posterior["theta"].dims == ("chain", "draw", "school") == datasets_of(run.idata)["log_likelihood"]["y"].dims
    assert list(posterior["school"].values) == NAMES
    mu, tau = run.posterior["mu"][..., None], run.posterior["tau"][..., None]
    assert np.allclose(run.posterior["theta"], mu + tau * run.posterior["z"])
    assert run.idata.attrs["inference"] == engine


def test_sample_stats(runs):
    wanted = {"lp", "diverging", "energy", "n_steps", "acceptance_rate", "step_size"}
    for backend in BACKENDS:
        assert wanted | {"tree_depth"} <= groups(runs("nuts", backend))["sample_stats"]
    assert wanted <= groups(runs("hmc"))["sample_stats"]
    assert wanted - {"n_steps"} <= groups(runs("mala"))["sample_stats"]


def test_exactness_is_said(runs):
    said = {engine: bool(runs(engine).idata.attrs["exact"]) for engine in OPTIONS}
    assert said == {"nuts": True, "hmc": True, "mala": True, "ula": False, "svi": False, "map": False, "em": False}


@pytest.mark.parametrize("backend", BACKENDS)
def test_log_likelihood_is_that_of_the_draws(runs, backend):
    run = runs("nuts", backend)
    expected = stats.norm.logpdf(Y, run.posterior["theta"], SIGMA)
    assert np.allclose(run.log_likelihood["y"], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_log_likelihood_sums_discrete_latents_out(runs, backend):
    run = runs("em", backend)
    w, m = run.params["weights"], run.params["locs"]
    expected = np.log((w * stats.norm.pdf(V[:, None], m, 0.5)).sum(1))
    assert np.allclose(run.log_likelihood["x"][0, 0], expected)
    assert "z" not in groups(run)["posterior"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_dims_of_crossed_plates(backend):
    run = fit("map", backend, grid, np.zeros((3, 4, 2)))
    posterior = datasets_of(run.idata)["posterior"]
    assert posterior["b"].dims[2:] == ("row", "column")
    assert posterior["a"].dims[2] == "row" and posterior["a"].shape[2:] == (3, 1)
    assert datasets_of(run.idata)["log_likelihood"]["y"].dims[2:] == ("row", "column")
    assert datasets_of(run.idata)["observed_data"]["y"].dims[:2] == ("row", "column")


# --- New data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ["nuts", "svi", "map"])
def test_predict(runs, engine, backend):
    run = runs(engine, backend)
    drawn = datasets_of(run.predict(seed=1))["posterior_predictive"]["y"]
    assert drawn.dims == ("chain", "draw", "school") and drawn.shape == (*run.posterior["mu"].shape[:2], 8)
    assert not np.any(drawn.values == Y), "observations are drawn anew"
    again = datasets_of(run.predict(seed=1))["posterior_predictive"]["y"]
    other = datasets_of(run.predict(seed=2))["posterior_predictive"]["y"]
    assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_predictions_follow_the_draws(backend):
    """Each prediction comes from its own draw: y - theta is sigma times a standard normal."""
    run = fit("svi", backend, num_samples=400)
    drawn = datasets_of(run.predict(seed=0))["posterior_predictive"]["y"].values
    residual = (drawn - run.posterior["theta"]) / SIGMA
    assert abs(residual.mean()) < 0.08 and abs(residual.std() - 1.0) < 0.06


@pytest.mark.parametrize("backend", BACKENDS)
def test_predict_on_other_data(backend):
    x = np.linspace(-1.0, 1.0, 6)
    run = fit("map", backend, two_outcomes, {"x": x, "y": x, "n": np.arange(6)})
    new = datasets_of(run.predict({"x": np.linspace(0.0, 1.0, 9), "y": np.zeros(9), "n": np.zeros(9, int)}))
    assert {n: v.shape for n, v in new["posterior_predictive"].items()} == {"y": (1, 1, 9), "n": (1, 1, 9)}
    assert "observed_data" not in new


def test_predict_from_some_draws(runs):
    drawn = datasets_of(runs("nuts").predict(num_samples=20))["posterior_predictive"]["y"]
    assert drawn.shape == (2, 10, 8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ["nuts", "map", "em"])
def test_sample(runs, engine, backend):
    run = runs(engine, backend)
    drawn = run.sample(5, seed=1)
    assert drawn.shape == (5, 25 if engine == "em" else 8)
    assert np.array_equal(drawn, run.sample(5, seed=1)) and not np.array_equal(drawn, run.sample(5, seed=2))
    assert len({tuple(row) for row in drawn}) == 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_sample_of_several_sites_and_of_rows(backend):
    x = np.linspace(-1.0, 1.0, 6)
    several = fit("map", backend, two_outcomes, {"x": x, "y": x, "n": np.arange(6)}).sample(4)
    assert {n: v.shape for n, v in several.items()} == {"y": (4, 6), "n": (4, 6)}
    table = np.stack([V, np.cos(np.arange(25.0))], 1)
    rows = fit("em", backend, pg.models.GaussianMixture(2), table)
    assert rows.sample(7).shape == (7, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_log_prob(runs, backend):
    point, many = runs("map", backend), runs("nuts", backend)
    assert (point.log_prob_kind, many.log_prob_kind) == ("exact", "estimate")
    theta = point.posterior["theta"][0, 0]
    assert np.allclose(point.log_prob(DATA), stats.norm.logpdf(Y, theta, SIGMA))
    new = Y + 3.0
    density = stats.norm.pdf(new, many.posterior["theta"].reshape(-1, 8), SIGMA)
    assert np.allclose(many.log_prob({"sigma": SIGMA, "y": new}), np.log(density.mean(0)))


@pg.program
def counts_of(y):
    mu = pg.param("mu", lambda: xp.zeros(()))
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Normal(mu, 1.0))
        pg.sample("y", dist.Poisson(xp.exp(z)), obs=y)


@pytest.mark.parametrize(("engine", "backend"), [("vbem", "numpyro"), ("mcem", "pyro")])
@pytest.mark.filterwarnings("ignore:vbem stopped", "ignore:mcem stopped")
def test_log_prob_says_why_it_cannot_be_had(engine, backend):
    y = np.array([0, 1, 3, 2, 8])
    run = pg.infer(counts_of, y, engine, backend, progress=False, num_steps=1)
    assert run.log_prob_kind == "unavailable"
    with pytest.raises(pg.UnsupportedError, match="'z' has one value .* not linear-Gaussian .* engine='vbem'"):
        run.log_prob(y)


@pytest.mark.filterwarnings("ignore:em stopped")
def test_another_number_of_features_is_named(tmp_path):
    x = np.random.default_rng(3).normal(size=(40, 2))
    np.save(tmp_path / "x.npy", x)
    for data in (x, np.load(tmp_path / "x.npy", mmap_mode="r")):
        run = pg.infer(pg.models.GaussianMixture(2), data, engine="em", progress=False, num_steps=3, block_rows=20)
        for ask in (run.log_prob, run.latent):
            with pytest.raises(pg.ProgramError, match="'x' came with 5 features, and the run was fitted to 2 features"):
                ask(np.ones((3, 5)))
    run.save(tmp_path / "run")
    with pytest.raises(pg.ProgramError, match="5 features, and .* fitted to 2"):
        pg.load(tmp_path / "run", pg.models.GaussianMixture(2), x).log_prob(np.ones((3, 5)))


# --- Keeping -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ["nuts", "svi", "map", "em"])
def test_saved_and_loaded(runs, engine, backend, tmp_path):
    run = runs(engine, backend)
    program, data = (mixture, V) if engine == "em" else (schools, DATA)
    run.save(tmp_path / "run")
    held = pg.load(tmp_path / "run", program, data)
    assert (held.engine, held.setting, held.exact, held.warnings) == (run.engine, run.setting, run.exact, run.warnings)
    for one, other in ((run.posterior, held.posterior), (run.stats, held.stats), (run.params, held.params),
                       (run.history, held.history), (run.observed, held.observed), (run.constants, held.constants)):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[n], other[n]) and one[n].dtype == other[n].dtype for n in one)
    assert groups(held) == groups(run)
    for name, dataset in datasets_of(run.idata).items():
        assert dataset.equals(datasets_of(held.idata)[name]), name
    assert np.array_equal(held.sample(3, seed=2), run.sample(3, seed=2))
    assert np.array_equal(held.log_prob(data), run.log_prob(data))
    one, other = (datasets_of(r.predict(seed=3))["posterior_predictive"] for r in (run, held))
    assert one.equals(other)


def test_loaded_without_its_program_still_shows(runs, tmp_path):
    run = runs("nuts")
    run.save(tmp_path / "run")
    held = pg.load(tmp_path / "run")
    assert groups(held) == groups(run)
    assert np.array_equal(held.log_likelihood["y"], run.log_likelihood["y"])
    held.save(tmp_path / "again")
    assert groups(pg.load(tmp_path / "again")) == groups(run)


@pytest.mark.filterwarnings("ignore:em stopped")
def test_a_run_is_loaded_with_the_model_that_was_fitted(tmp_path):
    x = np.random.default_rng(3).normal(size=(40, 2))
    model = pg.models.GaussianMixture(2, regularization=0)
    run = pg.infer(model, x, engine="em", progress=False, num_steps=3)
    run.save(tmp_path / "run")
    same = pg.load(tmp_path / "run", pg.models.GaussianMixture(2, regularization=0.0), x)
    np.testing.assert_array_equal(same.log_prob(x), run.log_prob(x))
    pg.load(tmp_path / "run").save(tmp_path / "again")  # without its program
    for path in (tmp_path / "run", tmp_path / "again"):
        with pytest.raises(ValueError, match="covariance_type='full', not 'diag'"):
            pg.load(path, pg.models.GaussianMixture(2, "diag", regularization=0), x)
        with pytest.raises(ValueError, match="num_components=2, not 3"):
            pg.load(path, pg.models.GaussianMixture(3, regularization=0), x)


def test_a_program_that_lacks_a_site_of_the_file_is_refused(tmp_path):
    def edited(x):
        with pg.plate("row", len(x)):
            pg.sample("x", dist.Normal(0.0, 1.0), obs=x)

    edited.__name__ = "mixture"
    fit("em", program=mixture, data=V).save(tmp_path / "run")
    held = pg.load(tmp_path / "run", edited, V)
    with pytest.raises(ValueError, match="draws of 'locs', 'weights', and mixture .* no such site"):
        held.log_prob(V)
    with pytest.raises(ValueError, match="no such site"):
        held.predict()


# --- ArviZ -------------------------------------------------------------------------------------------

NINETY_PERCENT = {"hdi_prob": 0.9} if az.__version__.startswith("0.") else {"ci_prob": 0.9}


def _elpd(held):
    """Expected log predictive density, by the name that this ArviZ gives it."""
    return held["elpd_loo"] if az.__version__.startswith("0.") else held["elpd"]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("engine", OPTIONS)
def test_arviz_works_on_every_engine(runs, engine):
    idata = runs(engine).idata
    names = ["locs"] if engine == "em" else ["mu", "tau"]
    table = az.summary(idata, var_names=names, **NINETY_PERCENT)
    assert np.isfinite(table["mean"].astype(float)).all() and len(table) == 2
    chains, draws = runs(engine).posterior[names[0]].shape[:2]
    for plot in (az.plot_trace, az.plot_rank, az.plot_forest):
        compares = plot is az.plot_rank and not az.__version__.startswith("0.")  # 1.x wants two chains
        if plot is az.plot_forest or (draws > 1 and not (compares and chains == 1)):
            plot(idata, var_names=names)
    plt.close("all")
    if runs(engine).posterior[names[0]].shape[1] > 1:
        assert np.isfinite(_elpd(az.loo(idata)))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_arviz_compares(runs):
    pooled = fit("nuts", program=two_outcomes, data={"x": np.ones(8) / 10, "y": Y, "n": np.zeros(8, int)})
    table = az.compare({"nuts": runs("nuts").idata, "mala": runs("mala").idata})
    assert set(table.index) == {"nuts", "mala"} and np.isfinite(_elpd(table).astype(float)).all()
    assert np.isfinite(_elpd(az.loo(pooled.idata, var_name="n")))


# --- Warnings ----------------------------------------------------------------------------------------


def test_centred_schools_are_warned_of():
    with pytest.warns(RuntimeWarning, match=r"diverged|not mixed"):
        run = pg.infer(centred, DATA, "nuts", progress=False, num_warmup=500, num_samples=500)
    assert any("diverged" in w or "not mixed" in w for w in run.warnings)
    assert "warnings" in repr(run)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frozen_chain_is_warned_of(backend):
    """A step far too long: nothing is ever accepted."""
    run = fit("mala", backend, step_size=1e4, num_warmup=0)
    assert any("hardly moved" in w and "chains 0, 1" in w for w in run.warnings)


def test_good_chains_are_not_warned_of():
    run = fit("nuts", num_warmup=500, num_samples=1000, num_chains=4, target_accept_prob=0.95)
    assert not [w for w in run.warnings if "hardly" in w or "stuck" in w or "mixed" in w], run.warnings


def test_steps_that_did_not_suffice_are_warned_of():
    assert any("raise num_steps" in w for w in fit("map", num_steps=2).warnings)
    assert any("raise num_steps" in w for w in fit("em", num_steps=1).warnings)
