"""Metropolis within Gibbs: posteriors of counts in closed form or by brute force, and the moves that lead there."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.evaluation import ess, mcse
from ppl_gen.inference import count_blocks, count_moves, count_starts, gibbs
from ppl_gen.inference.auto import Auto
from ppl_gen.inference.count_blocks import Blocks, Rows
from ppl_gen.inference.gibbs import MetropolisWithinGibbs
from ppl_gen.inference.ladder import Begun
from ppl_gen.target import Target

BACKENDS = ("numpyro", "pyro")
SLOW_ON_PYRO = ("numpyro", pytest.param("pyro", marks=pytest.mark.slow))
SHORT = {"num_warmup": 120, "num_samples": 120, "num_chains": 128}
K = np.array([2.0, 0.0, 5.0, 12.0])
SEEN, PRIOR = 0.3, (4.0, 0.5)


@pg.program
def survey(k):
    rate = pg.sample("rate", dist.Gamma(*PRIOR))
    with pg.plate("place", len(k)):
        n = pg.sample("n", dist.Poisson(rate))
        pg.sample("k", dist.Binomial(n, SEEN), obs=k)


@pg.program
def thinned(k):
    """Counts alone, one of them finite but for the other's sake; draws of the prior hardly ever allow the data."""
    n = pg.sample("n", dist.Poisson(5.0))
    m = pg.sample("m", dist.Binomial(n, 0.5))
    pg.sample("k", dist.Binomial(m, 0.5), obs=k)


@pg.program
def coupled(y):
    """Rows that depend on each other, on another site and on a finite latent that is summed out."""
    with pg.plate("pair", 2):
        n = pg.sample("n", dist.Poisson(xp.array([2.0, 5.0])))
    m = pg.sample("m", dist.Geometric(0.3))
    z = pg.sample("z", dist.Bernoulli(0.4))
    pg.sample("y", dist.Normal(1.0 * xp.sum(n, axis=-1) + 1.0 * m + 3.0 * z, 0.7), obs=y)


@functools.cache
def _survey(backend):
    return pg.infer(survey, {"k": K}, "gibbs", backend, seed=1, progress=False, **SHORT)


def _agrees(draws, mean, sd):
    """Within 4.5 Monte Carlo errors: one number in 150,000 fails."""
    draws = draws.astype(float)
    assert (ess(draws) > 300).all()
    assert (np.abs(draws.mean((0, 1)) - mean) < 4.5 * mcse(draws)).all()
    assert (np.abs(draws.std((0, 1)) - sd) < 4.5 * mcse(draws, "sd")).all()


# Posteriors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", SLOW_ON_PYRO)
def test_counts_beside_their_rate(backend):
    """k ~ Poisson(SEEN rate), so that rate is gamma; n - k given rate is Poisson((1 - SEEN) rate)."""
    run = _survey(backend)
    rate = stats.gamma(PRIOR[0] + K.sum(), scale=1 / (PRIOR[1] + len(K) * SEEN))
    _agrees(run.posterior["rate"], rate.mean(), rate.std())
    missed = 1 - SEEN
    _agrees(run.posterior["n"], K + missed * rate.mean(), np.sqrt(missed * rate.mean() + missed**2 * rate.var()))
    tied = np.corrcoef(run.posterior["n"][..., 0].ravel(), run.posterior["rate"].ravel())[0, 1]
    expected = missed * rate.var() / np.sqrt(rate.var() * (missed * rate.mean() + missed**2 * rate.var()))
    assert abs(np.arctanh(tied) - np.arctanh(expected)) < 4.5 / np.sqrt(ess(run.posterior["rate"]))


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_counts_alone(backend):
    """By thinning: m - k ~ Poisson(5/4) and n - m ~ Poisson(5/2), independent."""
    run = pg.infer(thinned, {"k": np.array(12.0)}, "gibbs", backend, seed=2, progress=False, **SHORT)
    n, m = run.posterior["n"], run.posterior["m"]
    assert (n >= m).all() and (m >= 12).all()
    _agrees(m - 12, 1.25, np.sqrt(1.25))
    _agrees(n - m, 2.5, np.sqrt(2.5))


