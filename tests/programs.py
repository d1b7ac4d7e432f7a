"""Portable programs with data, in one table: between them they use every primitive and every distribution.

`PROGRAMS` maps a name to (program, data). `ENUMERATED` names those with discrete latents that are summed out,
`PINNED` the values of subsampled plates that make a program a function of its latents alone. Numbers are fixed:
the tests vary the points at which the programs are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import ppl_gen as pg
from ppl_gen import dist, xp
from tests.layers import NNXLayer, TorchLayer

Table = dict[str, tuple[pg.Program, dict[str, Any]]]

PROGRAMS: Table = {}
ENUMERATED: list[str] = []
PINNED: dict[str, dict[str, np.ndarray]] = {}

rng = np.random.default_rng(20260)


def declare(data: dict[str, Any], *, enumerated: bool = False, pinned: dict[str, Any] | None = None) -> Callable:
    """Enter the decorated function into the table."""

    def enter(model: Callable[..., Any]) -> Callable[..., Any]:
        PROGRAMS[model.__name__] = (pg.program(model), data)
        if enumerated:
            ENUMERATED.append(model.__name__)
        if pinned:
            PINNED[model.__name__] = {name: np.asarray(rows) for name, rows in pinned.items()}
        return model

    return enter


# Hierarchies, plates, masks, scales -------------------------------------------------------------------------------

SCHOOLS = {
    "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
}


@declare(SCHOOLS)
def eight_schools(sigma, y=None):
    mu = pg.sample("mu", dist.Normal(0.0, 5.0))
    tau = pg.sample("tau", dist.HalfCauchy(5.0))
    with pg.plate("school", len(sigma)):
        theta = pg.sample("theta", dist.Normal(mu, tau))
        pg.sample("y", dist.Normal(theta, sigma), obs=y)


@declare(SCHOOLS)
def eight_schools_non_centred(sigma, y=None):
    mu = pg.sample("mu", dist.Normal(0.0, 5.0))
    tau = pg.sample("tau", dist.HalfNormal(5.0))
    with pg.plate("school", len(sigma)):
        z = pg.sample("z", dist.Normal())
        theta = pg.deterministic("theta", mu + tau * z)
        pg.sample("y", dist.StudentT(4.0, theta, sigma), obs=y)


X = rng.normal(size=(12, 3))


@declare({"X": X, "y": X @ [0.5, -1.0, 2.0] + 0.3 * rng.normal(size=12)})
def linear_regression(X, y=None):
    w = pg.sample("w", dist.Independent(dist.Laplace(xp.zeros(3), 2.0), 1))
    b = pg.sample("b", dist.Cauchy(0.0, 1.0))
    sigma = pg.sample("sigma", dist.InverseGamma(3.0, 2.0))
    with pg.plate("row", X.shape[0]):
        pg.sample("y", dist.Logistic(xp.matmul(X, w) + b, sigma), obs=y)


@declare({"X": X, "hit": rng.integers(0, 2, 12), "count": rng.integers(0, 6, 12), "trials": rng.integers(6, 9, 12)})
def generalised_regressions(X, trials, hit=None, count=None):
    w = pg.sample("w", dist.MultivariateNormal(xp.zeros(3), precision_matrix=xp.eye(3) * 2.0))
    v = pg.sample("v", dist.MultivariateStudentT(5.0, xp.zeros(3), xp.eye(3)))
    dispersion = pg.sample("dispersion", dist.Chi2(3.0))
    with pg.plate("row", X.shape[0]):
        pg.sample("hit", dist.Bernoulli(logits=xp.einsum("ij,j->i", X, w)), obs=hit)
        pg.sample("won", dist.Binomial(trials, logits=xp.matmul(X, v)), obs=count)
        pg.sample("count", dist.NegativeBinomial(dispersion, logits=xp.matmul(X, w)), obs=count)


@declare({"y": rng.normal(size=(4, 3, 2)), "seen": rng.integers(0, 2, (4, 3, 2)).astype(bool)})
def nested_plates_and_mask(y, seen):
    scale = pg.sample("scale", dist.Gamma(2.0, 1.0))
    with pg.plate("item", 2, dim=-1):
        skill = pg.sample("skill", dist.Normal(0.0, scale))
        with pg.plate("person", 3, dim=-2):
            both = pg.sample("both", dist.SoftLaplace(skill, 0.5))
            with pg.plate("time", 4, dim=-3), pg.mask(seen):
                pg.sample("y", dist.Gumbel(both, scale), obs=y)


@declare({"y": rng.normal(1.0, 1.0, 6), "weight": rng.uniform(0.0, 2.0, 6)})
def scaled(y, weight):
    with pg.scale(0.5):
        mu = pg.sample("mu", dist.Normal(0.0, 3.0))
    with pg.plate("row", 6), pg.scale(weight):
        pg.sample("y", dist.AsymmetricLaplace(mu, 1.0, 1.5), obs=y)


@declare({"y": rng.gamma(2.0, 1.0, 10)}, pinned={"row": [7, 0, 4, 9]})
def subsampled(y):
    rate = pg.sample("rate", dist.LogNormal(0.0, 0.5))
    with pg.plate("row", 10, subsample_size=4) as rows:
        pg.sample("y", dist.Weibull(rate, 1.7), obs=y[rows])


# Supports: improper, ordered, truncated, dynamic ------------------------------------------------------------------


@declare({"y": rng.normal(size=(6, 3))})
def flat_supports(y):
    mu = pg.sample("mu", dist.Flat())
    scale = pg.sample("scale", dist.Flat("positive", (3,)))
    mix = pg.sample("mix", dist.Flat("simplex", (3,)))
    cut = pg.sample("cut", dist.Flat("ordered", (3,)))
    up = pg.sample("up", dist.Flat("positive_ordered", (3,)))
    share = pg.sample("share", dist.Flat("unit_interval"))
    box = pg.sample("box", dist.ImproperUniform(dist.constraints.interval(-1.0, 3.0), (), (3,)))
    factor = pg.sample("factor", dist.Flat("lower_cholesky", (3, 3)))
    pg.factor("decay", -xp.sum(cut**2) - xp.sum(up**2) - xp.sum(factor**2) - share)
    with pg.plate("row", 6):
        centre = mu + mix + share * box
        pg.sample("y", dist.Normal(centre, scale).to_event(1), obs=y)


@declare({"y": rng.normal(size=(7, 3))})
def flat_matrices(y):
    corr = pg.sample("corr", dist.Flat("corr_matrix", (3, 3)))
    cov = pg.sample("cov", dist.Flat("positive_definite", (3, 3)))
    chol = pg.sample("chol", dist.Flat("corr_cholesky", (3, 3)))
    pg.factor("decay", -xp.sum(cov**2))
    with pg.plate("row", 7):
        pg.sample("y", dist.MultivariateNormal(xp.zeros(3), cov + corr), obs=y)
        pg.sample("x", dist.MultivariateNormal(xp.zeros(3), scale_tril=chol), obs=y)


@declare({"grade": np.array([0, 2, 1, 3, 3, 0, 2]), "x": rng.normal(size=7)})
def ordinal(x, grade):
    slope = pg.sample("slope", dist.TruncatedNormal(0.0, 1.0, low=0.0))
    cuts = pg.sample("cuts", dist.Ordered(dist.Normal(0.0, 2.0), 3))
    times = pg.sample("times", dist.Ordered(dist.Gamma(2.0, 1.0), 2))
    with pg.plate("row", 7):
        pg.sample("grade", dist.OrderedLogistic(slope * x + xp.sum(times), cuts), obs=grade)


@declare({"y": rng.uniform(0.1, 0.6, 5)})
def dynamic_supports(y):
    top = pg.sample("top", dist.Pareto(1.0, 3.0))
    a = pg.sample("a", dist.Uniform(0.0, top))
    b = pg.sample("b", dist.Uniform(a, a + top))
    c = pg.sample("c", dist.TruncatedNormal(0.0, 1.0, low=a, high=b))
    d = pg.sample("d", dist.TruncatedNormal(0.0, 1.0, high=c))
    with pg.plate("row", 5):
        pg.sample("y", dist.Uniform(-top, 2.0 * top + d * 0.0), obs=y)


ANGLES = np.stack([np.cos(np.arange(8.0)), np.sin(np.arange(8.0))], -1)


@declare({"y": rng.uniform(0.05, 0.95, 8), "turn": rng.uniform(-3.0, 3.0, 8), "at": ANGLES})
def unit_interval_and_circle(y, turn, at):
    a = pg.sample("a", dist.Exponential(1.0))
    b = pg.sample("b", dist.Kumaraswamy(2.0, 3.0))
    soft = pg.sample("soft", dist.RelaxedBernoulli(0.7, 0.4))
    where = pg.sample("where", dist.Normal(xp.zeros(2), 1.0).to_event(1))
    with pg.plate("row", 8):
        pg.sample("at", dist.ProjectedNormal(where), obs=at)
        pg.sample("y", dist.Beta(a + b, soft + 0.5), obs=y)
        pg.sample("turn", dist.VonMises(where[0], a), obs=turn)


@declare({"pair": rng.uniform(-3.0, 3.0, (5, 2))})
def torus(pair):
    loc = pg.sample("loc", dist.Normal(0.0, 0.5))
    skew = pg.sample("skew", dist.Uniform(-0.4, 0.4))
    with pg.plate("row", 5):
        pg.sample("pair", dist.SineBivariateVonMises(loc, -loc, 2.0, 3.0, 0.7), obs=pair)
        base = dist.VonMises(loc + xp.zeros(2), 2.0).to_event(1)
        pg.sample("skewed", dist.SineSkewed(base, skew * xp.ones(2)), obs=pair)


@declare({"y": rng.gamma(2.0, 1.0, 6), "small": rng.uniform(0.05, 1.5, 4)})
def transformed(y, small):
    steps = [dist.transforms.AffineTransform(1.0, 2.0)]
    loc = pg.sample("loc", dist.TransformedDistribution(dist.Normal(0.0, 1.0), steps))
    size = pg.sample("size", dist.TransformedDistribution(dist.Normal(loc, 1.0), dist.transforms.ExpTransform()))
    level = pg.sample("level", dist.Unit(0.3 * loc))
    assert level.shape[-1] == 0
    pg.sample("rare", dist.TruncatedPolyaGamma((4,)).to_event(1), obs=small)
    with pg.plate("row", 6):
        pg.sample("y", dist.FoldedDistribution(dist.Normal(loc, size)), obs=y)


# Matrices and simplices -------------------------------------------------------------------------------------------


@declare({"y": rng.normal(size=(9, 3))})
def correlated(y):
    chol = pg.sample("chol", dist.LKJCholesky(3, 2.0))
    corr = pg.sample("corr", dist.LKJ(3, 1.5))
    scale = pg.sample("scale", dist.HalfNormal(xp.ones(3)).to_event(1))
    with pg.plate("row", 9):
        pg.sample("y", dist.MultivariateNormal(xp.zeros(3), scale_tril=scale[:, None] * chol), obs=y)
        pg.sample("x", dist.MultivariateNormal(0.0, covariance_matrix=corr), obs=y)


@declare({"y": rng.normal(size=(9, 2))})
def wishart(y):
    precision = pg.sample("precision", dist.Wishart(4.0, scale_matrix=xp.eye(2) * 0.5))
    load = pg.sample("load", dist.Normal(xp.zeros((2, 1)), 1.0).to_event(2))
    with pg.plate("row", 9):
        pg.sample("y", dist.MultivariateNormal(xp.zeros(2), precision_matrix=precision), obs=y)
        pg.sample("x", dist.LowRankMultivariateNormal(xp.zeros(2), load, xp.ones(2)), obs=y)


@declare({"votes": rng.multinomial(7, [0.2, 0.3, 0.5], 4), "kind": np.array([0, 2, 1, 2, 2])})
def simplices(votes, kind):
    share = pg.sample("share", dist.Dirichlet(xp.array([1.0, 2.0, 3.0])))
    weight = pg.sample("weight", dist.Gamma(xp.array([2.0, 2.0, 1.0]), 1.0).to_event(1))
    with pg.plate("district", 4):
        pg.sample("votes", dist.Multinomial(7, share), obs=votes)
        pg.sample("again", dist.DirichletMultinomial(weight, 7), obs=votes)
    with pg.plate("row", 5):
        pg.sample("kind", dist.Categorical(share), obs=kind)
        pg.sample("hot", dist.OneHotCategorical(share), obs=xp.one_hot(kind, 3))


# Counts -----------------------------------------------------------------------------------------------------------


@declare({"y": np.array([0, 3, 1, 0, 0, 5, 2])})
def counts(y):
    rate = pg.sample("rate", dist.Gamma(2.0, 1.0))
    gate = pg.sample("gate", dist.Beta(1.0, 3.0))
    with pg.plate("row", 7):
        pg.sample("plain", dist.Poisson(rate), obs=y)
        pg.sample("inflated", dist.ZeroInflatedPoisson(gate, rate), obs=y)
        pg.sample("over", dist.GammaPoisson(rate, 1.5), obs=y)
        pg.sample("trials", dist.Geometric(gate), obs=y)
        pg.sample("bounded", dist.BetaBinomial(rate, 2.0, 6), obs=y)
        pg.sample("wide", dist.ZeroInflatedDistribution(dist.GammaPoisson(rate, 2.0), gate=gate), obs=y)
        pg.sample("even", dist.DiscreteUniform(0, 6), obs=y)


# Params, factors, mixtures, scans ---------------------------------------------------------------------------------


@declare({"y": rng.normal(2.0, 1.0, 9)})
def with_params(y):
    loc = pg.param("loc", lambda: xp.array([0.1, -0.2]))
    scale = pg.param("scale", xp.array(1.5), constraint=dist.constraints.positive)
    mix = pg.param("mix", xp.array([0.3, 0.7]), constraint=dist.constraints.simplex)
    shift = pg.sample("shift", dist.Normal(0.0, scale))
    pg.factor("tie", -0.5 * (loc[0] - loc[1]) ** 2)
    with pg.plate("row", 9):
        components = dist.Normal(loc + shift, scale)
        pg.sample("y", dist.MixtureSameFamily(dist.Categorical(mix), components), obs=y)


@declare({"y": rng.normal(size=(6, 2))})
def mixture_of_vectors(y):
    logits = pg.sample("logits", dist.Normal(xp.zeros(3), 1.0).to_event(1))
    with pg.plate("component", 3):
        loc = pg.sample("loc", dist.MultivariateNormal(xp.zeros(2), xp.eye(2)))
    with pg.plate("row", 6):
        mixing = dist.Categorical(logits=logits)
        pg.sample("y", dist.MixtureSameFamily(mixing, dist.MultivariateNormal(loc, 0.5 * xp.eye(2))), obs=y)


@declare({"y": rng.normal(size=20).cumsum()})
def scanned(y):
    phi = pg.sample("phi", dist.Uniform(-1.0, 1.0))
    theta = pg.sample("theta", dist.Normal(0.0, 0.5))
    sigma = pg.sample("sigma", dist.HalfCauchy(1.0))

    def step(carry, now):
        before, error = carry
        error = now - phi * before - theta * error
        return (now, error), error

    _, errors = xp.scan(step, (y[0], y[0] * 0.0), y[1:])
    pg.deterministic("last_error", errors[-1])
    with pg.plate("time", 19):
        pg.sample("error", dist.Normal(errors, sigma), obs=xp.zeros(19))


@declare({"y": rng.normal(1.0, 0.5, 8)})
def point_mass(y):
    loc = pg.sample("loc", dist.Normal(0.0, 2.0))
    with pg.plate("row", 8):
        pg.sample("y", dist.Normal(loc, 0.5), obs=y)
        pg.sample("exact", dist.Delta(y, log_density=-0.1 * loc**2), obs=y)


@declare({"X": X[:, :2], "y": rng.normal(size=12)})
def network(X, y):
    net = pg.module("net", {"jax": NNXLayer, "torch": TorchLayer})
    w = pg.sample("w", dist.Normal(xp.zeros(3), 1.0).to_event(1))
    with pg.plate("row", 12):
        pg.sample("y", dist.Normal(xp.matmul(net(X), w), 1.0), obs=y)


# Discrete latents, summed out -------------------------------------------------------------------------------------


@declare({"y": np.array([0.3, 1.2])}, enumerated=True)
def one_coin(y):
    p = pg.sample("p", dist.Beta(2.0, 2.0))
    z = pg.sample("z", dist.Bernoulli(p))
    with pg.plate("row", 2):
        pg.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)


@declare({"y": np.array([-0.6, 0.1, 2.2])}, enumerated=True)
def two_in_a_plate(y):
    share = pg.sample("share", dist.Dirichlet(xp.ones(3)))
    with pg.plate("component", 3):
        loc = pg.sample("loc", dist.Normal(0.0, 2.0))
    with pg.plate("row", 3):
        z = pg.sample("z", dist.Categorical(share))
        flip = pg.sample("flip", dist.Bernoulli(0.3))
        pg.sample("y", dist.Normal(loc[z] * (1.0 - 2.0 * flip), 0.7), obs=y)


@declare({"y": np.array([[0.2, 1.9, 0.1], [1.1, 0.9, -0.4]]).T}, enumerated=True)
def group_and_item(y):
    p = pg.sample("p", dist.Beta(1.0, 1.0))
    with pg.plate("group", 2, dim=-1):
        kind = pg.sample("kind", dist.Categorical(xp.array([0.3, 0.7])))
        with pg.plate("item", 3, dim=-2):
            on = pg.sample("on", dist.Bernoulli(xp.where(kind == 0, p, 1.0 - p)))
            pg.sample("y", dist.Normal(1.0 * on + 0.5 * kind, 0.8), obs=y)


@declare({"y": np.array([[1.0, 0.2], [-0.3, 0.9]])}, enumerated=True)
def one_hot_latent(y):
    loc = pg.sample("loc", dist.Normal(xp.zeros((3, 2)), 1.0).to_event(2))
    with pg.plate("row", 2):
        z = pg.sample("z", dist.OneHotCategorical(xp.array([0.2, 0.5, 0.3])))
        pg.sample("y", dist.Normal(xp.matmul(z, loc), 0.5).to_event(1), obs=y)


@declare({"y": np.array([1, 4, 0]), "x": np.array([0.4, -0.2, 1.0])}, enumerated=True)
def chained_latents(y, x):
    rate = pg.sample("rate", dist.Gamma(2.0, 1.0))
    start = pg.sample("start", dist.DiscreteUniform(1, 3))
    with pg.plate("row", 3):
        count = pg.sample("count", dist.Binomial(2, 0.4))
        pg.factor("lean", 0.1 * count * rate)
        pg.sample("y", dist.Poisson(rate * (start + count)), obs=y)
        pg.sample("x", dist.Normal(1.0 * count, rate), obs=x)


@declare({"y": np.array([0.4, -1.0, 1.5, 0.3]), "weight": np.array([1.0, 0.2, 2.5, 0.5])}, enumerated=True)
def scaled_mixture(y, weight):
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    with pg.plate("row", 4), pg.scale(weight):
        z = pg.sample("z", dist.Bernoulli(0.4))
        pg.sample("y", dist.Normal(loc + z, 0.6), obs=y)


@declare({"y": np.array([0.4, -1.0, 1.5, 0.3, 0.8, 2.0])}, enumerated=True, pinned={"row": [4, 0, 3]})
def subsampled_mixture(y):
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    side = pg.sample("side", dist.Bernoulli(0.5))
    with pg.plate("row", 6, subsample_size=3) as rows:
        z = pg.sample("z", dist.Bernoulli(0.4))
        pg.sample("y", dist.Normal(loc + z - side, 0.6), obs=y[rows])


@declare({"y": np.array([0.4, -1.0, 1.5])}, enumerated=True)
def tempered_mixture(y):
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    z = pg.sample("z", dist.Bernoulli(0.4))
    with pg.plate("row", 3), pg.scale(0.5):
        pg.sample("y", dist.Normal(loc + z, 0.6), obs=y)
