"""Densities by the probability-flow equation, and fields that lean towards something, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import backends, xp
from ppl_gen.diffusion import PATHS, Field
from ppl_gen.diffusion import samplers as s
from ppl_gen.diffusion.guidance import classified, classifier_free, observing
from ppl_gen.diffusion.paths import path_of

COV = np.asarray([[1.0, 0.6], [0.6, 0.8]])
CENTRES, WIDTH = np.asarray([-1.2, 1.2]), 0.4


def gaussian(path, cov=COV):
    """The score of N(0, cov)."""
    values, vectors = np.linalg.eigh(cov)

    def score(x, t):
        at, turned = path.at(xp, t[..., None]), xp.asarray(vectors)
        variance = at.alpha**2 * xp.asarray(values) + at.sigma**2
        return -((x @ turned) / variance) @ xp.transpose(turned)

    return score


def log_gaussian(x, cov):
    square = (x @ np.linalg.inv(cov) * x).sum(-1)
    return -0.5 * (square + np.linalg.slogdet(2.0 * np.pi * cov)[1])


def parts(path, x, t):
    """Distances to both centres, over the deviation at a time, squared and halved; and that variance."""
    at = path.at(xp, t[..., None])
    variance = at.alpha**2 * WIDTH**2 + at.sigma**2
    off = [x - at.alpha * c for c in CENTRES]
    return off, variance


def mixture(path):
    """The score of two Gaussians in each entry."""

    def score(x, t):
        off, variance = parts(path, x, t)
        weight = xp.sigmoid((off[0] ** 2 - off[1] ** 2) / (2.0 * variance))
        return -((1.0 - weight) * off[0] + weight * off[1]) / variance

    return score


def log_mixture(x, noise):
    variance = WIDTH**2 + noise**2
    each = -np.square(x[..., None] - CENTRES) / (2.0 * variance) - 0.5 * np.log(8.0 * np.pi * variance)
    return np.logaddexp.reduce(each, axis=-1).sum(-1)


def near(path):
    """sigma / alpha where the equation ends near the data."""
    return float(path.ratio(path.inside(np.asarray(path.start))))


@pytest.mark.parametrize("name", PATHS)
def test_log_density_of_known_scores_on_every_path(name):
    path, rng = path_of(name), np.random.default_rng(0)
    x = rng.choice(CENTRES, (40, 2)) + WIDTH * rng.standard_normal((40, 2))
    values, errors = pg.diffusion.log_prob(mixture(path), name, x, sigma_data=1.26, progress=False)
    np.testing.assert_allclose(values, log_mixture(x, near(path)), atol=1e-4)
    assert not errors.any()


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_log_density_of_correlated_gaussians(name):
    path, x = path_of(name), np.random.default_rng(0).multivariate_normal(np.zeros(2), COV, 40)
    values, _ = pg.diffusion.log_prob(gaussian(path), name, x, progress=False)
    np.testing.assert_allclose(values, log_gaussian(x, COV + near(path) ** 2 * np.eye(2)), atol=1e-3)


def test_its_error_falls_as_the_fourth_power_of_the_steps():
    path = path_of("ot")
    x = np.linspace(-2.0, 2.0, 41)[:, None]
    ask = lambda n: pg.diffusion.log_prob(mixture(path), "ot", x, num_steps=n, sigma_data=1.26, progress=False)[0]
    off = [np.abs(ask(n) - log_mixture(x, near(path))).max() for n in (20, 40)]
    assert np.log2(off[0] / off[1]) == pytest.approx(4.0, abs=0.8)


def test_random_traces_tell_their_error():
    path, x = path_of("vp"), np.random.default_rng(1).multivariate_normal(np.zeros(2), COV, 300)
    values, errors = pg.diffusion.log_prob(gaussian(path), "vp", x, trace="hutchinson", seed=4, progress=False)
    off = values - log_gaussian(x, COV + near(path) ** 2 * np.eye(2))
    assert (errors > 0).mean() > 0.99 and np.abs(off).max() < 10 * errors.mean()
    assert abs(off.sum()) < 4.0 * np.sqrt(np.square(errors).sum())
    assert np.square(off).mean() == pytest.approx(np.square(errors).mean(), rel=0.4)  # 4 standard errors of 300 rows


def test_rows_lie_within_three_standard_errors_of_the_closed_form():
    """Of an error told by 30 probes 99.5 % of rows do (Student's t): that 10 of 300 do not is no chance (1e-5)."""
    path, x = path_of("vp"), np.random.default_rng(1).multivariate_normal(np.zeros(2), COV, 300)
    how = {"trace": "hutchinson", "num_probes": 30, "seed": 5}
    values, errors = pg.diffusion.log_prob(gaussian(path), "vp", x, progress=False, **how)
    off = np.abs(values - log_gaussian(x, COV + near(path) ** 2 * np.eye(2))) / errors
    assert (off < 3.0).sum() > 290


def test_both_backends_give_the_same_densities():
    path, x = path_of("cosine"), np.random.default_rng(2).standard_normal((5, 2))
    for how in ({}, {"trace": "hutchinson", "num_probes": 2}):
        found = [
            pg.diffusion.log_prob(gaussian(path), path, x, num_steps=5, backend=b, progress=False, **how)
            for b in backends.NAMES
        ]
        np.testing.assert_allclose(*found, rtol=1e-9, atol=1e-9)


def labelled(path):
    """The score of the upper Gaussian alone, and log p(it | x_t)."""

    def score(x, t):
        off, variance = parts(path, x, t)
        return -off[1] / variance

    def log_prob(x, t):
        off, variance = parts(path, x, t)
        return xp.sum(xp.log_sigmoid((off[0] ** 2 - off[1] ** 2) / (2.0 * variance)), axis=-1)

    return score, log_prob


@pytest.mark.parametrize("kind", ["score", "noise", "velocity"])
@pytest.mark.parametrize("backend", backends.NAMES)
def test_a_classifier_turns_the_free_score_into_that_of_its_label(backend, kind):
    path = path_of("trigonometric")
    upper, log_prob = labelled(path)
    rng = np.random.default_rng(3)
    with pg.on(backend) as held:
        free, given = (Field(path, "score", f) for f in (mixture(path), upper))
        asked = Field(path, kind, lambda x, t: free(held.xp, kind, x, t))
        x, t = held.asarray(rng.standard_normal((7, 2))), held.asarray(np.linspace(0.1, 0.9, 7))
        found = classified(asked, log_prob)(held.xp, "score", x, t)
        np.testing.assert_allclose(held.to_numpy(found), held.to_numpy(upper(x, t)), rtol=1e-8, atol=1e-8)
        more = classifier_free(given, free, 0.5)(held.xp, "score", x, t)
        same = classified(free, log_prob, 1.5)(held.xp, "score", x, t)
        np.testing.assert_allclose(held.to_numpy(more), held.to_numpy(same), rtol=1e-8, atol=1e-8)


def drawn_given(path, cov, observed, n=4000, sampler=None):
    """Draws of a Gaussian whose entries that are not NaN were observed."""
    known = (~np.isnan(observed)).astype(float)
    field = Field(path, "score", gaussian(path, cov))
    leaning = lambda x, t: observing(field, xp.asarray(np.nan_to_num(observed)), xp.asarray(known)).says(x, t)
    sampler = sampler or s.EulerMaruyama(num_steps=300)
    return pg.diffusion.draw(leaning, path, (n, len(observed)), sampler, progress=False)


def test_observed_entries_hold_and_free_ones_follow():
    apart = drawn_given(path_of("vp"), np.eye(2), np.asarray([1.3, np.nan]))
    assert abs(apart[:, 0] - 1.3).max() < 0.1  # noise of 0.01 is left
    assert abs(apart[:, 1].mean()) < 4 / np.sqrt(4000) and apart[:, 1].std() == pytest.approx(1.0, abs=0.06)
    cov = np.asarray([[1.0, 0.8], [0.8, 1.0]])
    found = drawn_given(path_of("vp"), cov, np.asarray([1.0, np.nan]))[:, 1]
    assert found.mean() == pytest.approx(0.8, abs=0.1)
    assert found.std() == pytest.approx(0.6, abs=0.1)


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 600)
    x = np.where(label[:, None] == 1, 0.8, -0.8) + 0.4 * rng.standard_normal((600, 2))
    model = pg.models.Diffusion((2,), prediction="v", hidden=(16,), num_classes=2, num_steps=10)
    data = {"x": x, "label": label}
    return pg.infer(model, data, "score_matching", num_steps=500, batch_size=128, drop_label=0.5, progress=False)


