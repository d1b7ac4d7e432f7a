"""Autoregressive models: likelihoods that sum to 1, draws that agree with them, the same numbers on both backends."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from scipy import stats
from scipy.special import log_softmax, logsumexp, softmax

import ppl_gen as pg
from ppl_gen import evaluation, nets
from ppl_gen.models._one_by_one import LogisticPixel

BACKENDS = ("numpyro", "pyro")
MADE, PixelCNN, CausalTransformer = pg.models.MADE, pg.models.PixelCNN, pg.models.CausalTransformer
LIBRARY = {"numpyro": "jax", "pyro": "torch"}


def words(values, length):
    """All sequences (values^length, length)."""
    return np.array(list(itertools.product(range(values), repeat=length)))


BITS = words(2, 12).astype(float)
ORDER = tuple(int(i) for i in np.random.default_rng(4).permutation(12))
PIXELS = words(2, 4).reshape(-1, 2, 2, 1)
TOKENS = words(3, 4)
SMALL = CausalTransformer(num_tokens=3, context=4, num_layers=2, num_heads=2, width=8)
CASES = {  # a model and everything that there is of its data
    "MADE": (MADE(12, hidden=(24,), order=ORDER), BITS),
    "PixelCNN": (PixelCNN((2, 2, 1), "bernoulli", width=8, num_layers=2, kernel_size=3), PIXELS),
    "CausalTransformer": (SMALL, TOKENS),
}


def trained(model, x, backend, num_steps=200, **options):
    settings = {"batch_size": 50, "num_steps": num_steps, "learning_rate": 0.01, "progress": False}
    return pg.infer(model, x, "svi", backend, **{**settings, **options})


def sampled(everything, num_rows=1000):
    """Rows of some data, a few of all there are mostly."""
    rng = np.random.default_rng(0)
    few, any_row = rng.choice(len(everything), 6, replace=False), rng.integers(len(everything), size=num_rows)
    return everything[np.where(rng.random(num_rows) < 0.8, rng.choice(few, num_rows), any_row)]


@functools.cache
def run_of(case, backend):
    model, everything = CASES[case]
    return trained(model, sampled(everything), backend)


def with_any_weights(run):
    """The same with weights that no training has seen."""
    rng = np.random.default_rng(1)
    return replace(run, params={n: rng.normal(size=x.shape) for n, x in run.params.items()})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_the_likelihood_sums_to_one_with_any_weights_and_learned_ones(case, backend):
    everything, learned = CASES[case][1], run_of(case, backend)
    untrained = with_any_weights(learned)
    for run in (untrained, learned):
        assert run.log_prob_kind == "exact"
        np.testing.assert_allclose(logsumexp(run.log_prob(everything)), 0.0, atol=1e-10)
    x = sampled(everything)
    assert learned.log_prob(x).mean() > untrained.log_prob(x).mean() + 0.5
    assert learned.log_prob(x).mean() > -np.log(len(everything)) + 0.5  # of equal ones


@pytest.mark.parametrize("case", CASES)
def test_both_backends_give_the_same_numbers(case):
    """From the same weights and rows the losses of the first steps agree; rounding grows along the later ones."""
    one, other = (run_of(case, backend).history for backend in BACKENDS)
    np.testing.assert_allclose(one["loss"][:40], other["loss"][:40], rtol=1e-7)
    np.testing.assert_allclose(one["gradient_norm"][:40], other["gradient_norm"][:40], rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_draws_agree_with_the_density(case, backend):
    """A chi-squared test at a level of 1e-6, what is expected less than five times taken together."""
    run, everything, count = run_of(case, backend), CASES[case][1], 4000
    codes = {tuple(row.ravel()): i for i, row in enumerate(everything)}
    found = np.bincount([codes[tuple(row.ravel())] for row in run.sample(count, seed=7)], minlength=len(everything))
    check_counts(found, count * np.exp(run.log_prob(everything)))


def check_counts(found, awaited):
    often = awaited >= 5
    both = [np.append(n[often], n[~often].sum()) for n in (found, awaited)]
    kept = both[1] > 1.0
    assert both[0][kept].sum() > 0.999 * found.sum()
    assert stats.chisquare(both[0][kept], both[1][kept] * both[0][kept].sum() / both[1][kept].sum()).pvalue > 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_sequences_longer_than_the_context_sum_to_one(backend):
    run = with_any_weights(run_of("CausalTransformer", backend))
    np.testing.assert_allclose(logsumexp(run.log_prob(words(3, 7))), 0.0, atol=1e-10)


# Real numbers and levels ------------------------------------------------------------------------------------------


def two_modes(num_rows):
    """x1 ~ N(-1, 0.3^2) or N(1, 0.3^2), x2 | x1 ~ N(x1^2 - 1, 0.5^2), and its log density."""
    rng = np.random.default_rng(0)
    x1 = np.where(rng.random(num_rows) < 0.5, -1.0, 1.0) + 0.3 * rng.normal(size=num_rows)
    x = np.column_stack([x1, x1**2 - 1.0 + 0.5 * rng.normal(size=num_rows)])
    first = np.logaddexp(stats.norm.logpdf(x1, -1.0, 0.3), stats.norm.logpdf(x1, 1.0, 0.3)) - np.log(2.0)
    return x, first + stats.norm.logpdf(x[:, 1], x1**2 - 1.0, 0.5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixtures_of_gaussians_learn_a_density_that_integrates_to_one(backend):
    """The first feature, of which no other says anything, has two modes: components must not start in one place."""
    x, truth = two_modes(2000)
    model = MADE(2, "gaussian_mixture", (32,), num_components=3)
    run = trained(model, x, backend, 1000, batch_size=100, schedule="cosine")
    assert abs(run.log_prob(x).mean() - truth.mean()) < 0.05
    side = np.linspace(-6.0, 8.0, 281)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    assert abs(np.exp(run.log_prob(grid)).sum() * (side[1] - side[0]) ** 2 - 1.0) < 1e-3
    drawn = run.sample(2000)
    assert all(stats.ks_2samp(drawn[:, d], x[:, d]).pvalue > 1e-5 for d in range(2))
    spread = run.log_prob(drawn).std() / np.sqrt(2000)
    assert abs(run.log_prob(drawn).mean() - run.log_prob(x).mean()) < 8 * spread


@pytest.mark.parametrize("backend", [pytest.param("numpyro", marks=pytest.mark.slow), "pyro"])
def test_levels_of_three_channels_sum_to_one_and_follow_each_other_and_the_class(backend):
    """A pixel of three equal channels, 0 or 1 in the first class, 2 or 3 in the second."""
    label = np.arange(600) % 2
    x = (2 * label + np.random.default_rng(0).integers(0, 2, 600))[:, None, None, None] * np.ones((1, 1, 1, 3))
    model = PixelCNN((1, 1, 3), num_components=3, num_levels=4, width=8, num_layers=2, kernel_size=3, num_classes=2)
    run = trained(model, {"x": x, "label": label}, backend, 300, learning_rate=0.03)
    everything = words(4, 3).reshape(-1, 1, 1, 3)
    for one in range(2):
        found = run.log_prob({"x": everything, "label": np.full(64, one)})
        np.testing.assert_allclose(logsumexp(found), 0.0, atol=1e-10)
    assert run.log_prob({"x": x, "label": label}).mean() > np.log(0.5) - 0.5  # channels apart: 3 log 0.5
    drawn = run.sample(400)
    assert (np.ptp(drawn, axis=-1) == 0).mean() > 0.7
    assert (drawn[::2] < 2).mean() > 0.9 and (drawn[1::2] > 1).mean() > 0.9


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_of_a_pixel_have_the_masses_that_are_said_of_it(backend):
    part, rng = LogisticPixel(2, 3, num_levels=3), np.random.default_rng(0)
    says = rng.normal(size=part.size)
    with pg.on(backend) as room:
        log_prob = room.to_numpy(part.log_prob(room.asarray(words(3, 2) * 1.0), room.asarray(says)))
        drawn = room.to_numpy(part.draw(room.asarray(rng.normal(size=(20_000, 3))), room.asarray(says)))
    np.testing.assert_allclose(np.exp(log_prob).sum(), 1.0, rtol=1e-12)
    check_counts(np.bincount((drawn @ [3, 1]).astype(int), minlength=9), 20_000 * np.exp(log_prob))


# What depends on what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian_mixture"])
def test_conditionals_see_what_is_before_them_in_the_order(likelihood):
    model = MADE(12, likelihood, (40, 40), "tanh", 2, ORDER)
    made = model._net().build("jax")
    said = jax.jacobian(lambda x: made(x))(jnp.asarray(np.random.default_rng(0).normal(size=12), jnp.float32))
    seen = np.abs(np.asarray(said)).sum(1) > 0
    assert (seen == (np.array(ORDER)[None, :] < np.array(ORDER)[:, None])).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretised_logistic"])
def test_images_drawn_row_by_row_are_those_of_a_whole_pass_for_each_pixel(backend, likelihood):
    model = PixelCNN((3, 4, 2), likelihood, 2, 5, width=8, num_layers=3, kernel_size=3)
    part, rng = model._part(), np.random.default_rng(0)
    noise = rng.normal(size=(2, 12, part.noise_width))
    held = {n: x + 0.2 * rng.normal(size=x.shape).astype("f4") for n, x in model._net().start(0).items()}
    with pg.on(backend, precision="float32") as room:
        net = model._net().build(LIBRARY[backend])
        nets.load(net, held)
        e = room.asarray(noise)
        found = room.to_numpy(model._draw(functools.partial(net, label=None), e))
        x = np.zeros((2, 12, 2))
        for i in range(12):
            says = net(part.scaled(room.asarray(x.reshape(2, 3, 4, 2)))).reshape((2, 12, part.size))
            x[:, i] = room.to_numpy(part.draw(e[:, i], says[:, i]))
    assert np.array_equal(found, x.reshape(2, 3, 4, 2)) and len(np.unique(found)) > 1


# Sequences --------------------------------------------------------------------------------------------------------

TEXT = "the cat sat on the mat, and the rat sat on the cat. " * 40
ALPHABET = "".join(sorted(set(TEXT)))
LETTERS = CausalTransformer(alphabet=ALPHABET, context=16, num_layers=2, num_heads=2, width=32)


@functools.cache
def of_letters(backend):
    return trained(LETTERS, LETTERS.rows(TEXT), backend, 300, batch_size=12, schedule="cosine")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.7, 4), (2.0, 1)])
def test_tokens_drawn_with_a_cache_are_those_of_whole_passes(backend, temperature, top_k):
    """By the inverse distribution function of the same uniform numbers; logits agree to rounding."""
    run, prompt, count = of_letters(backend), "the rat", 40
    texts = run.generate(prompt, count, 3, temperature, top_k, seed=5)
    tokens = np.zeros((3, 1 + len(prompt) + count), int)  # those to come are not seen
    tokens[:, : 1 + len(prompt)] = [len(ALPHABET), *LETTERS.encode(prompt)]
    with pg.on(backend) as room:
        net = _network(run, room)
        uniform = room.to_numpy(room.noise(5, 0, {"u": ("uniform", (3,))}, 64)["u"])
        for at in range(len(prompt), len(prompt) + count):
            logits = room.to_numpy(net(room.asarray(tokens)))[:, at, :-1] / temperature
            if top_k is not None:
                logits = np.where(logits < np.sort(logits)[:, -top_k, None], -np.inf, logits)
            edges = np.cumsum(softmax(logits, axis=1), axis=1)
            tokens[:, at + 1] = (uniform[at][:, None] >= edges[:, :-1]).sum(1)
    assert texts == [LETTERS.decode(row[1:]) for row in tokens]
    assert (len(set(texts)) == 1) == (top_k == 1)


def _network(run, room):
    """The network of a run of letters, in its precision."""
    net = LETTERS._net().build(room.array_library)
    weights = {n.removeprefix("net."): x for n, x in run.params.items()}
    if room.array_library == "torch":
        net.double().load_state_dict({n: torch.as_tensor(x) for n, x in weights.items()})
        return lambda *inputs: torch.no_grad()(net)(*inputs)
    nnx.update(net, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(net, nnx.Param)))
    nets.load(net, weights)
    return net


@pytest.mark.parametrize("backend", BACKENDS)
def test_text_goes_in_and_comes_out(backend):
    run, rows = of_letters(backend), LETTERS.rows(TEXT)
    assert rows.shape == (len(TEXT) // 16, 16) and LETTERS.decode(rows.ravel()) == TEXT[: rows.size]
    written = run.generate("the cat ", 60, temperature=0.5)[0]
    assert written.startswith("the cat ") and len(written) == 68
    assert np.mean([written[i : i + 3] in TEXT for i in range(66)]) > 0.7
    nothing = run.generate(num_tokens=60, num_texts=2)
    assert len(nothing) == 2 and all(len(text) == 60 and set(text) <= set(ALPHABET) for text in nothing)
    assert run.generate(num_tokens=60, num_texts=2) == nothing != run.generate(num_tokens=60, num_texts=2, seed=1)
    found = evaluation.perplexity(run.log_prob(rows), rows.shape[1])
    assert found == pytest.approx(np.exp(-run.log_prob(rows).sum() / rows.size))
    assert 1.0 < found < 2.0 < len(ALPHABET) / 2 < evaluation.perplexity(run.log_prob(rows[:, ::-1]), rows.shape[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_text_is_one_sequence(backend):
    """Block by block of the context, as its tokens come one after the other with a cache."""
    run, total, before = of_letters(backend), 0.0, len(ALPHABET)
    tokens = LETTERS.encode(TEXT[:70])
    with pg.on(backend) as room:
        net, cache = _network(run, room), LETTERS._net().start_cache(room.xp, 1)
        for token in tokens:
            logits, cache = net(room.asarray(np.array([[before]])), cache)
            total += log_softmax(room.to_numpy(logits)[0, 0, :-1])[token]
            before = token
    assert run.log_prob(tokens[None])[0] == pytest.approx(total, rel=1e-9)


def test_bytes_and_tokens_without_text():
    model, said = CausalTransformer(), "Zürich, 東京 🚲 "
    assert model.decode(model.encode(said)) == said and 128 < model.encode(said).max() < 256
    found = run_of("CausalTransformer", "numpyro").generate([0, 2], 5, 2)
    assert [list(row[:2]) for row in found] == [[0, 2]] * 2 and np.shape(found) == (2, 7)


def test_a_run_of_text_is_kept_with_its_alphabet(tmp_path):
    run = of_letters("numpyro")
    again = pg.load(run.save(tmp_path / "run"), LETTERS)
    assert again.generate("the ", 20) == run.generate("the ", 20)
    other = CausalTransformer(alphabet=ALPHABET[::-1], context=16, num_layers=2, num_heads=2, width=32)
    with pytest.raises(ValueError, match="pass the model that was fitted"):
        pg.load(tmp_path / "run", other)


# Bad input --------------------------------------------------------------------------------------------------------

LEVELS = PixelCNN((2, 2, 3))
SHADES = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 3))
BAD = [
    (MADE(4), np.random.default_rng(0).random((8, 4)) * 255, "zeros and ones, and x has .* to .*: cut pixels"),
    (MADE(4), np.zeros((8, 5)), r"MADE expects x of shape \(N, 4\), got \(8, 5\)"),
    (LEVELS, SHADES / 255, r"whole numbers from 0 to 255, and it has .* with fractions: .* np.round\(255 \* x\)"),
    (LEVELS, SHADES + 1.5, "whole numbers from 0 to 255, and it has .*, some with fractions$"),
    (LEVELS, SHADES + 200, "whole numbers from 0 to 255, and it has 2.. to 4..$"),
    (LEVELS, np.moveaxis(SHADES, -1, 1), r"channels come last, np.moveaxis\(x, 1, -1\)"),
    (LEVELS, SHADES.reshape(8, -1), r"got \(8, 12\): x.reshape\(-1, 2, 2, 3\)"),
    (PixelCNN((2, 2, 3), "bernoulli"), SHADES, "zeros and ones, and x has 0 to 25"),
    (PixelCNN((2, 2, 3), num_classes=4), SHADES, r"num_classes=4 takes a label \(N,\)"),
    (LEVELS, {"x": SHADES, "label": np.arange(8)}, "num_classes=0 takes no label"),
    (PixelCNN((2, 2, 3), num_classes=4), {"x": SHADES, "label": np.arange(8)}, "label must hold .* from 0 to 3"),
    (SMALL, TOKENS + 1, "tokens must hold whole numbers from 0 to 2, and it has 1 to 3"),
    (SMALL, TOKENS[0], r"tokens of shape \(N, T\), got \(4,\): one sequence is tokens\[None\]"),
]


@pytest.mark.parametrize(("model", "data", "message"), BAD)
def test_data_that_do_not_fit(model, data, message):
    with pytest.raises(pg.DataError, match=message):
        trained(model, data, "numpyro", batch_size=4)


REFUSED = [
    (lambda: MADE(4, "poisson"), ValueError, "likelihood must be one of 'bernoulli', 'gaussian_mixture'"),
    (lambda: MADE(3, order=(0, 1, 1)), ValueError, "order must be a permutation of 0 to 2"),
    (lambda: PixelCNN((2, 2, 3), num_levels=1), ValueError, "num_levels must be at least 2"),
    (lambda: CausalTransformer(alphabet="aba"), ValueError, "alphabet must name every character once.*'a' more than"),
    (lambda: CausalTransformer(alphabet=""), ValueError, "it is empty"),
    (lambda: CausalTransformer(3, "abc"), ValueError, "leave out num_tokens"),
    (lambda: LETTERS.rows(""), pg.DataError, "at least one token"),
    (lambda: LETTERS.rows("the cat"), pg.DataError, "a text of 7 tokens has no row of 16"),
    (lambda: LETTERS.encode("THE cat"), pg.DataError, "has 'E', 'H', 'T', which the alphabet of 14 characters lacks"),
    (lambda: SMALL.encode("cat"), pg.DataError, "tokens without text: pass whole numbers"),
    (lambda: of_letters("numpyro").generate(""), pg.DataError, "at least one token"),
    (lambda: of_letters("numpyro").generate("the", 0), ValueError, "num_tokens must be a whole number of at least 1"),
    (lambda: of_letters("numpyro").generate("the", top_k=0), ValueError, "top_k must be a whole number"),
    (lambda: of_letters("numpyro").generate("the", temperature=0), ValueError, "temperature must be .* top_k=1"),
    (lambda: run_of("MADE", "numpyro").generate(), pg.UnsupportedError, "generate goes on with sequences, and MADE"),
]


@pytest.mark.parametrize(("bad", "error", "message"), REFUSED)
def test_what_is_refused(bad, error, message):
    with pytest.raises(error, match=message):
        bad()


# Acceptance -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shakespeare_in_less_than_1_95_nats_a_character(data_dir, backend="numpyro"):
    """4 layers, 4 heads, width 128, context 64, batch 12, 2,000 iterations; the whole validation part.

    On one backend alone, since it takes minutes; that both learn alike is tested above.
    """
    text = (data_dir / "text" / "tinyshakespeare.txt").read_text()
    cut = len(text) * 9 // 10
    model = CausalTransformer(alphabet="".join(sorted(set(text))))
    run = trained(
        model, model.rows(text[:cut]), backend, 2000, batch_size=12, learning_rate=1e-3, schedule="cosine",
        num_rising=100, clip_norm=1.0, precision="float32",
    )  # fmt: skip
    rows = model.rows(text[cut:])
    rest = model.encode(text[cut:])[rows.size :]
    total = run.log_prob(rows).sum() + run.log_prob(rest[None]).sum()
    assert -total / len(text[cut:]) <= 1.95
