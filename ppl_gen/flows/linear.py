"""An invertible linear map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.flows.bijector import Bijector
from ppl_gen.nets.layers import Weight, check_counts


@dataclass(frozen=True)
class Linear(Bijector):
    """y = L (U + diag(e^s)) x + b, L unit lower and U strictly upper triangular.

    What Glow's 1x1 convolution is for vectors, in its LU form (Kingma & Dhariwal 2018, equation 10), without the fixed
    permutation. It starts as the identity.
    """

    features: int

    def __post_init__(self) -> None:
        check_counts(features=self.features)

    def parts(self) -> Mapping[str, Any]:
        d = self.features
        return {"lower": Weight((d, d)), "upper": Weight((d, d)), "log_diagonal": Weight((d,)), "shift": Weight((d,))}

    def there(self, f: Any, p: Any, x: Any, context: Any) -> tuple[Any, Any]:
        lower, upper, log_det = self._factors(f.xp, p, x)
        return x @ upper.T @ lower.T + p.shift(), log_det

    def back(self, f: Any, p: Any, y: Any, context: Any) -> tuple[Any, Any]:
        lower, upper, log_det = self._factors(f.xp, p, y)
        solve = f.xp.linalg.solve_triangular
        flat = (y - p.shift()).reshape((-1, self.features)).T
        x = solve(upper, solve(lower, flat, lower=True), lower=False).T
        return x.reshape(y.shape), -log_det

    def _factors(self, xp: Any, p: Any, x: Any) -> tuple[Any, Any, Any]:
        eye = xp.astype(xp.eye(self.features), x.dtype)
        log_diagonal = p.log_diagonal()
        lower, upper = xp.tril(p.lower(), -1) + eye, xp.triu(p.upper(), 1) + eye * xp.exp(log_diagonal)
        return lower, upper, xp.sum(log_diagonal) + xp.zeros_like(x[..., 0])