def test_a_trained_model_is_guided_by_its_labels(run):
    ask = lambda **how: run.denoise(400, 1, s.DDIM(num_steps=20), label=1, progress=False, **how)
    plain, none, much = ask(), ask(guidance=0.0), ask(guidance=3.0)
    np.testing.assert_allclose(plain, none, rtol=1e-6, atol=1e-8)
    assert (plain.mean(1) > 0).mean() > 0.9
    assert much.mean() > plain.mean()  # away from what the other label could be


def test_a_trained_model_is_led_by_a_classifier_and_by_observations(run):
    how = {"sampler": s.DDIM(num_steps=20), "progress": False}
    right = lambda x, t: xp.log_sigmoid(4.0 * x[:, 0])
    led = run.denoise(200, 1, classifier=right, guidance=2.0, **how)
    assert (led[:, 0] > 0).mean() > (run.denoise(200, 1, **how)[:, 0] > 0).mean()
    seen = np.asarray([0.9, np.nan])
    given = run.denoise(200, 1, s.EulerMaruyama(num_steps=100), label=1, observed=seen, progress=False)
    assert (given[:, 0] == 0.9).all() and given[:, 1].mean() > 0.3
    with pytest.raises(pg.DataError, match=r"observed must have shape \(2,\) or \(200, 2\), got \(3,\)"):
        run.denoise(200, observed=np.zeros(3))
    with pytest.raises(ValueError, match="classifier of rows .* expected .*200"):
        run.denoise(200, classifier=lambda x, t: x)
    with pytest.raises(pg.DataError, match="guidance leans towards a label or a classifier"):
        run.denoise(200, guidance=1.0)


