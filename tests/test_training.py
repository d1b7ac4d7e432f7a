"""Training by minibatches: what is the same again, what rows come from, what a step may be changed by."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import ppl_gen as pg

BACKENDS = ("numpyro", "pyro")
X = np.random.default_rng(0).random((60, 6)).astype("f4")
MODEL = pg.models.VAE(2, (6,), hidden=(5,))
QUIET = {"progress": False, "precision": "float32"}


def weights(backend, seed, engine="svi", **options):
    run = pg.infer(MODEL, X, engine, backend, seed, **QUIET, **options)
    return {n: x.tolist() for n, x in run.params.items() if "out" in n}


WAYS = {
    "minibatches": {"batch_size": 20, "num_steps": 4},
    "all rows": {"num_steps": 3, "num_samples": 1},
    "map": {"engine": "map", "num_steps": 2},
}


@pytest.fixture(scope="module")
def fresh():
    """What a new process finds of seed 2, by way and backend."""
    program = (
        "import json, warnings; warnings.simplefilter('ignore'); from tests import test_training as t; "
        "print(json.dumps({f'{w} {b}': t.weights(b, 2, **o) for w, o in t.WAYS.items() for b in t.BACKENDS}))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return json.loads(found.stdout)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_networks_start_by_the_seed_whatever_ran_before(fresh, way, backend):
    one, two = (weights(backend, seed, **WAYS[way]) for seed in (1, 2))
    assert two == fresh[f"{way} {backend}"]
    assert all(not np.allclose(one[n], two[n]) for n in one if "bias" not in n)
