"""Chains of discrete latents against the sum over all paths, and against the recursions in log space."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import logsumexp

from ppl_gen import backends, markov, markov_blocks

BACKENDS = ("numpyro", "pyro")
RNG = np.random.default_rng(3)
K = 3


@pytest.fixture(params=BACKENDS)
def room(request):
    with backends.get(request.param).scope() as active:
        yield active


def log(x):
    with np.errstate(divide="ignore"):
        return np.log(x)


def paths(initial, transition, emission):
    """All paths of one chain (paths, T), and their log weights."""
    num_steps, k = emission.shape
    z = np.array(list(itertools.product(range(k), repeat=num_steps)))
    at = np.arange(num_steps)
    links = np.broadcast_to(transition, (num_steps - 1, k, k))
    return z, initial[z[:, 0]] + emission[at, z].sum(1) + links[at[:-1], z[:, :-1], z[:, 1:]].sum(1)


def by_paths(initial, transition, emission):
    """Log marginal, posterior (T, K) and transitions (T-1, K, K) as sums over all paths."""
    z, weight = paths(initial, transition, emission)
    total = logsumexp(weight)
    hot = np.eye(emission.shape[1])[z]
    p = np.exp(weight - total)
    return total, np.einsum("p,ptk->tk", p, hot), np.einsum("p,pti,ptj->tij", p, hot[:, :-1], hot[:, 1:])


def by_recursion(initial, transition, emission):
    """The same in log space, step after step; scaled, so that long chains keep their digits."""
    num_steps, k = emission.shape
    a, total = np.empty((num_steps, k)), 0.0
    predicted = initial
    for t in range(num_steps):
        step = logsumexp(predicted + emission[t])
        a[t], total = predicted + emission[t] - step, total + step
        predicted = logsumexp(a[t][:, None] + transition, 0)
    gamma, pairs, v = np.exp(a), np.zeros((k, k)), np.zeros(k)
    for t in range(num_steps - 2, -1, -1):
        out = transition + emission[t + 1] + v
        out = out - logsumexp(a[t][:, None] + out)
        v = logsumexp(out, 1)
        gamma[t], pairs = np.exp(a[t] + v), pairs + np.exp(a[t][:, None] + out)
    return total, gamma, pairs


UPPER = np.triu(np.array([[0.6, 0.3, 0.1], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]))
SHORT = {  # initial, transition, emission of two chains
    "one step": (RNG.normal(size=K), RNG.normal(size=(K, K)), RNG.normal(size=(2, 1, K))),
    "two steps": (RNG.normal(size=K), RNG.normal(size=(K, K)), RNG.normal(size=(2, 2, K))),
    "not normalised": (RNG.normal(size=K), RNG.normal(size=(K, K)), RNG.normal(size=(2, 6, K))),
    "left to right": (log(np.array([1.0, 0, 0])), log(UPPER), RNG.normal(size=(2, 6, K))),
    "extreme": (RNG.normal(size=K), RNG.normal(size=(K, K)), RNG.normal(size=(2, 6, K)) * 1e4),
    "extreme, left to right": (log(np.array([1.0, 0, 0])), log(UPPER), RNG.normal(size=(2, 6, K)) * 1e4),
    "one matrix a step": (RNG.normal(size=K), RNG.normal(size=(2, 5, K, K)), RNG.normal(size=(2, 6, K))),
    "a chain of its own each": (RNG.normal(size=(2, K)), RNG.normal(size=(2, K, K)), RNG.normal(size=(2, 6, K))),
}


def _each(initial, transition, emission):
    """The chains of a batch of two one by one; a matrix a step has four axes."""
    for n, e in enumerate(emission):
        yield initial if initial.ndim == 1 else initial[n], transition if transition.ndim == 2 else transition[n], e


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("case", SHORT)
def test_marginal_and_its_derivatives_are_sums_over_all_paths(case, small, room, monkeypatch):
    if not small:
        monkeypatch.setattr(markov, "_SMALL", 0)
    xp, chain = room.xp, SHORT[case]
    totals, gammas, pairs = zip(*(by_paths(*c) for c in _each(*chain)), strict=True)
    args = [room.asarray(x) for x in chain]

    def total(args):
        return xp.sum(markov.log_marginal(xp, *args))

    np.testing.assert_allclose(
        room.to_numpy(room.compile(lambda *args: markov.log_marginal(xp, *args))(*args)), totals, rtol=1e-13
    )
    value, (initial, transition, emission) = room.to_numpy(room.compile(room.value_and_grad(total))(args))
    assert value == pytest.approx(sum(totals), rel=1e-13)
    np.testing.assert_allclose(emission, np.stack(gammas), atol=1e-9)
    first = np.stack(gammas)[:, 0]
    np.testing.assert_allclose(initial, first if initial.ndim == 2 else first.sum(0), atol=1e-9)
    each = np.stack(pairs)
    expected = {2: each.sum((0, 1)), 3: each.sum(1), 4: each}[transition.ndim]
    np.testing.assert_allclose(transition, expected, atol=1e-9)


@pytest.mark.parametrize("case", SHORT)
def test_forward_backward_is_the_sum_over_all_paths(case, room):
    chain = SHORT[case]
    totals, gammas, pairs = zip(*(by_paths(*c) for c in _each(*chain)), strict=True)
    found = room.to_numpy(markov.forward_backward(room.xp, *(room.asarray(x) for x in chain)))
    np.testing.assert_allclose(found[0], totals, rtol=1e-13)
    np.testing.assert_allclose(found[1], np.stack(gammas), atol=1e-9)
    np.testing.assert_allclose(found[2], np.stack(pairs).sum(1), atol=1e-9)


# Long chains --------------------------------------------------------------------------------------------------------

STEPS = 1103  # a prime: the last block is not full
STICKY = np.eye(K) * (1 - 1e-6) + (1 - np.eye(K)) * 0.5e-6
NOISE = RNG.normal(size=(2, STEPS, K))
LONG = {  # with what is done beside a guess and one pass
    "forgets": (np.ones(K) / K, RNG.dirichlet(np.ones(K), K), NOISE, set()),
    "does not forget": (np.eye(K)[0], STICKY, NOISE * 1e-3, {"exact_borders"}),
    "left to right": (np.eye(K)[0], UPPER, NOISE + np.repeat(np.eye(K), [400, 400, 303], 0) * 3, set()),
    "never moves, extreme": (np.ones(K) / K, np.eye(K), NOISE * 100, {"in_logs"}),
    "left to right, extreme": (np.eye(K)[0], UPPER, NOISE * 1e4, {"in_logs"}),
}


@pytest.mark.parametrize("case", LONG)
def test_long_chains(case, room, monkeypatch):
    initial, transition, emission, expected = LONG[case]
    chain = log(initial), log(transition), emission
    done = set()
    for name in ("exact_borders", "in_logs"):
        plain = getattr(markov_blocks._Run, name)
        monkeypatch.setattr(markov_blocks._Run, name, lambda run, n=name, f=plain: (done.add(n), f(run))[1])
    infer = room.compile(lambda *args: markov.forward_backward(room.xp, *args))
    found = room.to_numpy(infer(*(room.asarray(x) for x in chain)))
    totals, gammas, pairs = zip(*(by_recursion(*chain[:2], e) for e in emission), strict=True)
    np.testing.assert_allclose(found[0], totals, rtol=1e-12, atol=1e-11)
    size = max(np.abs(emission).max(), 1.0)  # log space keeps 16 digits of it
    np.testing.assert_allclose(found[1], np.stack(gammas), atol=1e-11 * size)
    np.testing.assert_allclose(found[2], np.stack(pairs), atol=1e-8 * size)
    if room.name == "pyro":  # JAX traces what it does not run
        assert done == expected


@pytest.mark.parametrize("num_steps", [8, STEPS])
def test_impossible_chains_have_no_probability_and_no_nan(num_steps, room):
    emission = np.where(np.arange(num_steps)[:, None] == 4, -np.inf, NOISE[0, :num_steps])
    args = [room.asarray(x) for x in (log(np.eye(K)[0]), log(UPPER), emission)]
    infer = room.compile(lambda *args: markov.forward_backward(room.xp, *args))
    total, gamma, pairs = room.to_numpy(infer(*args))
    assert total == -np.inf and not gamma.any() and not pairs.any()
    both = room.value_and_grad(lambda emission, *links: markov.log_marginal(room.xp, *links, emission))
    value, gradient = room.compile(both)(args[2], *args[:2])
    assert float(value) == -np.inf and np.isfinite(room.to_numpy(gradient)).all()


def test_mapped_over_parameters_it_is_each_by_itself(room):
    initial, transition = RNG.dirichlet(np.ones(K), 2), RNG.dirichlet(np.ones(K), (2, K))

    def total(transition, initial, emission):
        return room.xp.sum(markov.log_marginal(room.xp, initial, transition, emission))

    both = room.value_and_grad(total)
    args = [room.asarray(x) for x in (log(transition), log(initial), NOISE)]
    mapped = room.to_numpy(room.compile(room.vmap(both, in_axes=(0, 0, None)))(*args))
    for n in range(2):
        chains = [by_recursion(log(initial[n]), log(transition[n]), e) for e in NOISE]
        assert mapped[0][n] == pytest.approx(sum(c[0] for c in chains), rel=1e-12)
        np.testing.assert_allclose(mapped[1][n], sum(c[2] for c in chains), atol=1e-8)


def test_single_precision_agrees_with_double():
    for name in BACKENDS:
        with backends.get(name).scope(precision="float32") as room:
            args = [room.asarray(x) for x in (log(np.ones(K) / K), log(LONG["forgets"][1]), NOISE)]
            total, gamma, _ = room.to_numpy(markov.forward_backward(room.xp, *args))
        expected = [by_recursion(log(np.ones(K) / K), log(LONG["forgets"][1]), e) for e in NOISE]
        np.testing.assert_allclose(total, [e[0] for e in expected], rtol=1e-4)
        np.testing.assert_allclose(gamma, np.stack([e[1] for e in expected]), atol=1e-4)


# Paths --------------------------------------------------------------------------------------------------------------


def score(initial, transition, emission, z):
    """The log weight of one path."""
    return initial[z[0]] + transition[z[:-1], z[1:]].sum() + emission[np.arange(len(z)), z].sum()


def best_score(initial, transition, emission):
    """That of the best path, by the recursion over all steps."""
    scores = initial + emission[0]
    for e in emission[1:]:
        scores = (scores[:, None] + transition).max(0) + e
    return scores.max()


@pytest.mark.parametrize("case", [name for name, chain in SHORT.items() if chain[0].ndim == 1 and chain[1].ndim == 2])
def test_viterbi_finds_the_best_of_all_paths(case, room):
    chain = SHORT[case]
    found = room.to_numpy(markov.viterbi(room.xp, *(room.asarray(x) for x in chain)))
    for emission, path in zip(chain[2], found, strict=True):
        z, weight = paths(*chain[:2], emission)
        np.testing.assert_array_equal(path, z[weight.argmax()])


@pytest.mark.parametrize("case", LONG)
def test_viterbi_on_long_chains(case, room):
    initial, transition, emission, _ = LONG[case]
    chain, lengths = (log(initial), log(transition), emission), np.array([STEPS, 700])
    infer = room.compile(lambda *args: markov.viterbi(room.xp, *args))
    found = room.to_numpy(infer(*(room.asarray(x) for x in chain), room.asarray(lengths)))
    for e, path, length in zip(emission, found, lengths, strict=True):
        expected = best_score(*chain[:2], e[:length])
        assert score(*chain[:2], e[:length], path[:length]) == pytest.approx(expected, rel=1e-12, abs=1e-9)
        assert (path[length:] == path[length - 1]).all()


def test_simulated_paths_have_the_probabilities_of_the_chain(room):
    """Within five standard errors, over 20,000 paths; impossible transitions never occur."""
    initial = np.array([0.2, 0.5, 0.3])
    uniform = np.random.default_rng(1).random((20_000, 6))
    z = room.to_numpy(markov.simulate(room.xp, *(room.asarray(x) for x in (initial, UPPER, uniform))))
    share = np.bincount(z[:, 0], minlength=K) / len(z)
    assert (np.abs(share - initial) < 5 * np.sqrt(initial * (1 - initial) / len(z))).all()
    for state in range(K):
        after = z[z[:, 2] == state, 3]
        share, p = np.bincount(after, minlength=K) / len(after), UPPER[state]
        assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / len(after))).all()


def test_shapes_that_are_no_chain():
    with backends.get("numpyro").scope() as room, pytest.raises(ValueError, match="log_emission"):
        zeros = room.xp.zeros
        markov.log_marginal(room.xp, zeros((2,)), zeros((4, 2, 2)), zeros((9, 2)))
