"""Objectives of scores at one level of noise, against Fisher's divergence in closed form, on both backends."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen.checks import ProgramError
from ppl_gen.diffusion import score_objectives
from ppl_gen.nets.net import home

BACKENDS = ("numpyro", "pyro")
D, COUNT, SIGMA = 3, 20_000, 0.3
RNG = np.random.default_rng(0)
ROOT = np.tril(RNG.normal(size=(D, D))) + 1.5 * np.eye(D)
COVARIANCE, MEAN = ROOT @ ROOT.T, RNG.normal(size=D)
X = MEAN + RNG.normal(size=(COUNT, D)) @ ROOT.T
NOISE, SIGNS = RNG.normal(size=X.shape), np.sign(RNG.normal(size=(4, *X.shape)))


def models():
    """Gaussians ever farther from the data's, the first of them itself: (mean, precision)."""
    precision = np.linalg.inv(COVARIANCE)
    tilt = np.diag(np.linspace(-0.4, 0.6, D))
    return [(MEAN + 0.3 * k, precision @ (np.eye(D) + k * tilt @ precision)) for k in range(4)]


def fisher(mean, precision, covariance=COVARIANCE):
    """E |s - truth|^2 / 2 under N(MEAN, covariance), s(x) = -precision (x - mean)."""
    truth = np.linalg.inv(covariance)
    off, constant = truth - precision, precision @ (mean - MEAN)
    return 0.5 * (np.trace(off @ covariance @ off.T) + constant @ constant)


def values(backend, name, mean, precision):
    """The objective on each row of X."""
    with pg.on(backend) as room:
        f, place = home(room.array_library).Functions, room.asarray
        m, p, x, noise = (place(v) for v in (mean, precision, X, NOISE))
        score = lambda y: -(y - m) @ p.T
        truth = lambda y: -(y - place(MEAN)) @ place(np.linalg.inv(COVARIANCE)).T
        made = {
            "explicit": lambda: score_objectives.explicit(room.xp, score, x, truth),
            "implicit": lambda: score_objectives.implicit(f, score, x),
            "sliced": lambda: score_objectives.sliced(f, score, x, place(SIGNS)),
            "sliced twice": lambda: score_objectives.sliced(f, score, x, place(SIGNS), reduced=False),
            "denoising": lambda: score_objectives.denoising(room.xp, score, x, noise, SIGMA),
        }
        return np.asarray(room.to_numpy(made[name]()))


NAMES = ("explicit", "implicit", "sliced", "sliced twice", "denoising")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_all_objectives_are_fishers_divergence_but_for_a_number(name, backend):
    """Differences to the first model within 4.5 standard errors of those of the exact divergence, and as ordered.

    Denoising is of the divergence from the data with noise on them.
    """
    covariance = COVARIANCE + SIGMA**2 * np.eye(D) if name == "denoising" else COVARIANCE
    exact = np.array([fisher(*m, covariance) for m in models()])
    seen = np.stack([values(backend, name, *m) for m in models()])
    gained = seen[1:] - seen[0]
    error = gained.std(axis=1) / np.sqrt(COUNT)
    assert (np.abs(gained.mean(1) - (exact[1:] - exact[0])) < 4.5 * error).all()
    assert (np.argsort(seen.mean(1)) == np.argsort(exact)).all()


@pytest.mark.parametrize("name", NAMES)
def test_both_backends_say_the_same(name):
    one, two = (values(b, name, *models()[2]) for b in BACKENDS)
    np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-12)


def test_slices_along_each_axis_are_the_trace():
    """Of directions sqrt(D) e_i the mean of v^T A v is the trace of A."""
    with pg.on("numpyro") as room:
        f, x = home("jax").Functions, room.asarray(X[:7])
        score = lambda y: -y - 0.1 * y**3 * y[:, ::-1]
        axes = room.asarray(np.sqrt(D) * np.broadcast_to(np.eye(D)[:, None], (D, 7, D)))
        exact, sliced = score_objectives.implicit(f, score, x), score_objectives.sliced(f, score, x, axes)
        np.testing.assert_allclose(np.asarray(exact), np.asarray(sliced), rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["implicit", "explicit", "sliced", "denoising"])
def test_a_score_of_another_shape(name, backend):
    with pg.on(backend) as room:
        f, x = home(room.array_library).Functions, room.asarray(X[:5])
        bad = lambda y: room.xp.sum(y, axis=-1)
        made = {
            "explicit": lambda: score_objectives.explicit(room.xp, bad, x, lambda y: y),
            "implicit": lambda: score_objectives.implicit(f, bad, x),
            "sliced": lambda: score_objectives.sliced(f, bad, x, room.asarray(SIGNS[:, :5])),
            "denoising": lambda: score_objectives.denoising(room.xp, bad, x, x, 0.1),
        }
        with pytest.raises(ProgramError, match=r"must be like the rows.*shape \(5, 3\), and it came in shape \(5,\)"):
            made[name]()
