"""Two moons out of noise: a diffusion and a flow-matching model of the same data, and the way that their draws take.

Both are trained without ever being drawn from, and drawn from by samplers that solve an equation from noise to data.
The picture, ``noise_to_data.png``, shows draws at five times along it. Their distance to new data is compared with that
of other data of the same kind.

    python examples/noise_to_data.py [numpyro|pyro]
"""

import os
import sys
from pathlib import Path

from matplotlib.figure import Figure
from sklearn.datasets import make_moons

import ppl_gen as pg
from ppl_gen.evaluation import energy_distance

OUT = Path(os.environ.get("PPL_GEN_EXAMPLE_OUT", "."))
STEPS = int(os.environ.get("PPL_GEN_EXAMPLE_STEPS", 5000))
DRAWS = 1000


def two_moons(n, seed):
    x, _ = make_moons(n, noise=0.05, random_state=seed)
    return (x - [0.5, 0.25]) / [0.87, 0.5]


def picture(ways, path):
    """A row for each model; columns are times from noise to data."""
    shown = (0.0, 0.4, 0.7, 0.85, 1.0)
    figure = Figure(figsize=(2 * len(shown), 2.2 * len(ways)), layout="constrained")
    axes = figure.subplots(len(ways), len(shown), sharex=True, sharey=True, squeeze=False)
    for row, (name, way) in zip(axes, ways.items()):
        for axis, share in zip(row, shown):
            axis.plot(*way[round(share * (len(way) - 1))].T, ".", markersize=1.5, color="C0")
            axis.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
        row[0].set_ylabel(name)
    figure.savefig(path, dpi=120)
    return path


def main(backend="numpyro"):
    x, new, other = two_moons(5000, 0), two_moons(DRAWS, 1), two_moons(DRAWS, 2)
    ways, like_data = {}, energy_distance(new, other)
    for name, model, engine in (
        ("diffusion", pg.models.Diffusion((2,)), "score_matching"),
        ("flow matching", pg.models.FlowMatching((2,)), "flow_matching"),
    ):
        run = pg.infer(model, x, engine, backend, num_steps=STEPS, learning_rate=2e-3, precision="float32")
        ways[name] = run.sample(DRAWS, trajectory=True)
        away = energy_distance(ways[name][-1], new)
        print(f"{name}: energy distance to new data {away:.4f}; of other data {like_data:.4f}, of noise "
              f"{energy_distance(ways[name][0], new):.4f}")  # fmt: skip
        assert away < 0.05
    print(f"{picture(ways, OUT / 'noise_to_data.png')} shows the way")


if __name__ == "__main__":
    main(*sys.argv[1:2])
