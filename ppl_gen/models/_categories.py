"""What a hidden Markov model is observed by: categories. Written as ``_emissions.py`` is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.categories import category
from ppl_gen.markov_logs import LOG_ZERO
from ppl_gen.primitives import dist, sample, xp
from ppl_gen.program import DataError


@dataclass(frozen=True)
class Categories:
    """x | z = k ~ Categorical(p_k); site ``probs`` (K, C)."""

    num_states: int
    num_categories: int

    noise_width: ClassVar[int] = 0

    def declare(self, d: int, centre: Any, spread: Any) -> dict[str, Any]:
        some = dist.Dirichlet(xp.ones((self.num_categories,)))
        return {"probs": sample("probs", some.expand([self.num_states]).to_event(1))}

    def starts(self, x: np.ndarray, num_starts: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Half the frequencies of codes x (N, 1), half drawn from the simplex."""
        codes = x[~np.isnan(x)]
        if len(codes) and not (np.isin(codes, range(self.num_categories)).all()):
            raise DataError(
                f"x holds codes from {codes.min():g} to {codes.max():g}: expected whole numbers from 0 to "
                f"{self.num_categories - 1}, as num_categories is {self.num_categories}"
            )
        share = np.bincount(codes.astype(int), minlength=self.num_categories) + 1.0
        drawn = rng.dirichlet(np.ones(self.num_categories), (num_starts, self.num_states))
        return {"probs": 0.5 * share / share.sum() + 0.5 * drawn}

    def reference(self, centre: Any, spread: Any, x: Any = None) -> dict[str, Any]:
        return {}

    def lay_out(self, x: Any, observed: Any, reference: Mapping[str, Any]) -> dict[str, Any]:
        return {"x": x} if observed is None else {"x": x, "observed": observed}

    def prepare(self, params: Mapping[str, Any], reference: Mapping[str, Any], incomplete: bool) -> dict[str, Any]:
        return {"logits": xp.maximum(xp.log(params["probs"]), LOG_ZERO)}

    def log_density(self, xp: Any, prepared: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
        return prepared["logits"] @ self._hot(xp, x)

    def statistics(self, xp: Any, prepared: Mapping[str, Any], x: Mapping[str, Any], gamma: Any) -> dict[str, Any]:
        return {"counts": gamma @ xp.swapaxes(self._hot(xp, x), -1, -2)}

    def _hot(self, xp: Any, x: Mapping[str, Any]) -> Any:
        """Indicators (..., C, columns); 0 where nothing was observed."""
        hot = xp.where(x["x"] == xp.arange(self.num_categories)[:, None], 1.0, 0.0)
        return hot * x["observed"] if "observed" in x else hot

    def moments(
        self, statistics: Mapping[str, Any], params: Mapping[str, Any], reference: Mapping[str, Any], around: Any
    ) -> dict[str, Any]:
        return dict(statistics)

    def update(self, moments: Mapping[str, Any], around: Mapping[str, Any]) -> dict[str, Any]:
        return {"probs": normalised(moments["counts"], around["probs"])}

    def generate(self, params: Mapping[str, Any], z: Any, noise: Any) -> Any:
        """Codes x (..., T, 1) of states z (..., T) and standard normals (..., T, 1)."""
        return category(xp, params["probs"][z], xp.ndtr(noise[..., 0]))[..., None]

    def permuted(self, draws: Mapping[str, np.ndarray], lead: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """States in the order of their mean codes."""
        return dict(draws), draws["probs"] @ np.arange(self.num_categories)

    def of_states(self) -> tuple[str, ...]:
        return ("probs",)


def normalised(counts: Any, otherwise: Any) -> Any:
    """Rows of counts as probabilities, those of rows without any as ``otherwise``."""
    total = xp.sum(counts, axis=-1, keepdims=True)
    return xp.where(total > 0, counts / xp.where(total > 0, total, 1.0), otherwise)
