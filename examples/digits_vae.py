"""A variational autoencoder of small images: what it makes of them, what it draws, and a map of what it knows.

Scikit-learn's 8 x 8 digits are whole numbers from 0 to 16: log p(x) is a log probability, told beside that
of pixels taken one by one. Pictures: the page ``digits_vae.html``, and the map of encodings, ``digits_vae_map.png``.

    python examples/digits_vae.py [numpyro|pyro]
"""

import os
import sys
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import ppl_gen as pg

OUT = Path(os.environ.get("PPL_GEN_EXAMPLE_OUT", "."))


def pixel_by_pixel(x, new):
    """log p of new images where each pixel has its own shares of the 17 levels, one added to each count."""
    counts = np.stack([(x == level).sum(0) + 1.0 for level in range(17)])
    log_p = np.log(counts / counts.sum(0))
    return sum(np.where(new == level, log_p[level], 0.0) for level in range(17)).reshape(len(new), -1).sum(1)


def draw_map(z, labels, path):
    figure, axis = plt.subplots(figsize=(6, 5), layout="constrained")
    shown = axis.scatter(*z.T, c=labels, cmap="tab10", s=8, vmin=-0.5, vmax=9.5)
    figure.colorbar(shown, ticks=range(10), label="digit")
    axis.set(xlabel="z 0", ylabel="z 1", title="Encodings of held-out digits")
    figure.savefig(path, dpi=120)


def main(backend="numpyro"):
    x, labels = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1)
    train, new = slice(0, 1400), slice(1400, None)
    model = pg.models.VAE(2, (8, 8, 1), "discretised_logistic", num_levels=17, hidden=(128, 128))
    run = pg.infer(
        model, x[train], "svi", backend, batch_size=100, learning_rate=2e-3, schedule="cosine",
        num_steps=int(os.environ.get("PPL_GEN_EXAMPLE_STEPS", 4000)), precision="float32",
    )  # fmt: skip
    bound, alone = run.log_prob(x[new]).mean(), pixel_by_pixel(x[train], x[new]).mean()
    print(f"{run!r}")
    print(f"log p(x) of held-out digits: {bound:.1f} nats ({run.log_prob_kind}); pixel by pixel {alone:.1f}")

    z = {name: run.encode(x[rows])["z"] for name, rows in (("train", train), ("new", new))}
    told = KNeighborsClassifier(15).fit(z["train"], labels[train]).score(z["new"], labels[new])
    print(f"two numbers of 64 tell {told:.0%} of the digits, which the model never saw the names of")
    draw_map(z["new"], labels[new], OUT / "digits_vae_map.png")
    print(f"{run.report(OUT / 'digits_vae.html')} has images, draws, reconstructions")
    assert bound > alone + 10.0
    assert told > 0.5


if __name__ == "__main__":
    main(*sys.argv[1:2])
