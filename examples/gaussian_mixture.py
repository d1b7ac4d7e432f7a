"""A mixture of Gaussians by EM and by SVI: which component a datum came from is summed out for you.

    python examples/gaussian_mixture.py [numpyro|pyro]
"""

import os
import sys

import numpy as np

import ppl_gen as pg

NUM_STEPS = int(os.environ.get("PPL_GEN_EXAMPLE_STEPS", 2000))  # fewer in the tests


def make_data(n=400, seed=0):
    """Two clusters, 30% and 70%, at (-2, 0) and (2, 1)."""
    rng = np.random.default_rng(seed)
    label = rng.random(n) < 0.7
    centre = np.where(label[:, None], [2.0, 1.0], [-2.0, 0.0])
    return centre + 0.5 * rng.standard_normal((n, 2)), label


def main(backend="numpyro", num_steps=NUM_STEPS):
    x, label = make_data()
    model = pg.models.GaussianMixture(2, covariance_type="spherical")

    # EM: a point, with closed-form steps; components come in the order of their first coordinate.
    em = pg.infer(model, x, engine="em", backend=backend, progress=False)
    clusters = x[~label], x[label]
    log_likelihood = em.history["log_likelihood"]
    print(f"EM on {backend}: weights {em.params['weights'].round(3)}, log likelihood {log_likelihood[-1]:.4f}")
    assert (np.diff(log_likelihood) > -1e-8).all()  # it never falls
    # The clusters do not overlap: the maximum likelihood is each cluster's own share, mean and spread.
    np.testing.assert_allclose(em.params["weights"], [len(c) / len(x) for c in clusters], atol=1e-3)
    np.testing.assert_allclose(em.params["locs"], [c.mean(0) for c in clusters], atol=1e-2)
    np.testing.assert_allclose(em.params["scales"], [np.sqrt(c.var(0).mean()) for c in clusters], atol=1e-2)

    # log p(x) of any data, exact for a point; the sum over the fitted data is what EM maximised.
    assert em.log_prob_kind == "exact"
    np.testing.assert_allclose(em.log_prob({"x": x}).sum(), log_likelihood[-1], rtol=1e-6)

    # SVI: draws from a fitted Gaussian over weights, means and spreads.
    svi = pg.infer(model, x, engine="svi", backend=backend, num_steps=num_steps, learning_rate=0.02, progress=False)
    weight = svi.posterior["weights"][..., 0]
    share = len(clusters[0]) / len(x)
    print(f"SVI on {backend}: first weight {weight.mean():.3f} ± {weight.std():.3f}")
    # Known labels would give Beta(1 + n1, 1 + n2), of this spread.
    spread = np.sqrt(share * (1 - share) / len(x))
    assert abs(weight.mean() - share) < 2 * spread
    assert 0.5 * spread < weight.std() < 2 * spread


if __name__ == "__main__":
    main(*sys.argv[1:2])
