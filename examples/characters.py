"""A transformer that writes: characters of Python's own manual, which every Python ships.

A small causal transformer learns the text of ``help()`` character by character. Its likelihood of held-out text is
exact: nats per character, beside what single characters and pairs of them would give. Then it goes on from a prompt.

    python examples/characters.py [numpyro|pyro]
"""

import itertools
import os
import sys
from collections import Counter
from pydoc_data.topics import topics

import numpy as np

import ppl_gen as pg
from ppl_gen import evaluation

text = "".join(c for c in "\n".join(topics[name] for name in sorted(topics)) if c.isascii())
cut = len(text) * 9 // 10
train, held_out = text[:cut], text[cut:]
alphabet = "".join(sorted(set(text)))


def by_pairs():
    """Nats per character of the held-out text by counts of pairs, one added to each."""
    firsts, pairs = Counter(train[:-1]), Counter(itertools.pairwise(train))
    seen = itertools.pairwise(held_out)
    return -np.mean([np.log((pairs[a, b] + 1) / (firsts[a] + len(alphabet))) for a, b in seen])


def main(backend="numpyro"):
    model = pg.models.CausalTransformer(alphabet=alphabet, context=48, num_layers=2, num_heads=4, width=64)
    run = pg.infer(
        model, model.rows(train), "svi", backend, batch_size=16, learning_rate=3e-3, schedule="cosine", num_rising=50,
        clip_norm=1.0, num_steps=int(os.environ.get("PPL_GEN_EXAMPLE_STEPS", 1500)), precision="float32",
    )  # fmt: skip
    rows = model.rows(held_out)
    perplexity = evaluation.perplexity(run.log_prob(rows), rows.shape[1])
    print(f"{len(text):,} characters, {len(alphabet)} of them different; {run!r}")
    print(f"held out: {np.log(perplexity):.3f} nats per character, perplexity {perplexity:.2f} ({run.log_prob_kind})")
    print(f"by pairs of characters: {by_pairs():.3f} nats")
    for temperature in (0.5, 1.0):
        print(f"\n--- temperature {temperature} " + "-" * 60)
        print(run.generate("The class statement ", 300, temperature=temperature)[0])
    assert np.log(perplexity) < by_pairs() - 0.15


if __name__ == "__main__":
    main(*sys.argv[1:2])
