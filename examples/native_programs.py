"""An unchanged Pyro or NumPyro function is a program too: engines, ArviZ and saving work alike.

    python examples/native_programs.py [numpyro|pyro]
"""

import os
import sys
import tempfile

import numpy as np

import ppl_gen as pg

NUM_SAMPLES = int(os.environ.get("PPL_GEN_EXAMPLE_SAMPLES", 1000))  # fewer in the tests


def native_numpyro():
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def coin(flips):  # written for NumPyro, knows nothing of ppl_gen
        p = numpyro.sample("p", dist.Beta(2.0, 2.0))
        with numpyro.plate("flips", len(flips)):
            numpyro.sample("obs", dist.Bernoulli(jnp.asarray(p)), obs=flips)

    return coin


def native_pyro():
    import pyro
    import pyro.distributions as dist

    def coin(flips):  # written for Pyro
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("flips", len(flips)):
            pyro.sample("obs", dist.Bernoulli(p), obs=flips)

    return coin


def main(backend="numpyro", num_samples=NUM_SAMPLES):
    flips = np.array([1.0] * 7 + [0.0] * 3)
    function = native_numpyro() if backend == "numpyro" else native_pyro()
    coin = pg.program(function, backend=backend)
    run = pg.infer(coin, flips, engine="nuts", backend=backend, num_warmup=num_samples, num_samples=num_samples,
                   num_chains=2, progress=False)  # fmt: skip
    p = run.posterior["p"]
    # Beta(2, 2) and 7 heads of 10 make Beta(9, 5).
    mean, sd = 9 / 14, np.sqrt(9 * 5 / (14**2 * 15))
    print(f"{backend}: {p.mean():.3f} ± {p.std():.3f}; exactly {mean:.3f} ± {sd:.3f}")
    assert abs(p.mean() - mean) < 0.1 * sd * np.sqrt(4000 / p.size) + 0.02
    assert abs(p.std() - sd) < 0.1 * sd * np.sqrt(4000 / p.size) + 0.02

    # Saved as a folder, read back to the bit.
    with tempfile.TemporaryDirectory() as folder:
        run.save(f"{folder}/coin")
        again = pg.load(f"{folder}/coin", coin, flips)
        assert (again.posterior["p"] == p).all()


if __name__ == "__main__":
    main(*sys.argv[1:2])
