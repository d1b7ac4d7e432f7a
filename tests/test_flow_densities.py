"""Densities of flows: they integrate to one, draws agree with them, and they learn known ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import ppl_gen as pg
from ppl_gen import dist, evaluation, xp
from ppl_gen.flows.kinds import KINDS

BACKENDS = ("numpyro", "pyro")
OF_ONE_FEATURE = ("nsf", "maf", "iaf", "planar", "radial", "ffjord")  # a coupling wants two


def random_run(kind, features, backend="pyro", **options):
    """A run of a flow whose weights are drawn at random."""
    networks = {} if kind in ("planar", "radial") else {"hidden": (16,)}
    layers = {"num_layers": 1, "num_steps": 5} if kind == "ffjord" else {"num_layers": 2}
    model = pg.models.Flow(kind, features, **layers, **networks, **options)
    x = np.zeros((4, features))
    run = pg.infer(model, x, "svi", backend, batch_size=4, num_steps=1, progress=False)
    rng = np.random.default_rng(3)
    run.params = {n: w + 0.15 * rng.normal(size=w.shape) for n, w in sorted(run.params.items())}
    return run


def grid(x, count):
    """Middles of cells (cells, D) that hold all of ``x`` with room around, and the volume of one."""
    low, high = x.min(0), x.max(0)
    room, sides = 0.5 * (high - low), (high - low) * 2.0 / count
    axes = [a - r + s * (np.arange(count) + 0.5) for a, r, s in zip(low, room, sides, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, x.shape[1]), sides


def integrates_to_one_and_fits(run, count):
    """The mass on a grid is 1, and draws are as far from points drawn by the grid's masses as such are from others."""
    drawn = run.sample(2000, seed=1)
    at, sides = grid(drawn, count)
    mass = np.exp(run.log_prob(at)) * sides.prod()
    assert abs(mass.sum() - 1.0) < 2e-3
    rng = np.random.default_rng(4)

    def by_masses():
        picked = rng.choice(len(at), len(drawn), p=mass / mass.sum())
        return at[picked] + sides * (rng.random((len(drawn), len(sides))) - 0.5)

    others = by_masses()
    apart = [evaluation.energy_distance(by_masses(), others, unbiased=True) for _ in range(20)]
    assert evaluation.energy_distance(drawn, others, unbiased=True) < 2.0 * max(apart)
    if drawn.shape[1] == 1:
        order = np.argsort(at[:, 0])
        cdf = np.cumsum(mass[order]) - 0.5 * mass[order]
        found = stats.kstest(drawn[:, 0], lambda x: np.interp(x, at[order, 0], cdf))
        assert found.pvalue > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_densities_in_the_plane_integrate_to_one_and_draws_agree(kind):
    integrates_to_one_and_fits(random_run(kind, 2), 150 if kind == "ffjord" else 400)


@pytest.mark.parametrize("kind", OF_ONE_FEATURE)
def test_densities_on_the_line_integrate_to_one_and_draws_agree(kind):
    integrates_to_one_and_fits(random_run(kind, 1), 4000)


@pytest.mark.slow
def test_the_same_on_the_other_backend():
    integrates_to_one_and_fits(random_run("nsf", 2, "numpyro"), 400)


# Bases of the user's own ------------------------------------------------------------------------------------------


def student_t():
    return dist.StudentT(3.0, 0.0, 1.0).expand([1]).to_event(1)


def two_humps():
    humps = dist.Normal(xp.array([[-2.0], [2.0]]), 0.5).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(probs=xp.array([0.3, 0.7])), humps)


@pytest.mark.parametrize("base", [student_t, two_humps])
def test_any_distribution_may_be_the_base(base):
    """Tails of the first hold 0.002 beyond the grid."""
    integrates_to_one_and_fits(random_run("maf", 1, base=base), 20000)


# What they learn --------------------------------------------------------------------------------------------------


def trained(kind, x, backend, context=None, **options):
    model = pg.models.Flow(kind, x.shape[1], 3, (32, 32), num_context=0 if context is None else context.shape[1])
    data = {"x": x, **({} if context is None else {"context": context})}
    told = {"batch_size": 500, "num_epochs": 30, "learning_rate": 5e-3, "schedule": "cosine"} | options
    return pg.infer(model, data, "svi", backend, precision="float32", progress=False, **told)


def banana(n, seed):
    """x1 ~ N(0, 1), x2 | x1 ~ N(x1^2 - 1, 0.5^2), far outside of the box now and then; and the log density."""
    rng = np.random.default_rng(seed)
    x1 = rng.normal(size=n)
    x2 = x1**2 - 1.0 + 0.5 * rng.normal(size=n)
    return np.column_stack([x1, x2]), stats.norm.logpdf(x1) + stats.norm.logpdf(x2, x1**2 - 1.0, 0.5)


@pytest.mark.slow  # a conditional one learns by default
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flow_learns_a_density(backend):
    """The divergence from the truth, estimated on new data; its error is below 0.002."""
    run = trained("nsf", banana(20_000, 0)[0], backend)
    x, truth = banana(20_000, 1)
    assert run.log_prob_kind == "exact"
    assert -0.01 < (truth - run.log_prob(x)).mean() < 0.03
    assert abs(run.sample(4000).mean(0) - x.mean(0)).max() < 5 * np.sqrt(2.25 / 4000)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_continuous_flow_learns_by_an_estimate_of_the_trace(backend):
    model = pg.models.Flow("ffjord", 2, hidden=(32, 32), num_steps=5, trace="hutchinson")
    told = {"batch_size": 500, "num_epochs": 10, "learning_rate": 1e-2, "schedule": "cosine"}
    x, _ = banana(20_000, 0)
    run = pg.infer(model, x, "svi", backend, precision="float32", progress=False, **told)
    x, truth = banana(20_000, 1)
    assert run.log_prob_kind == "exact"
    assert -0.01 < (truth - run.log_prob(x)).mean() < 0.1


def given_context(n, seed):
    """x | c ~ N((c1 + c2^2, 2 c1), S(c)) with deviations exp(c2 / 2) and 0.5 and a correlation of 0.8."""
    rng = np.random.default_rng(seed)
    c = rng.uniform(-1.0, 1.0, (n, 2))
    e = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], n)
    scale = np.column_stack([np.exp(0.5 * c[:, 1]), np.full(n, 0.5)])
    loc = np.column_stack([c[:, 0] + c[:, 1] ** 2, 2.0 * c[:, 0]])
    log_p = stats.multivariate_normal([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]]).logpdf(e) - np.log(scale).sum(1)
    return loc + scale * e, c, log_p


CONDITIONAL = [(k, b) for k in ("maf", "nsf_coupling") for b in BACKENDS]
LONG = [pytest.param(*c, marks=pytest.mark.slow) for c in CONDITIONAL[1:]]


@pytest.mark.parametrize(("kind", "backend"), [CONDITIONAL[0], *LONG])
def test_a_conditional_flow_learns_a_conditional_density(kind, backend):
    x, c, _ = given_context(20_000, 0)
    run = trained(kind, x, backend, c)
    x, c, truth = given_context(20_000, 1)
    assert -0.01 < (truth - run.log_prob({"x": x, "context": c})).mean() < 0.03
