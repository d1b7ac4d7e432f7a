"""Mixtures of factor analysers, and of probabilistic PCA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models import _factors, _kmeans
from ppl_gen.models._components import enough_rows, log_weights, ordered, responsibilities
from ppl_gen.models._missing_gaussian import low_rank_normal, values
from ppl_gen.models._moments import rounding
from ppl_gen.models._options import count, one_of
from ppl_gen.models._principal import covariance, jittered, loadings
from ppl_gen.models._rows import filled, some_rows
from ppl_gen.models._scale import data_scale
from ppl_gen.primitives import dist, plate, sample, xp

_NOISES = ("diag", "tied", "isotropic")
_MOST_ROWS = 20_000  # that a start looks at


@dataclass(frozen=True)
class MixtureOfFactorAnalyzers:
    """x_n | c_n = k ~ N(mu_k, W_k W_k^T + Psi_k), c_n ~ Categorical(pi); Ghahramani & Hinton (1996).

    A Gaussian mixture whose covariances have K D q parameters, not K D^2 / 2. With ``noise="isotropic"`` it is the
    mixture of probabilistic principal component analysers of Tipping & Bishop (1999b).

    Sites: ``weights`` pi (K,), ``locs`` mu (K, D), ``loadings`` W (K, D, q), ``scales``, the square roots of Psi: diag
    (K, D), tied (D,), isotropic (K,). The factors z are summed out. Priors are weak and scaled by the data. Components
    are ordered by the first coordinate of mu in every draw.

    Attributes:
        num_components: K.
        latent_dim: q.
        noise: "diag" (Psi_k diagonal), "tied" (diagonal, one for all) or "isotropic" (Psi_k = sigma_k^2 I).
        min_noise: EM keeps Psi above this fraction of the variance of each feature over all rows.
    """

    num_components: int
    latent_dim: int
    noise: str = "diag"
    min_noise: float = 1e-3

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)
    missing: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {
        "weights": ["component"],
        "locs": ["component", "feature"],
        "loadings": ["component", "feature", "latent"],
        "scales": ["component", "feature"],  # of diag
    }

    def __post_init__(self) -> None:
        count("num_components", self.num_components)
        count("latent_dim", self.latent_dim)
        one_of("noise", self.noise, _NOISES)
        _factors.check_min_noise(self.min_noise)

    def __call__(self, x: Any = None, num_data: int | None = None, num_features: int | None = None) -> None:
        """The program; ``x`` has shape (num_data, num_features), NaN where nothing was observed."""
        n, d = (num_data or 1, num_features or 1) if x is None else self._shape(x)
        k, q, centre, spread = self.num_components, self.latent_dim, *data_scale(x, d)
        weights = sample("weights", dist.Dirichlet(xp.ones((k,))))
        locs = sample("locs", dist.Normal(centre, 2.5 * spread).expand([k, d]).to_event(2))
        w = sample("loadings", dist.Normal(0.0, 2.0 * spread[:, None]).expand([k, d, q]).to_event(3))
        lead = {"diag": [k, d], "tied": [d], "isotropic": [k]}[self.noise]
        size = xp.mean(spread) if self.noise == "isotropic" else spread
        scales = sample("scales", dist.HalfNormal(2.0 * size).expand(lead).to_event(len(lead)))
        noise = self._noise(scales, d)
        with plate("data", n):
            z = sample("z", dist.Categorical(probs=weights))
            sample("x", low_rank_normal(x, locs[z], w[z], noise[z]), obs=values(x))

    def _shape(self, x: Any) -> tuple[int, int]:
        return _factors.check_shape("MixtureOfFactorAnalyzers", self.latent_dim, x)

    def _noise(self, scales: Any, d: int) -> Any:
        """Diagonals of Psi (K, D)."""
        own = scales[:, None] if self.noise == "isotropic" else scales
        return own * own + xp.zeros((self.num_components, d))

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n, "num_features": values["locs"].shape[-1]}

    def relabel(self, draws: Mapping[str, np.ndarray], lead: int) -> dict[str, np.ndarray]:
        """Components of every draw in the order of mu's first coordinate; ``lead`` leading axes are of draws."""
        own = ("weights", "locs", "loadings") + (() if self.noise == "tied" else ("scales",))
        return ordered(draws, own, lead)

    # Expectation-maximisation ---------------------------------------------------------------------------------

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The principal components of each cluster of k-means++, with a leading axis of starts.

        At most 20,000 rows are looked at; means stand in for missing entries.

        Raises:
            DataError: fewer rows than components, or a column without any entry.
        """
        self._shape(data["x"])
        enough_rows(self.num_components, data["x"])
        x = filled(some_rows(data["x"], _MOST_ROWS, rng))
        runs = [self._of_labels(x, _kmeans.labels(x, self.num_components, rng), rng) for _ in range(num_starts)]
        return self.relabel({name: np.stack([r[name] for r in runs]) for name in runs[0]}, 1)

    def _of_labels(self, x: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        overall = x.var(0)
        overall = np.where(overall > 0, overall, overall.mean() or 1.0)
        weights, locs, w, noise = [], [], [], []
        for k in range(self.num_components):
            rows = x[labels == k]
            loc, sigma = covariance(rows)
            own = loadings(sigma + 0.01 * np.diag(overall), self.latent_dim)[0]
            weights.append(len(rows) / len(x))
            locs.append(loc)
            w.append(jittered(own, rng))
            noise.append(np.maximum(np.diag(sigma) - (own**2).sum(1), 0.0) + 0.05 * overall)
        psi = np.array(noise)
        axis = {"diag": None, "tied": 0, "isotropic": 1}[self.noise]
        scales = np.sqrt(psi if axis is None else np.average(psi, axis, weights if axis == 0 else None))
        return {"weights": np.array(weights), "locs": np.array(locs), "loadings": np.array(w), "scales": scales}

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """E-step (Ghahramani & Hinton 1996, equations 11 to 13): sums over rows of moments of x and z.

        Moments are about the mean of the mixture ``around``.
        """
        centre = around["weights"] @ around["locs"]
        densities, mean, cov = self._given(params, centre, data["x"])
        r, evidence = responsibilities(params["weights"], densities, weights)
        sums = _factors.expected(data["x"], centre, r, mean, cov)
        return {**sums, "size": xp.sum(r, axis=1)}, xp.sum(evidence)

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """M-step (Ghahramani & Hinton 1996, equations 14 to 16), with the spread of z free (Liu, Rubin & Wu 1998)."""
        m, w, left = _factors.update(statistics)
        n = statistics["n"] + 10.0 * rounding(m) + xp.zeros_like(m)
        least = _factors.floor(statistics, self.min_noise)
        if self.noise == "tied":
            psi = xp.maximum(xp.sum(n * left, axis=0) / xp.sum(n, axis=0), least)
        elif self.noise == "isotropic":
            psi = xp.maximum(xp.sum(n * left, axis=1) / xp.sum(n, axis=1), xp.mean(least))
        else:
            psi = xp.maximum(left, least)
        size = statistics["size"] + 10.0 * rounding(m)
        centre = around["weights"] @ around["locs"]
        return {"weights": size / xp.sum(size), "locs": centre + m, "loadings": w, "scales": xp.sqrt(psi)}

    def latent(self, params: Any, data: Any) -> dict[str, Any]:
        """``z``: p(c_n = k | x_n) (num_data, K), and of the factors given each component

        ``factors`` (num_data, K, q): their posterior means.
        """
        densities, mean, _ = self._given(params, params["weights"] @ params["locs"], data["x"])
        joint = log_weights(params["weights"])[:, None] + densities
        return {"z": xp.exp(joint - xp.logsumexp(joint, axis=0)).T, "factors": xp.transpose(mean, (2, 0, 1))}

    def _given(self, params: Any, centre: Any, x: Any) -> tuple[Any, Any, Any]:
        noise = self._noise(params["scales"], centre.shape[0])
        return _factors.given(x, centre, params["locs"] - centre, params["loadings"], noise)