def _brute_force(y):
    n1, n2, m = np.meshgrid(np.arange(25), np.arange(30), np.arange(60), indexing="ij")
    log_p = stats.poisson(2.0).logpmf(n1) + stats.poisson(5.0).logpmf(n2) + m * np.log(0.7)
    both = [np.log(w) + stats.norm(n1 + n2 + m + 3 * z, 0.7).logpdf(y) for z, w in enumerate((0.6, 0.4))]
    p = np.exp(log_p + np.logaddexp(*both))
    return (n1, n2, m), p / p.sum()


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_values_that_depend_on_each_other(backend):
    """A sum observed, of two rows and another site; the finite latent has no draws."""
    run = pg.infer(coupled, {"y": np.array(11.0)}, "gibbs", backend, seed=3, progress=False, **SHORT)
    values, p = _brute_force(11.0)
    means = [(p * v).sum() for v in values]
    sds = [np.sqrt((p * v**2).sum() - mean**2) for v, mean in zip(values, means, strict=True)]
    assert set(run.posterior) == {"n", "m"}
    _agrees(run.posterior["n"], means[:2], sds[:2])
    _agrees(run.posterior["m"], means[2], sds[2])
    total = run.posterior["n"].sum(-1) + run.posterior["m"]
    mean = (p * sum(values)).sum()
    _agrees(total, mean, np.sqrt((p * sum(values) ** 2).sum() - mean**2))


# The moves --------------------------------------------------------------------------------------------------------

_SIZES = (9, 7, 8)


def _table(kind):
    """A log density on a lattice, as the sum of tables; the last coordinate is independent, or all are tied, or the
    first bounds the second."""
    rng = np.random.default_rng(5)
    first, second = 1.5 * rng.normal(size=_SIZES[:2]), 1.5 * rng.normal(size=_SIZES[2:])
    first[4, :] -= 3.0  # modes on both sides
    first[2, 3] = -np.inf
    if kind == "bounded":
        first = np.where(np.arange(_SIZES[1]) <= np.arange(_SIZES[0])[:, None], first, -np.inf)
    return first, second, (np.zeros(_SIZES) if kind == "rows" else rng.normal(size=_SIZES))


def _moves(room, kind):
    """The lattice as what sweeps ask for; counts off the lattice are outside of the support."""
    xp, (first, second, all_three) = room.xp, _table(kind)
    sizes = room.asarray(np.array(_SIZES, dtype=float))
    tables = [room.asarray(t.ravel()) for t in (first, second, all_three)]

    def entries(z):
        i, j, k = (xp.astype(z[:, d], xp.int64) for d in range(3))
        at = (i * _SIZES[1] + j, k, (i * _SIZES[1] + j) * _SIZES[2] + k)
        return xp.stack([xp.take(t, a, axis=0) for t, a in zip(tables, at, strict=True)], axis=1)

    def inside(z, new):
        bounded = (new[:, 1:2] <= z[:, :1]) | (kind != "bounded")
        return (new >= 0) & (new < sizes) & xp.concatenate([bounded | True, bounded, bounded | True], axis=1)

    return count_moves.At(entries, inside)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["tied", "rows", "bounded"])
