"""Linear-Gaussian state-space models, also called linear dynamical systems."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen import kalman
from ppl_gen.missing import Missing, split
from ppl_gen.models._options import count
from ppl_gen.models._rows import filled
from ppl_gen.models._scale import data_scale
from ppl_gen.models._subspace import subspace
from ppl_gen.primitives import dist, plate, sample, xp


@dataclass(frozen=True)
class LinearGaussianStateSpace:
    """z_1 ~ N(m0, P0), z_t = A z_{t-1} + N(0, I), x_t = C z_t + d + N(0, R); Shumway & Stoffer (1982).

    Data are one series (T, D) or several (num_sequences, T, D); NaN stands for what was not observed. The states are
    integrated out: the density of a series is exact, by the Kalman filter.

    Sites: ``transition`` A (q, q), ``emission`` C (D, q), ``offset`` d (D,), ``scales``, the square roots of the
    diagonal R (D,), ``initial_loc`` m0 (q,) and ``initial_scales``, the square roots of the diagonal P0 (q,). Any other
    covariance of the transitions, and then any P0, is this model in other coordinates of the states: with the identity
    and a diagonal, A and C are known up to signs and the order of the states. A single series does not tell m0 from P0:
    its likelihood is highest where P0 vanishes, which EM approaches slowly, with hardly an effect on the rest.

    Priors are weak and scaled by the data: A ~ N(0, 1 / q), which has spectral radius about 1, C ~ N(0, (2 sd)^2), d ~
    N(mean, (2.5 sd)^2), m0 ~ N(0, 10^2), scales and initial_scales ~ Gamma(2), of mean 2 sd and 10, which vanishes at
    zero, where the likelihood may be highest (Chung et al. 2013, A nondegenerate penalized likelihood estimator).

    Attributes:
        state_dim: q.
        min_scale: EM keeps each of ``scales`` above so many standard deviations of its feature; a likelihood without
            noise has no maximum.
    """

    state_dim: int
    min_scale: float = 1e-3

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    missing: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {
        "transition": ["state", "previous_state"],
        "emission": ["feature", "state"],
        "offset": ["feature"],
        "scales": ["feature"],
        "initial_loc": ["state"],
        "initial_scales": ["state"],
        "x": ["sequence", "time", "feature"],
    }

    def __post_init__(self) -> None:
        count("state_dim", self.state_dim)
        if not 0 < self.min_scale < 1:
            raise ValueError(f"min_scale must be a number between 0 and 1, got {self.min_scale!r}")

    def __call__(
        self,
        x: Any = None,
        num_sequences: int | None = None,
        num_steps: int | None = None,
        num_features: int | None = None,
    ) -> None:
        """The program; ``x`` has shape (num_steps, num_features) or (num_sequences, num_steps, num_features)."""
        given = (*([] if num_sequences is None else [num_sequences]), num_steps or 1, num_features or 1)
        *lead, steps, d = given if x is None else _shape(x)
        q, centre, spread = self.state_dim, *_scale(x, d)
        params = {
            "transition": sample("transition", dist.Normal(0.0, q**-0.5).expand([q, q]).to_event(2)),
            "emission": sample("emission", dist.Normal(0.0, 2.0 * spread[:, None]).expand([d, q]).to_event(2)),
            "offset": sample("offset", dist.Normal(centre, 2.5 * spread).to_event(1)),
            "scales": sample("scales", dist.Gamma(2.0, 1.0 / spread).to_event(1)),
            "initial_loc": sample("initial_loc", dist.Normal(0.0, 10.0).expand([q]).to_event(1)),
            "initial_scales": sample("initial_scales", dist.Gamma(2.0, 0.2).expand([q]).to_event(1)),
        }
        system, values, observed = self._system(params), *_entries(x)
        series = dist.FromFunctions(
            noise=dist.Normal(0.0, 1.0).expand([steps, q + d]).to_event(2),
            generate=lambda noise: kalman.simulate(xp, system, noise),
            log_prob=lambda x: kalman.kalman_filter(xp, system, x, observed).log_likelihood,
            event_shape=(steps, d),
        )
        with plate("sequence", lead[0]) if lead else nullcontext():
            sample("x", series, obs=values)

    def _system(self, params: Mapping[str, Any]) -> kalman.System:
        identity = xp.eye(self.state_dim)
        return kalman.System(
            initial_loc=params["initial_loc"],
            initial_covariance=identity * params["initial_scales"] ** 2,
            transition=params["transition"],
            transition_covariance=identity,
            emission=params["emission"],
            offset=params["offset"],
            variances=params["scales"] ** 2,
        )

    # What is known of the states --------------------------------------------------------------------------------

    def filter(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """States given the observations up to then: ``z`` (..., T, q) and ``z_cov`` (..., T, q, q).

        Also ``log_likelihood`` (...), of each series. Arrays of the active backend, or of NumPy inside
        ``with pg.on(...)``; in ``data["x"]`` NaN was not observed.
        """
        filtered = self._filtered(params, data["x"])[1]
        covariances = _in_full(filtered.covariances, filtered.means)
        return {"z": filtered.means, "z_cov": covariances, "log_likelihood": filtered.log_likelihood}

    def latent(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """States given all observations: ``z`` (..., T, q) and ``z_cov`` (..., T, q, q); arrays as for ``filter``."""
        smoothed = kalman.smoother(xp, *self._filtered(params, data["x"]))
        return {"z": smoothed.means, "z_cov": _in_full(smoothed.covariances, smoothed.means)}

    def forecast(self, params: Mapping[str, Any], data: Mapping[str, Any], num_steps: int) -> dict[str, Any]:
        """What comes after each series: ``x`` (..., num_steps, D), ``z`` (..., num_steps, q) and their ``_cov``.

        Means and covariances given ``params``; arrays as for ``filter``.
        """
        count("num_steps", num_steps)
        system, filtered = self._filtered(params, data["x"])
        last = filtered.means[..., -1, :], _in_full(filtered.covariances, filtered.means)[..., -1, :, :]
        z, z_cov = kalman.forecast(xp, system, *last, num_steps)
        x, x_cov = kalman.emitted(xp, system, z, z_cov)
        return {"x": x, "x_cov": x_cov, "z": z, "z_cov": z_cov}

    def _filtered(self, params: Mapping[str, Any], x: Any) -> tuple[kalman.System, kalman.Filtered]:
        _shape(x)
        system = self._system({name: xp.asarray(value) for name, value in params.items()})
        return system, kalman.kalman_filter(xp, system, *_entries(x))

    # Expectation-maximisation -----------------------------------------------------------------------------------

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Regressions in the principal subspace of lagged observations, the first start, and in random ones.

        Means stand in for missing entries. With a leading axis of starts.

        Raises:
            DataError: a feature without any entry.
        """
        x = np.asarray(data["x"], dtype=float)
        *_, steps, d = _shape(x)
        x = filled(x.reshape(-1, d)).reshape(-1, steps, d)
        runs = [_params(np, *subspace(x, self.state_dim, rng, leading=i == 0)) for i in range(num_starts)]
        return {name: np.stack([run[name] for run in runs]) for name in runs[0]}

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """E-step: moments of states and residuals (Shumway & Stoffer 1982; Ghahramani & Hinton 1996).

        Residuals are those of the regressions at ``around``, so that sums are of the size of what they estimate.
        ``weights`` has an entry for each series.
        """
        values, observed = _entries(data["x"])
        values, observed = (x if x is None or x.ndim == 3 else x[None] for x in (values, observed))
        if weights is not None and weights.shape[0] != values.shape[0]:
            raise ValueError(
                f"{weights.shape[0]} weights came for {values.shape[0]} series: expected one weight for each series"
            )
        weights = xp.ones_like(values[:, 0, 0]) if weights is None else weights
        system = self._system(params)
        filtered = kalman.kalman_filter(xp, system, values, observed)
        smoothed = kalman.smoother(xp, system, filtered)
        counted = weights[:, None, None] * (xp.ones_like(values) if observed is None else observed)
        statistics = {
            **_of_states(smoothed, around, weights),
            **_of_emissions(smoothed, around, values, counted, None if observed is None else counted),
        }
        return statistics, xp.sum(weights * filtered.log_likelihood)

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """M-step: three regressions (Ghahramani & Hinton 1996, section 3), then the coordinates in which Q = I.

        Those are the coordinates of the expanded model that has a Q of its own, so that this is parameter-expanded EM
        (Liu, Rubin & Wu 1998).
        """
        s, eye = statistics, xp.eye(self.state_dim)
        number, steps = s["number"], s["steps"]
        loc = s["first"] / number
        initial = s["first_square"] / number - xp.outer(loc, loc)
        idle = xp.where(steps > 0, 0.0, 1.0)  # series of one step say nothing of transitions
        change = xp.linalg.solve(s["before_square"] + idle * eye, s["shock_before"].T).T
        covariance = (s["shock_square"] - change @ s["shock_before"].T) / (steps + idle) + idle * eye
        emission, offset, variances = self._emissions(s, around)
        return _params(
            xp,
            around["initial_loc"] + loc,
            0.5 * (initial + initial.T),
            around["transition"] + change,
            0.5 * (covariance + covariance.T),
            emission,
            offset,
            variances,
        )

    def _emissions(self, s: Any, around: Any) -> tuple[Any, Any, Any]:
        """C, d and the diagonal of R; those ``around`` of features that were never observed."""
        q, seen = self.state_dim, s["seen"]
        idle = xp.where(seen > 0, 0.0, 1.0)
        gram = s["state_square"] + idle[:, None, None] * xp.eye(q + 1)
        change = xp.linalg.solve(gram, s["rest_state"][:, :, None])[:, :, 0]
        rest = (s["rest_square"] - xp.sum(change * s["rest_state"], axis=1)) / (seen + idle)
        variances = xp.maximum(rest, self.min_scale**2 * _spread(s, around["offset"], idle))
        variances = xp.where(seen > 0, variances, around["scales"] ** 2)
        return around["emission"] + change[:, :q], around["offset"] + change[:, q], variances


