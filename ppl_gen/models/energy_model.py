"""Energy-based models: densities known up to their normaliser."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.checks import ProgramError
from ppl_gen.models._checks import check_images
from ppl_gen.models._options import datum_shape, is_number, positive
from ppl_gen.nets.net import Net
from ppl_gen.primitives import dist, module, plate, sample, xp


@dataclass(frozen=True)
class EnergyModel:
    """p(x) = exp(-E(x)) / Z of real x, or exp(-E(x)) N(x; 0, s^2 I) / Z: the potential E is any function or network.

    LeCun et al. (2006), "A tutorial on energy-based learning". Site: ``x`` (N, *shape); params: those of the potential.
    Train it by ``contrastive_divergence`` (with ``persistent=True`` and a replay buffer as Du & Mordatch 2019), by
    ``noise_contrastive``, or by score matching; by ``svi`` with a ``batch_size`` where log Z is known, which is maximum
    likelihood. ``run.sample`` takes noise through a path of temperatures by Hamiltonian moves, and ``run.log_prob``
    estimates log Z on the way. In a program of yours an energy is a factor: ``pg.factor("energy", -model.energy(x))``.

    Attributes:
        potential: ``x (rows, *shape) -> (rows,)`` in the words of programs (``pg.param``, ``pg.module``, ``xp``); or a
            network of :mod:`ppl_gen.nets` from ``shape`` to one number, whose weights are params ``potential.{path}``.
        shape: of one datum.
        base_scale: s of the Gaussian, which makes exp(-E) normalisable where E is bounded from below; None for none.
        log_normalizer: log Z where it is known, a number or a function without arguments that makes it of the
            potential's params, which it declares again; log p(x) is then exact.
    """

    potential: Callable[..., Any] | Net
    shape: tuple[int, ...]
    base_scale: float | None = None
    log_normalizer: float | Callable[[], Any] | None = None

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)

    def __post_init__(self) -> None:
        datum_shape(self.shape)
        if not (callable(self.potential) or isinstance(self.potential, Net)):
            raise TypeError(
                f"potential must be a function of x or a network of ppl_gen.nets, got {type(self.potential).__name__}"
            )
        if self.base_scale is not None:
            positive("base_scale", self.base_scale)
        known = self.log_normalizer
        if not (known is None or callable(known) or (is_number(known) and math.isfinite(known))):
            raise ValueError(f"log_normalizer must be a number or a function without arguments, got {known!r}")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Of one datum."""
        return self.shape

    def __call__(self, x: Any) -> None:
        """The program; ``x`` has shape (N, *shape)."""
        log_density, known = -self.energy(x), self.log_normalizer
        if known is not None:
            log_density = log_density - (known() if callable(known) else known)
        with plate("data", len(x)):
            sample("x", dist.LogDensity(log_density, self.shape, normalised=known is not None), obs=x)

    def energy(self, x: Any) -> Any:
        """E(x) (rows,) of x (rows, *shape), the base's part with it; inside of a program, outside of its plates.

        Raises:
            ProgramError: the potential gives something else than one number for each row.
        """
        is_net = isinstance(self.potential, Net)
        potential: Any = module("potential", self.potential) if is_net else self.potential
        found = potential(x)
        came, rows = tuple(getattr(found, "shape", ())), x.shape[0]
        if is_net and came == (rows, 1):
            found, came = found[:, 0], (rows,)
        if came != (rows,):
            hint = ": sum over the entries of a row, xp.sum(..., axis=-1)" if came[:1] == (rows,) else ""
            hint = ": do not sum over rows" if came == () else hint
            raise ProgramError(
                f"the potential of {type(self).__name__} must give one number for each datum, of shape ({rows},) for x "
                f"of shape {tuple(x.shape)}, and it gave shape {came}{hint}"
            )
        if self.base_scale is None:
            return found
        z, size = (x / self.base_scale).reshape((rows, -1)), math.prod(self.shape)
        return found + 0.5 * xp.sum(z * z, axis=-1) + 0.5 * size * math.log(2.0 * math.pi * self.base_scale**2)

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: rows of another shape."""
        if (x := data.get("x")) is not None:
            check_images(type(self).__name__, x, self.shape)
