"""What networks along a path are trained on: the truth is the minimiser of each, and the loss says how far one is."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen.backends import estimating
from ppl_gen.diffusion import Bridge, Denoising, Explicit, Field, Implicit, Sliced
from ppl_gen.diffusion.paths import PATHS, Ladder, path_of
from ppl_gen.diffusion.times import TIMES

BACKENDS = ("numpyro", "pyro")
NUM_ROWS = 5_000
CENTRES, DEVIATIONS, SHARES = np.array([[-1.0, 0.5], [1.2, 0.0]]), np.array([0.4, 0.8]), np.array([0.3, 0.7])
FALSE_ALARM = 4.0  # standard errors


def mixture_score(path):
    """The gradient of log p_t of noisy rows of the mixture."""

    def score(x, t):
        xp, at = pg.xp, path.at(pg.xp, t)
        away = x[:, None] - at.alpha[:, None, None] * xp.asarray(CENTRES)
        variance = (at.alpha[:, None] * xp.asarray(DEVIATIONS)) ** 2 + at.sigma[:, None] ** 2
        log_mass = xp.log(xp.asarray(SHARES)) - xp.log(variance) - 0.5 * xp.sum(away**2, axis=-1) / variance
        return -xp.sum(xp.softmax(log_mass, axis=-1)[..., None] * away / variance[..., None], axis=1)

    return score


def drawn_rows(seed):
    """Rows of the mixture, noise, and quantiles of times."""
    rng = np.random.default_rng(seed)
    which = rng.choice(2, NUM_ROWS, p=SHARES)
    x = CENTRES[which] + DEVIATIONS[which, None] * rng.standard_normal((NUM_ROWS, 2))
    return x, rng.standard_normal((NUM_ROWS, 2)), rng.standard_normal((NUM_ROWS, 2)), rng.random(NUM_ROWS)


def losses(backend, objective, field, rows):
    """Of each row; random directions from one key."""
    x, e, z, u = map(backend.asarray, rows)
    with estimating(backend.key(0)):
        return np.asarray(backend.to_numpy(objective.loss(backend.xp, field, x, {"noise": e, "bridge": z}, u)))


def slope(backend, objective, field, off, rows, at=0.0):
    """The derivative of the expected loss in the size of ``off``, which a field is off by; and its standard error."""
    step = 0.1  # losses are quadratic in it, so that the difference is the derivative
    moved = lambda by: field.saying(lambda x, t: field.says(x, t) + (at + by) * off(x, t))
    up, down = (losses(backend, objective, moved(by), rows) for by in (step, -step))
    slopes = (up - down) / (2 * step)
    return slopes.mean(), slopes.std() / np.sqrt(len(slopes))


def objectives(score, **options):
    return Denoising(**options), Implicit(**options), Sliced(**options), Explicit(**options, score=score)


DIRECTIONS = (lambda x, t: 0.0 * x + 1.0, lambda x, t: x, lambda x, t: t[:, None] * x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("vp", "noise", {}),
        ("vp", "score", {"weighting": "likelihood"}),
        ("cosine", "v", {"weighting": "noise", "times": "log_snr"}),
        ("ot", "velocity", {"times": "logit_normal"}),
        ("ve", "data", {"weighting": "likelihood", "times": "uniform"}),
        ("edm", "edm", {}),
    ],
)
def test_the_truth_is_where_no_objective_falls_any_further(backend, name, kind, options):
    path, rows = path_of(name), drawn_rows(0)
    with pg.on(backend) as active:
        true = Field(path, "score", mixture_score(path))
        field = Field(path, kind, lambda x, t: true(active.xp, kind, x, t))
        for objective in objectives(mixture_score(path), **options):
            for off in DIRECTIONS:
                found, error = slope(active, objective, field, off, rows)
                assert abs(found) <= FALSE_ALARM * error + 1e-9, (objective, found, error)
            found, error = slope(active, objective, field, DIRECTIONS[0], rows, at=0.5)
            assert found > FALSE_ALARM * error  # it would be seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_bridges_have_the_velocity_of_their_marginals(backend):
    path, scale, deviation = path_of("ot"), 0.7, 0.5
    x, *others = drawn_rows(1)
    rows = deviation * np.random.default_rng(2).standard_normal(x.shape), *others

    def velocity(x, t):  # x_t and the velocity are Gaussian together
        xp, s = pg.xp, 1.0 - t
        variance = s**2 * deviation**2 + t**2 + scale**2 * t * s
        covariance = t - s * deviation**2 + 0.5 * scale**2 * (s - t)
        return (covariance / variance)[:, None] * x + 0.0 * xp.abs(x)

    with pg.on(backend) as active:
        field = Field(path, "velocity", velocity)
        for off in DIRECTIONS:
            found, error = slope(active, Bridge(scale=scale), field, off, rows)
            assert abs(found) <= FALSE_ALARM * error
        found, error = slope(active, Bridge(scale=scale), Field(path, "velocity", lambda x, t: x), DIRECTIONS[1], rows)
        assert abs(found) > FALSE_ALARM * error


def gaussian_score(path, loc, deviation):
    def score(x, t):
        at = path.at(pg.xp, t)
        return -(x - at.alpha[:, None] * loc) / ((at.alpha * deviation) ** 2 + at.sigma**2)[:, None]

    return score


def fisher_divergence(path, t, loc, deviation):
    """E |score of N(loc, deviation^2) - score of N(0, 1)|^2 of noisy rows of N(0, 1) at times t, of two entries."""
    at = path.at(np, t)
    true, other = at.alpha**2 + at.sigma**2, (at.alpha * deviation) ** 2 + at.sigma**2
    return 2.0 * (true * (1.0 / true - 1.0 / other) ** 2 + (at.alpha * loc / other) ** 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighting", ["likelihood", "noise"])
def test_objectives_differ_between_models_by_the_fisher_divergence(backend, weighting):
    path, rng = path_of("vp"), np.random.default_rng(3)
    rows = [*rng.standard_normal((3, NUM_ROWS, 2)), rng.random(NUM_ROWS)]
    low, high = path.inside(np.asarray([path.start, path.end]))
    t = np.linspace(low, high, 20_001)
    at = path.at(np, t)
    weight = 0.5 * at.diffusion if weighting == "likelihood" else 0.5 * at.sigma**2 / (high - low)
    models = [(0.0, 1.0), (0.1, 1.0), (0.0, 1.4), (0.6, 1.0), (0.5, 0.6)]
    exact = [np.trapezoid(weight * fisher_divergence(path, t, *m), t) for m in models]
    with pg.on(backend) as active:
        for objective in objectives(gaussian_score(path, 0.0, 1.0), weighting=weighting, times="uniform"):
            fields = [Field(path, "score", gaussian_score(path, *m)) for m in models]
            found = [losses(active, objective, field, rows) for field in fields]
            off = np.stack(found) - found[0]
            errors = off.std(axis=1) / np.sqrt(NUM_ROWS)
            assert (np.abs(off.mean(axis=1) - exact) <= FALSE_ALARM * errors + 1e-4 * np.max(exact)).all(), objective
            assert (np.argsort(off.mean(axis=1)) == np.argsort(exact)).all()


@pytest.mark.parametrize("name", PATHS)
def test_times_are_as_dense_as_they_say(name):
    path, u = path_of(name), np.linspace(0.0, 1.0, 20_001)
    low, high = path.inside(np.asarray([path.start, path.end]))
    with pg.on("numpyro") as active:
        for times in ("uniform", "log_snr"):
            t, slopes = (np.asarray(z) for z in TIMES[times](active.xp, path, active.asarray(u)))
            np.testing.assert_allclose(t[[0, -1]], [low, high], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(np.diff(t), np.diff(u) * (slopes[1:] + slopes[:-1]) / 2, rtol=1e-4)
    ratio = path.at(np, t).sigma / path.at(np, t).alpha  # of the last, even in its logarithm
    np.testing.assert_allclose(np.diff(np.log(ratio)), np.log(ratio[-1] / ratio[0]) / (len(u) - 1), rtol=1e-5)


def test_a_ladder_is_looked_at_on_its_rungs():
    path = Ladder(0.1, 10.0, 5)
    with pg.on("numpyro") as active:
        t, _ = TIMES["ladder"](active.xp, path, active.asarray((np.arange(20) + 0.5) / 20))
        sigma = path.at(np, np.asarray(t)).sigma
    np.testing.assert_allclose(sigma, np.repeat(np.geomspace(0.1, 10.0, 5), 4))
    model = pg.models.ScoreModel((2,), sigma_min=0.1, sigma_max=10.0, num_scales=5)
    rungs = np.unique(np.round(model.along.at(np, model.sampler.times(model.along)).sigma, 9))
    np.testing.assert_allclose(rungs, np.geomspace(0.1, 10.0, 5), rtol=1e-6)  # where it is drawn from


def test_edm_trains_on_what_karras_and_others_do():
    """Their table 1, written out: lambda |D - y|^2 with D = c_skip x + c_out F and lambda = 1 / c_out^2."""
    path, sigma_data, rng = path_of("edm"), 0.5, np.random.default_rng(4)
    y, n, u = rng.standard_normal((2, 50, 3)), rng.standard_normal((50, 3)), rng.random(50)
    y = 0.5 * y[0]
    raw = lambda x, t: pg.xp.sin(x) + pg.xp.log(t)[:, None]
    with pg.on("numpyro") as active:
        args = active.asarray(y), {"noise": active.asarray(n)}, active.asarray(u)
        found = Denoising().loss(active.xp, Field(path, "edm", raw, 1, sigma_data), *args)
        sigma = np.exp(-1.2 + 1.2 * np.asarray(active.xp.ndtri(active.asarray(u))))[:, None]
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / np.sqrt(sigma**2 + sigma_data**2)
        x = y + sigma * n
        denoised = c_skip * x + c_out * np.asarray(raw(active.asarray(x), active.asarray(sigma[:, 0])))
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    np.testing.assert_allclose(found, (weight * (denoised - y) ** 2).mean(axis=1), rtol=1e-9)


@pytest.mark.parametrize(
    ("engine", "options", "said"),
    [
        ("score_matching", {"times": "log_normal"}, "is of the path EDM"),
        ("score_matching", {"times": "ladder"}, "is of the path Ladder"),
        ("score_matching", {"weighting": "likelihood", "times": "logit_normal"}, "integral over all times"),
        ("score_matching", {"objective": "explicit"}, "score is the true one"),
        ("score_matching", {"score": abs}, "score is the true one"),
        ("score_matching", {"objective": "spread"}, "objective must be one of"),
        ("score_matching", {"drop_label": 0.1}, "set num_classes"),
        ("score_matching", {"objective": "explicit", "score": lambda x, t: t}, "came in shape"),
        ("flow_matching", {"coupling": "schroedinger_bridge"}, "bridges lie about straight lines"),
        ("flow_matching", {"coupling": "optimal"}, "coupling must be one of"),
        ("flow_matching", {"coupling": "paired"}, "takes noise as it comes"),
        ("flow_matching", {"bridge_scale": 0.0, "coupling": "schroedinger_bridge"}, "above 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(engine, options, said):
    with pytest.raises((ValueError, pg.UnsupportedError), match=said):
        pg.infer(pg.models.Diffusion((2,), hidden=(4,)), np.zeros((300, 2)), engine, progress=False, **options)


@pytest.mark.parametrize(
    ("options", "data", "said"),
    [
        ({}, {"x": np.zeros((300, 3))}, "of shape \\(N, 2\\)"),
        ({}, {"x": np.full((300, 2), np.nan)}, "nan|finite"),
        ({}, {"x": np.zeros((300, 2)), "label": np.zeros(300, int)}, "set num_classes"),
        ({"num_classes": 3}, {"x": np.zeros((300, 2)), "label": np.full(300, 3)}, "from 0 to 2"),
        ({"num_classes": 3}, {"x": np.zeros((300, 2)), "label": np.zeros(299, int)}, "same number"),
        ({"num_context": 2}, {"x": np.zeros((300, 2))}, "takes a context|no context"),
        ({"num_context": 2}, {"x": np.zeros((300, 2)), "context": np.zeros((300, 3))}, "context of shape"),
        ({"source": "data"}, {"x": np.zeros((300, 2))}, "beside x"),
        ({"source": "data"}, {"x": np.zeros((300, 2)), "noise": np.zeros((300, 2))}, "say by coupling"),
        ({}, {"x": np.zeros((300, 2)), "noise": np.zeros((300, 1))}, "for its noise"),
    ],
)
def test_data_that_do_not_fit_are_refused(options, data, said):
    with pytest.raises(ValueError, match=said):
        pg.infer(pg.models.FlowMatching((2,), hidden=(4,), **options), data, "flow_matching", progress=False)