def _of_states(smoothed: kalman.Smoothed, around: Any, weights: Any) -> dict[str, Any]:
    """Moments of the first states and of transitions, of which ``shock`` is z_t - A z_{t-1} with A ``around``."""
    z, covariances, a, w = smoothed.means, smoothed.covariances, around["transition"], weights[:, None, None]
    before, shock = z[:, :-1], z[:, 1:] - z[:, :-1] @ a.T
    first = z[:, :1] - around["initial_loc"]
    later, earlier = (_over_series(weights, x) for x in (covariances[..., 1:, :, :], covariances[..., :-1, :, :]))
    cross = _over_series(weights, smoothed.cross_covariances)
    return {
        "number": xp.sum(weights),
        "steps": xp.sum(weights) * (z.shape[1] - 1),
        "first": xp.sum(w * first, axis=(0, 1)),
        "first_square": _over_series(weights, covariances[..., :1, :, :]) + _products(w * first, first),
        "before_square": earlier + _products(w * before, before),
        "shock_before": cross - a @ earlier + _products(w * shock, before),
        "shock_square": later - cross @ a.T - a @ cross.T + a @ earlier @ a.T + _products(w * shock, shock),
    }


def _of_emissions(smoothed: kalman.Smoothed, around: Any, x: Any, counted: Any, mask: Any) -> dict[str, Any]:
    """Moments of states, one added to them, and of what is left of each feature by C and d ``around``.

    ``counted`` (N, T, D) says how often each entry counts; ``mask`` is the same, or None where all of a series count
    alike.
    """
    z, covariances, c = smoothed.means, smoothed.covariances, around["emission"]
    d, q = c.shape
    y = x - around["offset"]
    rest = y - z @ c.T
    one = xp.concatenate([z, xp.ones_like(z[..., :1])], axis=-1)
    if mask is None:
        weights = counted[:, 0, 0]
        spread = _over_series(weights, covariances) + xp.zeros((d, 1, 1))
        square = _products(weights[:, None, None] * one, one) + xp.zeros((d, 1, 1))
    else:
        entries = mask.reshape((-1, d)).T
        spread = (entries @ covariances.reshape((-1, q * q))).reshape((d, q, q))
        square = xp.einsum("ntd,nti,ntj->dij", mask, one, one)
    reached = xp.einsum("dij,dj->di", spread, c)
    edge = xp.zeros((d, q, 1)), xp.zeros((d, 1, q + 1))
    return {
        "seen": xp.sum(counted, axis=(0, 1)),
        "y": xp.sum(counted * y, axis=(0, 1)),
        "y_square": xp.sum(counted * y * y, axis=(0, 1)),
        "state_square": square + xp.concatenate([xp.concatenate([spread, edge[0]], axis=2), edge[1]], axis=1),
        "rest_state": _products(counted * rest, one) - xp.concatenate([reached, xp.zeros((d, 1))], axis=1),
        "rest_square": xp.sum(counted * rest * rest, axis=(0, 1)) + xp.sum(c * reached, axis=1),
    }