def test_densities_of_a_run_are_those_of_its_program(run):
    x, label = np.random.default_rng(6).standard_normal((30, 2)), np.arange(30) % 2
    values, errors = run.flow_log_prob(x, label, num_steps=10, progress=False)
    np.testing.assert_allclose(values, run.log_prob({"x": x, "label": label}), rtol=1e-6, atol=1e-6)
    assert not errors.any()
    rows, at, _ = run.flow_sample(30, 3, label=1, progress=False)
    again, _ = run.flow_log_prob(rows, 1, progress=False)
    np.testing.assert_allclose(at, again, atol=1e-3)
    told, errors = run.flow_log_prob(x, label, num_steps=10, trace="hutchinson", num_probes=20, progress=False)
    assert abs((told - values).sum()) < 4 * np.sqrt(np.square(errors).sum())


@pytest.mark.slow
@pytest.mark.parametrize("backend", backends.NAMES)
def test_densities_and_observed_parts_of_images(backend):
    x = np.random.default_rng(7).standard_normal((16, 8, 8, 1))
    model = pg.models.Diffusion((8, 8, 1), prediction="v", channels=(4,))
    run = pg.infer(model, x, "score_matching", backend, num_steps=2, batch_size=8, progress=False)
    exact, _ = run.flow_log_prob(x[:4], num_steps=4, progress=False)
    told, errors = run.flow_log_prob(x[:4], num_steps=4, trace="hutchinson", num_probes=16, progress=False)
    assert abs((told - exact).sum()) < 4 * np.sqrt(np.square(errors).sum())
    seen = np.full((8, 8, 1), np.nan)
    seen[:4] = 0.5
    drawn = run.denoise(3, 1, s.DDIM(num_steps=5), observed=seen, progress=False)
    assert drawn.shape == (3, 8, 8, 1) and np.isfinite(drawn).all() and (drawn[:, :4] == 0.5).all()
