"""The flat unconstrained vector of a program: which entries belong to which site."""

from __future__ import annotations

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

    def split(self, u: Any) -> dict[str, Any]:
        """Vector (dim,) -> unconstrained value of each site."""
        parts, start = {}, 0
        for name, shape, _ in self.sites:
            stop = start + math.prod(shape)
            parts[name] = u[start:stop].reshape(shape)
            start = stop
        return parts

    def join(self, xp: Any, parts: Mapping[str, Any]) -> Any:
        """Unconstrained value of each site -> vector (dim,)."""
        return xp.concatenate([parts[name].reshape((-1,)) for name in self.names])

    def label(self, index: int) -> str:
        """The site that entry ``index`` of the vector belongs to."""
        stop = 0
        for name, shape, _ in self.sites:
            stop += math.prod(shape)
            if index < stop:
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