def _spread(s: Any, offset: Any, idle: Any) -> Any:
    """Variance of each feature (D,); of constant ones the mean over features, or 1."""
    mean = s["y"] / (s["seen"] + idle)
    square = s["y_square"] / (s["seen"] + idle)
    variance = square - mean * mean
    varies = variance > 1e-14 * (square + offset * offset)
    overall = xp.mean(xp.where(varies, variance, 0.0))
    return xp.where(varies, variance, xp.where(overall > 0, overall, 1.0))


def _params(
    np_: Any, loc: Any, initial: Any, transition: Any, covariance: Any, emission: Any, offset: Any, variances: Any
) -> dict[str, Any]:
    """Sites of the same model in the coordinates in which Q is the identity and P0 diagonal."""
    root = np_.linalg.cholesky(covariance)
    inverse = np_.linalg.inv(root)
    values, vectors = np_.linalg.eigh(inverse @ initial @ inverse.T)
    largest = np_.take_along_axis(vectors, np_.argmax(np_.abs(vectors), axis=0)[None], 0)
    vectors = vectors * np_.where(largest < 0, -1.0, 1.0)
    to, back = vectors.T @ inverse, root @ vectors
    return {
        "transition": to @ transition @ back,
        "emission": emission @ back,
        "offset": offset,
        "scales": np_.sqrt(variances),
        "initial_loc": to @ loc,
        "initial_scales": np_.sqrt(np_.maximum(values, 1e-10 * np_.max(values))),
    }


