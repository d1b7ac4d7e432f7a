"""Mixtures of Gaussians."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.missing import Missing
from ppl_gen.models import _kmeans
from ppl_gen.models._components import enough_rows, log_weights, ordered, responsibilities
from ppl_gen.models._gaussian_rows import diagonal, incomplete
from ppl_gen.models._missing_gaussian import multivariate_normal, normal, values
from ppl_gen.models._moments import moments, rounded_cholesky, rounding, squared_distances
from ppl_gen.models._options import count, nonnegative, one_of, table
from ppl_gen.models._rows import filled, some_rows
from ppl_gen.models._scale import data_scale
from ppl_gen.primitives import dist, plate, sample, xp

_TYPES = ("full", "tied", "diag", "spherical")
_MOST_ROWS = 20_000  # that a start looks at


@dataclass(frozen=True)
class GaussianMixture:
    """x_n | z_n = k ~ N(mu_k, Sigma_k), z_n ~ Categorical(pi); McLachlan & Peel (2000), chapter 3.

    Sites: ``weights`` pi (K,), ``locs`` mu (K, D), ``scales`` and, for full and tied covariances, ``correlation`` (a
    Cholesky factor): Sigma = diag(scales) R R^T diag(scales). Shapes of ``scales``: full and diag (K, D), tied (D,),
    spherical (K,). The priors are weak and scaled by the data: pi ~ Dirichlet(1), mu ~ N(mean, (2.5 sd)^2), scales ~
    HalfNormal(2 sd), R ~ LKJ(2). Components are ordered by the first coordinate of mu in every draw.

    Attributes:
        num_components: K.
        covariance_type: "full", "tied" (one Sigma for all), "diag" or "spherical" (one variance a component).
        regularization: added to the diagonal of Sigma in EM's M-step, in the data's units squared: scikit-learn's
            ``reg_covar``. Such a step is not the exact one, so that the log likelihood may fall a little near the end.
    """

    num_components: int
    covariance_type: str = "full"
    regularization: float = 1e-6

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)
    missing: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {
        "weights": ["component"],
        "locs": ["component", "feature"],
        "scales": ["component", "feature"],  # of full and diag
    }

    def __post_init__(self) -> None:
        count("num_components", self.num_components)
        one_of("covariance_type", self.covariance_type, _TYPES)
        nonnegative("regularization", self.regularization)

    def __call__(self, x: Any = None, num_data: int | None = None, num_features: int | None = None) -> None:
        """The program; ``x`` has shape (num_data, num_features), NaN where nothing was observed."""
        n, d = (num_data or 1, num_features or 1) if x is None else _shape(x)
        k, centre, spread = self.num_components, *data_scale(x, d)
        weights = sample("weights", dist.Dirichlet(xp.ones((k,))))
        locs = sample("locs", dist.Normal(centre, 2.5 * spread).expand([k, d]).to_event(2))
        component = self._component(x, locs, d, spread)
        with plate("data", n):
            z = sample("z", dist.Categorical(probs=weights))
            sample("x", component(z), obs=values(x))

    def _component(self, x: Any, locs: Any, d: int, spread: Any) -> Any:
        """z -> the distribution of x given z."""
        kind, k, half = self.covariance_type, self.num_components, dist.HalfNormal
        if kind == "spherical":
            scales = sample("scales", half(2.0 * xp.mean(spread)).expand([k]).to_event(1))
            return lambda z: normal(x, locs[z], scales[z][..., None])
        if kind == "diag" or d == 1:
            lead = [d] if kind == "tied" else [k, d]
            scales = sample("scales", half(2.0 * spread).expand(lead).to_event(len(lead)))
            own = (lambda z: scales) if kind == "tied" else (lambda z: scales[z])
            return lambda z: normal(x, locs[z], own(z))
        lead = [] if kind == "tied" else [k]
        scales = sample("scales", half(2.0 * spread).expand([*lead, d]).to_event(len(lead) + 1))
        correlation = sample("correlation", dist.LKJCholesky(d, 2.0).expand(lead).to_event(len(lead)))
        scale_tril = scales[..., None] * correlation
        own = (lambda z: scale_tril) if kind == "tied" else (lambda z: scale_tril[z])
        return lambda z: multivariate_normal(x, locs[z], own(z))

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n, "num_features": values["locs"].shape[-1]}

    def relabel(self, draws: Mapping[str, np.ndarray], lead: int) -> dict[str, np.ndarray]:
        """Components of every draw in the order of mu's first coordinate; ``lead`` leading axes are of draws."""
        own = ("weights", "locs") + (() if self.covariance_type == "tied" else ("scales", "correlation"))
        return ordered(draws, own, lead)

    # Expectation-maximisation ---------------------------------------------------------------------------------

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Parameters of k-means++ partitions of at most 20,000 rows, with a leading axis of starts.

        Components are in order: chains in different ones would have no common scale to adapt to. Means stand in for
        missing entries.

        Raises:
            DataError: fewer rows than components, or a column without any entry.
        """
        enough_rows(self.num_components, data["x"])
        x = filled(some_rows(data["x"], _MOST_ROWS, rng))
        runs = [self._of_labels(x, _kmeans.labels(x, self.num_components, rng)) for _ in range(num_starts)]
        return self.relabel({name: np.stack([r[name] for r in runs]) for name in runs[0]}, 1)

    def _of_labels(self, x: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        k, d = self.num_components, x.shape[1]
        member = np.eye(k)[labels]
        size = member.sum(0)
        locs = member.T @ x / size[:, None]
        centred = x - locs[labels]
        floor = 1e-3 * x.var(0).mean() + self.regularization + np.finfo(float).tiny
        weights = size / size.sum()
        if not self._dense(d):
            variances = member.T @ centred**2 / size[:, None] + floor
            return {"weights": weights, "locs": locs, **self._of_variances(np, variances, weights)}
        sigma = np.stack([centred[labels == i].T @ centred[labels == i] for i in range(k)]) / size[:, None, None]
        if self.covariance_type == "tied":
            sigma = np.tensordot(weights, sigma, 1)
        return {"weights": weights, "locs": locs, **_of_scale_tril(np, np.linalg.cholesky(sigma + floor * np.eye(d)))}

    def _dense(self, d: int) -> bool:
        """Whether Sigma has more than a diagonal."""
        return self.covariance_type in ("full", "tied") and d > 1

    def _of_variances(self, np_: Any, variances: Any, weights: Any) -> dict[str, Any]:
        """Variances (K, D) as ``scales``."""
        if self.covariance_type == "spherical":
            return {"scales": np_.sqrt(np_.mean(variances, axis=1))}
        return {"scales": np_.sqrt(weights @ variances if self.covariance_type == "tied" else variances)}

    @property
    def em_regularised(self) -> str | None:
        """The option that EM's steps add to variances by, if they do."""
        return "regularization" if self.regularization > 0 else None

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """E-step (Bishop 2006, equation 9.23): sums of responsibilities, and of first and second moments.

        The moments are of y = A^-1 (x - c), where c and A A^T are the mean and covariance of the mixture ``around``
        (its variances, where Sigma is diagonal): nothing cancels that float32 could not bear. Entries that are missing
        count by their moments given the row's others (Ghahramani & Jordan 1994).
        """
        densities, expected = self._given(params, around, data["x"])
        r, evidence = responsibilities(params["weights"], densities, weights)
        first, second = expected(r)
        return {"size": xp.sum(r, axis=1), "first": first, "second": second}, xp.sum(evidence)

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """M-step (Bishop 2006, equations 9.24 to 9.28)."""
        centre, root = self._frame(around)
        tiny = rounding(centre)
        size = statistics["size"] + 10.0 * tiny
        weights = size / xp.sum(size)
        m, d = statistics["first"] / size[:, None], centre.shape[0]
        if not self._dense(d):
            square = statistics["second"] / size[:, None]
            variances = xp.maximum(square - m * m, 0.0) + 10.0 * tiny * square
            new = self._of_variances(xp, variances * root * root + self.regularization, weights)
            return {"weights": weights, "locs": centre + m * root, **new}
        square = statistics["second"] / size[:, None, None]
        sigma, slack = square - m[:, :, None] * m[:, None, :], tiny * xp.diagonal(square, 0, -2, -1)
        if self.covariance_type == "tied":
            sigma, slack = xp.einsum("k,kij->ij", weights, sigma), weights @ slack
        inverse = xp.linalg.solve_triangular(root, xp.eye(d), lower=True)
        scale_tril = root @ rounded_cholesky(sigma + self.regularization * (inverse @ inverse.T), slack)
        return {"weights": weights, "locs": centre + m @ root.T, **_of_scale_tril(xp, scale_tril)}

    def latent(self, params: Any, data: Any) -> dict[str, Any]:
        """``z``: p(z_n = k | x_n), shape (num_data, K)."""
        joint = log_weights(params["weights"])[:, None] + self._given(params, params, data["x"])[0]
        return {"z": xp.exp(joint - xp.logsumexp(joint, axis=0)).T}

    def _given(self, params: Any, around: Any, x: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
        """log N(x_n | mu_k, Sigma_k) (K, N), and the moments of y that go with responsibilities (K, N)."""
        centre, root = self._frame(around)
        if not self._dense(x.shape[1]):
            return diagonal(x, params["locs"], self._scales(params, x.shape[1]), centre, root)
        return (self._incomplete if isinstance(x, Missing) else self._full)(params, centre, root, x)

    def _frame(self, around: Any) -> tuple[Any, Any]:
        """Mean c (D,) of the mixture ``around``, and A: (D, D) lower triangular, or standard deviations (D,)."""
        weights, centre = around["weights"], around["weights"] @ around["locs"]
        off, d = around["locs"] - centre, centre.shape[0]
        if not self._dense(d):
            scales = xp.sqrt(weights @ (self._scales(around, d) ** 2 + off * off))
            return centre, xp.where(scales > 0, scales, 1.0)
        tril = self._scale_tril(around)
        total = xp.einsum("k,kij->ij", weights, tril @ xp.swapaxes(tril, -1, -2) + off[:, :, None] * off[:, None, :])
        scales = xp.sqrt(xp.diagonal(total))
        correlation = total / xp.outer(scales, scales) + (d + 10.0) * rounding(centre) * xp.eye(d)
        return centre, scales[:, None] * xp.linalg.cholesky(correlation)

    def _scales(self, params: Any, d: int) -> Any:
        """Standard deviations (K, D)."""
        scales = params["scales"]
        return (scales[:, None] if self.covariance_type == "spherical" else scales) + xp.zeros((self.num_components, d))

    def _scale_tril(self, params: Any) -> Any:
        """Cholesky factors of Sigma (K, D, D)."""
        tril = params["scales"][..., None] * params["correlation"]
        return tril + xp.zeros((self.num_components, *tril.shape[-2:]))

    def _full(self, params: Any, centre: Any, root: Any, x: Any) -> tuple[Any, Any]:
        d, tril = centre.shape[0], self._scale_tril(params)
        y = (x - centre) @ xp.linalg.solve_triangular(root, xp.eye(d), lower=True).T
        inverse = xp.linalg.solve_triangular(tril, root + xp.zeros_like(tril), lower=True)
        m = xp.linalg.solve_triangular(tril, (params["locs"] - centre)[:, :, None], lower=True)[:, :, 0]
        level = 0.5 * d * float(np.log(2 * np.pi)) + xp.sum(xp.log(xp.diagonal(tril, 0, -2, -1)), axis=1)
        return -0.5 * squared_distances(y, inverse, m) - level[:, None], lambda r: moments(r, y)

    def _incomplete(self, params: Any, centre: Any, root: Any, x: Any) -> tuple[Any, Any]:
        tril = self._scale_tril(params)
        densities, expected = incomplete(x, params["locs"], tril @ xp.swapaxes(tril, -1, -2), centre)
        inverse = xp.linalg.solve_triangular(root, xp.eye(centre.shape[0]), lower=True)

        def of_y(r: Any) -> tuple[Any, Any]:
            first, second = expected(r)
            return first @ inverse.T, inverse @ second @ inverse.T

        return densities, of_y


def _of_scale_tril(np_: Any, tril: Any) -> dict[str, Any]:
    """A Cholesky factor of Sigma as ``scales`` and ``correlation``."""
    scales = np_.sqrt(np_.sum(tril * tril, axis=-1))
    return {"scales": scales, "correlation": tril / scales[..., None]}


def _shape(x: Any) -> tuple[int, int]:
    return table("GaussianMixture", x)
