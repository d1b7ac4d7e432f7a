"""Linear-Gaussian state-space models as one joint Gaussian of all states and observations, written out."""

from __future__ import annotations

import numpy as np
from scipy import stats

from ppl_gen.kalman import System


def random_system(rng, q, d):
    """A stable system with every matrix full."""

    def covariance(spread):
        root = rng.normal(size=(q, q))
        return spread * (root @ root.T + 0.3 * np.eye(q))

    return System(
        initial_loc=rng.normal(size=q),
        initial_covariance=covariance(2.0),
        transition=0.9 * np.linalg.qr(rng.normal(size=(q, q)))[0],
        transition_covariance=covariance(1.0),
        emission=rng.normal(size=(d, q)),
        offset=rng.normal(size=d),
        variances=rng.uniform(0.2, 1.0, d),
    )


def joint(system, num_steps):
    """Mean and covariance of the states, (T q,) and (T q, T q), and the matrix that observes all of them."""
    q = len(system.initial_loc)
    loc, covariance = [system.initial_loc], np.zeros((num_steps, q, num_steps, q))
    covariance[0, :, 0] = system.initial_covariance
    for t in range(1, num_steps):
        loc.append(system.transition @ loc[-1])
        covariance[t, :, :t] = np.einsum("ij,jsk->isk", system.transition, covariance[t - 1, :, :t])
        covariance[:t, :, t] = covariance[t, :, :t].transpose(1, 2, 0)
        before = covariance[t - 1, :, t - 1]
        covariance[t, :, t] = system.transition @ before @ system.transition.T + system.transition_covariance
    size = num_steps * q
    return np.concatenate(loc), covariance.reshape(size, size), np.kron(np.eye(num_steps), system.emission)


def observations(system, num_steps):
    """Mean (T D,) and covariance (T D, T D) of all observations."""
    loc, covariance, emission = joint(system, num_steps)
    noise = np.diag(np.tile(system.variances, num_steps))
    return emission @ loc + np.tile(system.offset, num_steps), emission @ covariance @ emission.T + noise


def log_likelihood(system, x):
    """Of one series (T, D), NaN where nothing was observed."""
    seen = ~np.isnan(x.ravel())
    loc, covariance = observations(system, len(x))
    return stats.multivariate_normal(loc[seen], covariance[np.ix_(seen, seen)]).logpdf(x.ravel()[seen])


def posterior(system, x):
    """Means (T, q) and covariances (T, q, T, q) of the states given one series (T, D)."""
    seen = ~np.isnan(x.ravel())
    z, covariance, emission = joint(system, len(x))
    loc, total = observations(system, len(x))
    gain = np.linalg.solve(total[np.ix_(seen, seen)], emission[seen] @ covariance).T
    means = z + gain @ (x.ravel()[seen] - loc[seen])
    shape = len(x), len(system.initial_loc)
    return means.reshape(shape), (covariance - gain @ emission[seen] @ covariance).reshape(shape + shape)
