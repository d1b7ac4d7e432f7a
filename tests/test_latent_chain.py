"""A diffusion as a deep latent-variable program: its bound is the variational bound, known where all is Gaussian."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import evaluation
from ppl_gen.diffusion.paths import path_of
from ppl_gen.nets.layers import Linear
from ppl_gen.nets.net import Net

BACKENDS = ("numpyro", "pyro")
NUM_DRAWS = 1000


@dataclass(frozen=True)
class Straight(Net):
    """A linear map of the row, whatever the time."""

    features: int

    def parts(self) -> Mapping[str, Any]:
        return {"out": Linear(self.features, self.features)}

    def forward(self, f: Any, p: Any, x: Any, time: Any, label: Any = None, context: Any = None) -> Any:
        return p.out(x) if label is None else p.out(x) + 0.1 * label[..., None]


def closed_bound(chain, params, x, shift=0.0):
    """The bound of each datum x (N,) of one entry: Kullback-Leibler divergences of Gaussians, and the rest."""
    path, times = chain.model.along, chain.times
    b = params["net.out.bias"].item() + shift
    w = next(v for n, v in params.items() if n != "net.out.bias").item()

    def told(t):
        """alpha, sigma, and the datum that the network expects as constant + slope e, of x_t = alpha x + sigma e."""
        at = path.at(np, np.asarray(t))
        alpha, sigma = float(at.alpha), float(at.sigma)
        scale = 1.0 / np.sqrt(alpha**2 * chain.model.sigma_data**2 + sigma**2)
        by_x, by_e = w * scale * alpha, w * scale * sigma  # what it says of the noise is b + by_x x + by_e e
        return alpha, sigma, x - sigma / alpha * (b + by_x * x), sigma / alpha * (1.0 - by_e)

    normal = lambda mean_square, scale: -0.5 * mean_square / scale**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    alpha, sigma, *_ = told(times[0])
    bound = -0.5 * (alpha * x / sigma) ** 2  # of q(z_T | x) to N(0, sigma^2)
    for t, s in itertools.pairwise(times):
        (alpha, sigma, datum, slope), (to_alpha, to_sigma, *_) = told(t), told(s)
        added = sigma**2 - (alpha / to_alpha) ** 2 * to_sigma**2
        variance = added * to_sigma**2 / sigma**2
        weight = to_alpha * added / sigma**2  # of the datum in the mean of q(z_s | z_t, x); that of z_t is the same
        bound = bound - 0.5 * weight**2 * ((datum - x) ** 2 + slope**2) / variance
    alpha, sigma, datum, slope = told(times[-1])
    return bound + normal((datum - x) ** 2 + slope**2, sigma / alpha)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("path", "num_steps", "grid"),
    [("vp", 6, "uniform"), ("ot", 1, "uniform"), pytest.param("ve", 3, "log_snr", marks=pytest.mark.slow)],
)
def test_the_bound_of_svi_is_the_variational_bound(backend, path, num_steps, grid):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 1))
    model = pg.models.Diffusion((1,), path=path, net=Straight(1), num_classes=3)
    chain, label = model.latent_variable(num_steps, grid), np.arange(40) % 3
    run = pg.infer(
        chain, {"x": x, "label": label}, "svi", backend, batch_size=40, num_steps=100, learning_rate=1e-9,
        progress=False,
    )  # fmt: skip
    expected = closed_bound(chain, run.params, x[:, 0], 0.1 * label)
    weights = run.log_weights({"x": x, "label": label}, NUM_DRAWS, seed=1)
    error = weights.std(axis=0) / np.sqrt(NUM_DRAWS)
    assert (np.abs(weights.mean(axis=0) - expected) <= 5 * error + 1e-9).all()
    loss = -run.history["loss"]  # that it is trained by
    assert abs(loss.mean() - expected.mean()) <= 4 * loss.std() / np.sqrt(len(loss))
    bits = evaluation.bits_per_dim(weights.mean(axis=0), 1, levels=None)
    assert bits == pytest.approx(-weights.mean() / np.log(2))


def test_both_backends_say_the_same_of_the_same_latents():
    rng = np.random.default_rng(1)
    x, z = rng.standard_normal((5, 2, 1, 1)), rng.standard_normal((5, 4, 2, 1, 1))
    model = pg.models.Diffusion((2, 1, 1), net=Straight(1), path="cosine")
    found = []
    for backend in BACKENDS:
        options = {"batch_size": 5, "num_steps": 1, "learning_rate": 1e-12, "progress": False}
        run = pg.infer(model.latent_variable(4), x, "svi", backend, **options)
        with run._scope() as active:
            target = run._target(x)
            values = {n: active.asarray(v) for n, v in {**run.params, "z": z}.items()}
            held = target.arrays
            sites = target.trace(held, values=values)
            q = target.trace_guide(target.bound.guide, held, values=values)
            found.append([active.to_numpy(s.log_prob) for s in (sites["z"], sites["x"], q["z"])])
    np.testing.assert_allclose(*found, rtol=1e-9)


@pytest.mark.parametrize("backend", [pytest.param("numpyro", marks=pytest.mark.slow), "pyro"])
def test_what_was_trained_by_another_objective_goes_into_the_program(backend):
    rng = np.random.default_rng(2)
    x = 0.5 * rng.standard_normal((1000, 1)) + 0.3
    model = pg.models.Diffusion((1,), hidden=(16,), path="cosine", prediction="v")
    run = pg.infer(
        model, x, "score_matching", backend, weighting="likelihood", num_steps=800, learning_rate=5e-3, progress=False
    )  # fmt: skip
    new = 0.5 * rng.standard_normal((500, 1)) + 0.3
    few, chain = run.latent_variable(10), run.latent_variable(200)
    loose, bound = (c.log_weights(new, 5, seed=1).mean(axis=0) for c in (few, chain))
    true = -0.5 * ((new[:, 0] - 0.3) / 0.5) ** 2 - np.log(0.5) - 0.5 * np.log(2 * np.pi)
    error = (bound - true).std() / np.sqrt(len(new))
    assert bound.mean() <= true.mean() + 4 * error  # it is a bound
    assert loose.mean() + 1.0 < bound.mean() > true.mean() - 0.6  # 0.3 or so of 200 steps, and a short training
    assert chain.log_prob_kind == "lower bound"
    drawn = chain.sample(1000, seed=3)
    assert abs(drawn.mean() - 0.3) < 0.15 and abs(drawn.std() - 0.5) < 0.15


def test_options_that_make_no_chain_are_refused():
    model = pg.models.Diffusion((1,), hidden=(4,))
    with pytest.raises(ValueError, match="num_steps"):
        model.latent_variable(0)
    with pytest.raises(ValueError, match="grid must be one of"):
        model.latent_variable(3, "even")
    with pytest.raises(ValueError, match="Gaussian"):
        pg.models.FlowMatching((1,), hidden=(4,), source="data").latent_variable(3)
    with pytest.raises(ValueError, match="of shape"):
        pg.infer(model.latent_variable(3), np.zeros((9, 2)), "svi", batch_size=3, num_steps=1, progress=False)
    assert path_of("vp") == model.along
