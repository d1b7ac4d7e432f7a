"""Noise-contrastive estimation of an energy and its normaliser."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import Request
from ppl_gen.inference.energies import Energies
from ppl_gen.inference.energy_fitting import EnergyFit, EnergyTrainer, EnergyTraining
from ppl_gen.inference.engine import positive
from ppl_gen.inference.starts import of_params
from ppl_gen.primitives import dist, sample, xp
from ppl_gen.target import Target

_LEAST = 1e-6  # of the data's variance, along every axis of the fitted noise
_MOST_DENSE = 100  # features that have a covariance
_FIRST = 2000  # rows of noise that log Z starts from


@dataclass(frozen=True, kw_only=True)
class NoiseContrastive(EnergyTraining):
    """Learns an energy by telling data from noise of a known density (Gutmann & Hyvarinen 2012, section 2).

    The classifier's log odds are log p(x) - log p_noise(x) - log nu with log p(x) = -E(x) - c: c, the param
    ``log_normalizer``, is learned with the others, and is log Z as far as the fit is good.

    Attributes:
        noise: ``() -> distribution`` of a row in the words of programs, event shape that of a datum; None for a
            Gaussian with the data's mean and covariance (variances alone above 100 features), of binary data the
            product of their marginals.
        num_noise: nu, rows of noise for each datum.
    """

    name: ClassVar[str] = "noise_contrastive"
    needs: ClassVar[str] = "a model that is known by an energy"

    noise: Callable[[], Any] | None = None
    num_noise: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_noise")
        if not (self.noise is None or callable(self.noise)):
            raise TypeError(f"noise must be a function that makes a distribution, got {type(self.noise).__name__}")

    def check(self, target: Target) -> None:
        super().check(target)
        shape = tuple(target.program.model.event_shape)
        if self.noise is not None and (came := tuple(self.noise().event_shape)) != shape:
            raise ValueError(
                f"noise must make a distribution of event shape {shape}, that of a datum of {target.program.name}, and "
                f"it has {came}: use .expand(...) and .to_event(...)"
            )

    def fit(self, target: Target, seed: int) -> EnergyFit:
        return EnergyFit(self, target, _Classifier, seed)


@dataclass(frozen=True)
class _Noise:
    """What data are told from: a user's distribution, or one that is fitted to the data.

    Attributes:
        moments: (means, then covariance, variances, or nothing where the means are shares of ones), as bytes, of
            ``size`` features each; None of a user's. values: of a binary variable.
    """

    make: Callable[[], Any] | None
    shape: tuple[int, ...]
    moments: tuple[bytes, ...] | None = None
    values: tuple[float, float] | None = None

    @classmethod
    def fitted(cls, energies: Energies) -> _Noise:
        """To the first rows of the data."""
        shape = tuple(energies.model.event_shape)
        size = math.prod(shape)
        if energies.is_binary:
            return cls(None, shape, (energies.share().tobytes(),), energies.model.values)
        mean, scale = energies.moments()
        spread = scale.ravel() ** 2
        if size <= _MOST_DENSE:
            spread = np.diag(_LEAST * spread) + energies.covariance()
        return cls(None, shape, (mean.tobytes(), spread.tobytes()))

    def distribution(self) -> Any:
        """Of a row as :meth:`flat` lays it out."""
        if self.make is not None:
            return self.make()
        size, held = math.prod(self.shape), [np.frombuffer(x, dtype=float) for x in self.moments or ()]
        mean, *spread = (xp.zeros(x.shape) + xp.asarray(x) for x in held)
        if not spread:
            return dist.Bernoulli(probs=mean).to_event(1)
        if spread[0].shape[0] == size and size > 1:
            return dist.Normal(mean, xp.sqrt(spread[0])).to_event(1)
        return dist.MultivariateNormal(mean, covariance_matrix=spread[0].reshape((size, size)))

    def flat(self, x: Any) -> Any:
        """Rows as the distribution has them."""
        if self.make is not None:
            return x
        low, high = self.values or (0.0, 1.0)
        return (x.reshape((x.shape[0], math.prod(self.shape))) - low) / (high - low)

    def rows(self, flat: Any) -> Any:
        """Rows as the model has them."""
        if self.make is not None:
            return flat
        low, high = self.values or (0.0, 1.0)
        return low + (high - low) * flat.reshape((flat.shape[0], *self.shape))


class _Classifier(EnergyTrainer):
    """Minus the log likelihood of who is data and who is noise, for each datum."""

    def __init__(self, target: Target, engine: NoiseContrastive):
        shape = tuple(target.program.model.event_shape)
        self.noise = _Noise(engine.noise, shape) if engine.noise else _Noise.fitted(Energies(target))
        self.ratio = engine.num_noise
        super().__init__(target, (self.noise, self.ratio), ("log_normalizer",))

    def start(self, seed: int, init: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """c starts where a user says, or at log Z of the energy, estimated by importance sampling from the noise."""
        given = (init or {}).items()
        of_energy, own = ({n: x for n, x in given if (n in self.extra) == mine} for mine in (False, True))
        params, backend = super().start(seed, of_energy), self.part.backend
        y = self._drawn(_FIRST, backend.key(seed))
        log_weight = -self.energies.energy({"unconstrained": params}, y) - self._log_prob(y)
        log_z = xp.logsumexp(log_weight, axis=0) - math.log(_FIRST)
        c = of_params(backend, {"log_normalizer": log_z}, {"log_normalizer": dist.constraints.real}, own)
        return {**params, **c}

    def _drawn(self, count: int, key: Any) -> Any:
        """Rows of noise."""
        backend = self.part.backend
        draw = lambda: sample("noise", self.noise.distribution().expand([count]))
        flat = backend.stopped(backend.trace(draw, Request(key=key))["noise"].value)
        return self.noise.rows(xp.astype(flat, xp.zeros(()).dtype))

    def _log_prob(self, rows: Any) -> Any:
        return self.noise.distribution().log_prob(self.noise.flat(rows))

    def loss(self, params: Any, row: Mapping[str, Any], *fixed: Any) -> tuple[Any, Any]:
        log_z = params["log_normalizer"]
        x = xp.astype(row["x"], xp.zeros(()).dtype)
        count = x.shape[0]
        both = xp.concatenate([x, self._drawn(self.ratio * count, row.get("key"))])
        held = {n: params[n] for n in self.part.params.names}
        energy = self.energies.energy({"unconstrained": held}, both)
        odds = -energy - log_z - self._log_prob(both) - math.log(self.ratio)
        right, wrong = xp.log_sigmoid(odds[:count]), xp.log_sigmoid(-odds[count:])
        hits = xp.mean(xp.astype(odds[:count] > 0.0, x.dtype))
        return -xp.mean(right) - self.ratio * xp.mean(wrong), {"hits": hits}
