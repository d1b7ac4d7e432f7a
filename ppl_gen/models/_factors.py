"""Expectation-maximisation of x = mu_k + W_k z + e, z ~ N(0, I_q), e ~ N(0, diag(noise_k)), for K Gaussians at once.

Rubin & Thayer (1982), Ghahramani & Hinton (1996); entries that are missing are summed out, which leaves each feature a
regression on z of its own rows. The M-step also lets the mean and covariance of z move and then absorbs them in mu and
W (parameter-expanded EM; Liu, Rubin & Wu 1998): as monotone as EM, in several times fewer iterations.

Rows are taken about a common centre (D,): m_k = mu_k - centre. Shapes: m, noise (K, D); W (K, D, q); D' is D where
entries are missing, else 1, where all features share their rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_gen.missing import Missing
from ppl_gen.models._missing_gaussian import values
from ppl_gen.models._moments import rounding
from ppl_gen.models._options import is_number, table
from ppl_gen.primitives import xp

_LOG_2PI = float(np.log(2 * np.pi))


def check_shape(model: str, latent_dim: int, x: Any) -> tuple[int, int]:
    """The shape of x (N, D); fewer latents than features are needed."""
    n, d = table(model, x)
    if latent_dim >= d:
        raise ValueError(f"latent_dim {latent_dim} must be below the {d} features of x")
    return n, d


def check_min_noise(value: Any) -> None:
    """A number between 0 and 1."""
    if not is_number(value) or not 0 < value < 1:
        raise ValueError(f"min_noise must be a number between 0 and 1, got {value!r}")


def given(x: Any, centre: Any, m: Any, w: Any, noise: Any) -> tuple[Any, Any, Any]:
    """Log densities of the rows (K, N), and z given them: means (K, q, N), covariances (K, N, q, q) or (K, 1, q, q)."""
    (k, d, q), observed = w.shape, x.observed if isinstance(x, Missing) else None
    y = values(x) - centre
    y = y if observed is None else y * observed
    # Rows 1 to q of each component's part are W^T noise^-1, row 0 is m^T noise^-1.
    scaled = xp.swapaxes(xp.concatenate([m[:, :, None], w], axis=2), 1, 2) / noise[:, None, :]
    level, shift = _LOG_2PI + xp.log(noise) + m * m / noise, scaled[:, 1:] * m[:, None, :]
    if observed is None:
        levels, shifts = xp.sum(level, axis=1)[:, None], xp.sum(shift, axis=2)[:, :, None]
        inner = (scaled[:, 1:] @ w)[:, None]
    else:
        levels, shifts = level @ observed.T, _products(shift, observed)
        pairs = xp.reshape(scaled[:, 1:, None, :] * xp.swapaxes(w, 1, 2)[:, None], (k, q * q, d))
        inner = xp.reshape(xp.swapaxes(_products(pairs, observed), 1, 2), (k, -1, q, q))
    root = xp.linalg.cholesky(xp.eye(q) + inner)
    inverse = xp.linalg.solve_triangular(root, xp.eye(q) + xp.zeros_like(root), lower=True)
    covariance = xp.swapaxes(inverse, -1, -2) @ inverse
    both = _products(scaled, y)
    back = both[:, 1:] - shifts
    mean = covariance[:, 0] @ back if observed is None else xp.einsum("knij,kjn->kin", covariance, back)
    distance = (1.0 / noise) @ (y * y).T - 2.0 * both[:, 0] - xp.sum(back * mean, axis=1)
    half_log_det = xp.sum(xp.log(xp.diagonal(root, 0, -2, -1)), axis=-1)
    return -0.5 * (levels + distance) - half_log_det, mean, covariance


def _products(a: Any, y: Any) -> Any:
    """a_k y_n for a (K, p, D) and rows y (N, D), shape (K, p, N), as one product of matrices."""
    k, p, d = a.shape
    return xp.reshape(xp.reshape(a, (k * p, d)) @ y.T, (k, p, y.shape[0]))


def expected(x: Any, centre: Any, r: Any, mean: Any, covariance: Any) -> dict[str, Any]:
    """Sums over rows, with weights r (K, N), of the moments of y = x - centre and z, given the rows.

    Returns:
        ``n`` (K, D'), ``x`` and ``xx`` (K, D), ``z`` (K, D', q), ``zz`` (K, D', q, q), ``xz`` (K, D, q); where entries
        are missing also of all rows ``rows`` (K,), ``sum_z`` (K, q) and ``sum_zz`` (K, q, q).
    """
    (k, q, n), y = mean.shape, values(x) - centre
    y = y * x.observed if isinstance(x, Missing) else y
    weighted = r[:, None, :] * mean
    sides = xp.reshape(xp.concatenate([r[:, None, :], weighted], axis=1), (k * (q + 1), n))
    both = xp.reshape(sides @ y, (k, q + 1, y.shape[1]))
    sums = {"x": both[:, 0], "xx": r @ (y * y), "xz": xp.swapaxes(both[:, 1:], 1, 2)}
    rows, sum_z = xp.sum(r, axis=1), xp.sum(weighted, axis=2)
    if not isinstance(x, Missing):
        zz = weighted @ xp.swapaxes(mean, 1, 2) + rows[:, None, None] * covariance[:, 0]
        return {**sums, "n": rows[:, None], "z": sum_z[:, None], "zz": zz[:, None]}
    zz = r[:, :, None, None] * covariance + xp.einsum("kin,kjn->knij", weighted, mean)
    of_features = xp.reshape(x.observed.T @ xp.reshape(zz, (k, n, q * q)), (k, -1, q, q))
    every = {"rows": rows, "sum_z": sum_z, "sum_zz": xp.sum(zz, axis=1)}
    of_z = x.observed.T @ xp.swapaxes(weighted, 1, 2)
    return {**sums, **every, "n": r @ x.observed, "z": of_z, "zz": of_features}


def summary(x: Any, centre: Any, weights: Any) -> dict[str, Any]:
    """Number of rows, and sums of y = x - centre (D,) and of y y^T (D, D): all that one Gaussian needs of them.

    Arrays are NumPy's or the backend's.
    """
    y = x - centre
    wy = y if weights is None else y * weights[:, None]
    ones = 0.0 * y[:, 0] + 1.0  # of either library; products add up with less rounding than sums along rows
    return {"n": (ones if weights is None else weights).sum(), "first": wy.T @ ones, "second": wy.T @ y}


def of_summary(held: Mapping[str, Any], m: Any, w: Any, noise: Any) -> tuple[dict[str, Any], Any]:
    """Statistics as of :func:`expected`, with K = 1, and the log likelihood; m, noise (D,) and W (D, q)."""
    n, first, q = held["n"], held["first"], w.shape[1]
    s = held["second"] - xp.outer(first, m) - xp.outer(m, first) + n * xp.outer(m, m)
    scaled = w / noise[:, None]
    inner = xp.eye(q) + scaled.T @ w
    inverse = xp.linalg.inv(inner)
    xz = (s @ scaled) @ inverse
    back = scaled.T @ xz
    z, zz = inverse @ (scaled.T @ (first - n * m)), n * inverse + inverse @ back
    sums = {"n": xp.reshape(n, (1,)), "x": first, "xx": xp.diagonal(held["second"]), "xz": xz + xp.outer(m, z)}
    level = xp.sum(_LOG_2PI + xp.log(noise)) + xp.linalg.slogdet(inner)[1]
    value = -0.5 * (n * level + xp.sum(xp.diagonal(s) / noise) - xp.sum(xp.diagonal(back)))
    return {name: v[None] for name, v in {**sums, "z": z[None], "zz": zz[None]}.items()}, value


def statistics(
    loc: Any, w: Any, noise: Any, centre: Any, data: Mapping[str, Any], weights: Any
) -> tuple[dict[str, Any], Any]:
    """Statistics, with K = 1, and log likelihood of rows ``data["x"]`` or of their :func:`summary`; loc, noise (D,)."""
    if "x" not in data:
        return of_summary(data, loc - centre, w, noise)
    density, mean, covariance = given(data["x"], centre, (loc - centre)[None], w[None], noise[None])
    r = xp.ones_like(density) if weights is None else weights[None]
    return expected(data["x"], centre, r, mean, covariance), xp.sum(r * density)


def update(s: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """New m (K, D), W (K, D, q), and the mean squares of what they leave of y, (K, D)."""
    tiny = 10.0 * rounding(s["n"])
    n, ridge = s["n"] + tiny, tiny * xp.eye(s["xz"].shape[-1])
    zz = s["zz"] - s["z"][..., :, None] * s["z"][..., None, :] / n[..., None, None] + ridge
    xz = s["xz"] - (s["x"] / n)[..., None] * s["z"]
    w = (xp.linalg.inv(zz) @ xz[..., None])[..., 0]
    intercept = (s["x"] - xp.sum(w * s["z"], axis=-1)) / n
    left = (s["xx"] - s["x"] * s["x"] / n - xp.sum(w * xz, axis=-1)) / n
    gaps = "rows" in s
    rows, z, zz = (s["rows"] + tiny, s["sum_z"], s["sum_zz"]) if gaps else (n[:, 0], s["z"][:, 0], s["zz"][:, 0])
    mean = z / rows[:, None]
    spread = (zz + ridge) / rows[:, None, None] - mean[:, :, None] * mean[:, None, :]
    m, root = intercept + (w @ mean[..., None])[..., 0], xp.linalg.cholesky(spread)
    return m, w @ root, xp.maximum(left, 0.0)


def floor(s: Mapping[str, Any], least: float) -> Any:
    """Lower bound of each feature's noise (D,): a fraction of its variance; of the mean one where it has none."""
    n, x, xx = (xp.sum(s[name], axis=0) for name in ("n", "x", "xx"))
    variances = xp.maximum(xx / n - (x / n) ** 2, 0.0)
    mean = xp.mean(variances)
    return least * xp.maximum(variances, least * xp.where(mean > 0, mean, 1.0))


def posterior(x: Any, loc: Any, w: Any, noise: Any) -> dict[str, Any]:
    """``z`` (N, q) and ``z_cov`` (N, q, q): mean and covariance of z given each row, of one Gaussian."""
    _, mean, covariance = given(x, loc, xp.zeros_like(loc)[None], w[None], noise[None])
    return {"z": mean[0].T, "z_cov": covariance[0] + xp.zeros((mean.shape[2], 1, 1))}
