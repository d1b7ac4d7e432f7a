"""Toy densities of the benchmarks: they integrate to one, and draws have them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from benchmarks._toys import TOYS

CELLS, FINE = 12, 18  # bins along a side, and places along a side of each


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_integrates_to_one_and_draws_have_its_density(name):
    toy, n = TOYS[name], 20_000
    at = toy.side * (2.0 * (np.arange(CELLS * FINE) + 0.5) / (CELLS * FINE) - 1.0)
    places = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.exp(toy.log_density(places)) * (at[1] - at[0]) ** 2
    assert abs(mass.sum() - 1.0) < 1e-4
    expected = n * mass.reshape(CELLS, FINE, CELLS, FINE).sum((1, 3)).ravel()
    drawn = toy.draw(n, np.random.default_rng(int(os.environ.get("PPL_GEN_TEST_SEED", "0"))))
    edges = np.linspace(-toy.side, toy.side, CELLS + 1)
    found = np.histogram2d(*drawn.T, bins=[edges, edges])[0].ravel()
    many = expected > 10.0
    # Chi-squared of so many bins, and all other draws in a bin of their own.
    expected, found = ([*counts[many], n - counts[many].sum()] for counts in (expected, found))
    statistic = sum((f - e) ** 2 / max(e, 1.0) for f, e in zip(found, expected, strict=True))
    assert statistic < many.sum() + 5.0 * np.sqrt(2.0 * many.sum() + 25.0)
