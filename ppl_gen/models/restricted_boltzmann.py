"""The restricted Boltzmann machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.models._binary_energy import BinaryEnergy
from ppl_gen.models._options import count
from ppl_gen.primitives import param, xp

_BLOCK = 2**10  # states that log Z is summed over at a time
_START = 0.01  # standard deviation of starting weights (Hinton 2012, section 8)
_SHARE = 0.02  # of ones of a visible unit, at least, from which its bias starts


@dataclass(frozen=True)
class RestrictedBoltzmann(BinaryEnergy):
    """p(v, h) proportional to exp(b^T v + c^T h + v^T W h), binary; p(v) with the hidden units h summed out.

    Smolensky (1986); Hinton (2002). Site: ``x`` (N, D), zeros and ones, whose energy is the free energy
    F(v) = -b^T v - sum_j log(1 + exp(c_j + v^T W_j)); params: ``visible_bias`` b (D,), ``hidden_bias`` c (K,),
    ``weights`` W (D, K). Train it by ``contrastive_divergence``; by ``svi`` with a ``batch_size`` where log Z is exact,
    which is maximum likelihood. ``run.latent`` gives P(h = 1 | v), ``run.sample`` chains of block Gibbs moves,
    ``run.log_prob`` an estimate where log Z is one.

    Attributes:
        num_visible: D. num_hidden: K.
        exact: sum log Z over all states of the smaller layer; None for where that has at most 14 units.
    """

    num_visible: int
    num_hidden: int
    exact: bool | None = None

    def __post_init__(self) -> None:
        count("num_visible", self.num_visible)
        count("num_hidden", self.num_hidden)
        self._check_exact()

    @property
    def event_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.num_visible,)

    @property
    def width(self) -> int:  # type: ignore[override]
        return min(self.num_visible, self.num_hidden)

    @property
    def num_uniforms(self) -> int:
        """That a sweep of a row takes."""
        return self.num_hidden + self.num_visible

    def starts(self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator) -> dict[str, Any]:
        """Small weights, and visible biases that give each unit its share of ones (Hinton 2012, section 8)."""
        share = np.clip(np.mean(data["x"][:10_000], axis=0), _SHARE, 1.0 - _SHARE)
        shape = (num_starts, self.num_visible, self.num_hidden)
        return {
            "visible_bias": np.tile(np.log(share / (1.0 - share)), (num_starts, 1)),
            "hidden_bias": np.zeros((num_starts, self.num_hidden)),
            "weights": _START * rng.standard_normal(shape),
        }

    def natural(self) -> dict[str, Any]:
        """Visible and hidden biases, and weights."""
        weights = _START * np.random.default_rng(0).standard_normal((self.num_visible, self.num_hidden))
        return {
            "visible_bias": param("visible_bias", xp.zeros((self.num_visible,))),
            "hidden_bias": param("hidden_bias", xp.zeros((self.num_hidden,))),
            "weights": param("weights", xp.zeros(weights.shape) + xp.asarray(weights)),
        }

    def log_density(self, natural: Mapping[str, Any], x: Any) -> Any:
        """-F(v) of rows (..., D)."""
        x = 1.0 * x
        return x @ natural["visible_bias"] + xp.sum(xp.softplus(self._pull(natural, x)), axis=-1)

    def _pull(self, natural: Mapping[str, Any], x: Any) -> Any:
        return natural["hidden_bias"] + x @ natural["weights"]

    def sweep(self, natural: Mapping[str, Any], x: Any, u: Any) -> Any:
        """Hidden units given the visible ones of rows (..., D), then the other way round."""
        k = self.num_hidden
        hidden = xp.where(u[..., :k] < xp.sigmoid(self._pull(natural, x)), 1.0, 0.0)
        back = natural["visible_bias"] + hidden @ natural["weights"].T
        return xp.where(u[..., k:] < xp.sigmoid(back), 1.0, 0.0)

    def independent(self, share: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        """Natural parameters without interactions, units 1 with these shares (D,); and their log Z."""
        bias = np.log(share) - np.log1p(-share)
        d, k = self.num_visible, self.num_hidden
        natural = {"visible_bias": bias, "hidden_bias": np.zeros(k), "weights": np.zeros((d, k))}
        return natural, float(np.logaddexp(0.0, bias).sum() + k * np.log(2.0))

    def log_normalizer(self, natural: Mapping[str, Any]) -> Any:
        """log Z by the states of the smaller layer, block by block."""
        b, c, w = (natural[n] for n in ("visible_bias", "hidden_bias", "weights"))
        if self.num_hidden > self.num_visible:
            b, c, w = c, b, w.T
        bits = w.shape[1]  # of the smaller layer, whose biases are c
        whole = np.arange(2**bits)[:, None] >> np.arange(bits) & 1
        blocks = xp.zeros(whole.shape) + xp.asarray(whole)

        def of_block(rows: Any) -> Any:
            return xp.logsumexp(rows @ c + xp.sum(xp.softplus(b + rows @ w.T), axis=-1), axis=0)

        def add(total: Any, rows: Any) -> tuple[Any, Any]:
            return xp.logaddexp(total, of_block(rows)), total

        size = min(_BLOCK, 2**bits)
        first = of_block(blocks[:size])
        return first if size == 2**bits else xp.scan(add, first, blocks[size:].reshape((-1, size, bits)))[0]

    def latent(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """P(h = 1 | v) of each row, (N, K)."""
        return {"h": xp.sigmoid(self._pull(params, 1.0 * data["x"]))}
