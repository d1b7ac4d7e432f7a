"""What a checkpoint is made of: rows on disk, states taken apart; and what the bar of a sampler says."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import backends
from ppl_gen.inference.progress import Watched
from ppl_gen.results.chunked import Rows, Stored
from ppl_gen.results.files import CorruptFileError


def test_a_missing_or_altered_chunk_is_not_read_as_zeros(tmp_path):
    rows = Rows.new(tmp_path / "x", (10, 2), np.dtype("f8"), 4)
    x = np.arange(20.0).reshape(10, 2)
    for i in range(3):
        rows.write(i, x[4 * i : 4 * i + 4])
    np.testing.assert_array_equal(Rows.open(tmp_path / "x").read(3, 9), x[3:9])
    (tmp_path / "x" / "c.1.0").unlink()
    with pytest.raises(CorruptFileError, match="c.1.0: expected a chunk of draws, found no such file"):
        rows.read(0, 10)


def test_rows_on_disk_pass_for_an_array(tmp_path):
    x = np.random.default_rng(0).normal(size=(11, 3, 2))
    rows = Rows.new(tmp_path / "x", (20, 3, 2), x.dtype, 4)
    for i in range(3):
        rows.write(i, x[4 * i : 4 * i + 4])
    stored = Stored(rows, 11)
    swapped = np.swapaxes(stored, 0, 1)
    assert isinstance(swapped, Stored) and swapped.shape == (3, 11, 2) == np.asarray(swapped).shape
    np.testing.assert_array_equal(np.concatenate(list(swapped.blocks()), 1), x.swapaxes(0, 1))
    np.testing.assert_array_equal(stored + 1, x + 1)
    np.testing.assert_array_equal(stored[-1], x[-1])
    assert stored.mean() == x.mean() and len(stored) == 11 and np.isfinite(stored).all()


@pytest.mark.parametrize("name", ["numpyro", "pyro"])
def test_a_state_is_put_together_again_with_its_bits(name):
    room = backends.get(name)
    with room.scope(precision="float32"):
        x = room.asarray(np.array([1 / 3, -0.0, np.nan, np.inf]))
        tree = {"a": (x, None, 3), "b": [x > 0, room.xp.asarray(np.array(5))], "c": {}}
        held = room.leaves(tree)
        again = room.rebuilt(tree, {n: x.copy() for n, x in held.items()})
        assert again["a"][1:] == (None, 3) and again["a"][0].dtype == x.dtype
        assert {n: v.tobytes() for n, v in room.leaves(again).items()} == {n: v.tobytes() for n, v in held.items()}
        with pytest.raises(pg.UnsupportedError, match="a object in the state"):
            room.leaves({"a": object()})
        with pytest.raises(ValueError, match=r"\(2,\)"):
            room.rebuilt({"a": x}, {"['a']": np.zeros(2, np.float32)})


@pytest.mark.parametrize("steps, chains", [(40_000, 4), (16_000, 100)])
def test_the_size_that_the_bar_shows_is_that_of_an_autoregression(steps, chains):
    """Draws of an AR(1) count (1 - rho) / (1 + rho) times; divergences add up; 64 chains stand for many."""
    rng, rho = np.random.default_rng(8), 0.9
    noise = rng.normal(size=(steps, chains)) * np.sqrt(1 - rho**2)
    x = np.zeros((steps, chains))
    for t in range(1, steps):
        x[t] = rho * x[t - 1] + noise[t]
    position = np.stack([rng.normal(size=x.shape), x], -1)
    told = Watched(lambda report: "so it goes")
    for chunk in range(0, steps, 250):
        part = slice(chunk, chunk + 250)
        words = told({"lp": position[part, :, 0], "position": position[part], "diverging": x[part] > 3.5})
    expected = steps * chains * (1 - rho) / (1 + rho)
    assert abs(told.effective_size() / expected - 1) < 5 * np.sqrt(2 / (32 * min(chains, 64)))  # 32 to 64 batches
    assert words == f"divergences {int((x > 3.5).sum())}, ESS {told.effective_size():.0f}, so it goes"
