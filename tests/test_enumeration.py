"""Exact sums over discrete latents against brute force over all of their joint values, on both backends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import ppl_gen as pg
from ppl_gen import backends, dist, xp
from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.target import Target
from tests.programs import ENUMERATED, PINNED, PROGRAMS

# A sum of at most 256 terms in double precision against the same sum in another order.
RTOL = 1e-10
SCALED = ("scaled_mixture", "subsampled_mixture", "tempered_mixture")
PLAIN = [n for n in ENUMERATED if n not in SCALED]


def target_of(program, data, backend):
    return Target(pg.program(program).bind(data, backends.get(backend)))


def assignments(target):
    """All joint values of the discrete latents: name -> (assignments, *shape)."""
    sites = target.trace(target.arrays, enumerated=target.enumerated, key=target.backend.key(0))
    tables, shapes = [], []
    for name, prototype in target.discrete.items():
        event = prototype.value.shape[len(prototype.value.shape) - prototype.event_dim :]
        values = np.asarray(target.backend.to_numpy(sites[name].value)).reshape(-1, *event)
        shape = (*prototype.batch_shape, *event)
        chosen = itertools.product(values, repeat=int(np.prod(prototype.batch_shape)))
        tables.append([np.stack(v).reshape(shape) for v in chosen])
        shapes.append(name)
    return {n: np.stack(x) for n, x in zip(shapes, zip(*itertools.product(*tables), strict=True), strict=True)}


def brute_force(target, u, every):
    """log sum over all assignments of the joint density at u, each evaluated without enumeration."""
    parts, xp_ = target.everything.split(u), target.backend.xp

    def log_joint(chosen):
        sites = target.trace(target.arrays, unconstrained=parts, values=chosen)
        return sum(xp_.sum(s.log_prob) for s in sites.values() if s.log_prob is not None)

    return xp_.logsumexp(target.backend.vmap(log_joint)(every), axis=0)


@pytest.mark.parametrize("backend", backends.NAMES)
@pytest.mark.parametrize("name", PLAIN)
def test_marginal_is_brute_force(name, backend):
    """The log joint with discrete latents summed out, and its gradient."""
    room = backends.get(backend)
    with room.scope():
        target = target_of(*PROGRAMS[name], backend)
        every = {n: room.asarray(x) for n, x in assignments(target).items()}
        direct = room.compile(room.value_and_grad(lambda u: brute_force(target, u, every)))
        ours = room.compile(room.value_and_grad(lambda u: target.log_joint(u, target.arrays)))
        for u in np.random.default_rng(0).uniform(-1.5, 1.5, (3, target.everything.dim)):
            expected, value = (room.to_numpy(f(room.asarray(u))) for f in (direct, ours))
            np.testing.assert_allclose(value[0], expected[0], rtol=RTOL)
            np.testing.assert_allclose(value[1], expected[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("backend", backends.NAMES)
@pytest.mark.parametrize("name", PLAIN)
def test_pointwise_is_brute_force(name, backend):
    """Each entry of the pointwise terms is log sum_z p(z) p(datum | z) of the rows that share their latents.

    With rows independent given the continuous latents, the sum over all joint values counts each value of a row's own
    latents equally often: what the others contribute is divided out by summing them out of their own terms.
    """
    room = backends.get(backend)
    with room.scope():
        target = target_of(*PROGRAMS[name], backend)
        every = {n: room.asarray(x) for n, x in assignments(target).items()}
        u = room.asarray(np.random.default_rng(1).uniform(-1.0, 1.0, target.everything.dim))
        values = {n: v for n, v in target.constrain(u, target.arrays).items() if n in target.everything.names}
        terms = room.to_numpy(target.pointwise(values, target.arrays))
        counted = [s for s in target.sites if s in target.observed or s in target.discrete]

        def rows(chosen):
            sites = target.trace(target.arrays, values={**values, **chosen})
            return {n: sites[n].log_prob for n in counted}

        tables = room.to_numpy(room.vmap(rows)(every))
    assert set(itertools.chain(*(k.split("+") for k in terms))) == set(target.observed)
    for sites, term in terms.items():
        assert sites == "+".join(target.observed), "all observations of these programs share a latent"
        total = sum(_over(table, term.shape) for table in tables.values())
        codes = [_rows_of(np.asarray(x), target.sites[n], term.shape) for n, x in room.to_numpy(every).items()]
        expected = np.empty(term.shape)
        for cell in np.ndindex(term.shape):
            own = np.stack([c[(slice(None), *cell)] for c in codes], 1)
            _, first = np.unique(own, axis=0, return_index=True)
            expected[cell] = logsumexp(total[(first, *cell)])
        np.testing.assert_allclose(term, expected, rtol=RTOL)


def _over(table, shape):
    """A table (assignments, *rows) summed over the plates that `shape` does not have."""
    table = table.reshape(len(table), *(1,) * (len(shape) + 1 - table.ndim), *table.shape[1:])
    gone = tuple(i + 1 for i, n in enumerate(shape) if n == 1)
    return np.broadcast_to(table.sum(gone, keepdims=True), (len(table), *shape))


def _rows_of(values, site, shape):
    """One number for what a discrete latent is in each cell of `shape`: (assignments, *shape)."""
    rows = tuple(site.batch_shape)
    values = values.reshape(len(values), *(1,) * (len(shape) - len(rows)), *rows, -1)
    keep = [i + 1 for i, n in enumerate(shape) if n > 1 and values.shape[i + 1] > 1]
    moved = np.moveaxis(values, keep, range(1, len(keep) + 1))
    moved = moved.reshape(len(values), *(values.shape[k] for k in keep), -1)
    codes = np.einsum("...i,i->...", moved, np.pi ** np.arange(moved.shape[-1]))
    lined = codes.reshape(len(values), *(values.shape[i + 1] if i + 1 in keep else 1 for i in range(len(shape))))
    return np.broadcast_to(lined, (len(values), *shape))


# Scales -----------------------------------------------------------------------------------------------------------


def _two_normals(y, loc, share):
    return np.logaddexp(
        np.log1p(-share) + stats.norm.logpdf(y, loc, 0.6), np.log(share) + stats.norm.logpdf(y, loc + 1.0, 0.6)
    )


def scaled_by_hand(loc, y, weight):
    """Each row's marginal to the power of its weight."""
    return np.sum(weight * _two_normals(y, loc, 0.4))


