"""Factor analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models import _factors
from ppl_gen.models._missing_gaussian import low_rank_normal, values
from ppl_gen.models._options import count
from ppl_gen.models._principal import covariance, jittered, loadings
from ppl_gen.models._rows import filled, some_rows
from ppl_gen.models._scale import data_scale
from ppl_gen.primitives import dist, plate, sample, xp

_MOST_ROWS = 5_000  # that a start looks at


@dataclass(frozen=True)
class FactorAnalysis:
    """x = mu + W z + e with z ~ N(0, I_q), e ~ N(0, diag(psi)); Lawley & Maxwell (1971), Rubin & Thayer (1982).

    Sites: ``loc`` mu (D,), ``loadings`` W (D, q), ``scales`` sqrt(psi) (D,). The latent z is summed out: x ~ N(mu, W
    W^T + diag(psi)). W is known up to a rotation only. Priors are weak and scaled by the data: mu ~ N(mean, (2.5
    sd)^2), rows of W ~ N(0, (2 sd)^2), scales ~ HalfNormal(2 sd).

    Attributes:
        latent_dim: q.
        min_noise: EM keeps psi_j above this fraction of the variance of x_j; the likelihood may otherwise have its
            supremum at psi_j = 0 (a Heywood case).
    """

    latent_dim: int
    min_noise: float = 1e-6

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)
    missing: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {
        "loc": ["feature"],
        "loadings": ["feature", "latent"],
        "scales": ["feature"],
    }

    def __post_init__(self) -> None:
        count("latent_dim", self.latent_dim)
        _factors.check_min_noise(self.min_noise)

    def __call__(self, x: Any = None, num_data: int | None = None, num_features: int | None = None) -> None:
        """The program; ``x`` has shape (num_data, num_features), NaN where nothing was observed."""
        n, d = (
            (num_data or 1, num_features or 1)
            if x is None
            else _factors.check_shape("FactorAnalysis", self.latent_dim, x)
        )
        q, centre, spread = self.latent_dim, *data_scale(x, d)
        loc = sample("loc", dist.Normal(centre, 2.5 * spread).to_event(1))
        w = sample("loadings", dist.Normal(0.0, 2.0 * spread[:, None]).expand([d, q]).to_event(2))
        scales = sample("scales", dist.HalfNormal(2.0 * spread).to_event(1))
        with plate("data", n):
            sample("x", low_rank_normal(x, loc, w, scales * scales), obs=values(x))

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n, "num_features": values["loc"].shape[-1]}

    # Expectation-maximisation ---------------------------------------------------------------------------------

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Parameters with a leading axis of starts: principal components of scaled rows, then random loadings.

        At most 5,000 rows are looked at; means stand in for missing entries.

        Raises:
            DataError: a column without any entry.
        """
        _factors.check_shape("FactorAnalysis", self.latent_dim, data["x"])
        x = filled(some_rows(data["x"], _MOST_ROWS, rng))
        spread = np.where(x.std(0) > 0, x.std(0), 1.0)
        w = jittered(loadings(covariance(x / spread)[1], self.latent_dim)[0], rng)
        w = np.stack([w, *rng.standard_normal((num_starts - 1, *w.shape)) / np.sqrt(self.latent_dim)])
        left = np.maximum(1.0 - (w**2).sum(2), 0.1)
        return {
            "loc": np.tile(x.mean(0), (num_starts, 1)),
            "loadings": spread[:, None] * w,
            "scales": spread * np.sqrt(left),
        }

    def em_summary(self, around: Any, data: Any, weights: Any) -> dict[str, Any]:
        """Number of rows, and first and second moments about ``around["loc"]``."""
        return _factors.summary(data["x"], around["loc"], weights)

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """E-step (Rubin & Thayer 1982, section 3): sums over rows of moments of x and z."""
        noise = params["scales"] ** 2
        return _factors.statistics(params["loc"], params["loadings"], noise, around["loc"], data, weights)

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """M-step, with the spread of z free (Liu, Rubin & Wu 1998)."""
        m, w, left = (v[0] for v in _factors.update(statistics))
        psi = xp.maximum(left, _factors.floor(statistics, self.min_noise))
        return {"loc": around["loc"] + m, "loadings": w, "scales": xp.sqrt(psi)}

    def latent(self, params: Any, data: Any) -> dict[str, Any]:
        """``z`` (num_data, q) and ``z_cov`` (num_data, q, q): posterior mean and covariance of each row's factors."""
        return _factors.posterior(data["x"], params["loc"], params["loadings"], params["scales"] ** 2)