def test_equilibrium_is_kept(kind, backend):
    """200,000 draws of a lattice, two sweeps: draws of it still, by a chi-square test with false alarms of 1e-6."""
    if kind != "rows":
        blocks = Blocks((), np.arange(3), 3)
    else:  # the first two in turn, and the third beside them
        rows = [Rows(0, 1, np.array([[0]]), np.array([0, 1, 1])), Rows(1, 2, np.array([[0]]), np.array([0, 1, 1]))]
        blocks = Blocks((*rows, Rows(2, 3, np.array([[1, 2]]), np.array([1, 0, 0]))), np.zeros(0, dtype=int), 3)
    first, second, all_three = _table(kind)
    p = np.exp(first[:, :, None] + second + all_three).ravel()
    p /= p.sum()
    rng, count = np.random.default_rng(6), 200_000
    start = np.stack(np.unravel_index(rng.choice(len(p), count, p=p), _SIZES), axis=1).astype(float)
    spec = count_moves.noise(blocks, count, 2)
    with pg.on(backend) as room:
        noise = room.asarray(rng.random(spec["walk"][1]))
        width = room.asarray(np.array([1.0, 0.5, 2.0]))
        walk, _ = count_moves.sweeps(room.xp, _moves(room, kind), blocks, width, room.asarray(start), noise)
        found, entries, again, rate, tried = (
            np.asarray(room.to_numpy(x))
            for x in (walk.counts, walk.entries, _moves(room, kind).entries(walk.counts), walk.rate, walk.tried)
        )
    np.testing.assert_array_equal(entries, again)
    assert 0.05 < rate.sum() / tried.sum() < 0.9 and (found != start).mean() > 0.1  # the test could tell
    seen = np.bincount(np.ravel_multi_index(found.astype(int).T, _SIZES), minlength=len(p))
    assert not seen[p == 0].any()
    common = p * count > 10
    pooled = [np.append(x[common], x[~common].sum()) for x in (seen, p * count)]
    assert stats.chisquare(*pooled).pvalue > 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_jumps_are_symmetric_and_far(backend):
    rng = np.random.default_rng(7)
    with pg.on(backend) as room:
        size, far, sign = (room.asarray(rng.random(100_000)) for _ in range(3))
        jumps = room.to_numpy(count_moves.jump(room.xp, 2.0, size, far, sign))
        other = room.to_numpy(count_moves.jump(room.xp, 2.0, size, far, 1.0 - sign))
    np.testing.assert_array_equal(jumps, -other)
    assert (jumps == np.round(jumps)).all() and np.abs(jumps).min() == 1 and np.abs(jumps).max() > 50


def test_both_backends_take_the_same_steps():
    """Compiled, warm-up and draws, from the same starts and noise."""
    engine, found, steps = MetropolisWithinGibbs(num_chains=5, preconditioner="dense"), [], 6
    rng = np.random.default_rng(8)
    start = np.concatenate([rng.normal(size=(5, 1)), K + rng.integers(0, 5, (5, 4))], axis=1)
    spec = engine.spec(1)
    draw = {"normal": rng.standard_normal, "uniform": rng.random}
    noise = {n: draw[kind]((steps, *shape)) for n, (kind, shape) in spec.items()}
    for backend in BACKENDS:
        with pg.on(backend) as room:
            target = Target(survey.bind({"k": K}, room))
            changed = count_blocks.dependence(target, start, 0)
            mixed = gibbs._Mixed(target, count_blocks.blocks(target, changed), Begun(start))
            walks = count_moves.noise(mixed.blocks, 5, engine.num_sweeps)
            own = np.random.default_rng(9)
            noise |= {n: own.random((steps, *s)) for n, (_, s) in walks.items()}
            held = {n: room.asarray(v) for n, v in noise.items()} | {"jitter": room.asarray(np.full(steps, 0.7))}
            state, learned = engine.init_state(mixed, room.asarray(start)), engine.untaught(mixed, True)
            both = engine.use(room.xp, state, learned), learned
            (state, learned), warm = engine.warming(mixed)(both, held, mixed.arrays)
            found.append(room.to_numpy((warm, state.counts, learned.own.width.log_step)))
    (warm, counts, width), (other, *rest) = found
    np.testing.assert_array_equal(counts, rest[0])
    np.testing.assert_allclose(width, rest[1], rtol=1e-9)
    for name in warm:
        np.testing.assert_allclose(warm[name], other[name], rtol=1e-8, atol=1e-8, err_msg=name)


