"""Programs that cannot be run as they are, or only by some engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist, xp

X = np.linspace(-1.0, 1.0, 5)
Y = np.array([0.1, -0.4, 0.3, 0.9, 1.2])
GRID = np.random.default_rng(0).normal(size=(6, 3))


def line(x, y=None):
    slope = pg.sample("slope", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(x)):
        pg.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def no_plate(x, y):
    slope = pg.sample("slope", dist.Normal(0.0, 1.0))
    pg.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def positive_scale(y):
    scale = pg.sample("scale", dist.HalfNormal(1.0))
    locs = pg.sample("locs", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(locs[0], scale), obs=y)


def short_plate(y):
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    with pg.plate("row", 3):
        pg.sample("y", dist.Normal(loc, 1.0), obs=y)


def uneven_plate(y):
    with pg.plate("row", len(y)):
        loc = pg.sample("loc", dist.Normal(xp.zeros((3,)), 1.0))
    pg.sample("y", dist.Normal(xp.mean(loc), 1.0).expand([5]).to_event(1), obs=y)


def counts(y):
    rate = pg.sample("rate", dist.Gamma(2.0, 1.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Poisson(rate), obs=y)


def proportions(y):
    a = pg.sample("a", dist.HalfNormal(1.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Beta(a, 1.0), obs=y)


def impossible(y):
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    pg.factor("wall", xp.where(loc < 100.0, -xp.inf, 0.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(loc, 1.0), obs=y)


def not_a_number(y):
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(xp.log(-1.0 - loc * loc), 1.0), obs=y)


def endless(y):
    n = pg.sample("n", dist.Poisson(3.0))
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(loc + n, 1.0), obs=y)


def only_discrete(y):
    z = pg.sample("z", dist.Bernoulli(0.5))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(z, 1.0), obs=y)


def crowded(y):
    loc, total = pg.sample("loc", dist.Normal(0.0, 1.0)), 0.0
    for i in range(24):
        total = total + pg.sample(f"z{i}", dist.Bernoulli(0.5))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(loc + total, 1.0), obs=y)


def with_param(y):
    scale = pg.param("scale", 1.0, constraint=dist.constraints.positive)
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(loc, scale), obs=y)


def subsampled(y):
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(y), subsample_size=2) as rows:
        pg.sample("y", dist.Normal(loc, 1.0), obs=y[rows])


def local_scales(y):
    locs = pg.sample("locs", dist.Normal(xp.zeros((2,)), 3.0).to_event(1))
    with pg.plate("row", len(y)):
        scale = pg.sample("scale", dist.HalfNormal(1.0))
        z = pg.sample("z", dist.Bernoulli(0.5))
        pg.sample("y", dist.Normal(xp.where(z == 0, locs[0], locs[1]), scale), obs=y)


def flat(y=None):
    loc = pg.sample("loc", dist.Flat())
    with pg.plate("row", 5):
        pg.sample("y", dist.Normal(loc, 1.0), obs=y)


def odd_flat(y):
    n = pg.sample("n", dist.Flat(dist.constraints.nonnegative_integer))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(n, 1.0), obs=y)


def empty(y):
    return y.sum()


def twice(y):
    pg.sample("loc", dist.Normal(0.0, 1.0))
    pg.sample("loc", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(0.0, 1.0), obs=y)


def mistyped(y):
    pg.sample("loc", dist.Norml(0.0, 1.0))


def only_numpyro(y):
    pg.sample("loc", dist.Gompertz(1.0, 1.0))


def only_pyro(y):
    pg.sample("loc", dist.Stable(1.5, 0.0))


def raises(x, y):
    loc = pg.sample("loc", dist.Normal(0.0, 1.0))
    pg.sample("y", dist.Normal(loc, 1.0).expand([len(x) + len(y)]), obs=xp.linalg.cholesky(x))


def complains(y):
    raise KeyError("no column 'age'")


def local(y):
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        pg.sample("y", dist.Normal(z, 1.0), obs=y)


def good_guide(x, y=None):
    pg.sample("slope", dist.Normal(pg.param("m", 0.0), 1.0))


def other_name(x, y=None):
    pg.sample("slop", dist.Normal(pg.param("m", 0.0), 1.0))


def one_more(x, y=None):
    good_guide(x)
    pg.sample("offset", dist.Normal(0.0, 1.0))


def wrong_shape(x, y=None):
    pg.sample("slope", dist.Normal(xp.zeros((3,)), 1.0).to_event(1))


def broken_guide(x, y=None):
    raise IndexError("list index out of range")


def native_pyro(y):
    import pyro

    pyro.sample("loc", pyro.distributions.Normal(0.0, 1.0))


# --- Helpers ----------------------------------------------------------------------------------------


def changed(values: np.ndarray, index: Any, new: float) -> np.ndarray:
    values = values.copy()
    values[index] = new
    return values


def complaint(error: type[Exception], words: tuple[str, ...], run: Callable[[], Any]) -> None:
    """``run`` raises ``error``, in one paragraph that has all the words."""
    with pytest.raises(error) as caught:
        run()
    message = str(caught.value)
    missing = [w for w in words if w not in message]
    assert not missing, f"{missing} not in: {type(caught.value).__name__}: {message}"
    assert "\n" not in message.strip() and len(message) < 1200, message
