"""Samplers along a path on exact scores: orders of convergence, moments, the same draws on both backends."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import backends, xp
from ppl_gen.diffusion import PATHS, Field
from ppl_gen.diffusion import samplers as s
from ppl_gen.diffusion.paths import path_of

NAMES = [n for n in dir(s) if n != "Sampler"]
MEAN, SCALE = 0.7, 0.3
CENTRES, WIDTH = (-1.2, 1.2), 0.4  # of a mixture of two, in each entry


def gaussian(path, lib, mean=MEAN, scale=SCALE):
    """The score of N(mean, scale^2) in each entry."""

    def score(x, t):
        at = path.at(lib, t[..., None])
        return -(x - at.alpha * mean) / (at.alpha**2 * scale**2 + at.sigma**2)

    return score


def mixture(path, lib):
    """The score of two Gaussians in each entry."""

    def score(x, t):
        at = path.at(lib, t[..., None])
        off = [x - at.alpha * c for c in CENTRES]
        variance = at.alpha**2 * WIDTH**2 + at.sigma**2
        weight = 1.0 / (1.0 + lib.exp(-(off[0] ** 2 - off[1] ** 2) / (2.0 * variance)))
        return -((1.0 - weight) * off[0] + weight * off[1]) / variance

    return score


def marginal(path, t):
    """Mean and variance of the Gaussian at a time."""
    at = path.at(np, np.asarray(t))
    return float(at.alpha * MEAN), float(at.alpha**2 * SCALE**2 + at.sigma**2)


def in_ratio(path, num_steps):
    """Times even in log(sigma / alpha), all inside the path."""
    ends = np.log(path.ratio(path.inside(np.asarray([path.end, path.start]))))
    return tuple(np.clip(path.time_of(np.exp(np.linspace(*ends, num_steps + 1))), path.start, path.end))


def followed(sampler, field, x):
    """Where rows are led by steps on NumPy's arrays, of samplers that draw nothing."""
    plan, state = sampler.plan(field.path, "score"), sampler.begin(np, x)
    for i in range(len(plan["t"])):
        state = sampler.step(np, field, state, {n: v[i] for n, v in plan.items()})
    return state[0]


def moments(sampler, path):
    """Exact mean and variance of draws, started at the exact ones: steps are affine in rows and noise."""
    field, plan = Field(path, "score", gaussian(path, np)), sampler.plan(path, "score")
    mean, variance = marginal(path, plan["t"][0])
    for i in range(len(plan["t"])):
        row = {n: v[i] for n, v in plan.items()}

        def step(x, z, row=row):
            noise = {n: np.full(shape, z) for n, (_, shape) in sampler.noise((1, 1)).items()}
            return sampler.step(np, field, sampler.begin(np, np.full((1, 1), x)), {**row, **noise})[0][0, 0]

        constant = step(0.0, 0.0)
        by_x, by_z = step(1.0, 0.0) - constant, step(0.0, 1.0) - constant
        mean, variance = by_x * mean + constant, by_x**2 * variance + by_z**2
    return mean, variance


def orders(errors):
    return [float(np.log2(a / b)) for a, b in itertools.pairwise(errors)]


@pytest.mark.parametrize(
    ("make", "order"),
    [(s.Euler, 1), (s.DDIM, 1), (s.Heun, 2), (s.EDMStochastic, 2), (s.DPMSolverPP, 2), (s.RungeKutta4, 4)],
)
@pytest.mark.parametrize("name", PATHS)
def test_strong_order_of_solvers_of_the_probability_flow(name, make, order):
    path = path_of(name)
    errors = []
    for num_steps in (150, 300):
        times = in_ratio(path, num_steps)
        (first, spread), (last, width) = marginal(path, times[0]), marginal(path, times[-1])
        x = np.asarray([[first + 0.8 * spread**0.5]])
        found = followed(make(grid=times), Field(path, "score", gaussian(path, np)), x)
        errors.append(abs(found[0, 0] - last - 0.8 * width**0.5))
    assert errors[-1] < {1: 0.05, 2: 5e-4, 4: 1e-7}[order]
    if order < 4 or errors[-1] > 2e-9:  # below that the terms after the first still count
        assert orders(errors)[-1] == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (s.EulerMaruyama(), 1),
        (s.StochasticHeun(), 2),
        (s.Ancestral(), 1),
        (s.Ancestral(variance="large"), 1),
        (s.DDIM(eta=0.5), 1),
        (s.DDIM(eta=1.0), 1),
        (s.EDMStochastic(S_churn=20.0), 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["vp", "ot", "edm"])
