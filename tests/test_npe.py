"""Posteriors learned from simulations: against closed forms, in one pass for any data, weighed and in rounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import ppl_gen as pg
from ppl_gen import backends, dist, nets, xp
from ppl_gen.flows import flow
from ppl_gen.inference import neural_posterior
from ppl_gen.inference.npe import ConditionalFlow
from ppl_gen.inference.posterior_network import Standard, Trained
from ppl_gen.inference.simulation import Simulator
from ppl_gen.inference.truncation import Region, _of_ellipsoid
from ppl_gen.program import as_program
from ppl_gen.target import Target
from tests.cutting import assert_same, cut_at_every_commit

BACKENDS = ("numpyro", "pyro")
SMALL_CUT = {"flow": "maf", "num_layers": 1, "hidden": (8,), "batch_size": 30}
SMALL = {"flow": "maf", "num_layers": 1, "hidden": (16,), "num_epochs": 30, "learning_rate": 0.01}


def npe(program, data, backend="numpyro", **options):
    given = {**SMALL, "num_simulations": 2000, "num_samples": 1000, **options}
    return pg.infer(program, data, "npe", backend, progress=False, **given)


@pg.program
def conjugate(y, noise=0.5):
    """z ~ N(0, diag(1, 4)), y_i ~ N(z, noise)."""
    z = pg.sample("z", dist.Normal(xp.zeros((2,)), xp.array([1.0, 2.0])).to_event(1))
    pg.deterministic("total", xp.sum(z))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(z, noise).to_event(1), obs=y)


Y = np.array([[0.3, 1.0], [1.1, 2.0], [0.7, 2.5]])


def posterior(y, noise=0.5):
    """Mean and standard deviation of z, and log p(y)."""
    prior = np.array([1.0, 4.0])
    variance = 1.0 / (1.0 / prior + len(y) / noise**2)
    covariance = [v + noise**2 * np.eye(len(y)) for v in prior]
    evidence = sum(stats.multivariate_normal(np.zeros(len(y)), c).logpdf(x) for c, x in zip(covariance, y.T))
    return variance * y.sum(0) / noise**2, np.sqrt(variance), evidence


def off(draws, mean, sd, ess=None):
    """Distance of the mean of draws (draws, dim) from the right one, in standard errors; ratio of deviations."""
    n = len(draws) if ess is None else min(ess, len(draws))
    return np.abs(draws.mean(0) - mean).max() / (sd.max() / np.sqrt(n)), draws.std(0) / sd


@pytest.mark.parametrize("backend", BACKENDS)
def test_weighed_draws_are_those_of_the_posterior(backend):
    run = npe(conjugate, Y, backend)
    mean, sd, evidence = posterior(Y)
    errors, ratio = off(run.posterior["z"][0], mean, sd, run.attrs["ess"])
    assert errors < 4.5 and (np.abs(ratio - 1) < 4 / np.sqrt(2 * 1000)).all()
    assert abs(run.attrs["log_evidence"] - evidence) < 4 * run.attrs["log_evidence_se"] + 1e-9
    assert run.attrs["log_evidence_se"] < 0.05 and run.attrs["pareto_k"] < 0.7 and not run.warnings
    assert run.attrs["correction"].startswith("importance weights of 10000") and not run.exact
    np.testing.assert_allclose(run.posterior["total"], run.posterior["z"].sum(-1))
    assert run.idata.posterior["z"].shape == (1, 1000, 2)


# In one pass for any data ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=BACKENDS)
def learned(request):
    return npe(conjugate, Y, request.param)


def test_it_holds_for_other_data_without_training(learned):
    """Of six data sets from the prior predictive, the draws and evidence of each."""
    rng = np.random.default_rng(3)
    for i in range(6):
        y = rng.normal(size=2) * [1.0, 2.0] + 0.5 * rng.normal(size=(3, 2))
        run = learned.posterior_for({"y": y}, seed=i)
        mean, sd, evidence = posterior(y)
        errors, ratio = off(run.posterior["z"][0], mean, sd, run.attrs["ess"])
        assert errors < 4.5 and (np.abs(ratio - 1) < 0.15).all()
        assert abs(run.attrs["log_evidence"] - evidence) < 4.5 * run.attrs["log_evidence_se"] + 1e-9
        assert run.engine == "amortised" and not run.exact and np.array_equal(run.observed["y"], y)
    raw = learned.posterior_for({"y": y}, num_samples=4000, correction=False)
    assert raw.attrs["correction"] == "none: it was not asked for" and "pareto_k" not in raw.attrs
    assert (np.abs(raw.posterior["z"][0].mean(0) - mean) < 0.5 * sd).all()  # of a network that is not perfect
    assert np.array_equal(learned.posterior_for(None, num_samples=5).observed["y"], Y)


def test_its_density_is_that_of_its_draws(learned):
    """Expected log ratios of two densities of draws: E_q log q - log p is the divergence, small and not below 0."""
    run = learned.posterior_for({"y": Y}, num_samples=4000, correction=False)
    z = run.posterior["z"][0]
    mean, sd, _ = posterior(Y)
    gap = learned.posterior_log_prob({"z": z}, {"y": Y}) - stats.norm(mean, sd).logpdf(z).sum(1)
    assert -4 * gap.std() / np.sqrt(len(z)) < gap.mean() < 0.3


def test_a_saved_run_goes_on(learned, tmp_path):
    learned.save(tmp_path / "run")
    again = pg.load(tmp_path / "run", conjugate, {"y": Y})
    one, other = (x.posterior_for({"y": Y - 1.0}, num_samples=50) for x in (learned, again))
    assert_draws(one, other)


def assert_draws(one, other):
    for name, x in one.posterior.items():
        np.testing.assert_array_equal(x, other.posterior[name])


def test_what_it_was_not_trained_for_is_refused(learned):
    with pytest.raises(pg.DataError, match="'noise' differs from what the network was trained with"):
        learned.posterior_for({"y": Y, "noise": 1.0})
    with pytest.raises(pg.DataError, match="2 latent numbers and 6 observed ones, and these data make 2 and 8"):
        learned.posterior_for({"y": np.zeros((4, 2))})
    with pytest.raises(ValueError, match="shapes {'z': \\(2,\\)}"):
        learned.posterior_log_prob({"z": np.zeros((4, 3))})
    with pytest.raises(pg.UnsupportedError, match="infer with engine='npe'"):
        learned.posterior_for({"y": Y}).posterior_for({"y": Y})
    with pytest.raises(ValueError, match="trained=run"):
        pg.infer(conjugate, Y, "amortised")


@pg.program
def scale(y):
    s = pg.sample("s", dist.HalfNormal(2.0))
    pg.sample("y", dist.Normal(0.0, s).expand([4]).to_event(1), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_density_of_a_latent_with_a_support_integrates_to_one(backend):
    run = npe(scale, np.array([0.5, -1.0, 0.3, 1.2]), backend, num_epochs=5)
    grid = np.exp(np.linspace(-7.0, 5.0, 2001))
    density = np.exp(run.posterior_log_prob({"s": grid}))
    np.testing.assert_allclose(np.trapezoid(density, grid), 1.0, atol=1e-3)
    assert (run.posterior_log_prob({"s": np.array([-1.0, 0.5])}) > -np.inf).tolist() == [False, True]
    likelihood = stats.norm(0, grid[:, None]).logpdf(run.observed["y"]).sum(1)
    evidence = np.log(np.trapezoid(np.exp(likelihood + stats.halfnorm(0, 2).logpdf(grid)), grid))
    assert abs(run.attrs["log_evidence"] - evidence) < 4.5 * run.attrs["log_evidence_se"]


# Programs that are no more than simulators -------------------------------------------------------------------------


@pg.program
def sum_of_two():
    z = pg.sample("z", dist.Normal(0.0, 1.0))
    noise = pg.sample("noise", dist.Normal(0.0, 0.5))
    pg.deterministic("x", z + noise)


@pytest.mark.parametrize("backend", BACKENDS)
def test_data_may_be_a_deterministic_of_latents_that_nobody_asks_for(backend):
    """z | x ~ N(x / 1.25, 0.2); of the draws of a network the moments are near."""
    run = npe(sum_of_two, None, backend, latents="z", observe={"x": 1.0}, num_simulations=4000)
    mean, sd = 0.8, np.sqrt(0.2)
    for x, held in ((1.0, run), (-0.5, run.posterior_for(observe={"x": -0.5}))):
        z = held.posterior["z"][0]
        assert abs(z.mean() - mean * x) < 0.25 * sd and abs(z.std() / sd - 1) < 0.2
        assert held.attrs["correction"].startswith("none: 'x' of sum_of_two are deterministic sites")
        assert not hasattr(held.idata, "log_likelihood") and "deterministic sites" in held.idata.attrs["log_likelihood"]
        assert list(held.posterior) == ["z"] and held.observed["x"] == x
    assert run.predict(num_samples=7).posterior_predictive["x"].shape == (1, 7)
    with pytest.raises(pg.UnsupportedError, match="correction=True weighs draws by the density"):
        npe(sum_of_two, None, backend, latents="z", observe={"x": 1.0}, correction=True)


def jittered_numpyro(y=None):
    import jax
    import numpyro

    z = numpyro.sample("z", numpyro.distributions.Normal(0.0, 1.0))
    hidden = 0.5 * jax.random.normal(numpyro.prng_key())
    numpyro.sample("y", numpyro.distributions.Normal(z + hidden, 0.5), obs=y)


def jittered_pyro(y=None):
    import pyro
    import torch

    z = pyro.sample("z", pyro.distributions.Normal(torch.tensor(0.0), 1.0))
    pyro.sample("y", pyro.distributions.Normal(z + 0.5 * torch.randn(()), 0.5), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_beside_the_sites_is_seen(backend):
    """z | y ~ N(y / 1.5, 1 / 3), which the density at hand knows nothing of."""
    program = pg.program(globals()[f"jittered_{backend}"], backend=backend)
    run = npe(program, {"y": np.array(1.5)}, backend, num_simulations=4000)
    assert run.attrs["correction"] == f"none: jittered_{backend} draws random numbers beside its sites"
    z, sd = run.posterior["z"][0], np.sqrt(1 / 3)
    assert abs(z.mean() - 1.0) < 0.25 * sd and abs(z.std() / sd - 1) < 0.2


@pg.program
def two_groups(y):
    mu = pg.sample("mu", dist.Normal(0.0, 2.0))
    with pg.plate("row", len(y)):
        k = pg.sample("k", dist.Categorical(probs=xp.array([0.3, 0.7])))
        pg.sample("y", dist.Normal(xp.where(k == 0, mu, -mu), 0.5), obs=y)


@pytest.mark.filterwarnings("ignore:the network of npe is far:RuntimeWarning")  # it has one mode
def test_discrete_latents_are_drawn_and_summed_out():
    """Evidence and mean by quadrature; the posterior has two modes."""
    y = np.array([0.4, -0.6, 0.9])
    run = npe(two_groups, y, num_layers=2, num_epochs=10)
    grid = np.linspace(-8, 8, 4001)
    near, far = (np.exp(stats.norm(s * grid[:, None], 0.5).logpdf(y)) for s in (1, -1))
    joint = np.exp(stats.norm(0, 2).logpdf(grid)) * (0.3 * near + 0.7 * far).prod(1)
    evidence = np.trapezoid(joint, grid)
    assert abs(run.attrs["log_evidence"] - np.log(evidence)) < 4.5 * run.attrs["log_evidence_se"]
    mean = np.trapezoid(grid * joint, grid) / evidence
    sd = np.sqrt(np.trapezoid(grid**2 * joint, grid) / evidence - mean**2)
    assert abs(run.posterior["mu"].mean() - mean) < 4.5 * sd / np.sqrt(min(1000, run.attrs["ess"]))
    assert list(run.posterior) == ["mu"]


@pg.program
def counted(y):
    rate = pg.sample("rate", dist.Gamma(3.0, 1.0))
    n = pg.sample("n", dist.Poisson(rate))
    pg.sample("y", dist.Normal(n * 1.0, 0.5), obs=y)


def test_counts_are_left_out_on_request_alone():
    with pytest.raises(pg.UnsupportedError, match="'n' of counted .* pass latents=\\('rate',\\)"):
        npe(counted, np.array(2.0))
    run = npe(counted, np.array(2.0), latents=("rate",), num_epochs=2)
    assert run.attrs["correction"].startswith("none:") and run.posterior["rate"].shape == (1, 1000)


# Rounds ------------------------------------------------------------------------------------------------------------


@pg.program
def wide(y):
    z = pg.sample("z", dist.Normal(0.0, 50.0).expand([2]).to_event(1))
    pg.sample("y", dist.Normal(xp.stack([z[0] + z[1], z[0] - z[1]]), 1.0).to_event(1), obs=y)


def test_rounds_narrow_down():
    """A posterior 70 times as narrow as the prior; the network of one round is left far behind."""
    y, options = np.array([30.0, -10.0]), {"num_simulations": 1000, "correction": False}
    sd = np.sqrt(1 / (2 + 1 / 2500))
    mean = np.array([y.sum(), y[0] - y[1]]) * sd**2
    far, near = (npe(wide, y, num_rounds=n, **options) for n in (1, 4))
    ratio = [run.posterior["z"][0].std(0) / sd for run in (far, near)]
    assert (ratio[0] > 2).all() and (np.abs(np.log(ratio[1])) < np.log(1.6)).all()
    assert (np.abs(near.posterior["z"][0].mean(0) - mean) < sd).all()
    assert near.attrs["num_rounds"] == 4 and near.attrs["num_simulations"] > 1000
    with pytest.raises(ValueError, match="trained in 4 rounds, for the data of the run alone"):
        near.posterior_for({"y": y + 1.0})
    again = near.posterior_for({"y": y}, correction=True)
    errors, ratio = off(again.posterior["z"][0], mean, np.full(2, sd), again.attrs["ess"])
    assert errors < 4.5 and (np.abs(ratio - 1) < 0.15).all()


def test_a_round_that_keeps_all_runs_simulates_none(monkeypatch):
    """As where the data say next to nothing."""
    monkeypatch.setattr(neural_posterior, "inside", lambda regions, target, u: np.ones(len(u), bool))
    options = {"num_simulations": 100, "num_epochs": 2, "num_samples": 20, "correction": False}
    one, two = (npe(conjugate, Y, num_rounds=n, **options) for n in (1, 2))
    assert two.attrs["num_rounds"] == 2 and two.attrs["num_simulations"] == one.attrs["num_simulations"]


def test_a_truncated_prior_is_drawn_from_by_both_ways_alike():
    """Draws of the prior that are kept inside, and those of an ellipsoid that are kept by the prior's density."""
    with backends.get("numpyro").scope(seed=0):
        target = Target(conjugate.bind({"y": Y}, backends.get("numpyro"), ("float64", None)))
        simulator = Simulator(target, target.layout, ("y",))
        u, y = (np.concatenate(x) for x in zip(*(simulator.prior(500, i) for i in range(40))))
        flat = ConditionalFlow(flow("maf", 2, 1, (8,), None, 6), 2, (6,))
        u_scale = Standard(np.array([0.3, 0.5]), np.array([0.5, 0.8]))
        weights = Target(target.bound.of(as_program(flat), 50, {"u": u[:50], "y": y[:50]})).draw(0)
        held = {n: np.asarray(s.value) for n, s in weights.items() if s.kind == "param"}
        region = Region.of(Trained(flat, held, u_scale, Standard.of(y)), target, Y.reshape(-1), 0)
        kept = u[region.contains(target, u)]
        propose = _of_ellipsoid(simulator, [region], 0)
        drawn = np.concatenate([propose(500, i)[0] for i in range(10)])
    assert 0.05 < len(kept) / len(u) < 0.9
    for i in range(2):
        assert stats.ks_2samp(kept[:, i], drawn[:, i]).pvalue > 1e-4
    assert stats.ks_2samp(kept.sum(1), drawn.sum(1)).pvalue > 1e-4


