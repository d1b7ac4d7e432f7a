"""What a hidden Markov model is observed by: Gaussians and mixtures of them.

Each is a :class:`ppl_gen.markov_layout.Emission`: features before columns, so that the columns of a block of time, or a
series, run along contiguous rows. ``prepare`` makes of the sites what densities are computed from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.categories import category
from ppl_gen.missing import Missing
from ppl_gen.models import _kmeans
from ppl_gen.models._categories import normalised
from ppl_gen.models._missing_gaussian import complete
from ppl_gen.models._rows import filled, some_rows
from ppl_gen.models.gaussian_mixture import GaussianMixture
from ppl_gen.primitives import dist, sample, xp
from ppl_gen.program import DataError

MOST_ROWS = 20_000  # that a start looks at
_TINY = 1e-37  # of float32 too
_LOG_2_PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class Gaussians:
    """x | z = k ~ N(mu_k, Sigma_k), with the sites and moments of :class:`GaussianMixture`."""

    mixture: GaussianMixture

    noise_width: ClassVar[int] = 0  # numbers that a draw takes beside one for each feature

    def declare(self, d: int, centre: Any, spread: Any, lead: tuple[int, ...] = ()) -> dict[str, Any]:
        """Sample the sites, with axes ``lead`` of the components where there are more than one."""
        mixture, half = self.mixture, dist.HalfNormal
        lead = lead or (mixture.num_components,)
        of_scales = () if mixture.covariance_type == "tied" else lead
        locs = sample("locs", dist.Normal(centre, 2.5 * spread).expand([*lead, d]).to_event(len(lead) + 1))
        if mixture.covariance_type == "spherical":
            scales = sample("scales", half(2.0 * xp.mean(spread)).expand([*lead]).to_event(len(lead)))
        else:
            scales = sample("scales", half(2.0 * spread).expand([*of_scales, d]).to_event(len(of_scales) + 1))
        if not mixture._dense(d):
            return {"locs": locs, "scales": scales}
        factor = dist.LKJCholesky(d, 2.0).expand([*of_scales])
        return {"locs": locs, "scales": scales, "correlation": sample("correlation", factor.to_event(len(of_scales)))}

    def starts(self, x: np.ndarray, num_starts: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Of k-means++ partitions of rows x (N, D)."""
        found = self.mixture.starts({"x": x}, num_starts, rng)
        return {name: value for name, value in found.items() if name != "weights"}

    # Densities and moments are of y = A^-1 (x - c), where c and A are the mean and root of the covariance of the
    # mixture ``reference``, near those of the data: nothing cancels that float32 could not bear.

    def reference(self, centre: Any, spread: Any, x: Any = None) -> dict[str, Any]:
        """Sites of Gaussians that all are like the data of that mean and spread, and like rows x (N, D) if given."""
        mixture, d, k = self.mixture, centre.shape[0], self.mixture.num_components
        found = {"locs": centre + xp.zeros((k, d))}
        if mixture.covariance_type == "spherical":
            return {**found, "scales": xp.mean(spread) + xp.zeros((k,))}
        lead = () if mixture.covariance_type == "tied" else (k,)
        if not mixture._dense(d):
            return {**found, "scales": spread + xp.zeros((*lead, d))}
        y = None if x is None else (x - centre) / spread
        root = xp.eye(d) if y is None else xp.linalg.cholesky(y.T @ y / len(y) + 1e-6 * xp.eye(d))
        scales = xp.sqrt(xp.sum(root * root, axis=1))
        correlation = root / scales[:, None]
        found["correlation"] = correlation + xp.zeros((*lead, d, d))
        return {**found, "scales": spread * scales + xp.zeros((*lead, d))}

    def _frame(self, reference: Mapping[str, Any]) -> Any:
        return self.mixture._frame(self._weighted(reference))

    def _weighted(self, params: Mapping[str, Any]) -> dict[str, Any]:
        k = self.mixture.num_components
        return {**params, "weights": xp.full((k,), 1.0 / k)}

    def lay_out(self, x: Any, observed: Any, reference: Mapping[str, Any]) -> dict[str, Any]:
        """What densities are computed from, of x (N, T, D): arrays (N, T, ...)."""
        (centre, root), d = self._frame(reference), x.shape[-1]
        ones = xp.ones_like(x[..., :1])
        if self.mixture._dense(d):
            if observed is not None:
                return {"x": x, "observed": observed}
            return {"level": ones, "y": (x - centre) @ xp.linalg.solve_triangular(root, xp.eye(d), lower=True).T}
        y = (x - centre) / root
        if observed is None:
            return {"level": ones, "y": y}
        return {"level": xp.concatenate([ones, observed], axis=-1), "y": y * observed}

    def prepare(self, params: Mapping[str, Any], reference: Mapping[str, Any], incomplete: bool) -> dict[str, Any]:
        """Coefficients of log densities in the features of y."""
        mixture, (centre, root), locs = self.mixture, self._frame(reference), params["locs"]
        d = centre.shape[0]
        if not mixture._dense(d):
            own, m = mixture._scales(params, d) / root, (locs - centre) / root
            precision = 1.0 / (own * own)
            level = -0.5 * (m * m * precision + 2.0 * xp.log(own * root) + _LOG_2_PI)
            total = xp.sum(level, axis=1, keepdims=True)
            levels = [0.0 * total, level] if incomplete else [total]
            return {"linear": xp.concatenate([*levels, m * precision, -0.5 * precision], axis=1)}
        tril = mixture._scale_tril(params)
        if incomplete:
            return {"centre": centre, "locs": locs, "sigma": tril @ xp.swapaxes(tril, -1, -2)}
        inverse = xp.linalg.solve_triangular(tril, root + xp.zeros_like(tril), lower=True)
        m = xp.linalg.solve_triangular(tril, (locs - centre)[..., None], lower=True)
        transposed = xp.swapaxes(inverse, -1, -2)
        half = xp.sum(xp.log(xp.diagonal(tril, 0, -2, -1)), axis=-1)[:, None] + 0.5 * d * _LOG_2_PI
        level = -0.5 * xp.sum(m * m, axis=1) - half
        return {"linear": xp.concatenate([level, (transposed @ m)[..., 0], _upper(transposed @ inverse)], axis=1)}

    def log_density(self, xp: Any, prepared: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
        """(..., K, columns) of one step."""
        if "sigma" in prepared:
            return self._completed(prepared, x)[0]
        return prepared["linear"] @ _features(xp, x, prepared["linear"].shape[-1])

    def statistics(self, xp: Any, prepared: Mapping[str, Any], x: Mapping[str, Any], gamma: Any) -> dict[str, Any]:
        """Sums over columns of gamma (..., K, columns) times features or moments."""
        if "sigma" not in prepared:
            return {"features": gamma @ xp.swapaxes(_features(xp, x, prepared["linear"].shape[-1]), -1, -2)}
        _, means, lost = self._completed(prepared, x)
        off = means - prepared["centre"][:, None, None]
        root = xp.sqrt(gamma)[..., None, None] * lost
        return {
            "size": xp.sum(gamma, axis=-1),
            "first": (gamma[..., None, :] @ off)[..., 0, :],
            "second": xp.swapaxes(gamma[..., None] * off, -1, -2) @ off - xp.einsum("gknij,gknil->gkjl", root, root),
        }

    def _completed(self, prepared: Mapping[str, Any], x: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Log densities (groups, K, columns) and, given what was observed, means and what covariances lose."""
        values, observed = (xp.swapaxes(x[name], -1, -2)[0] for name in ("x", "observed"))
        return complete(Missing(values, observed), prepared["locs"][..., None, :], prepared["sigma"][..., None, :, :])

    def moments(
        self, statistics: Mapping[str, Any], params: Mapping[str, Any], reference: Mapping[str, Any], around: Any
    ) -> dict[str, Any]:
        """Statistics as :meth:`GaussianMixture.em_update` takes them, in the frame of ``around``."""
        (centre, root), (new_centre, new_root) = self._frame(reference), self._frame(around)
        size, first, second = self._of_y(statistics, params, centre, root)
        if not self.mixture._dense(centre.shape[0]):
            b, shift = root / new_root, (centre - new_centre) / new_root
            moved = size[:, None] * shift
            second = b * b * second + shift * (2.0 * b * first + moved)
            return {"size": size, "first": b * first + moved, "second": second}
        b = xp.linalg.solve_triangular(new_root, root, lower=True)
        shift = xp.linalg.solve_triangular(new_root, centre - new_centre, lower=True)
        first, moved = first @ b.T, size[:, None] * shift
        cross = (first + 0.5 * moved)[:, :, None] * shift
        second = b @ second @ b.T + cross + xp.swapaxes(cross, 1, 2)
        return {"size": size, "first": first + moved, "second": second}

    def _of_y(self, statistics: Mapping[str, Any], params: Mapping[str, Any], centre: Any, root: Any) -> tuple:
        """Sizes (K,) and sums of y and of its squares, or products, for each component."""
        d = centre.shape[0]
        if "features" not in statistics:
            size, tril = statistics["size"], self.mixture._scale_tril(params)
            second = statistics["second"] + size[:, None, None] * (tril @ xp.swapaxes(tril, -1, -2))
            inverse = xp.linalg.solve_triangular(root, xp.eye(d), lower=True)
            return size, statistics["first"] @ inverse.T, inverse @ second @ inverse.T
        features, size = statistics["features"], statistics["features"][:, 0]
        if self.mixture._dense(d):
            return size, features[:, 1 : 1 + d], xp.take(features[:, 1 + d :], _square(d), axis=1)
        first, second = features[:, -2 * d : -d], features[:, -d:]
        if features.shape[1] > 1 + 2 * d:
            unseen = size[:, None] - features[:, 1 : 1 + d]
            own, m = self.mixture._scales(params, d) / root, (params["locs"] - centre) / root
            first, second = first + unseen * m, second + unseen * (m * m + own * own)
        return size, first, second

    def update(self, moments: Mapping[str, Any], around: Mapping[str, Any]) -> dict[str, Any]:
        """M-step; components that no row belongs to stay where they are."""
        new, held = self.mixture.em_update(moments, self._weighted(around)), moments["size"] > 0
        return {
            name: xp.where(held.reshape((-1, *(1,) * (x.ndim - 1))), x, around[name]) if name in self.of_states() else x
            for name, x in new.items()
            if name != "weights"
        }

    def generate(self, params: Mapping[str, Any], z: Any, noise: Any) -> Any:
        """x (..., T, D) of states z (..., T) and standard normals (..., T, D)."""
        d = params["locs"].shape[-1]
        if self.mixture._dense(d):
            return params["locs"][z] + (self.mixture._scale_tril(params)[z] @ noise[..., None])[..., 0]
        return params["locs"][z] + self.mixture._scales(params, d)[z] * noise

    def permuted(self, draws: Mapping[str, np.ndarray], lead: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The draws, and what their states are ordered by (..., K); ``lead`` leading axes are of draws."""
        return dict(draws), draws["locs"][..., 0]

    def of_states(self) -> tuple[str, ...]:
        """Sites with an axis of states."""
        return ("locs",) if self.mixture.covariance_type == "tied" else ("locs", "scales", "correlation")


@dataclass(frozen=True)
class Mixtures:
    """x | z = k ~ sum_m w_km N(mu_km, Sigma_km); sites ``weights`` (K, M) and those of Gaussians with axes (K, M)."""

    gaussians: Gaussians
    num_states: int

    noise_width: ClassVar[int] = 1

    @property
    def shape(self) -> tuple[int, int]:
        """(K, M)."""
        return self.num_states, self.gaussians.mixture.num_components // self.num_states

    def declare(self, d: int, centre: Any, spread: Any) -> dict[str, Any]:
        k, m = self.shape
        weights = sample("weights", dist.Dirichlet(xp.ones((m,))).expand([k]).to_event(1))
        return {"weights": weights, **self.gaussians.declare(d, centre, spread, self.shape)}

    def starts(self, x: np.ndarray, num_starts: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Of k-means++ partitions of rows x (N, D), and of each part again."""
        some = filled(some_rows(x, MOST_ROWS, rng))
        if len(some) < self.num_states * self.shape[1]:
            raise DataError(f"{self.shape[0]} states of {self.shape[1]} Gaussians need as many rows, got {len(some)}")
        runs = [self._of_rows(some, rng) for _ in range(num_starts)]
        return {name: np.stack([run[name] for run in runs]) for name in runs[0]}

    def _of_rows(self, x: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        k, m = self.shape
        labels = _kmeans.labels(x, k, rng)
        if np.bincount(labels, minlength=k).min() >= m:
            inner = np.empty_like(labels)
            for state in range(k):
                inner[labels == state] = _kmeans.labels(x[labels == state], m, rng)
            labels = labels * m + inner
        else:
            labels = _kmeans.labels(x, k * m, rng)
        found = self._unflat(self.gaussians.mixture._of_labels(x, labels))
        return {**found, "weights": found["weights"] / found["weights"].sum(-1, keepdims=True)}

    def reference(self, centre: Any, spread: Any, x: Any = None) -> dict[str, Any]:
        return self._unflat(self.gaussians.reference(centre, spread, x))

    def lay_out(self, x: Any, observed: Any, reference: Mapping[str, Any]) -> dict[str, Any]:
        return self.gaussians.lay_out(x, observed, self._flat(reference))

    def prepare(self, params: Mapping[str, Any], reference: Mapping[str, Any], incomplete: bool) -> dict[str, Any]:
        log_weights = xp.log(xp.maximum(xp.reshape(params["weights"], (-1, 1)), _TINY))
        found = self.gaussians.prepare(self._flat(params), self._flat(reference), incomplete)
        return {**found, "log_weights": log_weights}

    def log_density(self, xp: Any, prepared: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
        return xp.logsumexp(self._joint(xp, prepared, x), axis=-2)

    def statistics(self, xp: Any, prepared: Mapping[str, Any], x: Mapping[str, Any], gamma: Any) -> dict[str, Any]:
        joint = self._joint(xp, prepared, x)
        r = xp.exp(joint - xp.logsumexp(joint, axis=-2, keepdims=True)) * gamma[..., None, :]
        return self.gaussians.statistics(xp, prepared, x, xp.reshape(r, (*r.shape[:-3], -1, r.shape[-1])))

    def _joint(self, xp: Any, prepared: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
        """log w_km N(x | mu_km, Sigma_km), (..., K, M, columns)."""
        found = self.gaussians.log_density(xp, prepared, x) + prepared["log_weights"]
        return xp.reshape(found, (*found.shape[:-2], *self.shape, found.shape[-1]))

    def moments(
        self, statistics: Mapping[str, Any], params: Mapping[str, Any], reference: Mapping[str, Any], around: Any
    ) -> dict[str, Any]:
        return self.gaussians.moments(statistics, *map(self._flat, (params, reference, around)))

    def update(self, moments: Mapping[str, Any], around: Mapping[str, Any]) -> dict[str, Any]:
        size = xp.reshape(moments["size"], self.shape)
        new = self.gaussians.update(moments, self._flat(around))
        return {**self._unflat(new), "weights": normalised(size, around["weights"])}

    def _flat(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Sites of Gaussians with one axis of components."""
        own = self.gaussians.of_states()
        return {n: x.reshape((-1, *x.shape[2:])) if n in own else x for n, x in params.items() if n != "weights"}

    def _unflat(self, params: Mapping[str, Any]) -> dict[str, Any]:
        own = (*self.gaussians.of_states(), "weights")
        return {n: x.reshape((*self.shape, *x.shape[1:])) if n in own else x for n, x in params.items()}

    def generate(self, params: Mapping[str, Any], z: Any, noise: Any) -> Any:
        """x (..., T, D) of states z (..., T) and standard normals (..., T, 1 + D)."""
        component = category(xp, params["weights"][z], xp.ndtr(noise[..., 0]))
        return self.gaussians.generate(self._flat(params), z * self.shape[1] + component, noise[..., 1:])

    def permuted(self, draws: Mapping[str, np.ndarray], lead: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Components of each state in the order of their first coordinate; states in that of their means."""
        order = np.argsort(draws["locs"][..., 0], axis=lead + 1)
        own = (*self.gaussians.of_states(), "weights")
        found = {n: taken(x, order, lead + 1) if n in own else x for n, x in draws.items()}
        return found, (found["weights"] * found["locs"][..., 0]).sum(-1)

    def of_states(self) -> tuple[str, ...]:
        return (*self.gaussians.of_states(), "weights")


def taken(x: np.ndarray, order: np.ndarray, axis: int) -> np.ndarray:
    """Entries of x along ``axis`` in the order of each of the axes before it."""
    return np.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - order.ndim)), axis=axis)


def _features(xp: Any, x: Mapping[str, Any], width: int) -> Any:
    """Levels, y and its squares or, where coordinates are not independent, products of all pairs; ``width`` of them."""
    y = x["y"]
    if width == x["level"].shape[-2] + 2 * y.shape[-2]:
        return xp.concatenate([x["level"], y, y * y], axis=-2)
    return xp.concatenate([x["level"], y, *(y[..., i : i + 1, :] * y[..., i:, :] for i in range(y.shape[-2]))], axis=-2)


def _upper(precision: Any) -> Any:
    """Coefficients of the products of pairs in -y^T P y / 2, (..., D (D + 1) / 2) of P (..., D, D)."""
    d = precision.shape[-1]
    first, second = np.triu_indices(d)
    flat = xp.reshape(precision, (*precision.shape[:-2], d * d))
    return xp.take(flat, first * d + second, axis=-1) * xp.array(np.where(first == second, -0.5, -1.0))


def _square(d: int) -> np.ndarray:
    """Where each entry of a symmetric matrix stands among the pairs (D, D)."""
    first, second = np.triu_indices(d)
    order = np.zeros((d, d), dtype=int)
    order[first, second] = order[second, first] = np.arange(len(first))
    return order
