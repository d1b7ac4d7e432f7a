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
    em_rows: ClassVar[tuple[str, ...]] = ("x",)
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

    def em_summary(self, around: Any, data: Any, weights: Any) -> dict[str, Any]:
        """Number of rows, and first and second moments about ``around["loc"]``."""
        y = data["x"] - around["loc"]
        wy = y if weights is None else y * weights[:, None]
        n = xp.sum(xp.ones_like(y[:, 0]) if weights is None else weights)
        return {"n": n, "first": xp.sum(wy, axis=0), "second": wy.T @ y}

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """E-step (Tipping & Bishop 1999, equations 25 and 26), as sums over rows of moments of x and z."""
        held = self.em_summary(around, data, weights) if "x" in data else data
        w, variance, shift = params["loadings"], params["scale"] ** 2, params["loc"] - around["loc"]
        n, first = held["n"], held["first"]
        s = held["second"] - xp.outer(first, shift) - xp.outer(shift, first) + n * xp.outer(shift, shift)
        m = w.T @ w + variance * xp.eye(self.latent_dim)
        sw = s @ w
        inverse = xp.linalg.inv(m)
        z = inverse @ (w.T @ (first - n * shift))
        xz = sw @ inverse
        zz = n * variance * inverse + inverse @ (w.T @ xz)
        statistics = {"n": n, "x": first, "xx": xp.sum(xp.diagonal(held["second"])), "z": z, "zz": zz}
        value = self._log_likelihood(variance, m, xp.sum(xp.diagonal(s)), w.T @ sw, n, w.shape[0])
        return {**statistics, "xz": xz + xp.outer(shift, z)}, value

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """M-step (Tipping & Bishop 1999, equations 27 and 28), mu at once with W."""
        n, x, z, d = statistics["n"], statistics["x"], statistics["z"], statistics["x"].shape[0]
        xz = statistics["xz"] - xp.outer(x, z) / n
        w = xp.linalg.solve(statistics["zz"] - xp.outer(z, z) / n, xz.T).T
        variance = (statistics["xx"] - x @ x / n - xp.sum(w * xz)) / (n * d)
        return {"loc": around["loc"] + (x - w @ z) / n, "loadings": w, "scale": xp.sqrt(variance)}

    def _log_likelihood(self, variance: Any, m: Any, trace: Any, back: Any, n: Any, d: int) -> Any:
        """-n/2 (d log 2 pi + log |C|) - tr(C^-1 S) / 2 by the matrix inversion lemma; ``back`` is W^T S W."""
        log_det = (d - self.latent_dim) * xp.log(variance) + xp.linalg.slogdet(m)[1]
        quadratic = (trace - xp.sum(xp.diagonal(xp.linalg.solve(m, back)))) / variance
        return -0.5 * n * (d * float(np.log(2 * np.pi)) + log_det) - 0.5 * quadratic