def subsampled_by_hand(loc, y):
    """The rows' marginals given the side, to the power of 6 / 3, summed over the side outside the plate."""
    sides = [np.log(0.5) + 2.0 * np.sum(_two_normals(y[[4, 0, 3]], loc - side, 0.4)) for side in (0, 1)]
    return logsumexp(sides)


def tempered_by_hand(loc, y):
    """The latent stands outside the scale: its likelihood alone is tempered."""
    prior = np.log([0.6, 0.4])
    return logsumexp([prior[z] + 0.5 * np.sum(stats.norm.logpdf(y, loc + z, 0.6)) for z in (0, 1)])


@pytest.mark.parametrize("backend", backends.NAMES)
@pytest.mark.parametrize("name", SCALED)
def test_scale_applies_outside_the_sum(name, backend):
    """s log sum_z p(z) p(y | z), not log sum_z (p(z) p(y | z))^s."""
    by_hand = dict(zip(SCALED, (scaled_by_hand, subsampled_by_hand, tempered_by_hand), strict=True))
    program, data = PROGRAMS[name]
    room = backends.get(backend)
    with room.scope():
        target = target_of(program, data, backend)
        pins = {k: room.asarray(v) for k, v in PINNED.get(name, {}).items()}
        for loc in np.random.default_rng(2).normal(size=4):
            values = {"loc": room.asarray(loc), **pins}
            sites = target.trace(target.arrays, values=values, enumerated=target.enumerated)
            value = float(room.to_numpy(target._total(sites, lambda s: True)))
            expected = stats.norm.logpdf(loc) + by_hand[name](loc, **data)
            np.testing.assert_allclose(value, expected, rtol=RTOL)


