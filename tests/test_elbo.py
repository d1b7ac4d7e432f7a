"""Bounds of single rows against closed forms: their values, their gradients, and what minibatches make of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist
from ppl_gen.inference.elbo import RowBound
from ppl_gen.inference.training import trainer
from ppl_gen.target import Target

BACKENDS = ("numpyro", "pyro")
X = np.linspace(-2.0, 3.0, 64)
START = {"a": 0.3, "b": 0.2, "s": 1.1}


def toy(x):
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        pg.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    a, b = pg.param("a", START["a"]), pg.param("b", START["b"])
    s = pg.param("s", START["s"], constraint=dist.constraints.positive)
    with pg.plate("row", len(x)):
        pg.sample("z", dist.Normal(a * x + b, s))


TOY = pg.program(toy, guide)


def closed(a, b, s, num_particles=None):
    """Mean over rows of the bound: in closed form, or by Gauss-Hermite quadrature over all particles."""
    m = a * X + b
    if num_particles is None:
        divergence = 0.5 * (s**2 + m**2 - 1.0 - 2.0 * np.log(s))
        return (-0.5 * np.log(2 * np.pi) - 0.5 * ((X - m) ** 2 + s**2) - divergence).mean()
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = m[:, None] + s * nodes
    log_weight = -0.5 * np.log(2 * np.pi) - 0.5 * z**2 - 0.5 * (X[:, None] - z) ** 2 + np.log(s) + 0.5 * nodes**2
    total = 0.0
    for index in itertools.product(range(40), repeat=num_particles):
        held = log_weight[:, list(index)]
        pooled = np.logaddexp.reduce(held, axis=1) - np.log(num_particles)
        total += np.prod(weights[list(index)] / np.sqrt(2 * np.pi)) * pooled.mean()
    return total


def evaluated(backend, kind, num_particles, repeats, program=TOY, called=guide, rows=64, x=X):
    """Values and gradients, name -> (repeats,), of batches of the first rows."""
    with pg.on(backend, seed=3) as room:
        target = Target(program.bind({"x": x}, room, ("float64", None)))
        made = trainer(target, called, RowBound(len(x), kind, num_particles), rows)
        params = made.start(0)
        both = room.compile(room.value_and_grad(lambda p, row: made.loss(p, row, {})[0]), calls=repeats)
        given = {"x": room.asarray(x[:rows]), "beta": room.asarray(np.array(1.0))}
        found = []
        for i in range(repeats):
            keys = {n: k[0] for n, k in room.keys(5, i, 1).items()}
            value, gradient = room.to_numpy(both(params, {**given, **keys}))
            found.append([-value, *(-gradient[n] for n in sorted(gradient))])
        slopes = {n: _slope(room, made.constraints[n], params[n]) for n in params}
    table = np.array(found, dtype=float)
    return {"value": table[:, 0], **{n: table[:, 1 + i] / slopes[n] for i, n in enumerate(sorted(slopes))}}


def _slope(room, constraint, u):
    """d value / d u of a param."""
    f = room.bijection(constraint).forward
    return float((room.to_numpy(f(u + 1e-6)) - room.to_numpy(f(u - 1e-6))) / 2e-6)


def close(draws, truth, errors=5.0):
    return abs(draws.mean() - truth) <= errors * draws.std(ddof=1) / np.sqrt(len(draws)) + 1e-9


def gradient(num_particles):
    found = {}
    for name in START:
        ends = ({**START, name: START[name] + h} for h in (1e-4, -1e-4))
        up, down = (closed(**end, num_particles=num_particles) for end in ends)
        found[name] = (up - down) / 2e-4
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["trace", "mean_field"])
def test_the_bound_of_64_gaussian_latents(backend, kind):
    found = evaluated(backend, kind, 2, 400)
    assert close(found["value"], closed(**START))
    for name, truth in gradient(None).items():
        assert close(found[name], truth), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["iwae", "dreg"])
def test_the_importance_weighted_bound_of_64_gaussian_latents(backend, kind):
    """Row by row: the logarithm of the mean of the whole batch's weights is another number, by far."""
    found = evaluated(backend, kind, 2, 400)
    assert close(found["value"], closed(**START, num_particles=2))
    for name, truth in gradient(2).items():
        assert close(found[name], truth), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_doubly_reparameterised_gradient_has_less_noise(backend):
    plain, doubly = (evaluated(backend, kind, 16, 200) for kind in ("iwae", "dreg"))
    assert doubly["a"].std() < plain["a"].std() and doubly["s"].std() < plain["s"].std()


def shared(x):
    loc = pg.sample("loc", dist.Normal(0.0, 2.0))
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Normal(loc, 1.0))
        pg.sample("x", dist.Normal(z, 1.0), obs=x)


def shared_guide(x):
    m, s = pg.param("m", 0.4), pg.param("s", 0.8, constraint=dist.constraints.positive)
    pg.sample("loc", dist.Normal(m, s))
    with pg.plate("row", len(x)):
        pg.sample("z", dist.Normal(0.5 * x, 0.7))


@pytest.mark.parametrize("backend", [pytest.param("numpyro", marks=pytest.mark.slow), "pyro"])
def test_latents_of_all_rows_count_once_however_few_rows_are_seen(backend):
    x = np.tile(X[:4], 4)
    whole, part = (
        evaluated(backend, "mean_field", 1, 600, pg.program(shared, shared_guide), shared_guide, rows, x)
        for rows in (16, 4)
    )
    for name in ("value", "m"):
        error = np.hypot(*(f[name].std(ddof=1) / np.sqrt(600) for f in (whole, part)))
        assert abs(whole[name].mean() - part[name].mean()) < 5 * error, name


# Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_minibatches_come_to_the_exact_posterior(backend):
    """q(z | x) = N(x / 2, 1 / 2): there the bound is log p(x)."""
    x = np.random.default_rng(0).normal(0.0, np.sqrt(2.0), 512)
    run = pg.infer(
        TOY, {"x": x}, "svi", backend, batch_size=64, num_epochs=150, learning_rate=0.02, schedule="cosine",
        elbo="mean_field", progress=False,
    )  # fmt: skip
    assert abs(run.params["a"] - 0.5) < 0.02 and abs(run.params["b"]) < 0.02
    assert abs(run.params["s"] - np.sqrt(0.5)) < 0.02
    evidence = (-0.5 * np.log(4 * np.pi) - 0.25 * x**2).mean()
    assert abs(-run.history["loss"][-80:].mean() - evidence) < 0.02
    assert len(run.history["loss"]) == 150 * 8 and run.attrs["num_epochs"] == 150


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_a_linear_autoencoder_finds_the_optimum_of_probabilistic_pca(backend):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(400, 5)) + 1.0
    best = pg.infer(pg.models.ProbabilisticPCA(2), x, "closed_form", backend, progress=False)
    top = best.log_prob(x).mean()
    model = pg.models.VAE(2, (5,), "gaussian", hidden=())
    run = pg.infer(
        model, x, "svi", backend, batch_size=100, num_epochs=800, learning_rate=0.02, schedule="cosine",
        elbo="mean_field", progress=False,
    )  # fmt: skip
    found = -run.history["loss"][-200:].mean()
    assert top - 0.03 < found < top + 0.03
    assert abs(run.params["scale"] - best.params["scale"]) < 0.02