def test_weak_order_of_solvers_of_the_reverse_equation(name, sampler, order):
    path = path_of(name)
    off = []
    for num_steps in (100, 200):
        held = replace(sampler, grid=in_ratio(path, num_steps))
        off.append(abs(np.subtract(moments(held, path), marginal(path, held.times(path)[-1]))))
    assert orders([variance for _, variance in off])[-1] == pytest.approx(order, abs=0.3)
    if off[0][0] > 1e-9:  # of those that do not hold the mean exactly
        assert orders([mean for mean, _ in off])[-1] == pytest.approx(order, abs=0.3)
    assert off[-1].max() < {1: 0.02, 2: 1e-3}[order]


def test_all_the_posterior_drawn_anew_is_ancestral_sampling():
    path = path_of("vp")
    one, other = moments(s.DDIM(num_steps=50, eta=1.0), path), moments(s.Ancestral(num_steps=50), path)
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_langevin_steps_come_to_the_bias_that_is_told():
    path = path_of("ve")
    sampler = s.AnnealedLangevin(num_steps=12, steps_per_level=60, step_size=0.2)
    at = sampler.times(path)[-1]
    variance = marginal(path, at)[1]
    a = 0.2 * path.at(np, at).sigma ** 2
    found = moments(sampler, path)
    # rungs near the data hardly move a row: it is as wide as where steps were last as long as the data
    assert abs(found[0] - MEAN) < 0.02
    assert variance < found[1] < 1.25 * variance
    # at one noise alone, until it settles
    times = np.full(4000, path.time_of(0.5))
    settled = np.asarray([0.0, 1.0])
    field = Field(path, "score", gaussian(path, np))
    for _ in times[:400]:
        settled[1] = _one_langevin(sampler, field, times[0], settled[1])
    variance, a = marginal(path, times[0])[1], 0.2 * 0.25
    assert settled[1] == pytest.approx(variance / (1.0 - a / (4.0 * variance)), rel=1e-6)


def _one_langevin(sampler, field, t, variance):
    row = {"t": t, "s": t}
    step = lambda x, z: sampler.step(np, field, (np.full((1, 1), x),), {**row, "z": np.full((1, 1), z)})[0][0, 0]
    return (step(1.0, 0.0) - step(0.0, 0.0)) ** 2 * variance + (step(0.0, 1.0) - step(0.0, 0.0)) ** 2


def test_adaptive_steps_hold_their_tolerance():
    path = path_of("vp")
    drawn = lambda sampler, **how: pg.diffusion.draw(mixture(path, xp), path, (50, 1), sampler, progress=False, **how)
    fine = drawn(s.RungeKutta4(num_steps=400))
    counts = []
    for tolerance in (1e-3, 1e-6):
        way = drawn(s.Adaptive(rtol=tolerance, atol=tolerance), trajectory=True)
        np.testing.assert_allclose(way[-1], fine, atol=20 * tolerance)
        counts.append(len(way))
    assert counts[0] < counts[1] < 100
    with pytest.raises(FloatingPointError, match="has not come to the end of the path in 3 steps"):
        drawn(s.Adaptive(num_steps=3))