# What depends on what ---------------------------------------------------------------------------------------------

GROUP = np.array([2, 0, 1, 1, 2, 0, 0])


def _nested(y):
    with pg.plate("place", 5, dim=-1):
        n = pg.sample("n", dist.Poisson(4.0))
        with pg.plate("visit", 3, dim=-2):
            pg.sample("y", dist.Normal(1.0 * n, 1.0), obs=y)


def _gathered(y):
    with pg.plate("group", 3):
        n = pg.sample("n", dist.Poisson(4.0))
    with pg.plate("row", len(GROUP)):
        pg.sample("y", dist.Normal(1.0 * xp.take(n, xp.asarray(GROUP), axis=0), 1.0), obs=y)


def _running(y):
    with pg.plate("row", 7):
        n = pg.sample("n", dist.Poisson(4.0))
        pg.sample("y", dist.Normal(1.0 * xp.cumsum(n, axis=0), 1.0), obs=y)


def _thresholds(y):
    with pg.plate("row", 7):
        n = pg.sample("n", dist.Poisson(4.0))
    pg.sample("y", dist.Normal(xp.where(xp.max(n) > 12, 1.0, 0.0), 1.0), obs=y[0])


def _vector(y):
    n = pg.sample("n", dist.Poisson(4.0 * xp.ones(7)).to_event(1))
    pg.sample("y", dist.Normal(1.0 * n, 1.0).to_event(1), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("model", "shape", "most"),
    [
        (_nested, (3, 5), 4),
        (_gathered, (7,), 4),
        (_running, (7,), None),
        (_thresholds, (7,), None),
        (_vector, (7,), None),
    ],
)
def test_rows_are_found_by_test(model, shape, most, backend):
    """Each row's own entries: its prior and its data, wherever these stand; None: they are tied."""
    with pg.on(backend) as room:
        target = Target(pg.program(model).bind({"y": np.zeros(shape)}, room))
        points = count_starts.prior_points(target, 0)
        blocks = count_blocks.blocks(target, count_blocks.dependence(target, points, 0, grow=True))
    size = target.counts.dim
    assert blocks.dim == size
    if most is None:
        assert not blocks.rows and len(blocks.joint) == size
        return
    (rows,) = blocks.rows
    assert not len(blocks.joint) and rows.own.shape == (size, most)
    counts = np.bincount(rows.owner, minlength=size + 1)[:size]
    expected = np.bincount(GROUP) + 1 if model is _gathered else np.full(size, 4)
    np.testing.assert_array_equal(counts, expected)


# What comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", SLOW_ON_PYRO)
def test_draws_reach_arviz(backend):
    run = _survey(backend)
    n, stats_ = run.idata["posterior"]["n"], run.idata["sample_stats"]
    assert n.dims == ("chain", "draw", "place") and n.dtype.kind == "i"
    for name in ("acceptance_rate", "acceptance_rate_discrete"):
        assert stats_[name].dims == ("chain", "draw") and 0.2 < float(stats_[name].mean()) < 1.0
    assert run.exact and float(np.max(run.stats["mismatch"])) < 1e-12
    draws = run.posterior["n"][:2, :3].astype(float)
    expected = stats.binom(draws, SEEN).logpmf(K)
    np.testing.assert_allclose(run.log_likelihood["k"][:2, :3], expected, rtol=1e-6, atol=1e-9)
    again = run.predict(num_samples=64)["posterior_predictive"]["k"]
    assert float(again.min()) >= 0 and float(again.max()) <= run.posterior["n"].max()


