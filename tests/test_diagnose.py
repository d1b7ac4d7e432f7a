"""Each warning about draws comes where it should, and not on healthy draws."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from scipy.signal import lfilter

from ppl_gen import evaluation
from ppl_gen.results.diagnose import diagnose

CHAINS, DRAWS = 4, 1000


@pytest.fixture
def rng():
    return np.random.default_rng()


def healthy(rng, chains=CHAINS, draws=DRAWS, scalars=5):
    """Independent draws, as Hamiltonian samplers report them."""
    x = rng.normal(size=(chains, draws, scalars))
    lp = -0.5 * (x**2).sum(-1)
    stats = {
        "lp": lp,
        "energy": rng.chisquare(scalars, (chains, draws)) / 2 - lp,
        "n_steps": np.full(lp.shape, 7),
        "diverging": np.zeros(lp.shape, bool),
        "reached_max_treedepth": np.zeros(lp.shape, bool),
    }
    return {"x": x, "mu": rng.normal(size=(chains, draws))}, stats



def apart(draws, stats, rng):
    draws["x"] += 0.5 * np.arange(CHAINS)[:, None, None]


def slow(draws, stats, rng):
    draws["mu"] = lfilter([np.sqrt(1 - 0.99**2)], [1.0, -0.99], draws["mu"], axis=1)


def slow_tails(draws, stats, rng):
    """Independent in the bulk, but for long visits to one tail."""
    visit = np.zeros(DRAWS, bool)
    visit[100:160] = True
    draws["mu"][:, visit] = 4.0 + np.abs(draws["mu"][:, visit])


def diverge(draws, stats, rng):
    stats["diverging"][1, 3] = True


def saturate(draws, stats, rng):
    stats["reached_max_treedepth"][:, ::4] = True


def low_energy(draws, stats, rng):
    stats["energy"][2] = np.cumsum(rng.normal(size=DRAWS))


def freeze(draws, stats, rng):
    for x in draws.values():
        x[2] = x[2, :1]


def far_below(draws, stats, rng):
    stats["lp"][3] -= 307_000.0


def far_below_and_one_without_numbers(draws, stats, rng):
    stats["lp"][3] -= 307_000.0
    stats["lp"][0] = np.nan


def all_trees_of_one(draws, stats, rng):
    """The frozen chain of the ARMA(1,1): every tree saturated, steps so short that it moves a little, no divergence."""
    stats["reached_max_treedepth"][1] = True
    for x in draws.values():
        x[1] = 3.0 + 1e-7 * rng.normal(size=x[1].shape)


def switch(draws, stats, rng):
    locs = np.array([-3.0, 0.0, 3.0]) + 0.2 * rng.normal(size=(CHAINS, DRAWS, 3))
    locs[2] = locs[2][:, [2, 0, 1]]
    draws["locs"] = locs


def switch_vectors(draws, stats, rng):
    locs = np.array([[-3.0, 2.0], [1.0, 5.0]]) + 0.2 * rng.normal(size=(CHAINS, DRAWS, 2, 2))
    locs[1] = locs[1][:, ::-1]
    draws["locs"] = locs


def lose(draws, stats, rng):
    draws["x"][0, 5, 1] = np.inf


CASES = {
    "apart": (apart, "worst R-hat"),
    "slow": (slow, "smallest ESS"),
    "slow tails": (slow_tails, r"in the tails \(mu\)"),
    "diverging": (diverge, "1 of 4000 transitions diverged"),
    "saturated": (saturate, "25% of the trajectories"),
    "energy": (low_energy, "too slowly in chain 2 "),
    "frozen": (freeze, "chain 2 hardly moved"),
    "far below": (far_below, "chain 3 is stuck at a log density of -307"),
    "far below, beside NaN": (far_below_and_one_without_numbers, "chains 0, 3 are stuck at a log density of nan, -307"),
    "one chain's trees": (all_trees_of_one, "chain 1 is stuck: 100% of the trajectories"),
    "switched": (switch, "labels of components seem to be switched between chains in 'locs'"),
    "switched vectors": (switch_vectors, "labels of components seem to be switched between chains in 'locs'"),
    "not finite": (lose, "draws of 'x' are not finite"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("error")
def test_a_fault_is_named(rng, case):
    spoil, words = CASES[case]
    draws, stats = healthy(rng)
    spoil(draws, stats, rng)
    found = diagnose(draws, stats)
    assert any(re.search(words, message) for message in found), found


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("chains", [1, 4, 20])
def test_healthy_draws_are_not_warned_of(chains):
    """A fixed seed: R-hat of twenty scalars goes above 1.01 by chance now and then."""
    draws, stats = healthy(np.random.default_rng(4), chains)
    draws["corr"] = np.ones((chains, DRAWS, 2, 2))  # constant by construction
    draws["locs"] = np.array([-3.0, 3.0]) + draws["x"][..., :2]
    assert diagnose(draws, stats) == []


def test_many_chains_that_are_stuck_are_told_of_at_once(rng):
    draws, stats = healthy(rng, 20)
    stats["lp"][5:8] = -307_000.0 - np.arange(3)[:, None]
    (said,) = [m for m in diagnose(draws, stats) if "stuck" in m]
    assert said.startswith("chains 5, 6, 7 are stuck at a log density of -307000, -307001, -307002, where the others")


def test_chains_that_are_short_but_agree_are_not_said_to_differ(rng):
    draws = {"x": rng.normal(size=(4, 90, 3))}
    (said,) = diagnose(draws, {})
    assert "smallest ESS" in said and ("R-hat" in said) == (evaluation.rhat(draws["x"]).max() > 1.01)


def test_chains_that_disagree_are_not_taken_for_switched_labels(rng):
    draws, stats = healthy(rng)
    apart(draws, stats, rng)
    assert not any("labels" in message for message in diagnose(draws, stats))


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_judged_is_let_be(rng):
    assert diagnose({}, {}) == []
    unmoved = diagnose({"k": np.zeros((2, 200), int)}, {"lp": np.full((2, 200), -np.inf)})
    assert len(unmoved) == 1 and unmoved[0].startswith("chains 0, 1 hardly moved (at most 0.0% of the transitions)")
    assert diagnose({"x": rng.normal(size=(2, 3))}, {}) == []


def test_much_is_judged_quickly_and_the_worst_scalar_is_found():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 500, 1000))
    stats = {"lp": x[..., 0], "energy": x[..., 1] + 0.0, "n_steps": np.full(x.shape[:2], 3)}
    began = time.process_time()
    assert diagnose({"x": x}, stats) == []
    assert time.process_time() - began < 2.0  # a quarter of a second on a quiet machine
    x[:, :, 777] += 0.3 * np.arange(64)[:, None]
    assert any("worst R-hat 4." in message for message in diagnose({"x": x}, stats))
    x[:, :, 777] = rng.normal(size=(64, 500)) * (1 + np.arange(64))[:, None]  # in scale alone
    assert any("worst R-hat 1." in message for message in diagnose({"x": x}, stats))
    x[:, :, 777] = lfilter([0.1], [1.0, -0.995], rng.normal(size=(64, 500)), axis=1)  # slow
    assert any("not mixed" in message for message in diagnose({"x": x}, stats))
