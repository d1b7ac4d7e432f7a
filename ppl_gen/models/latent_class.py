"""Latent class analysis: categorical items that are independent given a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.missing import Missing
from ppl_gen.models import _dirichlet
from ppl_gen.models._options import count, positive, table
from ppl_gen.primitives import dist, plate, sample, xp
from ppl_gen.program import DataError

_TINY = 1e-37  # log of a proportion of zero stays finite, in single precision too
_SITES = ("weights", "probs")


@dataclass(frozen=True)
class LatentClass:
    """z_n ~ Categorical(pi), and given z_n = k each item x_ni ~ Categorical(theta_ki); Lazarsfeld & Henry (1968).

    Items are codes 0, ..., C - 1, whole numbers or floating point; -1 and NaN are items that were not answered, left
    out exactly. An item with fewer categories than others never shows the higher codes, and maximum likelihood gives
    them no weight: the log density of a new row that has one is -inf.

    Sites: ``weights`` pi (K,), ``probs`` theta (K, num_items, C). Priors pi ~ Dirichlet(a), theta ~ Dirichlet(b).
    ``em`` is maximum likelihood (Goodman 1974), ``vbem`` has the posterior of both in closed form.

    Attributes:
        num_classes: K.
        num_categories: C.
        weight_concentration: a.
        concentration: b.
    """

    num_classes: int
    num_categories: int
    weight_concentration: float = 1.0
    concentration: float = 1.0

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    missing: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {"weights": ["class"], "probs": ["class", "item", "category"]}

    def __post_init__(self) -> None:
        count("num_classes", self.num_classes)
        count("num_categories", self.num_categories)
        positive("weight_concentration", self.weight_concentration)
        positive("concentration", self.concentration)

    def __call__(self, x: Any = None, num_data: int | None = None, num_items: int | None = None) -> None:
        """The program; ``x`` has shape (num_data, num_items)."""
        n, d = (num_data or 1, num_items or 1) if x is None else _shape(x)
        k, c = self.num_classes, self.num_categories
        weights = sample("weights", dist.Dirichlet(xp.full((k,), self.weight_concentration)))
        prior = dist.Dirichlet(xp.full((c,), self.concentration))
        probs = sample("probs", prior.expand([k, d]).to_event(2))
        codes = None if x is None else _codes(x)
        with plate("data", n):
            z = sample("z", dist.Categorical(logits=_log(weights)))
            items = dist.Categorical(logits=_log(probs)[z])
            if codes is None:
                sample("x", items.to_event(1))
            else:
                sample("x", items.mask(codes >= 0).to_event(1), obs=xp.maximum(codes, 0))

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n, "num_items": values["probs"].shape[-2]}

    # Expectation-maximisation ---------------------------------------------------------------------------------

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Random departures from the items' own proportions, with a leading axis of starts.

        Raises:
            DataError: codes that are not whole numbers from -1 to C - 1, or nothing but unanswered items.
        """
        share = self._shares(data["x"])
        k = self.num_classes
        # A draw about the shares, the smoothed ones: a start at zero would stay there.
        probs = _dirichlet.draws(np.tile(10.0 * share, (num_starts, k, 1, 1)), 1, rng)[0]
        weights = _dirichlet.draws(np.full((num_starts, k), 10.0), 1, rng)[0]
        return {"weights": weights, "probs": 0.99 * probs + 0.01 / self.num_categories}

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Codes that are 0, ..., C - 1, or -1 or NaN.

        Raises:
            DataError: others.
        """
        x = data.get("x", np.zeros(1))
        codes = x[x >= 0]
        if (codes != codes.astype(int)).any() or codes.max(initial=0) >= self.num_categories or (x < -1).any():
            raise DataError(
                f"x must hold whole numbers from 0 to {self.num_categories - 1}, or -1 or NaN for an item that was "
                f"not answered; got {np.unique(codes)[-8:].tolist()}"
            )

    def _shares(self, x: Any) -> np.ndarray:
        """Proportions of the categories of each item (num_items, C), smoothed."""
        x = np.asarray(x)
        _shape(x)
        seen = x >= 0
        if not seen.any():
            raise DataError("x holds no answer at all: expected at least one code of 0 or more")
        member = x[..., None] == np.arange(self.num_categories)
        return (member.sum(0) + 1.0) / (seen.sum(0) + self.num_categories)[:, None]

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """E-step: expected number of rows of each class, and of each answer to each item."""
        return self._expect(_logs(params), data["x"], weights)

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """M-step: proportions; equal ones of an item that nobody of a class answered."""
        size, counts = statistics["weights"], statistics["probs"]
        total = xp.sum(counts, axis=-1, keepdims=True)
        shares = xp.where(total > 0, counts / xp.where(total > 0, total, 1.0), 1.0 / self.num_categories)
        return {"weights": size / xp.sum(size), "probs": shares}

    def _expect(self, logs: Mapping[str, Any], x: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """Expected counts in the shapes of ``weights`` and ``probs``, and the sum of log p(x_n)."""
        member = _member(x, self.num_categories)
        joint = _log_joint(logs, member)
        evidence = xp.logsumexp(joint, axis=1, keepdims=True)
        r = xp.exp(joint - evidence)
        if weights is not None:
            r, evidence = r * weights[:, None], evidence * weights[:, None]
        counts = (r.T @ member).reshape(logs["probs"].shape)
        return {"weights": xp.sum(r, axis=0), "probs": counts}, xp.sum(evidence)

    def latent(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """``z``: p(z_n = k | x_n), (num_data, K)."""
        return self._responsibilities(_logs(params), data)

    def _responsibilities(self, logs: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        return {"z": xp.softmax(_log_joint(logs, _member(data["x"], self.num_categories)), axis=-1)}

    # Variational Bayes ----------------------------------------------------------------------------------------

    def vb_starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """q as if the starts of EM had been seen in all rows, with a leading axis of starts."""
        start, n = self.starts(data, num_starts, rng), len(data["x"])
        size = n * start["weights"]
        return {
            "weights_concentration": self.weight_concentration + size,
            "probs_concentration": self.concentration + size[..., None, None] * start["probs"],
        }

    def vb_step(self, q: Mapping[str, Any], data: Mapping[str, Any], weights: Any) -> tuple[dict[str, Any], Any]:
        """One iteration, and the bound of ``q`` with the best q(z)."""
        counts, evidence = self._expect(_expected_logs(q), data["x"], weights)
        prior = {"weights": self.weight_concentration, "probs": self.concentration}
        away = (_dirichlet.divergence(q[f"{n}_concentration"], a) for n, a in prior.items())
        return {f"{n}_concentration": a + counts[n] for n, a in prior.items()}, evidence - sum(away)

    def vb_latent(self, q: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """``z``: q(z_n = k), (num_data, K)."""
        return self._responsibilities(_expected_logs(q), data)

    def vb_mean(self, q: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Means of the sites."""
        return {n: _dirichlet.mean(q[f"{n}_concentration"]) for n in _SITES}

    def vb_draws(
        self, q: Mapping[str, np.ndarray], num_draws: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Draws of the sites from q."""
        return {n: _dirichlet.draws(q[f"{n}_concentration"], num_draws, rng) for n in _SITES}


def _shape(x: Any) -> tuple[int, int]:
    return table("LatentClass", x, columns="num_items", alone="a single item goes in as x[:, None]")


def _codes(x: Any) -> Any:
    """Whole codes, -1 where nothing was observed."""
    if isinstance(x, Missing):
        return xp.astype(xp.where(x.observed > 0, x.values, -1.0), xp.int32)
    return xp.astype(xp.asarray(x), xp.int32)


def _member(x: Any, num_categories: int) -> Any:
    """1.0 where an item has a code, (N, num_items * C); all zero for an item that was not answered."""
    codes = _codes(x)
    member = codes[..., None] == xp.arange(num_categories)
    return 1.0 * member.reshape((codes.shape[0], -1))


def _log(p: Any) -> Any:
    """log p, -inf at 0, where backends would disagree on it; its gradient is a number there too."""
    return xp.where(p > 0, xp.log(xp.where(p > 0, p, 1.0)), -xp.inf)


def _logs(params: Mapping[str, Any]) -> dict[str, Any]:
    return {n: xp.log(params[n] + _TINY) for n in _SITES}


def _expected_logs(q: Mapping[str, Any]) -> dict[str, Any]:
    return {n: _dirichlet.expected_log(q[f"{n}_concentration"]) for n in _SITES}


def _log_joint(logs: Mapping[str, Any], member: Any) -> Any:
    """log p(z_n = k, x_n), (N, K)."""
    return logs["weights"] + member @ logs["probs"].reshape((len(logs["probs"]), -1)).T
