"""Kernels of every sampler of ours: what each must leave as it is, and the flows that they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, linalg, stats

import ppl_gen as pg
from ppl_gen.inference import preconditioning, trajectory, underdamped
from ppl_gen.inference.chees import ChEES
from ppl_gen.inference.mala import MALA
from ppl_gen.inference.mclmc import MCLMC, turn
from ppl_gen.inference.umclmc import UMCLMC
from ppl_gen.inference.underdamped import Underdamped
from ppl_gen.target import Target
from tests.test_samplers import BACKENDS, DATA, Banana, conjugate

ENGINES = {
    "mala": MALA,
    "chees": ChEES,
    "mclmc": MCLMC,
    "umclmc": UMCLMC,
    "obabo": Underdamped,
    "baoab": lambda **options: Underdamped(scheme="baoab", **options),
    "ubu": lambda **options: Underdamped(scheme="ubu", **options),
}
EXACT = ("mala", "chees", "mclmc", "obabo")


def _noise(engine, num_steps, num_chains, dim, rng):
    drawn = {
        name: rng.normal(size=(num_steps, *shape)) if kind == "normal" else rng.random((num_steps, *shape))
        for name, (kind, shape) in engine.spec(dim).items()
    }
    return {**drawn, "jitter": trajectory.halton(0, num_steps)}


def _bananas(rng, count):
    x = 2.0 * rng.normal(size=count)
    return np.stack([x, x * x / 4 + rng.normal(size=count)], axis=1)


def _normals(found):
    """What are independent standard normals of draws of the banana."""
    return found[:, 0] / 2.0, found[:, 1] - found[:, 0] ** 2 / 4


def _transition(engine, room, state, noise):
    """One step of a kernel or of a path, uncompiled."""
    density, xp = Banana(room.xp), room.xp
    if not hasattr(engine, "leap"):
        return engine.kernel()(xp, density, state, noise)
    path, count = engine.begin(xp, state, noise, 100)
    for _ in range(int(count)):
        path = engine.leap(xp, density, path)
    return engine.end(xp, path, noise)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", EXACT)
def test_equilibrium_is_kept(name, scaled, backend):
    """100,000 draws of a banana, three transitions with a large step: draws of it still. A false alarm of each of the
    tests (two of Kolmogorov and Smirnov, one of correlation) has chance 1e-5."""
    rng, count, step = np.random.default_rng(7), 100_000, 1.0 if name in ("mala", "obabo") else 0.9
    engine = ENGINES[name](num_chains=count, step_size=step)
    scale = np.array([[1.1, 0.0], [0.4, 0.8]]) if scaled else np.ones(2)
    with pg.on(backend) as room:
        start = room.asarray(_bananas(rng, count))
        state = engine.make_state(room.xp, Banana(room.xp), start, room.asarray(scale))
        if name == "obabo":  # at rest is not in equilibrium
            state = state._replace(velocity=room.asarray(rng.normal(size=(count, 2))))
        if name in ("chees", "mclmc"):
            state = state._replace(length=state.length + 1.5)
        held = {n: room.asarray(v) for n, v in _noise(engine, 3, count, 2, rng).items()}
        rates = []
        for i in range(3):
            state, info = _transition(engine, room, state, {n: v[i] for n, v in held.items()})
            rates.append(room.to_numpy(info.acceptance_rate).mean())
        found = np.asarray(room.to_numpy(state.position))
    a, b = _normals(found)
    assert 0.3 < np.mean(rates) < 0.97  # the tests could tell
    assert min(stats.kstest(a, "norm").pvalue, stats.kstest(b, "norm").pvalue) > 1e-5
    assert abs(np.corrcoef(a, b)[0, 1]) < 4.42 / np.sqrt(count)


FORMS = {"mala": "diagonal", "chees": "low_rank", "mclmc": "dense", "umclmc": "diagonal", "obabo": "low_rank"}


@pytest.mark.parametrize("name", ENGINES)
def test_both_backends_take_the_same_steps(name):
    """Warm-up too, through the compiled loops; 15 transitions of contracting chains do not amplify rounding."""
    preconditioner = FORMS.get(name, "diagonal")
    found, num_steps, chains = [], 15, 6
    few = {"num_warmup": num_steps, "num_samples": num_steps}  # of which no machine code is made that would take long
    engine = ENGINES[name](num_chains=chains, preconditioner=preconditioner, **few)
    for backend in BACKENDS:
        rng = np.random.default_rng(8)
        start = 0.5 * rng.normal(size=(chains, 7))
        noise = _noise(engine, num_steps, chains, 7, rng)
        with pg.on(backend) as room:
            target = Target(conjugate.bind(DATA, room))
            state = engine.init_state(target, room.asarray(start))
            held = {n: room.asarray(v) for n, v in noise.items()}
            learned = engine.untaught(target, True)
            both = engine.use(room.xp, state, learned), learned
            (state, learned), warm = engine.warming(target)(both, held, target.arrays)
            state = engine.settle(room.xp, state, learned)
            _, report = engine.advance(target)(state, held, target.arrays)
            found.append(room.to_numpy((warm, report)))
    for part, other in zip(*found, strict=True):
        for key in part:
            np.testing.assert_allclose(part[key], other[key], rtol=1e-7, atol=1e-7, err_msg=key)


# The flows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1e-3, 0.7, 60.0])
def test_a_turn_is_the_flow_of_its_equation(size, backend):
    """du/dt = (I - u u^T) g / (d - 1), and the kinetic energy grows by the work g.u dt, by an ODE solver."""
    rng, dim = np.random.default_rng(9), 3
    u, g = rng.normal(size=(4, dim)), rng.normal(size=(4, dim))
    u /= np.linalg.norm(u, axis=1, keepdims=True)

    def flow(t, y, g):
        u = y[:dim]
        return np.append((g - u * (u @ g)) / (dim - 1), g @ u)

    exact = np.stack([
        integrate.solve_ivp(flow, (0, size), np.append(a, 0.0), args=(b,), rtol=1e-11, atol=1e-12).y[:, -1]
        for a, b in zip(u, g, strict=True)
    ])
    with pg.on(backend) as room:
        new, gain = room.to_numpy(turn(room.xp, room.asarray(u), room.asarray(g), size))
    np.testing.assert_allclose(new, exact[:, :dim], atol=1e-8)
    np.testing.assert_allclose(gain, exact[:, dim], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gamma, time", [(1e-5, 0.3), (0.5, 0.3), (3.0, 1.0), (20.0, 2.0)])
def test_free_motion_has_the_law_of_its_equation(gamma, time, backend):
    """dx = v dt, dv = -gamma v dt + sqrt(2 gamma) dW: mean by a matrix exponential, covariance by an ODE solver."""
    drift, noise = np.array([[0.0, 1.0], [0.0, -gamma]]), np.diag([0.0, 2.0 * gamma])

    def growth(t, flat):
        p = flat.reshape(2, 2)
        return (drift @ p + p @ drift.T + noise).ravel()

    mean = linalg.expm(time * drift)
    covariance = integrate.solve_ivp(growth, (0, time), np.zeros(4), rtol=1e-11, atol=1e-18, method="DOP853").y[:, -1]
    with pg.on(backend) as room:
        xp = room.xp

        def moved(v, xi, other):
            at = underdamped.State(*(6 * (None,)), friction=xp.zeros(()) + gamma)._replace(velocity=xp.zeros(1) + v)
            return np.concatenate(room.to_numpy(underdamped._free(xp, at, xp.zeros(()) + time, xi, other)))

        by_noise = np.stack([moved(0.0, 1.0, 0.0), moved(0.0, 0.0, 1.0)], axis=1)
        np.testing.assert_allclose(moved(1.0, 0.0, 0.0), mean[:, 1], rtol=1e-10)
    np.testing.assert_allclose(by_noise @ by_noise.T, covariance.reshape(2, 2), rtol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_baoab_has_no_bias_on_a_gaussian_and_ubu_one_of_second_order(backend):
    """The stationary covariance of position and velocity, as the fixed point of one linear step."""
    gamma = 0.8

    class Gaussian:
        dim = 1

        def log_density_and_grad(self, position):
            return -0.5 * position[:, 0] ** 2, -position

    with pg.on(backend) as room:
        xp, variance = room.xp, {}
        for scheme, h in (("baoab", 1.2), ("ubu", 0.2), ("ubu", 0.1)):
            step = underdamped._SCHEMES[scheme]

            def moved(x, v, noise, step=step, h=h):
                at = [room.asarray(np.full((1, 1), value)) for value in (x, v)]
                density = Gaussian().log_density_and_grad(at[0])
                state = underdamped.State(at[0], *density, xp.zeros(()) + h, xp.ones(1), at[1], xp.zeros(()) + gamma)
                new, _ = step(xp, Gaussian(), state, noise)
                return np.concatenate([np.ravel(room.to_numpy(part)) for part in (new.position, new.velocity)])

            names = [n for n in Underdamped(scheme=scheme, num_chains=1).spec(1) if n != "uniform"]
            none = {n: xp.zeros((1, 1)) for n in names}
            matrix = np.stack([moved(1.0, 0.0, none), moved(0.0, 1.0, none)], axis=1)
            kicks = np.stack([moved(0.0, 0.0, {**none, n: xp.ones((1, 1))}) for n in names], axis=1)
            variance[scheme, h] = linalg.solve_discrete_lyapunov(matrix, kicks @ kicks.T)[0, 0]
    assert variance["baoab", 1.2] == pytest.approx(1.0, abs=1e-10)
    assert (variance["ubu", 0.2] - 1) / (variance["ubu", 0.1] - 1) == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_where_there_is_no_gradient_nothing_turns(precision):
    u = np.array([[0.6, 0.8]])
    with pg.on("numpyro", precision=precision) as room:
        new, gain = room.to_numpy(turn(room.xp, room.asarray(u), room.asarray(np.zeros((1, 2))), 0.5))
    np.testing.assert_allclose(new, u, rtol=1e-6)
    np.testing.assert_allclose(gain, 0.0, atol=1e-6)


def test_what_the_energy_error_is_steered_to_counts_in_a_second_run():
    sizes = [
        pg.infer(conjugate, DATA, "umclmc", progress=False, num_warmup=100, num_samples=50, energy_variance=v)
        .stats["step_size"].mean() for v in (5e-4, 1e-7)
    ]  # fmt: skip
    assert sizes[1] < 0.5 * sizes[0]


# Coordinates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["diagonal", "dense", "low_rank"])
def test_coordinates_are_linear_maps_and_their_inverses(kind, backend):
    rng, dim = np.random.default_rng(10), 5
    v, w = rng.normal(size=(3, dim)), rng.normal(size=(3, dim))
    parts = {
        "diagonal": rng.uniform(0.5, 2, dim),
        "dense": np.tril(rng.normal(size=(dim, dim))) + 3 * np.eye(dim),
        "low_rank": (rng.uniform(0.5, 2, dim), np.linalg.qr(rng.normal(size=(dim, 2)))[0], np.array([4.0, -0.7])),
    }[kind]
    with pg.on(backend) as room:
        held = (
            preconditioning.LowRank(*map(room.asarray, parts)) if kind == "low_rank" else room.asarray(parts)
        )
        v_, w_ = room.asarray(v), room.asarray(w)
        there = preconditioning.times(held, v_)
        back = room.to_numpy(preconditioning.whitened(room.xp, held, there))
        other = room.to_numpy(preconditioning.transposed(held, w_))
        there = room.to_numpy(there)
    np.testing.assert_allclose(back, v, atol=1e-12)
    np.testing.assert_allclose((there * w).sum(1), (v * other).sum(1), rtol=1e-12)  # <S v, w> = <v, S^T w>


def test_low_rank_coordinates_find_the_few_directions_that_matter():
    """A Gaussian with scales of its own, three wide and two narrow directions of 60: whitened, its condition is small.

    Seyboldt, Carlson & Carpenter (2025), section 4: exact in the span of the draws' and the gradients' directions."""
    rng, dim, count = np.random.default_rng(11), 60, 500
    scales, q = 10.0 ** rng.uniform(-2, 2, dim), np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    values = np.ones(dim)
    values[:3], values[3:5] = (400.0, 2500.0, 100.0), (1e-3, 1e-2)
    covariance = scales[:, None] * (q * values) @ q.T * scales
    x = rng.multivariate_normal(np.zeros(dim), covariance, size=count)
    g = -np.linalg.solve(covariance, x.T).T
    deviations = (x.var(0) / g.var(0)) ** 0.25
    found = preconditioning.from_draws(x, g, deviations)
    white = preconditioning.whitened(np, found, np.linalg.cholesky(covariance).T).T
    before = np.linalg.cond((covariance / deviations) / deviations[:, None])
    after = np.linalg.cond(white @ white.T)
    assert before > 1e5 and after < 30


@pytest.mark.parametrize("engine", ["mclmc", "umclmc"])
def test_a_single_number_has_no_direction(engine):
    @pg.program
    def one():
        pg.sample("x", pg.dist.Normal(0.0, 1.0))

    with pytest.raises(pg.UnsupportedError, match="with its one number has none"):
        pg.infer(one, engine=engine, progress=False)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Underdamped(scheme="euler"), "scheme must be one of"),
        (lambda: Underdamped(friction=0.0), "friction"),
        (lambda: UMCLMC(energy_variance=-1.0), "energy_variance"),
        (lambda: MCLMC(num_chains=1), "at least 2"),
        (lambda: MALA(preconditioner="full"), "low_rank"),
    ],
)
def test_options_are_checked(make, says):
    with pytest.raises(ValueError, match=says):
        make()
