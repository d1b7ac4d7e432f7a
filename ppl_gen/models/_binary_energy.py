"""What models of binary data share that are known by an energy: their program, and checks of data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ppl_gen.primitives import dist, plate, sample
from ppl_gen.program import DataError

MOST_EXACT = 14  # binary variables whose joint values are summed over


class BinaryEnergy:
    """log p(x) = log p*(x) - log Z, p* log-linear in ``natural()`` parameters; a ``GibbsSampled`` model.

    Subclasses are frozen dataclasses with ``natural``, ``log_density``, ``sweep``, ``independent`` and, where ``width``
    binary variables are few, ``log_normalizer``; see :class:`ppl_gen.capabilities.GibbsSampled`.

    Attributes:
        values: of a variable, low and high.
        width: variables whose joint values log Z is a sum over.
    """

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)
    learned_by: ClassVar[tuple[str, ...]] = ("contrastive_divergence", "noise_contrastive")
    values: ClassVar[tuple[float, float]] = (0.0, 1.0)

    exact: bool | None
    event_shape: tuple[int, ...]
    width: int

    def __call__(self, x: Any) -> None:
        """The program; ``x`` has shape (N, *event_shape)."""
        natural = self.natural()
        log_density = self.log_density(natural, x)
        if self.is_exact:
            log_density = log_density - self.log_normalizer(natural)
        with plate("data", len(x)):
            sample("x", dist.LogDensity(log_density, self.event_shape, self._support(), self.is_exact), obs=x)

    def energy(self, x: Any) -> Any:
        """E(x) (rows,), in the words of programs."""
        return -self.log_density(self.natural(), x)

    @property
    def is_exact(self) -> bool:
        """Whether the normaliser is summed over all states."""
        return self.width <= MOST_EXACT if self.exact is None else self.exact

    def natural(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} defines no natural parameters")

    def log_density(self, natural: Mapping[str, Any], x: Any) -> Any:
        raise TypeError(f"{type(self).__name__} defines no log density")

    def log_normalizer(self, natural: Mapping[str, Any]) -> Any:
        raise TypeError(f"{type(self).__name__} defines no normaliser")

    def _support(self) -> Any:
        return dist.constraints.boolean if self.values == (0.0, 1.0) else dist.constraints.real

    def _check_exact(self) -> None:
        """Raises ValueError: a sum over too many states was asked for."""
        if self.exact not in (None, True, False):
            raise ValueError(f"exact must be True, False or None (where that is cheap), got {self.exact!r}")
        if self.exact and self.width > 20:
            raise ValueError(
                f"exact=True sums over the joint values of {self.width} binary variables, expected at most 20: leave "
                "it out, log Z is then estimated by annealed importance sampling"
            )

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: another shape, or other numbers than the two values of a variable."""
        x = data.get("x")
        if x is None:
            return
        if x.shape[1:] != self.event_shape:
            wanted = ", ".join(map(str, self.event_shape))
            alike = math.prod(x.shape[1:]) == math.prod(self.event_shape) and x.ndim > 1
            hint = f": x.reshape(-1, {wanted})" if alike else ""
            raise DataError(f"{type(self).__name__} expects x of shape (N, {wanted}), got {x.shape}{hint}")
        if not np.isin(x, self.values).all():
            low, high = (int(v) for v in self.values)
            some = "x > threshold" if low == 0 else "2.0 * (x > threshold) - 1.0"
            raise DataError(
                f"{type(self).__name__} is of variables that are {low} or {high}, and x has {float(x.min()):g} to "
                f"{float(x.max()):g}: cut it, {some}" + (", or map 0/1 by 2.0 * x - 1.0" if low else "")
            )
