"""Models along a path, as they are trained: conditions, moving averages, ladders, objectives, files."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen.diffusion.samplers import Heun

BACKENDS = ("numpyro", "pyro")
QUIET = {"progress": False, "learning_rate": 5e-3, "batch_size": 200}
SCALE = 0.3


def _rows(seed, n=1000):
    """Rows about the value of their context, which stands for a label, too: (n, 1), (n,)."""
    rng = np.random.default_rng(seed)
    label = rng.integers(2, size=n)
    return 2.0 * label[:, None] - 1.0 + SCALE * rng.standard_normal((n, 1)), label


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_are_of_the_label_that_is_asked_for_or_of_all(backend):
    x, label = _rows(0)
    model = pg.models.FlowMatching((1,), hidden=(32, 32), num_classes=2)
    run = pg.infer(
        model, {"x": x, "label": label}, "flow_matching", backend, coupling="optimal_transport", drop_label=0.3,
        num_steps=600, **QUIET,
    )  # fmt: skip
    how = {"sampler": Heun(20), "progress": False}
    for one in (0, 1):
        drawn = run.sample(500, seed=1, label=one, **how)
        assert abs(drawn.mean() - (2.0 * one - 1.0)) < 0.2 and abs(drawn.std() - SCALE) < 0.15
    either = run.sample(1000, seed=2, **how)  # those of no label have been seen, too
    assert 0.35 < (either > 0).mean() < 0.65 and abs(either).mean() > 0.7
    with pytest.raises(ValueError, match="from 0 to 1"):
        run.sample(5, label=2)


@pytest.mark.parametrize(
    ("backend", "objective"), [("numpyro", "sliced"), ("pyro", "implicit"), ("pyro", "explicit")]
)
def test_scores_are_learned_by_every_objective(backend, objective):
    x = 0.5 + SCALE * np.random.default_rng(1).standard_normal((1000, 1))
    model = pg.models.Diffusion((1,), hidden=(32,), path="cosine")

    def score(x, t):
        at = model.along.at(pg.xp, t)
        return -(x - 0.5 * at.alpha[:, None]) / ((SCALE * at.alpha) ** 2 + at.sigma**2)[:, None]

    given = {"score": score} if objective == "explicit" else {}
    run = pg.infer(
        model, x, "score_matching", backend, objective=objective, weighting="noise", num_steps=500, **QUIET, **given
    )  # fmt: skip
    drawn = run.sample(1000, seed=1, sampler=Heun(30), progress=False)
    assert abs(drawn.mean() - 0.5) < 0.15 and abs(drawn.std() - SCALE) < 0.15  # of a short training


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ladder_of_scores_is_drawn_from_by_langevin_steps(backend):
    x, _ = _rows(2)
    model = pg.models.ScoreModel((1,), sigma_min=0.1, sigma_max=4.0, num_scales=10, hidden=(32, 32), num_context=1)
    context = np.sign(x)
    run = pg.infer(
        model, {"x": x, "context": context}, "score_matching", backend, weighting="noise", num_steps=600, **QUIET
    )  # fmt: skip
    drawn = run.sample(500, seed=1, context=[-1.0], progress=False)
    assert abs(drawn.mean() + 1.0) < 0.2
    expected = np.hypot(SCALE, 0.1)  # of the last rung
    assert abs(drawn.std() - expected) < 0.15
    with pytest.raises(ValueError, match="num_context=1"):
        run.sample(5)


@pytest.mark.parametrize("backend", [pytest.param("numpyro", marks=pytest.mark.slow), "pyro"])
def test_what_is_kept_is_the_moving_average(backend):
    x, _ = _rows(3, 400)
    model = pg.models.Diffusion((1,), hidden=(4,))
    options = {**QUIET, "schedule": "constant", "seed": 5}
    runs = [pg.infer(model, x, "score_matching", backend, num_steps=n, **options) for n in (1, 2, 3)]
    averaged = pg.infer(model, x, "score_matching", backend, num_steps=3, ema=0.6, **options)
    start = pg.infer(model, x, "score_matching", backend, num_steps=1, ema=0.6, **options)  # 0.6 start + 0.4 first
    first = runs[0].params
    for name, value in averaged.params.items():
        expected = start.params[name]
        assert not np.allclose(expected, first[name])
        for run in runs[1:]:
            expected = 0.6 * expected + 0.4 * run.params[name]
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


def test_a_run_is_kept_and_drawn_from_again(tmp_path):
    x, label = _rows(4, 400)
    model = pg.models.Diffusion((1,), hidden=(4,), num_classes=2)
    run = pg.infer(model, {"x": x, "label": label}, "score_matching", "pyro", num_steps=5, **QUIET)
    again = pg.load(run.save(tmp_path / "run"), model)
    how = {"label": 1, "seed": 3, "progress": False}
    np.testing.assert_array_equal(again.sample(10, **how), run.sample(10, **how))
    assert "an equation" in run.idata.attrs["log_likelihood"]
    assert run.log_prob({"x": x[:4], "label": label[:4]}).shape == (4,)


@pytest.mark.parametrize("model", [pg.models.Diffusion, pg.models.ScoreModel, pg.models.FlowMatching])
def test_few_rows_are_a_batch_of_all_where_none_is_asked_for(model):
    x, _ = _rows(5, 60)
    engine = "flow_matching" if model is pg.models.FlowMatching else "score_matching"
    for options, size in (({}, 60), ({"validation": 0.25}, 15), ({"batch_size": 20}, 20)):
        run = pg.infer(model((1,), hidden=(4,)), x, engine, num_steps=2, progress=False, **options)
        assert run.attrs["batch_size"] == size


@pytest.mark.parametrize(
    "make", [pg.models.Diffusion, pg.models.FlowMatching, lambda s: pg.models.VAE(2, s), pg.models.PixelCNN]
)
@pytest.mark.parametrize("shape", [2, [2, 2, 1], (2, 2.0, 1), (0, 2, 1), None])
def test_the_shape_of_a_datum_is_a_tuple_of_lengths(make, shape):
    with pytest.raises(ValueError, match="shape must be (that of one datum as a tuple|a whole number of at least 1)"):
        make(shape)


def test_a_network_is_asked_of_rows_as_it_was_trained():
    """Labels that it never saw, or never was without, it knows nothing of."""
    x, label = _rows(5, 60)
    model = pg.models.Diffusion((1,), hidden=(4,), num_classes=2)
    fit = lambda data, **how: pg.infer(model, data, "score_matching", num_steps=2, batch_size=30, progress=False, **how)
    always, never = fit({"x": x, "label": label}), fit(x)
    for run, held, match in ((always, {}, "train it with drop_label"), (never, {"label": 1}, "never saw a label")):
        with pytest.raises(pg.DataError, match=match):
            run.sample(3, **held)
        with pytest.raises(pg.DataError, match=match):
            run.flow_log_prob(x[:3], **held)
    with pytest.raises(pg.DataError, match="train it with drop_label"):
        always.sample(3, label=1, guidance=1.0)
    often = fit({"x": x, "label": label}, drop_label=0.1)
    for held in ({}, {"label": 1}):
        assert often.sample(3, sampler=Heun(2), progress=False, **held).shape == (3, 1)
    for bad, match in (([0, 1], "one class, or one for each row"), ("a", "whole numbers from 0 to 1")):
        with pytest.raises(pg.DataError, match=match):
            often.sample(3, label=bad)
    with pytest.raises(TypeError, match="classifier must be a function of rows and times, got int"):
        often.sample(3, classifier=3)
    with pytest.raises(TypeError, match="trajectory=True, are of denoise"):
        often.pairs(3, trajectory=True)
    with pytest.raises(ValueError, match="n must be a whole number of at least 1, got -1"):
        often.pairs(-1)
    with pytest.raises(ValueError, match="guidance must be a finite number"):
        often.sample(3, label=1, guidance=np.nan)
    for rows in (x[:0], np.nan * x[:3]):
        with pytest.raises(pg.DataError, match="finite rows"):
            often.flow_log_prob(rows)


def test_a_context_is_one_row_or_as_many_as_are_drawn():
    x, _ = _rows(6, 60)
    model = pg.models.FlowMatching((1,), hidden=(4,), num_context=2)
    data = {"x": x, "context": np.hstack([x, x])}
    run = pg.infer(model, data, "flow_matching", num_steps=2, batch_size=30, progress=False)
    for bad in (1.0, [1.0], [np.nan, 0.0], np.zeros((2, 2))):
        with pytest.raises(pg.DataError, match="context must be finite, of shape"):
            run.sample(3, context=bad)
    with pytest.raises(ValueError, match="a U-Net is told labels and no context"):
        pg.models.FlowMatching((8, 8, 1), channels=(8, 8), num_context=2)
