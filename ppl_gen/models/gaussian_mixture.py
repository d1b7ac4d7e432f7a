"""Mixtures of Gaussians."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models import _kmeans
from ppl_gen.models._options import count, one_of, table
from ppl_gen.models._scale import data_scale
from ppl_gen.primitives import dist, plate, sample, xp

_TYPES = ("full", "tied", "diag", "spherical")
_TINY = 1e-300


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
        regularization: added to the diagonal of Sigma in EM's M-step.
    """

    num_components: int
    covariance_type: str = "full"
    regularization: float = 1e-6

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {
        "weights": ["component"],
        "locs": ["component", "feature"],
        "scales": ["component", "feature"],  # of full and diag
    }

    def __post_init__(self) -> None:
        count("num_components", self.num_components)
        one_of("covariance_type", self.covariance_type, _TYPES)
        if not self.regularization >= 0:
            raise ValueError(f"regularization must be a number of at least 0, got {self.regularization!r}")

    def __call__(self, x: Any = None, num_data: int | None = None, num_features: int | None = None) -> None:
        """The program; ``x`` has shape (num_data, num_features)."""
        n, d = (num_data or 1, num_features or 1) if x is None else _shape(x)
        k, centre, spread = self.num_components, *data_scale(x, d)
        weights = sample("weights", dist.Dirichlet(xp.ones((k,))))
        locs = sample("locs", dist.Normal(centre, 2.5 * spread).expand([k, d]).to_event(2))
        component = self._component(locs, d, spread)
        with plate("data", n):
            z = sample("z", dist.Categorical(probs=weights))
            sample("x", component(z), obs=x)

    def _component(self, locs: Any, d: int, spread: Any) -> Any:
        """z -> the distribution of x given z."""
        kind, k, half = self.covariance_type, self.num_components, dist.HalfNormal
        if kind == "spherical":
            scales = sample("scales", half(2.0 * xp.mean(spread)).expand([k]).to_event(1))
            return lambda z: dist.Normal(locs[z], scales[z][..., None]).to_event(1)
        if kind == "diag" or d == 1:
            lead = [d] if kind == "tied" else [k, d]
            scales = sample("scales", half(2.0 * spread).expand(lead).to_event(len(lead)))
            own = (lambda z: scales) if kind == "tied" else (lambda z: scales[z])
            return lambda z: dist.Normal(locs[z], own(z)).to_event(1)
        lead = [] if kind == "tied" else [k]
        scales = sample("scales", half(2.0 * spread).expand([*lead, d]).to_event(len(lead) + 1))
        correlation = sample("correlation", dist.LKJCholesky(d, 2.0).expand(lead).to_event(len(lead)))
        scale_tril = scales[..., None] * correlation
        own = (lambda z: scale_tril) if kind == "tied" else (lambda z: scale_tril[z])
        return lambda z: dist.MultivariateNormal(locs[z], scale_tril=own(z))

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n, "num_features": values["locs"].shape[-1]}

    def relabel(self, draws: Mapping[str, np.ndarray], lead: int) -> dict[str, np.ndarray]:
        """Components of every draw in the order of mu's first coordinate; ``lead`` leading axes are of draws."""
        order = np.argsort(draws["locs"][..., 0], axis=lead)
        own = {n: x for n, x in draws.items() if n in ("weights", "locs") or (n in draws and self._has_component(n))}
        return {**draws, **{n: _take(x, order, lead) for n, x in own.items()}}

    def _has_component(self, name: str) -> bool:
        return name in ("scales", "correlation") and self.covariance_type != "tied"

    # Expectation-maximisation ---------------------------------------------------------------------------------

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Parameters of k-means++ partitions, components in order, with a leading axis of starts."""
        x = np.asarray(data["x"], dtype=float)
        _shape(x)
        if len(x) < self.num_components:
            raise ValueError(f"{self.num_components} components need at least as many rows, got {len(x)}")
        runs = [self._of_labels(x, _kmeans.labels(x, self.num_components, rng)) for _ in range(num_starts)]
        # In one order: chains in different ones would have no common scale to adapt to.
        return self.relabel({name: np.stack([r[name] for r in runs]) for name in runs[0]}, 1)

    def _of_labels(self, x: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        k, d = self.num_components, x.shape[1]
        member = np.eye(k)[labels]
        size = member.sum(0)
        locs = member.T @ x / size[:, None]
        centred = x - locs[labels]
        floor = 1e-3 * x.var(0).mean() + self.regularization + np.finfo(float).tiny
        sigma = np.einsum("nk,nd,ne->kde", member, centred, centred) / size[:, None, None] + floor * np.eye(d)
        weights = size / size.sum()
        return {"weights": weights, "locs": locs, **self._decomposed(np, sigma, weights)}

    def _decomposed(self, np_: Any, sigma: Any, weights: Any) -> dict[str, Any]:
        """Covariances (K, D, D), or variances (K, D), as ``scales`` and ``correlation``."""
        kind = self.covariance_type
        if kind == "tied":
            sigma = np_.einsum("k,k...->...", weights, sigma)
        variances = np_.diagonal(sigma, 0, -2, -1) if kind in ("full", "tied") or sigma.ndim == 3 else sigma
        if kind == "spherical":
            return {"scales": np_.sqrt(np_.mean(variances, axis=-1))}
        scales = np_.sqrt(variances)
        if kind == "diag" or scales.shape[-1] == 1:
            return {"scales": scales}
        return {"scales": scales, "correlation": np_.linalg.cholesky(sigma) / scales[..., None]}

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """E-step (Bishop 2006, equation 9.23): sums of responsibilities, and of first and second moments."""
        x = data["x"]
        joint = xp.log(params["weights"] + _TINY) + self._log_densities(params, x)
        evidence = xp.logsumexp(joint, axis=1, keepdims=True)
        r = xp.exp(joint - evidence)
        if weights is not None:
            r, evidence = r * weights[:, None], evidence * weights[:, None]
        y = x - around["weights"] @ around["locs"]
        square = self.covariance_type in ("diag", "spherical")
        second = r.T @ (y * y) if square else xp.einsum("nk,nd,ne->kde", r, y, y)
        return {"size": xp.sum(r, axis=0), "first": r.T @ y, "second": second}, xp.sum(evidence)

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """M-step (Bishop 2006, equations 9.24 to 9.28)."""
        size = statistics["size"] + 1e-10
        weights = size / xp.sum(size)
        m = statistics["first"] / size[:, None]
        locs = around["weights"] @ around["locs"] + m
        if self.covariance_type in ("diag", "spherical"):
            sigma = statistics["second"] / size[:, None] - m * m + self.regularization
        else:
            outer = m[:, :, None] * m[:, None, :]
            sigma = statistics["second"] / size[:, None, None] - outer + self.regularization * xp.eye(m.shape[1])
        return {"weights": weights, "locs": locs, **self._decomposed(xp, sigma, weights)}

    def _log_densities(self, params: Mapping[str, Any], x: Any) -> Any:
        """log N(x_n | mu_k, Sigma_k), shape (N, K)."""
        d, k = x.shape[1], self.num_components
        constant = -0.5 * d * float(np.log(2 * np.pi))
        scales = (
            params["scales"] + xp.zeros((k, d)) if self.covariance_type != "spherical" else params["scales"][:, None]
        )
        if "correlation" not in params:
            whitened = (x[:, None, :] - params["locs"]) / scales
            half_log_det = xp.sum(xp.log(scales) + xp.zeros((k, d)), axis=-1)
        else:
            scale_tril = scales[..., None] * params["correlation"]
            inverse = xp.linalg.solve_triangular(scale_tril, xp.eye(d) + xp.zeros((k, d, d)), lower=True)
            whitened = xp.einsum("nd,ked->nke", x, inverse) - xp.einsum("kd,ked->ke", params["locs"], inverse)
            half_log_det = xp.sum(xp.log(xp.diagonal(scale_tril, 0, -2, -1)), axis=-1)
        return constant - half_log_det - 0.5 * xp.sum(whitened * whitened, axis=-1)


def _shape(x: Any) -> tuple[int, int]:
    return table("GaussianMixture", x)


def _take(x: np.ndarray, order: np.ndarray, lead: int) -> np.ndarray:
    return np.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - lead - 1)), axis=lead)