def test_em_maximises_the_weighted_likelihood():
    """A row of weight 2 counts as two rows; the history does not fall."""

    def weighted(y, weight):
        loc = pg.param("loc", xp.array([-1.0, 1.0]))
        with pg.plate("row", len(y)), pg.scale(weight):
            z = pg.sample("z", dist.Categorical(xp.array([0.4, 0.6])))
            pg.sample("y", dist.Normal(loc[z], 0.7), obs=y)

    y = np.array([-1.2, -0.4, 0.3, 1.1, 1.6])
    options = {"engine": "em", "num_restarts": 1, "progress": False}
    once = pg.infer(weighted, {"y": np.append(y, y[2]), "weight": np.ones(6)}, **options)
    twice = pg.infer(weighted, {"y": y, "weight": np.array([1.0, 1.0, 2.0, 1.0, 1.0])}, **options)
    # both stop where the log likelihood gains less than 1e-9, that is within some 1e-4 of the optimum
    np.testing.assert_allclose(twice.params["loc"], once.params["loc"], atol=1e-3)
    assert np.all(np.diff(twice.history["log_likelihood"]) > -1e-9)


# What cannot be summed out ----------------------------------------------------------------------------------------


def crossing(y):
    p = pg.sample("p", dist.Beta(1.0, 1.0))
    rows, columns = pg.plate("row", 3, dim=-2), pg.plate("column", 2, dim=-1)
    with rows:
        a = pg.sample("a", dist.Bernoulli(p))
    with columns:
        b = pg.sample("b", dist.Bernoulli(p))
    with rows, columns:
        pg.sample("y", dist.Normal(1.0 * a + b, 1.0), obs=y)


def endless(y):
    rate = pg.sample("rate", dist.Gamma(2.0, 1.0))
    with pg.plate("row", 3):
        n = pg.sample("n", dist.Poisson(rate))
        pg.sample("y", dist.Normal(1.0 * n, 1.0), obs=y)


def too_many(y):
    p = pg.sample("p", dist.Beta(1.0, 1.0))
    coins = [pg.sample(f"coin{i}", dist.Bernoulli(p)) for i in range(21)]
    pg.sample("y", dist.Normal(1.0 * sum(coins), 1.0), obs=y[0])


def without_plate(y):
    p = pg.sample("p", dist.Beta(1.0, 1.0))
    z = pg.sample("z", dist.Bernoulli(p * xp.ones(3)))
    pg.sample("y", dist.Normal(1.0 * xp.sum(z), 1.0), obs=y[0])


def unlike_scales(y):
    p = pg.sample("p", dist.Beta(1.0, 1.0))
    a = pg.sample("a", dist.Bernoulli(p))
    with pg.scale(0.5):
        b = pg.sample("b", dist.Bernoulli(p))
    pg.sample("y", dist.Normal(1.0 * a + b, 1.0), obs=y[0])


@pytest.mark.parametrize("backend", backends.NAMES)
@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        (endless, (3,), "'n' of endless have no finite set of values"),
        (too_many, (3,), "2097152 joint values.*put them in a plate"),
        (without_plate, (3,), r"'z', which has batch shape \(3,\) and no plate"),
    ],
)
@pytest.mark.parametrize("engine", ["nuts", "mala", "map", "em", "svi"])
def test_engines_refuse(model, shape, says, backend, engine):
    """Before any work, by name, with what to do."""
    with pytest.raises(UnsupportedError, match=says):
        pg.infer(model, {"y": np.ones(shape)}, engine=engine, backend=backend, progress=False)


@pytest.mark.parametrize("backend", backends.NAMES)
@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        (crossing, (3, 2), "cannot be summed out exactly: their plates cross; put them into one plate"),
        (unlike_scales, (3,), "stand under different scales"),
    ],
)
@pytest.mark.parametrize("engine", ["nuts", "mala", "map", "em"])
def test_elimination_refuses(model, shape, says, backend, engine):
    """What the plates or scales make impossible reaches the user as it is, whatever engine meets it."""
    with pytest.raises(UnsupportedError, match=says):
        pg.infer(model, {"y": np.ones(shape)}, engine=engine, backend=backend, progress=False)


def test_names_are_known():
    assert set(PLAIN) | set(SCALED) == set(ENUMERATED)