SMALL = {
    "Ancestral": {"num_steps": 200, "grid": "log_snr"},
    "EulerMaruyama": {"num_steps": 200},
    "PredictorCorrector": {"num_steps": 100, "snr": 0.1},
    "StochasticHeun": {"num_steps": 100},
    "EDMStochastic": {"num_steps": 60, "S_churn": 10.0},
    "DDIM": {"num_steps": 200, "eta": 0.5},
    "DPMSolverPP": {"num_steps": 60},
}
BIAS = 0.04  # of second moments, relative, at these counts of steps


@pytest.mark.parametrize("name", NAMES)
def test_draws_of_a_mixture_have_its_moments(name):
    path = path_of("vp")
    sampler = getattr(s, name)(**SMALL.get(name, {}))
    x = pg.diffusion.draw(mixture(path, xp), path, (3000, 2), sampler, seed=3, progress=False, sigma_data=1.26)
    assert x.shape == (3000, 2) and np.isfinite(x).all()
    second, fourth = 1.44 + 0.16, 1.44**2 + 6 * 1.44 * 0.16 + 3 * 0.16**2
    assert abs(x.mean()) < 4 * np.sqrt(second / x.size) + 0.02
    assert abs(np.square(x).mean() - second) < 4 * np.sqrt((fourth - second**2) / x.size) + BIAS * second
    assert abs(np.abs(x).mean() - 1.2002) < 4 * np.sqrt((second - 1.44) / x.size) + 0.02  # the modes are apart


@pytest.mark.parametrize("name", NAMES)
def test_both_backends_draw_the_same_of_the_same_noise(name):
    path, shape = path_of("ot"), (3, 2)
    sampler = getattr(s, name)(**({"num_steps": 4} if name != "Adaptive" else {}))
    plan, rng = sampler.plan(path, "score"), np.random.default_rng(0)
    count = min(len(plan["t"]), 6)
    x = rng.standard_normal(shape)
    noise = {n: rng.standard_normal((count, *size)) for n, (_, size) in sampler.noise(shape).items()}
    rows = {**{n: np.asarray(v[:count], float) for n, v in plan.items()}, **noise}
    found = []
    for backend in backends.NAMES:
        with pg.on(backend) as held:
            field, state = Field(path, "score", mixture(path, held.xp)), sampler.begin(held.xp, held.asarray(x))
            step = lambda state, row, held=held, field=field: sampler.step(held.xp, field, state, row)
            step = held.compile(step) if name == "Adaptive" else step
            for i in range(count):
                state = step(state, {n: held.asarray(v[i]) for n, v in rows.items()})
            found.append(held.to_numpy(state[0]))
    np.testing.assert_allclose(*found, rtol=1e-9, atol=1e-9)


LONG = pytest.param(s.Adaptive(), marks=pytest.mark.slow)  # its tries are made one by one


@pytest.mark.parametrize("sampler", [s.EulerMaruyama(num_steps=25), LONG], ids=lambda x: type(x).__name__)
def test_draws_on_pyro_are_finite_and_moving_rows_are_kept_on_request(sampler):
    path = path_of("vp")
    way = pg.diffusion.draw(
        gaussian(path, xp), "vp", (400, 1), sampler, backend="pyro", trajectory=True, progress=False
    )
    assert way.shape[1:] == (400, 1) and len(way) <= 60
    assert abs(way[-1].mean() - MEAN) < 4 * SCALE / 20 + 0.02
    assert way[-1].std() == pytest.approx(SCALE, rel=4 / np.sqrt(800) + 0.1)


