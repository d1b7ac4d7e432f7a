"""The flat unconstrained vector of a program: which entries belong to which site."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.backends.protocol import Backend, Site, UnsupportedError


@dataclass(frozen=True)
class Layout:
    """Sites in order, each with its unconstrained and constrained shape.

    Attributes:
        sites: (name, unconstrained shape, constrained shape), one after the other in the vector.
    """

    sites: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @classmethod
    def of(cls, backend: Backend, sites: Mapping[str, Site]) -> Layout:
        """The layout of continuous latents and params."""
        return cls(tuple((n, _unconstrained_shape(backend, s), tuple(s.value.shape)) for n, s in sites.items()))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.sites)

    @property
    def dim(self) -> int:
        """Length of the vector."""
        return sum(math.prod(shape) for _, shape, _ in self.sites)

    def only(self, names: Collection[str]) -> Layout:
        """The sites among ``names``."""
        return Layout(tuple(entry for entry in self.sites if entry[0] in names))

    @property
    def parts(self) -> dict[str, slice]:
        """Where each site is in the vector."""
        ends = [0, *itertools.accumulate(math.prod(shape) for _, shape, _ in self.sites)]
        return {name: slice(*pair) for name, pair in zip(self.names, itertools.pairwise(ends), strict=True)}

    def split(self, u: Any) -> dict[str, Any]:
        """Vector (dim,) -> unconstrained value of each site."""
        parts = self.parts
        return {name: u[parts[name]].reshape(shape) for name, shape, _ in self.sites}

    def join(self, xp: Any, parts: Mapping[str, Any]) -> Any:
        """Unconstrained value of each site -> vector (dim,)."""
        return xp.concatenate([parts[name].reshape((-1,)) for name in self.names])

    def label(self, index: int) -> str:
        """The site that entry ``index`` of the vector belongs to."""
        for name, part in self.parts.items():
            if index < part.stop:
                return name
        raise IndexError(index)


def _unconstrained_shape(backend: Backend, site: Site) -> tuple[int, ...]:
    try:
        return tuple(backend.bijection(site.constraint).inverse_shape(tuple(site.value.shape)))
    except NotImplementedError as error:
        raise UnsupportedError(
            f"{site.name!r} lives on {site.constraint}, which has no unconstrained coordinates: a latent or param "
            "there cannot be moved by any engine; use another parametrisation, e.g. an angle"
        ) from error
