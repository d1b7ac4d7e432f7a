"""Annealed Langevin on tempered posteriors: closed forms, two modes, and steps that are too long."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist, xp

BACKENDS = ("numpyro", "pyro")
FEW = {"num_particles": 500, "num_temperatures": 15, "num_steps": 30}


def annealed(program, data, backend="numpyro", **options):
    return pg.infer(program, data, "annealed", backend, progress=False, **{**FEW, **options})


@pg.program
def correlated(y):
    z = pg.sample("z", dist.Normal(xp.zeros((2,)), 3.0).to_event(1))
    pg.sample("y", dist.Normal(xp.stack([z[0] + z[1], z[1]]), xp.array([0.2, 1.0])).to_event(1), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_ends_at_the_posterior(backend):
    """A Gaussian's variance is too large by 1 / (1 - h^2 / 4), a few percent at a step of about 0.3."""
    y, rows = np.array([1.0, 2.0]), np.array([[1.0, 1.0], [0.0, 1.0]])
    noise = np.diag([0.2**2, 1.0])
    covariance = np.linalg.inv(np.eye(2) / 9.0 + rows.T @ np.linalg.inv(noise) @ rows)
    mean = covariance @ rows.T @ np.linalg.inv(noise) @ y
    run = annealed(correlated, y, backend)
    z, sd = run.posterior["z"].reshape(-1, 2), np.sqrt(np.diag(covariance))
    assert (np.abs(z.mean(0) - mean) < 4.5 * sd / np.sqrt(1000)).all()
    off = np.cov(z.T) / np.outer(sd, sd) - covariance / np.outer(sd, sd)
    assert np.abs(off).max() < 4.5 * np.sqrt(2 / 1000) + 0.04
    assert not run.exact and not run.warnings and run.history["beta"][-1] == 1.0
    assert len(run.history["acceptance_rate"]) == 15


@pg.program
def two_modes(y):
    z = pg.sample("z", dist.Normal(0.0, 3.0))
    pg.sample("y", dist.Normal(xp.abs(z), 0.1), obs=y)


def test_both_modes_keep_their_particles():
    """Each has half of the mass, whatever lies between them."""
    z = annealed(two_modes, np.array(2.0)).posterior["z"].reshape(-1)
    assert abs((z > 0).mean() - 0.5) < 4.5 * 0.5 / np.sqrt(1000)
    assert abs(np.abs(z).mean() - 2.0) < 0.02 and np.abs(z).std() == pytest.approx(0.1, rel=0.2)


def test_steps_that_are_too_long_are_said():
    with pytest.warns(RuntimeWarning, match="steps of 1.2 leapfrog steps are too long"):
        annealed(correlated, np.array([1.0, 2.0]), step_size=1.2)


@pg.program
def quartic(y):
    z = pg.sample("z", dist.Normal(0.0, 3.0))
    pg.sample("y", dist.Normal(z**5, 0.01), obs=y)


def test_particles_that_fly_off_end_the_run():
    with pytest.raises(pg.ProgramError, match="diverged at inverse temperature .* of chain"):
        annealed(quartic, np.array(0.0), step_size=1.9)


def test_bad_input_is_refused():
    for options, match in (({"step_size": 2.0}, "between 0 and 2"), ({"num_particles": 3}, "at least 25"),
                           ({"num_steps": 0}, "at least 1")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            annealed(correlated, np.zeros(2), **options)