def _over_series(weights: Any, covariances: Any) -> Any:
    """Weighted sum over series and steps of (..., T, q, q), which all series share where it has no leading axis."""
    total = xp.sum(covariances, axis=-3)
    return xp.sum(weights) * total if total.ndim == 2 else xp.sum(weights[:, None, None] * total, axis=0)


def _products(a: Any, b: Any) -> Any:
    """sum_nt a_nt b_nt^T of (N, T, i) and (N, T, j)."""
    return a.reshape((-1, a.shape[-1])).T @ b.reshape((-1, b.shape[-1]))


def _in_full(covariances: Any, means: Any) -> Any:
    """Covariances of every series, also where all share them."""
    return xp.broadcast_to(covariances, (*means.shape, means.shape[-1]))


def _entries(x: Any) -> tuple[Any, Any]:
    """Values and which of them were observed; None where all were, or without data."""
    if isinstance(x, np.ndarray) and np.isnan(x).any():
        x = split(x)
    if isinstance(x, Missing):
        return xp.asarray(x.values), xp.asarray(x.observed)
    return (None if x is None else xp.asarray(x)), None


def _shape(x: Any) -> tuple[int, ...]:
    """The shape of one or several series."""
    if len(x.shape) not in (2, 3):
        remedy = "; a single feature goes in as x[:, None]" if len(x.shape) == 1 else ""
        raise ValueError(
            "LinearGaussianStateSpace expects x of shape (num_steps, num_features) or (num_sequences, num_steps, "
            f"num_features), got {tuple(x.shape)}{remedy}"
        )
    return tuple(x.shape)


def _scale(x: Any, d: int) -> tuple[Any, Any]:
    """Mean and standard deviation of each feature (D,), over all series."""
    if x is None:
        return data_scale(None, d)
    if isinstance(x, Missing):
        return data_scale(Missing(*(v.reshape((-1, d)) for v in x)), d)
    return data_scale(x.reshape((-1, d)), d)
