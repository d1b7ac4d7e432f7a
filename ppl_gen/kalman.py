"""Kalman filter and Rauch-Tung-Striebel smoother by associative scans.

z_1 ~ N(m0, P0), z_t = A z_{t-1} + N(0, Q), x_t = C z_t + d + N(0, R), R diagonal. After Saerkkae & Garcia-Fernandez
(2021), Temporal parallelization of Bayesian smoothers, IEEE Transactions on Automatic Control 66(1), with three
differences:

* Observations enter by their information C^T R^-1 C and C^T R^-1 (x - d), so that an entry that is missing is one whose
  precision is zero, and nothing is of size D^3.
* The covariances do not depend on the observations: they are scanned by themselves, once for all sequences where no
  entry is missing; the means are then a scan of affine maps.
* Covariances from the scan are updated once more in the ordinary way, by Cholesky factors, which is what means and
  likelihood are taken from: the rounding of the scan is contracted by one step of the filter.

Relative errors are about the unit of rounding times the largest ratio of signal to noise, the eigenvalues of
P C^T R^-1 C.

Time is the last but one axis of observations and means, and the last but two of matrices; sequences lead.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ppl_gen.scans import associative_scan


class System(NamedTuple):
    """A linear-Gaussian state-space model with q states and D features.

    Attributes:
        initial_loc: m0 (q,).
        initial_covariance: P0 (q, q), positive definite.
        transition: A (q, q).
        transition_covariance: Q (q, q), positive definite.
        emission: C (D, q).
        offset: d (D,).
        variances: the diagonal of R (D,), positive.
    """

    initial_loc: Any
    initial_covariance: Any
    transition: Any
    transition_covariance: Any
    emission: Any
    offset: Any
    variances: Any


class Filtered(NamedTuple):
    """What is known of each state from the observations up to then.

    Attributes:
        log_likelihood: log p(x) of each sequence (...).
        means: E[z_t | x_1..t], shape (..., T, q).
        covariances: Cov[z_t | x_1..t], shape (..., T, q, q); without leading axes where no entry is missing.
    """

    log_likelihood: Any
    means: Any
    covariances: Any


class Smoothed(NamedTuple):
    """What is known of each state from all observations.

    Attributes:
        means: E[z_t | x], shape (..., T, q).
        covariances: Cov[z_t | x], shape (..., T, q, q); without leading axes where no entry is missing.
        cross_covariances: Cov[z_{t+1}, z_t | x], shape (..., T - 1, q, q).
    """

    means: Any
    covariances: Any
    cross_covariances: Any


def kalman_filter(xp: Any, system: System, x: Any, observed: Any = None) -> Filtered:
    """The filter and the exact log likelihood of observations.

    Args:
        x: (..., T, D); any finite number where not observed.
        observed: 1.0 where an entry was observed, else 0.0, shape of x; None where all were.
    """
    precision = 1.0 / system.variances
    weight = precision if observed is None else observed * precision
    information = _information(xp, system.emission, weight, observed is None)
    seen = ((x - system.offset) * weight) @ system.emission
    predicted = _prior_covariances(xp, system, _scanned_covariances(xp, system, information, x.shape[-2]))
    update = _update(xp, predicted, information)
    means = _means(xp, system, update, seen)
    residual = x - system.offset - means @ _t(system.emission)
    missing_out = (weight * residual) @ system.emission
    # (x - C m)' S^-1 (x - C m) at the predicted mean m, as a sum of squares at the filtered one: nothing cancels.
    distance = xp.sum(weight * residual * residual, axis=(-2, -1))
    distance = distance + xp.einsum("...ti,...tij,...tj->...", missing_out, predicted, missing_out)
    each = xp.log(2 * math.pi * system.variances)
    log_det = x.shape[-2] * xp.sum(each) if observed is None else xp.sum(observed * each, axis=(-2, -1))
    log_det = log_det + 2 * xp.sum(xp.log(xp.diagonal(update.factor, 0, -2, -1)), axis=(-2, -1))
    return Filtered(-0.5 * (distance + log_det), means, update.covariances)


def smoother(xp: Any, system: System, filtered: Filtered) -> Smoothed:
    """The Rauch-Tung-Striebel smoother (Saerkkae & Garcia-Fernandez 2021, section IV)."""
    a, p, steps = system.transition, filtered.covariances, filtered.means.shape[-2]
    ahead = _symmetric(a @ p @ _t(a)) + system.transition_covariance
    gain = _t(xp.linalg.cholesky_solve(xp.linalg.cholesky(ahead), a @ p))
    gain = gain * (xp.arange(steps) < steps - 1)[:, None, None]  # nothing is known after the last
    kept = xp.eye(a.shape[-1]) - gain @ a
    spread = kept @ p @ _t(kept) + gain @ system.transition_covariance @ _t(gain)
    means = filtered.means[..., None]

    def combine(later: Any, earlier: Any) -> Any:
        (e_j, l_j, g_j), (e_i, l_i, g_i) = later, earlier
        return e_i @ e_j, _symmetric(e_i @ l_j @ _t(e_i)) + l_i, e_i @ g_j + g_i

    elements = (gain, _symmetric(spread), kept @ means)
    _, covariances, means = associative_scan(xp, combine, elements, reverse=True)
    cross = covariances[..., 1:, :, :] @ _t(gain[..., :-1, :, :])
    return Smoothed(means[..., 0], covariances, cross)


def forecast(xp: Any, system: System, loc: Any, covariance: Any, num_steps: int) -> tuple[Any, Any]:
    """Means (..., num_steps, q) and covariances (..., num_steps, q, q) of the states after one N(loc, covariance)."""
    powers, spread = _predictions(xp, system, num_steps)
    means = (powers @ loc[..., None, :, None])[..., 0]
    return means, _symmetric(powers @ covariance[..., None, :, :] @ _t(powers)) + spread


def emitted(xp: Any, system: System, means: Any, covariances: Any) -> tuple[Any, Any]:
    """Means (..., D) and covariances (..., D, D) of observations of states."""
    c = system.emission
    spread = _symmetric(c @ covariances @ _t(c)) + xp.eye(c.shape[0]) * system.variances
    return means @ _t(c) + system.offset, spread


def simulate(xp: Any, system: System, noise: Any) -> Any:
    """Observations (..., T, D) made of standard normal ``noise`` (..., T, q + D)."""
    q = system.transition.shape[-1]
    first = xp.linalg.cholesky(system.initial_covariance)
    root = xp.linalg.cholesky(system.transition_covariance)
    start = noise[..., :1, :q] @ _t(first) + system.initial_loc
    shocks = xp.concatenate([start, noise[..., 1:, :q] @ _t(root)], axis=-2)
    maps = system.transition + xp.zeros((shocks.shape[-2], 1, 1))
    states = _affine_scan(xp, maps, shocks)
    return states @ _t(system.emission) + system.offset + noise[..., q:] * xp.sqrt(system.variances)


# Covariances of the filter ---------------------------------------------------------------------------------------


class _Update(NamedTuple):
    """Conditioning of N(., L L^T) on information Lambda: M = I + L^T Lambda L = N N^T.

    Attributes:
        factor: N.
        root: N^-1 L^T, whose square is the covariance afterwards.
        kept: I - covariance Lambda = (I + L L^T Lambda)^-1, which the mean before is multiplied by.
        covariances: afterwards.
    """

    factor: Any
    root: Any
    kept: Any
    covariances: Any


def _update(xp: Any, covariance: Any, information: Any) -> _Update:
    root, q = xp.linalg.cholesky(covariance), covariance.shape[-1]
    inverse = xp.linalg.solve_triangular(root, xp.eye(q))
    factor = xp.linalg.cholesky(xp.eye(q) + _t(root) @ information @ root)
    solved = xp.linalg.solve_triangular(factor, xp.concatenate([_t(root), inverse], axis=-1))
    new = solved[..., :q]
    return _Update(factor, new, _t(new) @ solved[..., q:], _t(new) @ new)


def _information(xp: Any, emission: Any, weight: Any, complete: bool) -> Any:
    """C^T diag(weight) C, shape (..., T, q, q), or (1, q, q) where it is that of every step."""
    d, q = emission.shape
    if complete:
        return (_t(emission) @ (weight[:, None] * emission))[None]
    squares = (emission[:, :, None] * emission[:, None, :]).reshape((d, q * q))
    return (weight @ squares).reshape((*weight.shape[:-1], q, q))


def _prior_covariances(xp: Any, system: System, filtered: Any) -> Any:
    """Covariances of each state given the observations before it."""
    a = system.transition
    ahead = _symmetric(a @ filtered[..., :-1, :, :] @ _t(a)) + system.transition_covariance
    first = system.initial_covariance + xp.zeros((*filtered.shape[:-3], 1, 1, 1))
    return xp.concatenate([first, ahead], axis=-3)


def _scanned_covariances(xp: Any, system: System, information: Any, num_steps: int) -> Any:
    """Covariances (..., T, q, q) of the filter by the scan (Saerkkae & Garcia-Fernandez 2021, lemmas 7 and 8)."""
    a, eye = system.transition, xp.eye(system.transition.shape[-1])
    later = _update(xp, system.transition_covariance, information)
    carried = later.kept @ a
    gathered = _symmetric(_t(a) @ information @ carried)
    first = _update(xp, system.initial_covariance, information[..., :1, :, :]).covariances
    whole = xp.zeros((num_steps, 1, 1))
    is_first = (xp.arange(num_steps) == 0)[:, None, None]
    elements = (
        xp.where(is_first, 0.0, carried + whole),
        xp.where(is_first, first, later.covariances + whole),
        xp.where(is_first, 0.0, gathered + whole),
    )

    def combine(earlier: Any, later: Any) -> Any:
        (a_i, c_i, j_i), (a_j, c_j, j_j) = earlier, later
        root = xp.linalg.cholesky(c_i)
        factor = xp.linalg.cholesky(eye + _t(root) @ j_j @ root)
        new = xp.linalg.solve_triangular(factor, _t(root))  # (I + C J)^-1 C = new' new
        through = a_i - _t(new) @ (new @ (j_j @ a_i))
        carried = new @ _t(a_j)
        return a_j @ through, _t(carried) @ carried + c_j, _symmetric(_t(a_i) @ j_j @ through) + j_i

    return associative_scan(xp, combine, elements)[1]


# Means: scans of affine maps ---------------------------------------------------------------------------------------


def _means(xp: Any, system: System, update: _Update, seen: Any) -> Any:
    """Filtered means (..., T, q); ``seen`` is C^T R^-1 (x - d)."""
    shift = (_t(update.root) @ (update.root @ seen[..., None]))[..., 0]
    first = shift[..., :1, :] + update.kept[..., :1, :, :] @ system.initial_loc
    shift = xp.concatenate([first, shift[..., 1:, :]], axis=-2)
    return _affine_scan(xp, update.kept @ system.transition, shift)


def _affine_scan(xp: Any, maps: Any, shifts: Any) -> Any:
    """m_1 = b_1, m_t = G_t m_{t-1} + b_t for G (..., T, q, q) and b (..., T, q)."""

    def combine(earlier: Any, later: Any) -> Any:
        (g_i, b_i), (g_j, b_j) = earlier, later
        return g_j @ g_i, g_j @ b_i + b_j

    return associative_scan(xp, combine, (maps, shifts[..., None]))[1][..., 0]


def _predictions(xp: Any, system: System, num_steps: int) -> tuple[Any, Any]:
    """A^k and Cov[z_{t+k} | z_t] for k = 1, ..., num_steps."""

    def combine(earlier: Any, later: Any) -> Any:
        (a_i, v_i), (a_j, v_j) = earlier, later
        return a_j @ a_i, _symmetric(a_j @ v_i @ _t(a_j)) + v_j

    steps = xp.zeros((num_steps, 1, 1))
    return associative_scan(xp, combine, (system.transition + steps, system.transition_covariance + steps))


def _t(x: Any) -> Any:
    """Transposed matrices."""
    return x.swapaxes(-1, -2)


def _symmetric(x: Any) -> Any:
    return 0.5 * (x + _t(x))
