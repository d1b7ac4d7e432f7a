"""Kalman filter and smoother by scans, against the joint Gaussian, loops and published numbers."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import optimize

import ppl_gen as pg
from ppl_gen import kalman
from ppl_gen.kalman import Filtered, Smoothed, System
from ppl_gen.scans import associative_scan
from tests import dense_state_space as dense

BACKENDS = ("numpyro", "pyro")
STEPS, FEATURES, STATES = 12, 2, 3
SYSTEM = dense.random_system(np.random.default_rng(0), STATES, FEATURES)
X = np.random.default_rng(1).normal(size=(2, STEPS, FEATURES))
GAPS = X.copy()
GAPS[np.random.default_rng(2).random(X.shape) < 0.3] = np.nan
GAPS[0, 4:7] = np.nan  # nothing at all for some steps
GAPS[1, 0] = np.nan  # nor at the first


def _on(room, system):
    return System(*(room.asarray(np.asarray(x)) for x in system))


def _filtered(room, system, x):
    """The system, filter and smoother of x with NaN on a backend."""
    seen = ~np.isnan(x)
    observed = None if seen.all() else room.asarray(seen.astype(float))

    def both(system, x, observed):
        system = System(*system)
        filtered = kalman.kalman_filter(room.xp, system, x, observed)
        return tuple(filtered), tuple(kalman.smoother(room.xp, system, filtered))

    system = _on(room, system)
    filtered, smoothed = _compiled(room, both)(tuple(system), room.asarray(np.where(seen, x, 7.0)), observed)
    return system, Filtered(*filtered), Smoothed(*smoothed)


_kept = {}


def _compiled(room, f):
    """One function for each backend, so that JAX compiles the same shapes once; PyTorch need not make a graph."""
    return _kept.setdefault(room.name, room.compile(f) if room.name == "numpyro" else f)


def _close(x, expected, tolerance=1e-11):
    np.testing.assert_allclose(np.asarray(x), expected, rtol=tolerance, atol=tolerance)


# Against the joint Gaussian -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("x", [X, GAPS], ids=["complete", "with gaps"])
def test_filter_and_smoother_condition_the_joint_gaussian(backend, x):
    with pg.on(backend) as room:
        filtered, smoothed = room.to_numpy(_filtered(room, SYSTEM, x)[1:])
    for n, series in enumerate(x):
        means, covariances = dense.posterior(SYSTEM, series)
        own, cross, before = (
            v if v.ndim == 3 else v[n]
            for v in (smoothed.covariances, smoothed.cross_covariances, filtered.covariances)
        )
        _close(filtered.log_likelihood[n], dense.log_likelihood(SYSTEM, series))
        _close(smoothed.means[n], means)
        _close(own, [covariances[t, :, t] for t in range(STEPS)])
        _close(cross, [covariances[t + 1, :, t] for t in range(STEPS - 1)])
        for t in range(STEPS):
            means, covariances = dense.posterior(SYSTEM, series[: t + 1])
            _close(filtered.means[n, t], means[-1])
            _close(before[t], covariances[-1, :, -1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forecast_is_what_is_known_of_steps_without_observations(backend):
    ahead = 3
    longer = np.concatenate([GAPS[0], np.full((ahead, FEATURES), np.nan)])
    means, covariances = dense.posterior(SYSTEM, longer)
    c = SYSTEM.emission
    with pg.on(backend) as room:
        system, filtered, _ = _filtered(room, SYSTEM, GAPS)
        z, z_cov = kalman.forecast(room.xp, system, filtered.means[0, -1], filtered.covariances[0, -1], ahead)
        x, x_cov = kalman.emitted(room.xp, system, z, z_cov)
    for k, t in enumerate(range(STEPS, STEPS + ahead)):
        _close(z[k], means[t])
        _close(z_cov[k], covariances[t, :, t])
        _close(x[k], c @ means[t] + SYSTEM.offset)
        _close(x_cov[k], c @ covariances[t, :, t] @ c.T + np.diag(SYSTEM.variances))


@pytest.mark.parametrize("backend", BACKENDS)
def test_simulated_series_have_the_joint_mean_and_covariance(backend):
    """Series are an affine map of the noise, whose matrix the unit vectors show."""
    width = STATES + FEATURES
    size = STEPS * width
    noise = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(-1, STEPS, width)
    with pg.on(backend) as room:
        x = room.to_numpy(kalman.simulate(room.xp, _on(room, SYSTEM), room.asarray(noise)))
    flat = x.reshape(size + 1, -1)
    loc, covariance = dense.observations(SYSTEM, STEPS)
    _close(flat[0], loc)
    _close((flat[1:] - flat[0]).T @ (flat[1:] - flat[0]), covariance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_the_log_likelihood(backend):
    """By autodiff, along a random direction of every parameter, against differences of the dense one."""
    series, rng = GAPS[0, :8], np.random.default_rng(5)
    direction = [rng.normal(size=np.shape(x)) for x in SYSTEM]
    for i in (1, 3):
        direction[i] = direction[i] + direction[i].T

    def moved(h):
        return System(*(x + h * dx for x, dx in zip(SYSTEM, direction)))

    with pg.on(backend) as room:
        seen = ~np.isnan(series)
        x, observed = room.asarray(np.where(seen, series, 0.0)), room.asarray(seen.astype(float))

        def value(system):
            return kalman.kalman_filter(room.xp, System(*system), x, observed).log_likelihood

        gradient = room.compile(room.value_and_grad(value))(tuple(_on(room, SYSTEM)))[1]
        slope = sum(np.sum(np.asarray(g) * dx) for g, dx in zip(room.to_numpy(gradient), direction))
    step = 1e-5
    expected = (dense.log_likelihood(moved(step), series) - dense.log_likelihood(moved(-step), series)) / (2 * step)
    assert slope == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_series_of_one_step(backend):
    with pg.on(backend) as room:
        _, filtered, smoothed = _filtered(room, SYSTEM, X[:, :1])
    _close(filtered.log_likelihood, [dense.log_likelihood(SYSTEM, x[:1]) for x in X])
    _close(smoothed.means, filtered.means)
    assert tuple(smoothed.cross_covariances.shape) == (0, STATES, STATES)


# Long, stiff and published ------------------------------------------------------------------------------------------


def _loop(system, x):
    """The textbook filter of one series, some rows of which may be NaN: log likelihood, means and covariances."""
    m, p, value, means, covariances = system.initial_loc, system.initial_covariance, 0.0, [], []
    a, c, r = system.transition, system.emission, np.diag(system.variances)
    for t, row in enumerate(x):
        if t:
            m, p = a @ m, a @ p @ a.T + system.transition_covariance
        if not np.isnan(row).any():
            s, e = c @ p @ c.T + r, row - c @ m - system.offset
            gain = np.linalg.solve(s, c @ p).T
            value -= 0.5 * (e @ np.linalg.solve(s, e) + np.linalg.slogdet(2 * np.pi * s)[1])
            kept = np.eye(len(m)) - gain @ c
            m, p = m + gain @ e, kept @ p @ kept.T + gain @ r @ gain.T
        means.append(m)
        covariances.append(p)
    return value, np.array(means), np.array(covariances)


STIFF = {
    "random walk in much noise": {"transition": np.eye(STATES), "variances": np.full(FEATURES, 1e8)},
    "unstable": {"transition": 1.4 * SYSTEM.transition / 0.9},
    "hardly any noise": {"variances": np.array([1e-6, 1.0])},
    "known start": {"initial_covariance": 1e-20 * np.eye(STATES)},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", STIFF)
def test_stiff_systems_agree_with_the_loop(backend, name):
    system = SYSTEM._replace(**STIFF[name])
    x = np.random.default_rng(3).normal(size=(100, FEATURES))
    with pg.on(backend) as room:
        filtered = room.to_numpy(_filtered(room, system, x)[1])
    value, means, covariances = _loop(system, x)
    assert filtered.log_likelihood == pytest.approx(value, rel=1e-9)
    _close(filtered.means, means, 1e-8 * np.abs(means).max())
    _close(filtered.covariances / np.abs(covariances).max(), covariances / np.abs(covariances).max(), 1e-8)


def _long_series():
    num_steps, rng = 100_000, np.random.default_rng(4)
    system = dense.random_system(rng, 2, 1)
    x = np.cumsum(rng.normal(size=(num_steps, 1)), axis=0) * 0.05
    x[20_000:25_000] = np.nan
    return system, x


@functools.cache
def _loop_of_long_series():
    return _loop(*_long_series())


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_series_stay_exact(backend):
    """A hundred thousand steps, of which some thousands in a row were not observed."""
    system, x = _long_series()
    with pg.on(backend) as room:
        filtered, smoothed = room.to_numpy(_filtered(room, system, x)[1:])
    value, means, covariances = _loop_of_long_series()
    assert filtered.log_likelihood == pytest.approx(value, rel=1e-11)
    _close(filtered.means, means, 1e-10)
    _close(filtered.covariances, covariances, 1e-10)
    _close(smoothed.means[-1], means[-1], 1e-10)
    twice = np.kron(system.transition, system.transition)
    stationary = np.linalg.solve(np.eye(4) - twice, system.transition_covariance.ravel()).reshape(2, 2)
    _close(smoothed.covariances[22_500], stationary, 1e-9)
    assert np.isfinite(smoothed.means).all()


# Annual flow of the Nile at Aswan, 1871 to 1970: Durbin & Koopman (2012), Time Series Analysis by State Space Methods.
NILE = np.array(
    """
    1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140 1100 1210 1150 1250 1260
    1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 969 831 726 456 824 702 1120 1100 832 764 821 768 845
    864 862 698 845 744 796 1040 759 781 865 845 944 984 897 822 1010 771 676 649 846 812 742 801 1040 860 874 848 890
    744 749 838 1050 918 986 797 923 975 815 1020 906 901 1170 912 746 919 718 714 740
    """.split(),
    dtype=float,
)


def _local_level(level, noise):
    """A random walk observed in noise, from N(0, 10^7), as Durbin & Koopman (2012), section 2.2, start it."""
    one = np.ones((1, 1))
    return System(np.zeros(1), 1e7 * one, one, level * one, one, np.zeros(1), np.array([noise]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_local_level_of_the_nile(backend):
    """Maximum likelihood of Durbin & Koopman: variances 15099 and 1469.1, log likelihood -641.5856."""
    with pg.on(backend) as room:

        def loss(logs):
            level, noise = np.exp(logs)
            return -float(_filtered(room, _local_level(level, noise), NILE[:, None])[1].log_likelihood)

        assert loss(np.log([1469.1, 15099.0])) == pytest.approx(641.5856, abs=1e-4)
        tries = {"xatol": 1e-4, "fatol": 1e-9}
        best = optimize.minimize(loss, np.log([1500.0, 15000.0]), method="Nelder-Mead", options=tries)
    level, noise = np.exp(best.x)
    assert noise == pytest.approx(15099.0, rel=2e-4)
    assert level == pytest.approx(1469.1, rel=2e-3)  # the likelihood is flat in it


# The scan -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("count", [1, 2, 11, 203])
def test_scan_is_the_loop(backend, reverse, count):
    """Products that do not commute, with an array beside them that has a leading axis more."""
    rng = np.random.default_rng(6)
    a, b = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0], rng.normal(size=(2, count, 3, 1))

    def combine(first, second):
        return second[0] @ first[0], second[0] @ first[1] + second[1]

    with pg.on(backend) as room:
        found = associative_scan(room.xp, combine, (room.asarray(a), room.asarray(b)), reverse=reverse)
    order = range(count)[::-1] if reverse else range(count)
    product = None
    for t in order:
        product = (a[t], b[:, t]) if product is None else combine(product, (a[t], b[:, t]))
        _close(found[0][t], product[0])
        _close(found[1][:, t], product[1])