def test_rows_that_only_seem_independent_are_told(monkeypatch):
    """A dependence that no test has met: what rows gain is not what the density does."""
    unseen = count_blocks.dependence

    def blind(target, points, seed, grow=False):
        found = unseen(target, points, seed, grow)
        owned = np.flatnonzero((found[0][:, 0] != found[0][:, 1]).all(0))
        told = [*owned, found[0].shape[-1] - 1]  # the last says that rows could be moved
        return [x * np.isin(np.arange(x.shape[-1]), told) for x in found]

    monkeypatch.setattr("ppl_gen.inference.count_blocks.dependence", blind)
    program = pg.program(_running)
    options = {"num_warmup": 25, "num_samples": 20, "num_chains": 4, "progress": False}
    with pytest.warns(RuntimeWarning, match="vectorised=False"):
        pg.infer(program, {"y": np.arange(7.0)}, "gibbs", "pyro", **options)
    run = pg.infer(program, {"y": np.arange(7.0)}, "gibbs", "pyro", vectorised=False, **options)
    assert not any("vectorised" in w for w in run.warnings)


def test_a_run_is_kept_and_resumed(tmp_path):
    options = {"num_warmup": 30, "num_samples": 20, "num_chains": 4}
    run = pg.infer(
        survey, {"k": K}, "gibbs", "pyro", progress=False, checkpoint=tmp_path / "run.zarr", **options
    )
    plain = pg.infer(survey, {"k": K}, "gibbs", "pyro", progress=False, **options)
    again = pg.resume(tmp_path / "run.zarr", survey, progress=False)
    for name in ("n", "rate"):
        np.testing.assert_array_equal(np.asarray(run.posterior[name]), plain.posterior[name])
        np.testing.assert_array_equal(np.asarray(again.posterior[name]), plain.posterior[name])
    assert np.asarray(again.posterior["n"]).dtype == np.int64


def test_auto_picks_it():
    with pg.on("pyro") as room:
        engine, why = Auto().pick(Target(thinned.bind({"k": np.array(1.0)}, room)))
    assert engine.name == "gibbs" and "'n', 'm' has no finite set" in why


# Bad input --------------------------------------------------------------------------------------------------------


@pg.program
def finite(y):
    mu = pg.sample("mu", dist.Normal(0.0, 1.0))
    pg.sample("y", dist.Normal(mu, 1.0), obs=y)


@pg.program
def with_param(y):
    n = pg.sample("n", dist.Poisson(pg.param("rate", 2.0)))
    pg.sample("y", dist.Normal(1.0 * n, 1.0), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_programs_and_engines_say_what_to_take(backend):
    one = np.array(1.0)
    for program, data, engine, says in (
        (finite, {"y": one}, "gibbs", "finite has none: use engine='nuts'"),
        (with_param, {"y": one}, "gibbs", "'rate' of with_param are learnable"),
        (survey, {"k": K}, "nuts", "'n' of survey have no finite set of values.*engine='gibbs'"),
    ):
        with pytest.raises(pg.UnsupportedError, match=says):
            pg.infer(program, data, engine, backend, progress=False)


def test_data_that_nothing_explains():
    with pytest.raises(pg.ProgramError, match="no finite log density.*'n', 'm'"):
        pg.infer(impossible, {"k": np.array(12.0)}, "gibbs", "pyro", progress=False)


@pg.program
def impossible(k):
    n = pg.sample("n", dist.Poisson(5.0))
    m = pg.sample("m", dist.Poisson(5.0))
    pg.factor("wall", xp.where(n + m >= 0, -xp.inf, 0.0))
    pg.sample("k", dist.Binomial(n, 0.5), obs=k)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"init": {"n": 2.5}}, "init of 'n' is 2.5: expected whole numbers"),
        ({"init": {"n": [1, 2]}}, r"init of 'n' has shape \(2,\): expected \(4,\)"),
        ({"init": {"n": -1}}, "outside of its support"),
        ({"init": {"N": 1}}, "'N', which is no latent"),
        ({"num_sweeps": 0}, "num_sweeps must be a whole number"),
        ({"start": "pathfinder"}, "start of gibbs must be 'uniform'"),
    ],
)
def test_options_are_checked(options, says):
    with pytest.raises(ValueError, match=says):
        pg.infer(survey, {"k": K}, "gibbs", progress=False, **options)
