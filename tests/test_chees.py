"""ChEES-HMC: the laws of its kernel, and of what it adapts."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.inference import adaptation, preconditioning, trajectory
from ppl_gen.inference.chees import ChEES
from ppl_gen.inference.trajectories import Path, State, gradient_flops
from ppl_gen.target import Target
from tests.test_samplers import BACKENDS, DATA, SCALES, Banana, Gumbel, conjugate, flow_p_value


def _state(room, density, position, step_size, length, scale):
    position = room.asarray(position)
    number = room.xp.zeros(())
    return State(
        position, *density.log_density_and_grad(position), number + step_size, room.asarray(scale), number + length
    )


def _steps(room, density, path, count):
    for _ in range(count):
        path = ChEES.leap(room.xp, density, path)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", SCALES)
def test_leapfrog_goes_back_and_keeps_the_energy_to_second_order(kind, backend):
    rng = np.random.default_rng(0)
    x, p = rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
    with pg.on(backend) as room:
        density, errors = Banana(room.xp), []
        for h, count in ((0.02, 25), (0.01, 50)):
            state = _state(room, density, x, h, 1.0, SCALES[kind])
            path = _steps(room, density, Path(state, state, room.asarray(p), 0.0, count), count)
            energy = 0.5 * path.momentum**2
            now = room.to_numpy(path.now.log_density), room.to_numpy(energy).sum(1)
            errors.append(np.abs(now[1] - now[0] - 0.5 * (p**2).sum(1) + room.to_numpy(state.log_density)))
            back = _steps(room, density, path._replace(momentum=-path.momentum), count)
            np.testing.assert_allclose(room.to_numpy(back.now.position), x, atol=1e-12)
            np.testing.assert_allclose(room.to_numpy(back.momentum), -p, atol=1e-12)
    assert np.median(errors[1] / errors[0]) == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_transition_is_reversible(backend):
    """As many chains go from bin i to bin j as back, when started in equilibrium; a false alarm has chance 1e-5."""
    rng, count = np.random.default_rng(1), 200_000
    x = rng.gumbel(size=(count, 1))
    with pg.on(backend) as room:
        density = Gumbel(room.xp)
        state = _state(room, density, x, 1.2, 3.0, np.array([1.2]))
        noise = {"normal": rng.normal(size=(count, 1)), "uniform": rng.random(count), "jitter": np.array(0.7)}
        noise = {name: room.asarray(v) for name, v in noise.items()}
        path, steps = ChEES.begin(room.xp, state, noise, 100)
        assert int(steps) == 2  # 0.7 of 3 in steps of 1.2
        moved, info = ChEES.end(room.xp, _steps(room, density, path, 2), noise)
        new, rate = np.asarray(room.to_numpy(moved.position)), np.asarray(room.to_numpy(info.acceptance_rate))
    assert 0.5 < rate.mean() < 0.95  # the test could tell
    assert flow_p_value(x, new) > 1e-5


def test_both_backends_take_the_same_trajectories():
    """Warm-up too, through the compiled loops; 12 transitions of contracting chains do not amplify rounding."""
    rng, found, num_steps = np.random.default_rng(2), [], 12
    start = 0.5 * rng.normal(size=(8, 7))
    noise = {
        "normal": rng.normal(size=(num_steps, 8, 7)),
        "uniform": rng.random((num_steps, 8)),
        "jitter": trajectory.halton(0, num_steps),
    }
    few = {"num_warmup": num_steps, "num_samples": num_steps}  # of which no machine code is made that would take long
    engine = ChEES(num_chains=8, preconditioner="dense", **few)
    for backend in BACKENDS:
        with pg.on(backend) as room:
            target = Target(conjugate.bind(DATA, room))
            state = engine.init_state(target, room.asarray(start))
            held = {name: room.asarray(v) for name, v in noise.items()}
            both = state, engine.untaught(target, True)
            (state, learned), warm = engine.warming(target)(both, held, target.arrays)
            _, report = engine.advance(target)(state, held, target.arrays)
            found.append(room.to_numpy((learned, warm, report)))
    for a, b in zip(_leaves(found[0]), _leaves(found[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)
    assert len(np.unique(found[0][2]["n_steps"])) > 1 and found[0][2]["acceptance_rate"].min() < 1


def _leaves(tree):
    if isinstance(tree, dict):
        return [x for name in sorted(tree) for x in _leaves(tree[name])]
    return [x for part in tree for x in _leaves(part)] if isinstance(tree, tuple | list) else [np.asarray(tree)]


# The length of trajectories -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_slope_is_that_of_the_criterion(backend):
    """Exact paths on Gaussians, in pairs of opposite ones: against a difference of (|y'|^2 - |y|^2)^2 / 4."""
    rng, sd, length, fraction = np.random.default_rng(3), np.array([1.0, 3.0]), 1.3, 0.7
    y, p = sd * rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2))
    y, p = np.concatenate([y, -y]), np.concatenate([p, -p])

    def at(length):
        t = fraction * length / sd
        return y * np.cos(t) + p * sd * np.sin(t), -y / sd * np.sin(t) + p * np.cos(t)

    def criterion(length):
        return np.mean(((at(length)[0] ** 2).sum(1) - (y**2).sum(1)) ** 2) / 4

    with pg.on(backend) as room:
        arrays = [room.asarray(v) for v in (y, *at(length), np.array(fraction), np.ones(len(y)))]
        found = float(room.to_numpy(trajectory.slope(room.xp, *arrays)))
    assert found == pytest.approx((criterion(length + 1e-5) - criterion(length - 1e-5)) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chains_that_are_lost_do_not_count(backend):
    rng = np.random.default_rng(4)
    y, after, p = (rng.normal(size=(6, 2)) for _ in range(3))
    after[5], rate = np.inf, np.array([1.0, 0.5, 0.2, 0.9, 0.0, 0.0])
    with pg.on(backend) as room:
        arrays = [room.asarray(v) for v in (y, after, p, np.array(0.5), rate)]
        assert np.isfinite(float(room.to_numpy(trajectory.slope(room.xp, *arrays))))


def test_lengths_are_spread_evenly():
    """The first numbers of the sequence as in the books, and 2^k of them one in each of 2^k equal parts, from 0 on."""
    np.testing.assert_array_equal(trajectory.halton(0, 7), [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8])
    parts = trajectory.halton(0, 5), trajectory.halton(5, 9)
    np.testing.assert_array_equal(np.concatenate(parts), trajectory.halton(0, 14))
    assert len(np.unique((trajectory.halton(0, 63) * 64).astype(int))) == 63


@pg.program
def scales_apart(sd):
    pg.sample("x", pg.dist.Normal(0.0, sd).to_event(1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_scales_far_apart_are_learned(backend):
    """Warm-up finds scales from 0.001 to 1,000; a few steps then do, and moments are right within 5 of their errors."""
    sd = 10.0 ** np.arange(-3, 4)
    run = pg.infer(scales_apart, {"sd": sd}, "chees", backend, seed=1, progress=False)
    x = run.posterior["x"]
    assert run.stats["n_steps"].mean() < 8
    size = x.shape[0] * x.shape[1]
    assert (pg.evaluation.ess(x) > size / 4).all()
    assert (np.abs(x.mean((0, 1))) < 5 * pg.evaluation.mcse(x)).all()
    assert (np.abs(x.std((0, 1)) - sd) < 5 * pg.evaluation.mcse(x, "sd")).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [({"num_chains": 1}, "at least 2"), ({"thinning": 501}, "thinning 501"), ({"max_steps": 0}, "max_steps")],
)
def test_options_are_checked(options, says):
    with pytest.raises(ValueError, match=says):
        ChEES(**options)


@pytest.mark.parametrize("dense", [False, True])
def test_the_preconditioner_of_a_gaussian_is_exact_from_draws_that_are_not_its_own(dense):
    """Of gradients -P x, from draws of any spread: S S^T is the inverse of P, to the little that is shrunk."""
    rng, dim = np.random.default_rng(5), 4
    root = rng.normal(size=(dim, dim)) if dense else np.diag([0.01, 1.0, 30.0, 2.0])
    precision = np.linalg.inv(root @ root.T)
    mixing = np.diag([3.0, 0.2, 5.0, 1.0]) @ (rng.normal(size=(dim, dim)) if dense else np.eye(dim))
    x = rng.normal(size=(20_000, dim)) @ mixing.T + 7.0
    x = x if dense else (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T @ mixing.T  # no correlations
    held = [adaptation.add_draws(np, adaptation.start_moments(np, dim, dense), v) for v in (x, -x @ precision)]
    scale = preconditioning.from_moments(*held)
    if dense:
        assert (np.triu(scale, 1) == 0).all()
        np.testing.assert_allclose(scale @ scale.T, root @ root.T, rtol=1e-4, atol=1e-4 * np.abs(root @ root.T).max())
    else:
        np.testing.assert_allclose(scale, np.diag(root), rtol=1e-6)


def test_few_draws_and_a_flat_direction_give_a_preconditioner():
    """No more draws than dimensions, no slope at all along one of them: positive and finite still."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(5, 8))
    g = -x * (np.arange(8) > 0)
    for dense in (False, True):
        held = [adaptation.add_draws(np, adaptation.start_moments(np, 8, dense), v) for v in (x, g)]
        scale = preconditioning.from_moments(*held)
        assert np.isfinite(scale).all() and (np.diag(scale) if dense else scale).min() > 0


# Coordinates that are found out ------------------------------------------------------------------------------------


@pg.program
def narrow(factor):
    """x ~ N(0, (F^T F)^-1)."""
    x = pg.sample("x", dist.Flat(shape=(len(factor),)))
    pg.factor("density", -0.5 * xp.sum((factor @ x) ** 2))


@pg.program
def apart(scales):
    pg.sample("x", dist.Normal(0.0, scales).to_event(1))


def test_narrow_directions_across_the_axes_get_a_matrix():
    """In 128 dimensions, standard deviations from 0.01 to 1 along random directions: short paths after the warm-up."""
    rng, dim = np.random.default_rng(7), 128
    turned = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    deviations = np.logspace(-2, 0, dim)
    run = pg.infer(narrow, {"factor": (turned / deviations).T}, "chees", num_samples=200, progress=False)
    assert run.attrs["preconditioner"] == "dense"
    assert run.stats["n_steps"].mean() < 8  # a diagonal leaves about 100
    z = (run.posterior["x"] @ turned / deviations).reshape(-1, dim)  # standard normal
    error = 1.0 / np.sqrt(len(z) / 5)  # five draws for each effective one at worst
    assert np.abs(z.mean(0)).max() < 5 * error
    assert np.abs((z**2).mean(0) - 1.0).max() < 5 * np.sqrt(2) * error


def test_axes_that_lie_apart_keep_standard_deviations():
    run = pg.infer(apart, {"scales": np.logspace(-3, 1, 128)}, "chees", num_samples=20, progress=False)
    assert run.attrs["preconditioner"] == "diagonal"


@pytest.mark.parametrize("backend", BACKENDS)
def test_operations_of_a_gradient_are_counted(backend):
    """Two products of a matrix with each chain's vector, there and back."""
    factor = np.eye(150)
    with pg.on(backend) as room:
        target = Target(narrow.bind({"factor": factor}, room))
        assert 4 * 64 * 150**2 <= gradient_flops(target, 64) <= 1.1 * 4 * 64 * 150**2
