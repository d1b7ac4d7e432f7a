"""Mixtures of Gaussians by variational Bayes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ppl_gen.missing import Missing
from ppl_gen.models import _dirichlet, _kmeans, _wishart
from ppl_gen.models._components import enough_rows
from ppl_gen.models._gaussian_rows import centred, diagonal, incomplete, on_host
from ppl_gen.models._missing_gaussian import normal, observed_normal, values
from ppl_gen.models._moments import moments, squared_distances
from ppl_gen.models._options import count, nonnegative, numbers, one_of, positive, table
from ppl_gen.models._rows import filled, some_rows
from ppl_gen.models._scale import data_scale
from ppl_gen.primitives import deterministic, dist, plate, sample, xp

_TYPES = ("full", "tied", "diag", "spherical")
_WEIGHTS = ("dirichlet", "dirichlet_process")
_MOST_ROWS = 20_000  # of a starting partition
_FLOOR = 1e-6  # of the variances of a covariance prior that the data give


class _Prior(NamedTuple):
    """Of mu: m0 (D,), beta0; of Lambda: nu0, and W0^-1 of one component."""

    loc: Any
    precision: float
    dof: float
    rate: Any


@dataclass(frozen=True)
class BayesianGaussianMixture:
    """x_n | z_n = k ~ N(mu_k, Lambda_k^-1), z_n ~ Categorical(pi), with conjugate priors; Bishop (2006), section 10.2.

    NaN in x is an entry that was not observed. The program integrates it out exactly; ``vbem`` holds it in q, given
    the row's component, which leaves its bound below one that would integrate it out.

    pi ~ Dirichlet(alpha0), or broken from a stick, pi_k = v_k prod_{j<k} (1 - v_j), v_k ~ Beta(1, alpha0), v_K = 1: a
    Dirichlet process cut off at K components (Blei & Jordan 2006). Lambda_k ~ Wishart(W0, nu0), mu_k | Lambda_k ~
    N(m0, (beta0 Lambda_k)^-1). Components that the data do not need are left empty, so that K is an upper bound.

    Sites: ``weights`` pi (K,), or ``sticks`` v (K - 1,) of a Dirichlet process; ``locs`` mu (K, D); ``precisions``
    Lambda: full (K, D, D), tied (D, D), diag (K, D), spherical (K,). The last two have independent priors
    Gamma(nu0 / 2, 1 / (2 W0)) of each feature, and Gamma(D nu0 / 2, D / (2 W0)) of each component. Components have no
    order of their own: chains of ``nuts`` may number them differently.

    With full covariances an iteration is scikit-learn's. Elsewhere that takes log |Lambda| as if it were a full
    matrix's, divides a tied matrix's degrees of freedom by K and leaves the last stick free, so that its bound may
    fall; here every bound is one of the log evidence of the program.

    Attributes:
        num_components: K.
        covariance_type: "full", "tied" (one Lambda for all), "diag" or "spherical" (one precision a component).
        weights_prior: "dirichlet" or "dirichlet_process".
        weight_concentration_prior: alpha0; 1 / K where None.
        mean_precision_prior: beta0.
        mean_prior: m0 (D,); the mean of the data where None.
        degrees_of_freedom_prior: nu0; D where None.
        covariance_prior: W0^-1, in the shape of one component's precision; the covariance of the data where None, with
            a millionth of the mean variance more on its diagonal.
        regularization: added to the rows' variances in each update of q, in the data's units squared, as of
            :class:`GaussianMixture`; above 0 updates are not exact, and the bound may fall.
    """

    num_components: int
    covariance_type: str = "full"
    weights_prior: str = "dirichlet"
    weight_concentration_prior: float | None = None
    mean_precision_prior: float = 1.0
    mean_prior: Any = None
    degrees_of_freedom_prior: float | None = None
    covariance_prior: Any = None
    regularization: float = 0.0

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)
    missing: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {"weights": ["component"], "locs": ["component", "feature"]}

    def __post_init__(self) -> None:
        count("num_components", self.num_components)
        one_of("covariance_type", self.covariance_type, _TYPES)
        one_of("weights_prior", self.weights_prior, _WEIGHTS)
        for name in ("weight_concentration_prior", "mean_precision_prior", "degrees_of_freedom_prior"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        nonnegative("regularization", self.regularization)
        for name in ("mean_prior", "covariance_prior"):  # as tuples, so that the model has a hash
            object.__setattr__(self, name, numbers(name, getattr(self, name)))

    def __call__(self, x: Any = None, num_data: int | None = None, num_features: int | None = None) -> None:
        """The program; ``x`` has shape (num_data, num_features), NaN where nothing was observed."""
        n, d = (num_data or 1, num_features or 1) if x is None else table("BayesianGaussianMixture", x)
        prior = self._prior(xp, x, d)
        weights = self._weights()
        component = self._component(x, prior, d)
        with plate("data", n):
            z = sample("z", dist.Categorical(probs=weights))
            sample("x", component(z), obs=values(x))

    def _weights(self) -> Any:
        k, concentration = self.num_components, self._concentration
        if self.weights_prior == "dirichlet":
            return sample("weights", dist.Dirichlet(concentration * xp.ones((k,))))
        if k == 1:
            return xp.ones((1,))
        sticks = sample("sticks", dist.Beta(1.0, concentration).expand([k - 1]).to_event(1))
        return deterministic("weights", _broken(xp, sticks))

    def _component(self, x: Any, prior: _Prior, d: int) -> Any:
        """z -> the distribution of x given z."""
        kind, k, beta = self.covariance_type, self.num_components, prior.precision
        if self._matrices:
            lead = [] if kind == "tied" else [k]
            law = dist.Wishart(prior.dof, rate_matrix=prior.rate).expand(lead).to_event(len(lead))
            precisions = sample("precisions", law)
            law = dist.MultivariateNormal(prior.loc, precision_matrix=beta * precisions)
            locs = sample("locs", law.expand([k]).to_event(1))
            gaps = isinstance(x, Missing)
            matrices = xp.linalg.inv(precisions) if gaps else precisions
            own = (lambda z: matrices) if kind == "tied" else (lambda z: matrices[z])
            if gaps:
                return lambda z: observed_normal(x, locs[z], own(z))
            return lambda z: dist.MultivariateNormal(locs[z], precision_matrix=own(z))
        lead, size = ([k, d], 1) if kind == "diag" else ([k], d)
        law = dist.Gamma(0.5 * size * prior.dof, 0.5 * size * prior.rate).expand(lead).to_event(len(lead))
        precisions = sample("precisions", law)
        scales = 1.0 / xp.sqrt(precisions if kind == "diag" else precisions[:, None])
        locs = sample("locs", dist.Normal(prior.loc, scales / math.sqrt(beta)).expand([k, d]).to_event(2))
        return lambda z: normal(x, locs[z], scales[z])

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n, "num_features": values["locs"].shape[-1]}

    @property
    def _matrices(self) -> bool:
        """Whether precisions are matrices."""
        return self.covariance_type in _wishart.MATRICES

    # Priors ---------------------------------------------------------------------------------------------------

    @property
    def _concentration(self) -> float:
        given = self.weight_concentration_prior
        return 1.0 / self.num_components if given is None else given

    def _prior(self, lib: Any, x: Any, d: int) -> _Prior:
        """The prior as arrays of ``lib``: NumPy, or that of the active backend."""
        kind = self.covariance_type
        dof = float(d if self.degrees_of_freedom_prior is None else self.degrees_of_freedom_prior)
        if self._matrices and dof <= d - 1:
            raise ValueError(f"degrees_of_freedom_prior must be above num_features - 1 = {d - 1}, got {dof}")
        shape = {"full": (d, d), "tied": (d, d), "diag": (d,), "spherical": ()}[kind]
        loc = self._given(lib, "mean_prior", (d,))
        rate = self._given(lib, "covariance_prior", shape)
        if x is None:
            centre, spread = lib.zeros((d,)), lib.eye(d) if self._matrices else lib.ones(shape)
        else:
            centre, y = centred(lib, x)
            spread = self._spread(lib, y)
        return _Prior(
            centre if loc is None else loc, float(self.mean_precision_prior), dof, spread if rate is None else rate
        )

    def _given(self, lib: Any, name: str, shape: tuple[int, ...]) -> Any:
        value = getattr(self, name)
        if value is not None and np.shape(value) != shape:
            raise ValueError(
                f"{name} has shape {np.shape(value)}: expected {shape} for covariance_type={self.covariance_type!r}"
            )
        return None if value is None else lib.asarray(np.asarray(value, float))

    def _spread(self, lib: Any, y: Any) -> Any:
        """Covariance of centred rows, its diagonal or the mean of that, kept away from zero."""
        rows = max(y.shape[0] - 1, 1)
        variances = lib.sum(y * y, axis=0) / rows
        mean = lib.mean(variances)
        floor = lib.where(mean > 0, _FLOOR * mean, lib.ones_like(mean))
        if self._matrices:
            return y.T @ y / rows + floor * lib.eye(y.shape[1])
        return (variances if self.covariance_type == "diag" else mean) + floor

    # Variational Bayes ----------------------------------------------------------------------------------------

    @property
    def em_regularised(self) -> str | None:
        """The option that updates add to variances by, if they do."""
        return "regularization" if self.regularization > 0 else None

    def vb_starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """q of k-means++ partitions of at most 20,000 rows, largest component first, with a leading axis of starts.

        Means stand in for missing entries.

        Raises:
            DataError: fewer rows than components, or a column without any entry.
        """
        n, d = table("BayesianGaussianMixture", data["x"])
        enough_rows(self.num_components, data["x"])
        prior = self._prior(np, on_host(data["x"]), d)
        x = filled(some_rows(data["x"], _MOST_ROWS, rng))
        runs = [self._of_labels(x, _kmeans.labels(x, self.num_components, rng), n, prior) for _ in range(num_starts)]
        return {name: np.stack([q[name] for q in runs]) for name in runs[0]}

    def _of_labels(self, x: np.ndarray, labels: np.ndarray, n: int, prior: _Prior) -> dict[str, np.ndarray]:
        order = np.argsort(-np.bincount(labels, minlength=self.num_components), kind="stable")
        y = x - prior.loc
        parts = [y[labels == k] for k in order]
        second = np.stack([part.T @ part if self._matrices else np.sum(part * part, 0) for part in parts])
        size, first = np.array([len(part) for part in parts]), np.stack([part.sum(0) for part in parts])
        all_rows = n / len(x)
        return self._update(np, all_rows * size, all_rows * first, all_rows * second, prior.loc, prior)

    def vb_step(self, q: Mapping[str, Any], data: Mapping[str, Any], weights: Any) -> tuple[dict[str, Any], Any]:
        """One iteration (Bishop 2006, equations 10.46 to 10.67), and the bound of ``q`` with the best q(z).

        That bound is sum_n log sum_k exp E log p(x_n, z_n = k) - KL(q(pi, mu, Lambda) || p), every constant included;
        of an incomplete row, exp E log p is integrated over what is missing: q holds that beside z.
        """
        x = data["x"]
        prior = self._prior(xp, x, x.shape[1])
        joint, centre, sums = self._expected_log_joint(q, x)
        evidence = xp.logsumexp(joint, axis=0)
        r = xp.exp(joint - evidence)
        if weights is not None:
            r, evidence = r * weights, evidence * weights
        new = self._update(xp, xp.sum(r, axis=1), *sums(r), centre, prior)
        return new, xp.sum(evidence) - self._divergence(q, prior)

    def vb_mean(self, q: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Means of the sites."""
        means = _dirichlet.mean(q["weights_concentration"])
        precisions = _wishart.mean(self.covariance_type, q["degrees_of_freedom"], q["rate"])
        return {**self._broken_draws(means), "locs": q["locs"], "precisions": precisions}

    def vb_draws(
        self, q: Mapping[str, np.ndarray], num_draws: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Draws of the sites from q."""
        kind, m, beta = self.covariance_type, q["locs"], q["mean_precision"]
        weights = _dirichlet.draws(q["weights_concentration"], num_draws, rng)
        root = _wishart.draw_roots(kind, q["degrees_of_freedom"], q["rate"], num_draws, m.shape[1], rng)
        noise = rng.standard_normal((num_draws, *m.shape)) / np.sqrt(beta)[:, None]
        if self._matrices:
            own = root[:, None] if kind == "tied" else root
            noise = np.linalg.solve(np.swapaxes(own, -1, -2), noise[..., None])[..., 0]
            precisions = root @ np.swapaxes(root, -1, -2)
        else:
            noise = noise / (root if kind == "diag" else root[..., None])
            precisions = root**2
        return {**self._broken_draws(weights), "locs": m + noise, "precisions": precisions}

    def _broken_draws(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Values (..., K) of a Dirichlet, or (..., K - 1, 2) of stick and rest, as sites."""
        if self.weights_prior == "dirichlet":
            return {"weights": values}
        if self.num_components == 1:
            return {}
        return {"sticks": values[..., 0], "weights": _broken(np, values[..., 0])}

    def _update(self, lib: Any, size: Any, first: Any, second: Any, centre: Any, prior: _Prior) -> dict[str, Any]:
        """q of expected sums over rows: their number (K,), and moments about ``centre``, (K, D) and as ``rate`` is."""
        precision, kind = prior.precision + size, self.covariance_type
        whole = lib.where(size > 0, size, lib.ones_like(size))
        mean = first / whole[:, None]
        off, share = centre + mean - prior.loc, prior.precision * size / precision
        if self._matrices:
            added = self.regularization * size[:, None, None] * lib.eye(mean.shape[1])
            scatter = second - first[:, :, None] * mean[:, None, :] + added
            scatter = scatter + share[:, None, None] * off[:, :, None] * off[:, None, :]
        else:
            added = self.regularization * size[:, None]
            scatter = second - first * mean + added + share[:, None] * off * off
        if kind == "tied":
            scatter = lib.sum(scatter, axis=0)
        elif kind == "spherical":
            scatter = lib.mean(scatter, axis=1)
        return {
            "weights_concentration": self._q_weights(lib, size),
            "mean_precision": precision,
            "locs": prior.loc + (size / precision)[:, None] * off,
            "degrees_of_freedom": prior.dof + (lib.sum(size) if kind == "tied" else size),
            "rate": prior.rate + scatter,
        }

    def _q_weights(self, lib: Any, size: Any) -> Any:
        """Concentrations (K,), or (K - 1, 2) of the sticks (Blei & Jordan 2006, equations 18 and 19)."""
        if self.weights_prior == "dirichlet":
            return self._concentration + size
        later = lib.flip(lib.cumsum(lib.flip(size[1:], axis=0), axis=0), axis=0)
        return lib.stack([1.0 + size[:-1], self._concentration + later], axis=-1)

    def _expected_log_weights(self, concentration: Any) -> Any:
        """E log pi (K,)."""
        parts = _dirichlet.expected_log(concentration)
        if self.weights_prior == "dirichlet":
            return parts
        zero = xp.zeros((1,))
        return xp.concatenate([parts[:, 0], zero]) + xp.concatenate([zero, xp.cumsum(parts[:, 1], axis=0)])

    def _expected_log_joint(self, q: Mapping[str, Any], x: Any) -> tuple[Any, Any, Callable[[Any], tuple[Any, Any]]]:
        """E log p(x_n, z_n = k) (K, N) (Bishop 2006, equations 10.46, 10.64 to 10.66), exp integrated where x has gaps.

        Returns:
            that; a centre (D,); and a function from responsibilities (K, N) to the sums of x - centre, (K, D), and of
            its products, or squares.
        """
        kind, d, dof = self.covariance_type, x.shape[1], q["degrees_of_freedom"]
        inverse, log_rate = _wishart.factor(kind, q["rate"])
        level = _wishart.expected_log_det(kind, dof, log_rate, d) - d / q["mean_precision"]
        log_weights = self._expected_log_weights(q["weights_concentration"])
        centre, scale = data_scale(x, d)
        if isinstance(x, Missing):
            # exp E log p(x | z = k) is a constant times N(x | m_k, (E Lambda_k)^-1)
            densities, sums = self._incomplete(q, x, centre, scale)
            level = level - _wishart.log_det_of_mean(kind, dof, log_rate, d)
            return (log_weights + 0.5 * level)[:, None] + densities, centre, sums
        y = (x - centre) / scale
        distance = self._distances(y, (q["locs"] - centre) / scale, self._scaled(inverse, scale))
        nu = dof if kind == "tied" else dof[:, None]
        joint = (log_weights + 0.5 * (level - d * math.log(2 * math.pi)))[:, None] - 0.5 * nu * distance
        return joint, centre, lambda r: self._in_units(moments(r, y) if self._matrices else (r @ y, r @ (y * y)), scale)

    def _in_units(self, sums: tuple[Any, Any], scale: Any) -> tuple[Any, Any]:
        """Sums of y, and of its products or squares, as those of scale * y."""
        return sums[0] * scale, sums[1] * (xp.outer(scale, scale) if self._matrices else scale * scale)

    def _incomplete(self, q: Mapping[str, Any], x: Missing, centre: Any, scale: Any) -> tuple[Any, Any]:
        """log N(x_n | m_k, (E Lambda_k)^-1) of what was observed (K, N), and sums as of :meth:`_expected_log_joint`."""
        locs, sigma = q["locs"], _wishart.inverse_of_mean(q["degrees_of_freedom"], q["rate"])
        if self._matrices:
            return incomplete(x, locs, sigma + xp.zeros((*locs.shape, locs.shape[1])), centre)
        own = xp.sqrt(sigma[:, None] if self.covariance_type == "spherical" else sigma) + xp.zeros_like(locs)
        densities, sums = diagonal(x, locs, own, centre, scale)
        return densities, lambda r: self._in_units(sums(r), scale)

    def _scaled(self, inverse: Any, scale: Any) -> Any:
        """The A of :func:`_wishart.factor` for x in units of ``scale``; (K, D) where it is no matrix."""
        return (inverse[:, None] if self.covariance_type == "spherical" else inverse) * scale

    def _distances(self, y: Any, m: Any, inverse: Any) -> Any:
        """|A_k (y_n - m_k)|^2, (K, N), as a product of matrices."""
        if self.covariance_type == "full":
            return squared_distances(y, inverse, (inverse @ m[:, :, None])[:, :, 0])
        if self.covariance_type == "tied":
            y, m, precision = y @ inverse.T, m @ inverse.T, xp.ones_like(m)
        else:
            precision = inverse * inverse
        weights = xp.concatenate([-2.0 * m * precision, precision], axis=1)
        return xp.sum(m * m * precision, axis=1)[:, None] + weights @ xp.concatenate([y, y * y], axis=1).T

    def _divergence(self, q: Mapping[str, Any], prior: _Prior) -> Any:
        """KL(q(pi, mu, Lambda) || p)."""
        kind, d, beta, dof = self.covariance_type, prior.loc.shape[0], q["mean_precision"], q["degrees_of_freedom"]
        inverse, _ = _wishart.factor(kind, q["rate"])
        off, ratio = q["locs"] - prior.loc, prior.precision / beta
        white = (inverse @ off[:, :, None])[:, :, 0] if self._matrices else self._scaled(inverse, 1.0) * off
        moved = prior.precision * dof * xp.sum(white * white, axis=1)
        of_locs = 0.5 * xp.sum(d * (ratio - 1.0 - xp.log(ratio)) + moved)
        of_precisions = _wishart.divergence(kind, dof, q["rate"], prior.dof, prior.rate, d)
        return self._weights_divergence(q["weights_concentration"]) + of_locs + of_precisions

    def _weights_divergence(self, concentration: Any) -> Any:
        if self.weights_prior == "dirichlet":
            return _dirichlet.divergence(concentration, self._concentration)
        return _dirichlet.divergence(concentration, xp.array([1.0, self._concentration]))

    def vb_latent(self, q: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """``z``: responsibilities (N, K)."""
        return {"z": xp.softmax(self._expected_log_joint(q, data["x"])[0], axis=0).T}

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Means of the starts of q, for engines that move the sites themselves."""
        q = self.vb_starts(data, num_starts, rng)
        runs = [self.vb_mean({name: v[i] for name, v in q.items()}) for i in range(num_starts)]
        return {name: np.stack([r[name] for r in runs]) for name in runs[0]}


def _broken(lib: Any, sticks: Any) -> Any:
    """Weights (..., K) of sticks (..., K - 1)."""
    one = lib.ones_like(sticks[..., :1])
    left = lib.concatenate([one, lib.cumprod(1.0 - sticks, axis=-1)], axis=-1)
    return lib.concatenate([sticks, one], axis=-1) * left
