"""Probabilistic principal component analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models._options import count, table
from ppl_gen.models._scale import data_scale
from ppl_gen.primitives import dist, plate, sample, xp


@dataclass(frozen=True)
class ProbabilisticPCA:
    """x = W z + mu + sigma e with z ~ N(0, I_q), e ~ N(0, I_D); Tipping & Bishop (1999).

    Sites: ``loc`` mu (D,), ``loadings`` W (D, q), ``scale`` sigma. The latent z is summed out: x ~ N(mu, W W^T +
    sigma^2 I); with ``explicit_latents`` it is a site of its own, (N, q), as a hand-written or amortised guide needs
    it. W is known up to a rotation only. Priors are weak and scaled by the data.

    Attributes:
        latent_dim: q.
        explicit_latents: keep z as a site.
    """

    latent_dim: int
    explicit_latents: bool = False

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {"loc": ["feature"], "loadings": ["feature", "latent"]}

    def __post_init__(self) -> None:
        count("latent_dim", self.latent_dim)

    def __call__(self, x: Any = None, num_data: int | None = None, num_features: int | None = None) -> None:
        """The program; ``x`` has shape (num_data, num_features)."""
        n, d = (num_data or 1, num_features or 1) if x is None else self._shape(x)
        q, centre, spread = self.latent_dim, *data_scale(x, d)
        overall = xp.sqrt(xp.mean(spread * spread))
        loc = sample("loc", dist.Normal(centre, 2.5 * spread).to_event(1))
        loadings = sample("loadings", dist.Normal(0.0, 2.0 * overall).expand([d, q]).to_event(2))
        scale = sample("scale", dist.HalfNormal(2.0 * overall))
        with plate("data", n):
            if self.explicit_latents:
                z = sample("z", dist.Normal(0.0, 1.0).expand([q]).to_event(1))
                sample("x", dist.Normal(loc + z @ loadings.T, scale).to_event(1), obs=x)
            else:
                noise = scale * scale * xp.ones((d,))
                sample("x", dist.LowRankMultivariateNormal(loc, loadings, noise), obs=x)

    def _shape(self, x: Any) -> tuple[int, int]:
        n, d = table("ProbabilisticPCA", x)
        if self.latent_dim >= d:
            raise ValueError(f"latent_dim {self.latent_dim} must be below the {d} features of x")
        return n, d

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n, "num_features": values["loc"].shape[-1]}

    # Maximum likelihood ---------------------------------------------------------------------------------------

    def closed_form(self, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The global maximum of the likelihood (Tipping & Bishop 1999, equations 7 and 8), with R = I.

        Each column of W is given the sign that makes its largest entry positive.
        """
        x = np.asarray(data["x"], dtype=float)
        self._shape(x)
        q, loc = self.latent_dim, x.mean(0)
        values, vectors = np.linalg.eigh((x - loc).T @ (x - loc) / len(x))
        values, vectors = values[::-1], vectors[:, ::-1]
        variance = max(float(values[q:].mean()), np.finfo(float).tiny)
        w = vectors[:, :q] * np.sqrt(np.maximum(values[:q] - variance, 0.0))
        sign = np.sign(w[np.abs(w).argmax(0), np.arange(q)])
        return {"loc": loc, "loadings": w * np.where(sign == 0, 1.0, sign), "scale": np.sqrt(variance)}

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The mean, and random loadings of the data's spread, with a leading axis of starts."""
        x = np.asarray(data["x"], dtype=float)
        _, d = self._shape(x)
        spread = float(np.sqrt(x.var(0).mean())) or 1.0
        return {
            "loc": np.tile(x.mean(0), (num_starts, 1)),
            "loadings": spread * rng.standard_normal((num_starts, d, self.latent_dim)) / np.sqrt(self.latent_dim),
            "scale": np.full(num_starts, spread),
        }

    def em_data(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Sufficient statistics: number of rows, mean, covariance."""
        x = data["x"]
        mean = xp.mean(x, axis=0)
        return {"n": xp.sum(xp.ones_like(x[:, 0])), "mean": mean, "s": (x - mean).T @ (x - mean) / x.shape[0]}

    def em_step(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """One E- and M-step on the covariance S (Tipping & Bishop 1999, equations 29 and 30)."""
        w, variance, s, d = params["loadings"], params["scale"] ** 2, data["s"], data["s"].shape[0]
        m = w.T @ w + variance * xp.eye(self.latent_dim)
        sw = s @ w
        inner = variance * xp.eye(self.latent_dim) + xp.linalg.solve(m, w.T @ sw)
        new = xp.linalg.solve(inner.T, sw.T).T
        left = xp.linalg.solve(m, new.T)
        new_variance = (xp.sum(xp.diagonal(s)) - xp.sum(sw * left.T)) / d
        value = self._log_likelihood(w, variance, m, sw, params["loc"], data)
        return {"loc": data["mean"], "loadings": new, "scale": xp.sqrt(new_variance)}, value

    def _log_likelihood(self, w: Any, variance: Any, m: Any, sw: Any, loc: Any, data: Mapping[str, Any]) -> Any:
        """-n/2 (d log 2 pi + log |C| + tr C^-1 S') with S' about ``loc``, by the matrix inversion lemma."""
        d, q, shift = data["s"].shape[0], self.latent_dim, data["mean"] - loc
        log_det = (d - q) * xp.log(variance) + xp.linalg.slogdet(m)[1]
        trace = xp.sum(xp.diagonal(data["s"])) + shift @ shift
        back = w.T @ sw + xp.outer(w.T @ shift, w.T @ shift)
        quadratic = (trace - xp.sum(xp.diagonal(xp.linalg.solve(m, back)))) / variance
        return -0.5 * data["n"] * (d * float(np.log(2 * np.pi)) + log_det + quadratic)
