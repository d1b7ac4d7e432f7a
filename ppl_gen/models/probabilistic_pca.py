"""Probabilistic principal component analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models import _factors
from ppl_gen.models._missing_gaussian import low_rank_normal, normal, values
from ppl_gen.models._moments import rounding
from ppl_gen.models._options import count
from ppl_gen.models._principal import covariance, loadings
from ppl_gen.models._rows import filled, some_rows
from ppl_gen.models._scale import data_scale
from ppl_gen.primitives import dist, plate, sample, xp
from ppl_gen.program import DataError

_MOST_ROWS = 20_000  # that a start looks at
_LEAST = 1e-8  # sigma^2 of EM, as a fraction of the mean variance: rank-deficient data have no maximum


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
    missing: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {"loc": ["feature"], "loadings": ["feature", "latent"]}

    def __post_init__(self) -> None:
        count("latent_dim", self.latent_dim)

    def __call__(self, x: Any = None, num_data: int | None = None, num_features: int | None = None) -> None:
        """The program; ``x`` has shape (num_data, num_features), NaN where nothing was observed."""
        n, d = (num_data or 1, num_features or 1) if x is None else self._shape(x)
        q, centre, spread = self.latent_dim, *data_scale(x, d)
        overall = xp.sqrt(xp.mean(spread * spread))
        loc = sample("loc", dist.Normal(centre, 2.5 * spread).to_event(1))
        w = sample("loadings", dist.Normal(0.0, 2.0 * overall).expand([d, q]).to_event(2))
        scale = sample("scale", dist.HalfNormal(2.0 * overall))
        with plate("data", n):
            if self.explicit_latents:
                z = sample("z", dist.Normal(0.0, 1.0).expand([q]).to_event(1))
                sample("x", normal(x, loc + z @ w.T, scale), obs=values(x))
            else:
                sample("x", low_rank_normal(x, loc, w, scale * scale * xp.ones((d,))), obs=values(x))

    def _shape(self, x: Any) -> tuple[int, int]:
        return _factors.check_shape("ProbabilisticPCA", self.latent_dim, x)

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n, "num_features": values["loc"].shape[-1]}

    # Maximum likelihood ---------------------------------------------------------------------------------------

    def closed_form(self, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The global maximum of the likelihood (Tipping & Bishop 1999, equations 7 and 8), with R = I.

        Each column of W is given the sign that makes the entry of it that is largest in size positive. Data of rank q
        or less, whose likelihood has no maximum, get the maximum under the least sigma^2 that ``em`` allows.

        Raises:
            DataError: missing entries.
        """
        self._shape(data["x"])
        loc, sigma = covariance(data["x"])
        if np.isnan(loc).any():
            raise DataError("the closed form needs x without missing entries: use engine='em', which sums them out")
        w, variance = loadings(sigma, self.latent_dim, _least_variance(np.diag(sigma)))
        return {"loc": loc, "loadings": w, "scale": np.sqrt(variance)}

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The mean, and random loadings of the data's spread, with a leading axis of starts.

        At most 20,000 rows are looked at; means stand in for missing entries.

        Raises:
            DataError: a column without any entry.
        """
        _, d = self._shape(data["x"])
        x = filled(some_rows(data["x"], _MOST_ROWS, rng))
        spread = float(np.sqrt(x.var(0).mean())) or 1.0
        return {
            "loc": np.tile(x.mean(0), (num_starts, 1)),
            "loadings": spread * rng.standard_normal((num_starts, d, self.latent_dim)) / np.sqrt(self.latent_dim),
            "scale": np.full(num_starts, spread),
        }

    def em_summary(self, around: Any, data: Any, weights: Any) -> dict[str, Any]:
        """Number of rows, and first and second moments about ``around["loc"]``."""
        return _factors.summary(data["x"], around["loc"], weights)

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """E-step (Tipping & Bishop 1999, equations 25 and 26): sums over rows of moments of x and z."""
        return _factors.statistics(params["loc"], params["loadings"], _noise(params), around["loc"], data, weights)

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """M-step (Tipping & Bishop 1999, equations 27 and 28), with the spread of z free (Liu, Rubin & Wu 1998)."""
        m, w, left = (v[0] for v in _factors.update(statistics))
        least = xp.mean(_factors.floor(statistics, _fraction(m)))
        n = statistics["n"][0] + xp.zeros_like(m)
        variance = xp.maximum(xp.sum(n * left) / xp.sum(n), least)
        return {"loc": around["loc"] + m, "loadings": w, "scale": xp.sqrt(variance)}

    def latent(self, params: Any, data: Any) -> dict[str, Any]:
        """``z`` (num_data, q) and ``z_cov`` (num_data, q, q): posterior mean and covariance of z of each row."""
        return _factors.posterior(data["x"], params["loc"], params["loadings"], _noise(params))


def _fraction(x: Any) -> float:
    """Least sigma^2 as a fraction of the mean variance, in the precision of x."""
    return max(_LEAST, 100.0 * rounding(x))


def _least_variance(variances: np.ndarray) -> float:
    """Least sigma^2 of data with these variances (D,), as in EM, in the precision of the active backend if any is."""
    try:
        fraction = _fraction(xp.ones(()))
    except RuntimeError:  # called on the host alone
        fraction = _LEAST
    return fraction * (float(np.mean(np.maximum(variances, 0.0))) or fraction)


def _noise(params: Any) -> Any:
    return params["scale"] ** 2 + xp.zeros_like(params["loc"])