@pytest.mark.parametrize("grid", ["uniform", "quadratic", "karras", "log_snr"])
@pytest.mark.parametrize("name", PATHS)
def test_grids_run_down_the_whole_path(grid, name):
    path = path_of(name)
    for make in (s.DDIM, s.EulerMaruyama):
        times = make(num_steps=7, grid=grid).times(path)
        assert len(times) == 8 and (np.diff(times) < 0).all()
        low, high = path.inside(np.asarray([path.start, path.end]))
        ends = (high, low) if make is s.EulerMaruyama else (times[0], path.start)
        np.testing.assert_allclose(times[[0, -1]], ends, rtol=1e-9, atol=1e-12)
    ratio = path.ratio(s.EulerMaruyama(num_steps=7, grid=grid).times(path))
    even = {"karras": ratio ** (1 / 7), "log_snr": np.log(ratio)}.get(grid)
    if even is not None:
        np.testing.assert_allclose(np.diff(even), np.diff(even)[0], rtol=1e-6)


def test_bad_grids_are_refused():
    for bad in ("cubic", [0.5], [0.1, 0.9], [1.0, np.nan, 0.1]):
        with pytest.raises(ValueError, match="grid"):
            s.Heun(grid=bad)
    score, ask = gaussian(path_of("vp"), xp), lambda **how: pg.diffusion.draw(score, "vp", (4, 1), **how)
    with pytest.raises(ValueError, match="times outside the path: VP runs from 0, data, to 1"):
        ask(sampler=s.Heun(grid=[1.2, 0.5, 0.1]))
    with pytest.raises(ValueError, match="no bound at time 0 of VP"):
        ask(sampler=s.Heun(grid=[1.0, 0.5, 0.0]))
    with pytest.raises(TypeError, match="sampler must be one of"):
        ask(sampler="heun")


def test_evaluations_are_those_of_a_step():
    """Counted on NumPy's functions, of every sampler whose steps are its grid's."""
    with_predictor = s.PredictorCorrector(num_steps=3, predictor=s.Heun(), num_corrections=3)
    made = [getattr(s, n)(num_steps=3) for n in dir(s) if n != "Adaptive"]
    asked = []
    field = Field(path_of("vp"), "score", lambda x, t: asked.append(t) or -x, 1)
    for sampler in (*made, with_predictor):
        asked.clear()
        plan = sampler.plan(field.path, "score")
        x = np.ones((4, 2))
        noise = {n: np.ones(shape) for n, (_, shape) in sampler.noise(x.shape).items()}
        sampler.step(np, field, sampler.begin(np, x), {**{n: v[0] for n, v in plan.items()}, **noise})
        assert len(asked) == sampler.evaluations, sampler


def test_a_score_of_the_wrong_shape_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"score of rows \(5, 2\) .* has shape \(5,\)"):
        pg.diffusion.draw(lambda x, t: x[:, 0], "vp", (5, 2), s.Heun(), progress=False)


def test_a_density_of_rows_that_are_not_finite_is_refused():
    with pytest.raises(ValueError, match="x has 2 entries that are NaN or infinite"):
        pg.diffusion.log_prob(lambda x, t: -x, "vp", [[np.nan, 1.0], [0.0, np.inf]])


def test_rows_that_are_not_finite_are_named():
    with pytest.raises(FloatingPointError, match="Euler is not finite from step 1 on.* 1 of 3 rows, first 1"):
        bad = lambda x, t: xp.where(xp.arange(3)[:, None] == 1, xp.nan, -x)
        pg.diffusion.draw(bad, "vp", (3, 2), s.Euler(num_steps=5), progress=False)


def test_noise_in_memory_does_not_grow_with_the_number_of_steps(monkeypatch):
    path, asked = path_of("vp"), []
    held = backends.get("numpyro")
    noise = type(held).noise

    def counted(seed, index, spec, num_steps):
        asked.append(num_steps)
        return noise(seed, index, spec, num_steps)

    monkeypatch.setattr(type(held), "noise", staticmethod(counted))
    for rows, num_steps, most in ((5, 20, 100), (5, 400, 100), (120_000, 40, 10)):  # 2^20 numbers, or ten steps
        pg.diffusion.draw(gaussian(path, xp), "vp", (rows, 1), s.EulerMaruyama(num_steps=num_steps), progress=False)
        assert sum(asked) == num_steps + 1 and max(asked) <= most
        asked.clear()