# Parts -------------------------------------------------------------------------------------------------------------


def test_numbers_are_standardised_and_put_back():
    x = np.random.default_rng(0).standard_cauchy((5000, 3)) * [1.0, 10.0, 1e-3] + [0.0, 5.0, 0.0]
    of = Standard.of(x)
    z = of.forward(x)
    np.testing.assert_allclose(of.inverse(z), x, rtol=1e-9, atol=1e-12)
    assert np.abs(z).max() < 60 and (np.abs(np.median(z, axis=0)) < 1e-6).all()
    one, eps = x[:5], 1e-6 * of.scale
    slope = (of.forward(one + eps) - of.forward(one - eps)) / (2 * eps)
    np.testing.assert_allclose(np.log(slope).sum(1), of.log_slope(one), rtol=1e-5)
    mostly_zero = np.where(np.arange(100)[:, None] < 5, 3.0, 0.0)
    assert np.isfinite(Standard.of(mostly_zero).forward(mostly_zero)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_embedding_is_learned_with_the_flow(backend):
    net = nets.MLP(3 * 2, 4, (16,))
    with pytest.raises(ValueError, match="embedding does not take data of shape"):
        npe(conjugate, Y, backend, embedding=net, num_epochs=1)  # of rows (3, 2)
    run = npe(scale, np.array([0.5, -1.0, 0.3, 1.2]), backend, embedding=nets.MLP(4, 2, (16,)), num_epochs=1)
    assert run.params["embedding.out.kernel" if backend == "numpyro" else "embedding.out.weight"].size == 2 * 16
    assert all(x.shape[backend == "pyro"] == 2 for n, x in run.params.items() if ".contexts." in n)
    assert run.posterior_for(np.zeros(4), num_samples=7).posterior["s"].shape == (1, 7)
    engine, run.options = run.options, None  # as of a run from a file
    with pytest.raises(ValueError, match="'embedding' of this run was one: set run.options"):
        run.posterior_for(np.zeros(4))
    run.options = engine
    assert run.posterior_for(np.zeros(4), num_samples=7).posterior["s"].shape == (1, 7)


@pytest.mark.filterwarnings("ignore:the network of npe is far:RuntimeWarning")  # trained for two epochs
def test_a_run_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    options = {"num_rounds": 2, "num_simulations": 300, "num_epochs": 2, "num_samples": 50, **SMALL_CUT}
    whole = pg.infer(conjugate, Y, "npe", progress=False, **options)
    begin = lambda: pg.infer(conjugate, Y, "npe", progress=False, checkpoint=tmp_path / "run.zarr", **options)
    cut, cuts = cut_at_every_commit(monkeypatch, tmp_path / "run.zarr", begin)
    assert_same(cut, whole)
    assert cuts >= 4


def flat_prior(y):
    z = pg.sample("z", dist.Flat())
    pg.sample("y", dist.Normal(z, 1.0), obs=y)


def scaled(y):
    z = pg.sample("z", dist.Normal())
    with pg.scale(2.0):
        pg.sample("y", dist.Normal(z, 1.0), obs=y)


def overflowing(y):
    z = pg.sample("z", dist.Normal(0.0, 1000.0))
    pg.sample("y", dist.Normal(xp.exp(z**2), 1.0), obs=y)


@pytest.mark.parametrize(
    ("program", "options", "error", "match"),
    [
        (flat_prior, {}, pg.UnsupportedError, "npe draws latents and data from flat_prior, and 'z' has a flat prior"),
        (scaled, {}, pg.UnsupportedError, "'y' is scaled"),
        (overflowing, {}, pg.ProgramError, "of the data that overflowing draws .'y'. are not finite"),
        (conjugate, {"latents": ("zz",)}, ValueError, "latents has 'zz' .did you mean 'z'"),
        (conjugate, {"observe": {"totals": 1.0}}, ValueError, "deterministic sites of conjugate are 'total'"),
        (conjugate, {"observe": {"total": np.ones(2)}}, pg.DataError, "shape \\(\\), got shape \\(2,\\)"),
        (conjugate, {"flow": "planar"}, ValueError, "no networks that a context could go into"),
        (conjugate, {"num_simulations": 50}, ValueError, "at least 100"),
        (conjugate, {"embedding": 3}, TypeError, "a network of ppl_gen.nets"),
        (conjugate, {"validation": 0.0}, ValueError, "validation must be a number between 0 and 1"),
        (conjugate, {"num_round": 2}, ValueError, "did you mean 'num_rounds'"),
    ],
)
def test_bad_input_is_refused(program, options, error, match):
    y = Y if program is conjugate else np.array(0.5)
    with pytest.raises(error, match=match):
        npe(program, y, **options)


def test_a_program_without_data_is_refused():
    with pytest.raises(pg.UnsupportedError, match="sum_of_two observes nothing"):
        npe(sum_of_two, None)
