"""Latent Dirichlet allocation: topics of documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models import _dirichlet
from ppl_gen.models._options import count, positive, table
from ppl_gen.primitives import dist, on, plate, sample, xp
from ppl_gen.program import DataError

_SETTLED = 100  # sweeps of a document's q where the topics stay
_TINY = 1e-30


@dataclass(frozen=True)
class LatentDirichlet:
    """theta_n ~ Dirichlet(alpha), words of document n ~ Multinomial(theta_n beta), beta_k ~ Dirichlet(eta).

    Blei, Ng & Jordan (2003), with a prior on the topics as in Hoffman, Blei & Bach (2010). The topic of every single
    word is summed out: sum_k theta_nk beta_kv is the probability of word v in document n. Data are counts of words
    (num_documents, vocabulary), or weights such as tf-idf in their place, as in scikit-learn.

    Sites: ``topics`` beta (K, vocabulary), ``proportions`` theta (num_documents, K). ``vbem`` has q(beta) q(theta)
    q(word topics) in closed form.

    Attributes:
        num_topics: K.
        topic_concentration: alpha; 1 / K where None.
        word_concentration: eta; 1 / K where None.
        document_steps: sweeps over the documents' q in one iteration; topics change slowly, so that a few do.
        num_words: length of a document that is drawn anew.
    """

    num_topics: int
    topic_concentration: float | None = None
    word_concentration: float | None = None
    document_steps: int = 5
    num_words: int = 100

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {"topics": ["topic", "word"], "proportions": ["document", "topic"]}

    def __post_init__(self) -> None:
        count("num_topics", self.num_topics)
        count("document_steps", self.document_steps)
        count("num_words", self.num_words)
        for name in ("topic_concentration", "word_concentration"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))

    @property
    def _alpha(self) -> float:
        return 1.0 / self.num_topics if self.topic_concentration is None else self.topic_concentration

    @property
    def _eta(self) -> float:
        return 1.0 / self.num_topics if self.word_concentration is None else self.word_concentration

    def __call__(self, x: Any = None, num_documents: int | None = None, vocabulary: int | None = None) -> None:
        """The program; ``x`` has shape (num_documents, vocabulary)."""
        n, v = (num_documents or 1, vocabulary or 1) if x is None else _shape(x)
        k = self.num_topics
        topics = sample("topics", dist.Dirichlet(xp.full((v,), self._eta)).expand([k]).to_event(1))
        total = self.num_words if x is None else xp.sum(x, axis=-1)
        with plate("document", n):
            proportions = sample("proportions", dist.Dirichlet(xp.full((k,), self._alpha)))
            sample("x", dist.Multinomial(total, probs=proportions @ topics), obs=x)

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_documents": n, "vocabulary": values["topics"].shape[-1]}

    # Variational Bayes ----------------------------------------------------------------------------------------

    def vb_starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """q drawn from Gamma(100, 0.01), with a leading axis of starts.

        Raises:
            DataError: x with negative counts, or no word at all.
        """
        x = np.asarray(data["x"])
        n, v = _shape(x)
        if (x < 0).any() or not x.any():
            raise DataError(
                f"x must hold counts of words, at least 0 and some above 0; got values from {x.min()} to {x.max()}"
            )
        return {
            "topics_concentration": rng.gamma(100.0, 0.01, (num_starts, self.num_topics, v)),
            "proportions_concentration": rng.gamma(100.0, 0.01, (num_starts, n, self.num_topics)),
        }

    def vb_step(self, q: Mapping[str, Any], data: Mapping[str, Any], weights: Any) -> tuple[dict[str, Any], Any]:
        """One iteration (Hoffman, Blei & Bach 2010, algorithm 1), and the bound of ``q`` with the best word topics."""
        x, lam = 1.0 * data["x"], q["topics_concentration"]
        value = self._bound(q, x, weights)
        topics = xp.exp(_dirichlet.expected_log(lam))
        gamma = self._documents(q["proportions_concentration"], topics, x, self.document_steps)
        theta = xp.exp(_dirichlet.expected_log(gamma))
        share = _share(x, theta @ topics)
        new = self._eta + topics * ((theta if weights is None else theta * weights[:, None]).T @ share)
        return {"topics_concentration": new, "proportions_concentration": gamma}, value

    def _documents(self, gamma: Any, topics: Any, x: Any, num_steps: int) -> Any:
        """Sweeps of q(theta) (N, K) and the word topics, for topics exp E log beta (K, V)."""

        def sweep(gamma: Any, _: Any) -> tuple[Any, Any]:
            theta = xp.exp(_dirichlet.expected_log(gamma))
            return self._alpha + theta * (_share(x, theta @ topics) @ topics.T), xp.zeros(())

        return xp.scan(sweep, gamma, xp.zeros((num_steps,)))[0]

    def _bound(self, q: Mapping[str, Any], x: Any, weights: Any) -> Any:
        lam, gamma = q["topics_concentration"], q["proportions_concentration"]
        orders = xp.gammaln(xp.sum(x, axis=1) + 1.0) - xp.sum(xp.gammaln(x + 1.0), axis=1)
        value = orders + self._document_bounds(gamma, xp.exp(_dirichlet.expected_log(lam)), x)
        value = value if weights is None else value * weights
        return xp.sum(value) - _dirichlet.divergence(lam, self._eta)

    def _document_bounds(self, gamma: Any, topics: Any, x: Any) -> Any:
        """A bound of log p(words of document n in order | beta), (N,), with E log beta in the place of log beta."""
        theta = xp.exp(_dirichlet.expected_log(gamma))
        words = xp.sum(xp.where(x > 0, x * xp.log(xp.where(x > 0, theta @ topics + _TINY, 1.0)), 0.0), axis=1)
        return words - _dirichlet.divergences(gamma, self._alpha)

    def vb_mean(self, q: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Means of the sites."""
        return {n: _dirichlet.mean(q[f"{n}_concentration"]) for n in ("topics", "proportions")}

    def vb_draws(
        self, q: Mapping[str, np.ndarray], num_draws: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Draws of the sites from q."""
        return {n: _dirichlet.draws(q[f"{n}_concentration"], num_draws, rng) for n in ("topics", "proportions")}

    # What the topics say of any documents ----------------------------------------------------------------------

    def vb_latent(self, q: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """``proportions`` (num_documents, K): means of q(theta), given the topics."""
        gamma = self._fitted(xp.exp(_dirichlet.expected_log(q["topics_concentration"])), 1.0 * data["x"])
        return {"proportions": gamma / xp.sum(gamma, axis=1, keepdims=True)}

    def _fitted(self, topics: Any, x: Any) -> Any:
        """q(theta) (N, K) at exp E log beta."""
        return self._documents(xp.ones((x.shape[0], self.num_topics)), topics, x, _SETTLED)

    def perplexity(self, params: Mapping[str, Any], x: Any, backend: str = "numpyro") -> float:
        """exp of minus the bound of log p(words) for each word, of documents x (num_documents, vocabulary).

        Args:
            params: of a run by ``vbem``; the documents need not be those that it was fitted to.
        """
        with on(backend) as room:
            counts = 1.0 * room.asarray(x)
            topics = xp.exp(_dirichlet.expected_log(room.asarray(params["q.topics_concentration"])))
            total = xp.sum(self._document_bounds(self._fitted(topics, counts), topics, counts))
            return float(np.exp(-room.to_numpy(total) / np.sum(x)))


def _share(x: Any, probs: Any) -> Any:
    """x / probs, zero where x is."""
    return xp.where(x > 0, x / (probs + _TINY), 0.0)


def _shape(x: Any) -> tuple[int, int]:
    return table("LatentDirichlet", x, "num_documents", "vocabulary", "a single document goes in as x[None]")
