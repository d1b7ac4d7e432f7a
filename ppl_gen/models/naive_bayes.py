"""Naive Bayes: features independent given the class, labels observed, partly observed or absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.missing import Missing, split
from ppl_gen.models import _kmeans
from ppl_gen.models._options import count, one_of, table
from ppl_gen.models._scale import data_scale
from ppl_gen.primitives import dist, mask, plate, sample, xp
from ppl_gen.program import DataError

_LIKELIHOODS = ("gaussian", "bernoulli", "multinomial")
_LEAST_ALPHA = 1e-10  # as in scikit-learn: a log of zero would follow from less
_LEAST_LOG = -1e30
_MOST_ROWS = 5_000  # of each label, and of those without one, that a start looks at


@dataclass(frozen=True)
class NaiveBayes:
    """z_n ~ Categorical(pi), and given z_n = k the features x_n1, ..., x_nD are independent.

    "gaussian": x_nd ~ N(mu_kd, sigma_kd^2). "bernoulli": x_nd ~ Bernoulli(theta_kd). "multinomial": counts x_n ~
    Multinomial(sum of x_n, theta_k) (McCallum & Nigam 1998). The label y_n is z_n where it is known and -1 where it is
    not; rows without one are summed over their classes (Nigam, McCallum, Thrun & Mitchell 2000). Without y the model
    is a mixture. Entries of Gaussian and Bernoulli x may be missing (NaN).

    Sites: ``weights`` pi (K,); ``locs`` mu and ``scales`` sigma, or ``probs`` theta, (K, D). Priors: pi ~
    Dirichlet(1); mu and sigma as in :class:`GaussianMixture`; theta ~ Beta(1 + alpha, 1 + alpha) or Dirichlet(1 +
    alpha), of which EM finds the mode.

    Attributes:
        num_classes: K.
        likelihood: "gaussian", "bernoulli" or "multinomial".
        alpha: pseudo-counts of theta; 1 is Laplace's rule.
        var_smoothing: times the largest variance of a feature, added to every sigma_kd^2 in EM's M-step.
        num_words: sum of a row that is drawn anew, of the multinomial.
    """

    num_classes: int
    likelihood: str = "gaussian"
    alpha: float = 1.0
    var_smoothing: float = 1e-9
    num_words: int = 100

    outputs: ClassVar[tuple[str, ...]] = ("x", "z")
    em_rows: ClassVar[tuple[str, ...]] = ("x", "y")
    dims: ClassVar[dict[str, list[str | None]]] = {
        "weights": ["class"],
        "locs": ["class", "feature"],
        "scales": ["class", "feature"],
        "probs": ["class", "feature"],
    }

    def __post_init__(self) -> None:
        count("num_classes", self.num_classes)
        count("num_words", self.num_words)
        one_of("likelihood", self.likelihood, _LIKELIHOODS)
        for name in ("alpha", "var_smoothing"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {getattr(self, name)!r}")

    @property
    def missing(self) -> tuple[str, ...]:
        """Arguments whose entries may be NaN."""
        return () if self.likelihood == "multinomial" else ("x",)

    def __call__(
        self, x: Any = None, y: Any = None, num_data: int | None = None, num_features: int | None = None
    ) -> None:
        """The program; ``x`` has shape (num_data, num_features), ``y`` (num_data,) holds 0, ..., K - 1 or -1."""
        n, d = (num_data or 1, num_features or 1) if x is None else table("NaiveBayes", x)
        k = self.num_classes
        weights = sample("weights", dist.Dirichlet(xp.ones((k,))))
        features = self._features(x, d)
        with plate("data", n):
            z = sample("z", dist.Categorical(probs=weights))
            if y is not None:
                _check_labels(y, n)
                with mask(y >= 0):
                    certain = xp.where(xp.eye(k) > 0, 0.0, -xp.inf)
                    sample("label", dist.Categorical(logits=certain[z]), obs=xp.astype(xp.maximum(y, 0), xp.int32))
            sample("x", features(z), obs=x.values if isinstance(x, Missing) else x)

    def _features(self, x: Any, d: int) -> Any:
        """z -> the distribution of x given z."""
        k, concentration = self.num_classes, 1.0 + max(self.alpha, _LEAST_ALPHA)
        observed = x.observed if isinstance(x, Missing) else None
        if self.likelihood == "multinomial":
            probs = sample("probs", dist.Dirichlet(xp.full((d,), concentration)).expand([k]).to_event(1))
            total = self.num_words if x is None else xp.sum(x, axis=-1)
            return lambda z: dist.Multinomial(total, probs=probs[z])
        if self.likelihood == "bernoulli":
            probs = sample("probs", dist.Beta(concentration, concentration).expand([k, d]).to_event(2))
            return lambda z: _seen(dist.Bernoulli(probs=probs[z]), observed).to_event(1)
        centre, spread = data_scale(x, d)
        locs = sample("locs", dist.Normal(centre, 2.5 * spread).expand([k, d]).to_event(2))
        scales = sample("scales", dist.HalfNormal(2.0 * spread).expand([k, d]).to_event(2))
        return lambda z: _seen(dist.Normal(locs[z], scales[z]), observed).to_event(1)

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n, "num_features": values["probs" if "probs" in values else "locs"].shape[-1]}

    # Expectation-maximisation ---------------------------------------------------------------------------------

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Parameters of some rows, with a leading axis of starts.

        The first is that of the labelled rows alone, further ones also give the other rows classes at random. Classes
        without a labelled row share the rows without a label, by k-means++.

        Raises:
            DataError: labels that are not 0, ..., K - 1 or -1, or fewer rows than classes.
        """
        n, _ = table("NaiveBayes", data["x"])
        y = self._labels(data.get("y"), n)
        each = (rng.permutation(np.flatnonzero(y == k))[:_MOST_ROWS] for k in range(-1, self.num_classes))
        rows = np.sort(np.concatenate(list(each)))
        x, y = np.asarray(data["x"][rows], dtype=float), y[rows]
        runs = [self._of_classes(x, self._completed(x, y, rng, i == 0)) for i in range(num_starts)]
        return {name: np.stack([r[name] for r in runs]) for name in runs[0]}

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Labels that are 0, ..., K - 1 or -1.

        Raises:
            DataError: others.
        """
        self._labels(data.get("y"), 1)

    def _labels(self, y: Any, n: int) -> np.ndarray:
        y = np.full(n, -1) if y is None else np.asarray(y)
        whole = y.astype(int)
        if (whole != y).any() or whole.min() < -1 or whole.max() >= self.num_classes:
            raise DataError(
                f"y must hold whole numbers from 0 to {self.num_classes - 1}, or -1 for a row without a label; got "
                f"{np.unique(y)[:8].tolist()}"
            )
        return whole

    def _completed(self, x: np.ndarray, y: np.ndarray, rng: np.random.Generator, first: bool) -> np.ndarray:
        """Labels with classes in the place of -1, save of rows that shall not count at the start."""
        lacking = np.setdiff1d(np.arange(self.num_classes), y)
        free = np.flatnonzero(y < 0)
        if not len(lacking) and (first or not len(free)):
            return y
        if len(lacking) > len(free):
            raise DataError(
                f"classes {lacking.tolist()} have no labelled row, and {len(free)} rows are without a label: "
                "expected one for each of these classes at least; use fewer classes"
            )
        full = y.copy()
        if len(lacking):
            full[free] = lacking[_kmeans.labels(self._comparable(x[free]), len(lacking), rng)]
        else:
            full[free] = rng.integers(self.num_classes, size=len(free))
        return full

    def _comparable(self, x: np.ndarray) -> np.ndarray:
        """Rows that k-means can compare: proportions of counts, means in the place of what is missing."""
        if self.likelihood == "multinomial":
            return x / np.maximum(x.sum(1, keepdims=True), 1.0)
        values, observed = split(x)
        return np.where(observed > 0, x, values.sum(0) / np.maximum(observed.sum(0), 1.0))

    def _of_classes(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        values, observed = split(x)
        r = np.equal.outer(y, np.arange(self.num_classes)).astype(float)
        centre = values.sum(0) / np.maximum(observed.sum(0), 1.0)
        sums = {"size": r.sum(0), "count": r.T @ observed}
        if self.likelihood != "gaussian":
            return self._estimates(np, {**sums, "first": r.T @ values}, {})
        v = (values - centre) * observed
        sums |= {"first": r.T @ v, "second": r.T @ v**2}
        return self._estimates(np, sums, {"locs": np.tile(centre, (self.num_classes, 1))})

    @property
    def em_regularised(self) -> str | None:
        """The option that EM's steps add to variances by, if they do."""
        return "var_smoothing" if self.likelihood == "gaussian" and self.var_smoothing > 0 else None

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """E-step: expected numbers of rows and of observed entries, and sums of features, for each class."""
        joint = self.log_joint(params, data)
        evidence = xp.logsumexp(joint, axis=1, keepdims=True)
        r = xp.exp(joint - evidence)
        if weights is not None:
            r, evidence = r * weights[:, None], evidence * weights[:, None]
        x, observed = _parts(data["x"])
        size = xp.sum(r, axis=0)
        sums = {"size": size, "count": size[:, None] + xp.zeros_like(x[:1]) if observed is None else r.T @ observed}
        if self.likelihood != "gaussian":
            return {**sums, "first": r.T @ x}, xp.sum(evidence)
        v = _deviations(x, observed, around["locs"])
        first, second = xp.sum(r[:, :, None] * v, axis=0), xp.sum(r[:, :, None] * v * v, axis=0)
        return {**sums, "first": first, "second": second}, xp.sum(evidence)

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """M-step, smoothed as in scikit-learn."""
        return self._estimates(xp, statistics, around)

    def em_penalty(self, params: Any) -> Any:
        """What the smoothed M-step climbs beside the log likelihood: the log density of theta's prior, unnormalised."""
        if self.likelihood == "gaussian":
            return xp.zeros(())
        theta, alpha = params["probs"], max(self.alpha, _LEAST_ALPHA)
        both = _log(theta) + _log(1.0 - theta) if self.likelihood == "bernoulli" else _log(theta)
        return alpha * xp.sum(both)

    def latent(self, params: Any, data: Any) -> dict[str, Any]:
        """``z``: p(z_n = k | x_n, y_n), shape (num_data, K)."""
        joint = self.log_joint(params, data)
        return {"z": xp.exp(joint - xp.logsumexp(joint, axis=1, keepdims=True))}

    def _estimates(self, np_: Any, sums: Mapping[str, Any], around: Mapping[str, Any]) -> dict[str, Any]:
        weights = sums["size"] / np_.sum(sums["size"])
        alpha, number = max(self.alpha, _LEAST_ALPHA), sums["count"]
        if self.likelihood == "multinomial":
            smoothed = sums["first"] + alpha
            return {"weights": weights, "probs": smoothed / np_.sum(smoothed, axis=1)[:, None]}
        if self.likelihood == "bernoulli":
            return {"weights": weights, "probs": (sums["first"] + alpha) / (number + 2.0 * alpha)}
        some = np_.where(number > 0, number, 1.0)
        shift = sums["first"] / some
        within, locs = sums["second"] / some - shift * shift, around["locs"] + shift
        whole = np_.sum(number, axis=0)
        whole = np_.where(whole > 0, whole, 1.0)
        apart = locs - np_.sum(number * locs, axis=0) / whole
        overall = np_.sum(number * (within + apart * apart), axis=0) / whole
        widest = np_.max(overall)
        least = self.var_smoothing * np_.where(widest > 0, widest, 1.0)
        variances = np_.where(number > 0, within, overall)  # nothing seen of a feature in a class
        return {"weights": weights, "locs": locs, "scales": np_.sqrt(np_.where(variances > 0, variances, 0.0) + least)}

    def log_joint(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        """log p(z_n = k, y_n, x_n), shape (N, K)."""
        x, observed = _parts(data["x"])
        joint = _log(params["weights"]) + self._log_densities(params, x, observed)
        if data.get("y") is None:
            return joint
        y = data["y"][:, None]
        return xp.where((y >= 0) & (y != xp.arange(self.num_classes)), -xp.inf, joint)

    def _log_densities(self, params: Mapping[str, Any], x: Any, observed: Any) -> Any:
        """log p(x_n | z_n = k), shape (N, K)."""
        if self.likelihood == "multinomial":
            arrangements = xp.gammaln(xp.sum(x, axis=1) + 1.0) - xp.sum(xp.gammaln(x + 1.0), axis=1)
            return arrangements[:, None] + x @ _log(params["probs"]).T
        if self.likelihood == "bernoulli":
            absent = (1.0 if observed is None else observed) - x
            return x @ _log(params["probs"]).T + absent @ _log(1.0 - params["probs"]).T
        scales = params["scales"]
        whitened = _deviations(x, observed, params["locs"]) / scales
        level = xp.log(scales) + 0.5 * float(np.log(2 * np.pi))
        levels = xp.sum(level, axis=1) if observed is None else observed @ level.T
        return -levels - 0.5 * xp.sum(whitened * whitened, axis=2)


def _check_labels(y: Any, n: int) -> None:
    if tuple(y.shape) != (n,):
        raise DataError(f"y must hold one label for each of the {n} rows, -1 for none; got shape {tuple(y.shape)}")


def _parts(x: Any) -> tuple[Any, Any]:
    """Values as floating point, and which of them were observed, None where all were."""
    return (x.values, x.observed) if isinstance(x, Missing) else (1.0 * x, None)


def _seen(distribution: Any, observed: Any) -> Any:
    return distribution if observed is None else distribution.mask(observed > 0)


def _deviations(x: Any, observed: Any, locs: Any) -> Any:
    """x_n - mu_k, zero where x was not observed; shape (N, K, D)."""
    v = x[:, None, :] - locs
    return v if observed is None else v * observed[:, None, :]


def _log(p: Any) -> Any:
    """log p, at 0 a finite number, of which zero times is zero."""
    return xp.maximum(xp.log(p), _LEAST_LOG)
