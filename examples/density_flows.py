"""Normalizing flows learn densities of the plane, which are exact: two moons and a checkerboard, as maps.

Both densities are known, so that the nats that a flow loses on new points are, too. Pictures: ``two_moons.html`` and
``checkerboard.html``, with the data, the log density and draws.

    python examples/density_flows.py [numpyro|pyro]
"""

import os
import sys
from pathlib import Path

import numpy as np

import ppl_gen as pg

OUT = Path(os.environ.get("PPL_GEN_EXAMPLE_OUT", "."))
STEPS = int(os.environ.get("PPL_GEN_EXAMPLE_STEPS", 4000))
NOISE = 0.1


def two_moons(n, rng):
    angle, lower = np.pi * rng.random(n), rng.random(n) < 0.5
    x = np.stack([np.where(lower, 1 - np.cos(angle), np.cos(angle)), np.where(lower, 0.5, 0) + np.sin(angle)
                  * np.where(lower, -1, 1)], axis=1)  # fmt: skip
    return x - [0.5, 0.25] + NOISE * rng.normal(size=(n, 2))


def log_two_moons(x):
    """The half circles integrated over the angle, by so many points that the noise does not see them."""
    angle = np.pi * (np.arange(600) + 0.5) / 600
    upper, lower = np.stack([np.cos(angle), np.sin(angle)], 1), np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    centres = np.concatenate([upper, lower]) - [0.5, 0.25]
    log_terms = -0.5 * ((x[:, None] - centres) ** 2).sum(-1) / NOISE**2 - np.log(2 * np.pi * NOISE**2)
    return np.logaddexp.reduce(log_terms, axis=1) - np.log(len(centres))


def checkerboard(n, rng):
    column, row = rng.integers(0, 4, n), 2 * rng.integers(0, 2, n)
    return np.stack([column, row + column % 2], axis=1) + rng.random((n, 2)) - 2.0


def log_checkerboard(x):
    """8 of 16 squares of side 1."""
    return np.full(len(x), -np.log(8.0))


def main(backend="numpyro"):
    for name, draw, log_density, most in (
        ("two_moons", two_moons, log_two_moons, 0.05),
        ("checkerboard", checkerboard, log_checkerboard, 0.2),
    ):
        x, new = draw(20_000, np.random.default_rng(0)), draw(10_000, np.random.default_rng(1))
        run = pg.infer(
            pg.models.Flow("nsf", features=2, num_layers=4), x, "svi", backend, batch_size=500, num_steps=STEPS,
            learning_rate=3e-3, schedule="cosine", precision="float32",
        )  # fmt: skip
        lost = log_density(new) - run.log_prob(new)
        error = lost.std() / np.sqrt(len(new))
        print(f"{name}: {lost.mean():.4f} +- {error:.4f} nats above the entropy; {run.log_prob_kind} log p(x)")
        print(f"{run.report(OUT / f'{name}.html')} has the map")
        assert lost.mean() < most


if __name__ == "__main__":
    main(*sys.argv[1:2])
