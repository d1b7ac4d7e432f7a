"""A program run forwards: latents from the prior and data given them, which simulation-based inference learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Site, UnsupportedError
from ppl_gen.checks import ProgramError
from ppl_gen.layout import Layout
from ppl_gen.target import Target

_BATCH = 256  # runs side by side
RUNS = 500  # at a time, always as many, so that one compiled call serves
_MOST_LOST, _FEWEST = 0.01, 100  # share of draws whose latents lie on an edge; of so many draws at least
_MOST_FAILED = 0.5  # share of runs whose data are not finite


def require_simulable(target: Target, what: str) -> None:
    """A program whose prior predictive its own statements draw.

    Args:
        what: draws from it, for the error.

    Raises:
        UnsupportedError: naming the sites at fault.
    """
    latents = [s for s in target.sites.values() if s.kind == "latent"]
    faults = {
        "has a flat prior, which cannot be drawn from: give it a proper one": [s.name for s in latents if s.improper],
        "is a param without a prior: declare it by pg.sample": list(target.params.names),
        "is a factor, which no simulation draws from: write it as a distribution": [
            n for n, s in target.sites.items() if s.kind == "factor"
        ],
        "is scaled, so that its density is not that which is drawn from: leave pg.scale out": [
            n for n, s in target.sites.items() if s.scale is not None and not target.subsampled
        ],
        "is subsampled: leave out subsample_size": list(target.subsampled),
    }
    found = [f"{', '.join(map(repr, names))} {fault}" for fault, names in faults.items() if names]
    if found:
        raise UnsupportedError(f"{what} draws latents and data from {target.program.name}, and {'; '.join(found)}")


def simulations(target: Target, name: Any, read: Callable[[dict[str, Site]], Any], count: int, seed: int) -> Any:
    """``read`` of the sites of each of ``count`` runs with latents from the prior and data given them, on the host.

    Args:
        name: under which it is compiled.
    """

    def run(row: Any, key: Any, arrays: Any) -> Any:
        return read(target.trace(arrays, hide_observed=True, key=key))

    room = target.backend
    mapped = target.compiled(name, lambda: room.map_draws(run, random=True, batch_size=_BATCH))
    return room.to_numpy(mapped({"": room.asarray(np.zeros(count))}, seed, target.arrays))


def observed_arguments(target: Target) -> dict[str, str]:
    """Observed site -> the argument that it is: the one of its values, where several have them that of its name."""
    found = {}
    for site in target.observed:
        value = np.asarray(target.backend.to_numpy(target.sites[site].value))
        held = {n: x for n, x in target.bound.host.items() if n not in target.bound.missing}
        same = [n for n, x in held.items() if x.shape == value.shape and np.array_equal(x, value)]
        if site in same or len(same) == 1:
            found[site] = site if site in same else same[0]
    return found


@dataclass(frozen=True)
class Simulator:
    """Runs of a target as pairs of vectors: unconstrained latents u (dim,) and data y (num_seen,).

    Attributes:
        layout: of the continuous latents that are inferred; all others are drawn anew in each run.
        seen: sites whose values, laid end to end, are the data.
    """

    target: Target
    layout: Layout
    seen: tuple[str, ...]

    @property
    def num_seen(self) -> int:
        return sum(int(np.prod(self.target.sites[n].value.shape)) for n in self.seen)

    @property
    def of_all_latents(self) -> bool:
        """Whether no continuous latent is left out."""
        return self.layout.names == self.target.layout.names

    def flat(self, values: Mapping[str, Any]) -> np.ndarray:
        """Values of the sites that are seen as one vector, on the host."""
        return np.concatenate([np.asarray(values[n], float).reshape(-1) for n in self.seen])

    def prior(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """u (rows, dim) and y (rows, num_seen) of at most ``count`` runs: those without finite numbers are left out.

        Raises:
            ProgramError: they are many; names what is not finite.
        """
        bijection, xp = self.target.backend.bijection, self.target.backend.xp

        def read(sites: dict[str, Site]) -> tuple[Any, Any]:
            parts = {n: bijection(sites[n].constraint).inverse(sites[n].value) for n in self.layout.names}
            return self.layout.join(xp, parts), self._data(sites)

        u, y = simulations(self.target, ("simulated pairs", self.layout.names, self.seen), read, count, seed)
        return self._finite(np.asarray(u), np.asarray(y))

    def given(self, u: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The same at given u (rows, dim) of all continuous latents.

        Raises:
            ProgramError: as of :meth:`prior`.
        """
        target = self.target

        def run(u: Any, key: Any, arrays: Any) -> Any:
            return self._data(target.trace(arrays, unconstrained=self.layout.split(u), hide_observed=True, key=key))

        mapped = target.compiled(
            ("simulated data", self.seen), lambda: target.backend.map_draws(run, random=True, batch_size=_BATCH)
        )
        y = target.backend.to_numpy(mapped(target.backend.asarray(u), seed, target.arrays))
        return self._finite(u, np.asarray(y))

    def _data(self, sites: Mapping[str, Site]) -> Any:
        xp = self.target.backend.xp
        kind = xp.zeros(()).dtype
        return xp.concatenate([xp.astype(sites[n].value, kind).reshape((-1,)) for n in self.seen])

    def _finite(self, u: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        name, own = self.target.program.name, np.isfinite(u)
        kept = own.all(1)
        if len(u) >= _FEWEST and 1.0 - kept.mean() > _MOST_LOST:
            names = dict.fromkeys(self.layout.label(int(j)) for j in np.flatnonzero(~own.all(0)))
            raise ProgramError(
                f"{1.0 - kept.mean():.1%} of the prior draws of {', '.join(map(repr, names))} of {name} lie on the "
                "edge of the support or are not finite: give it a prior with its mass inside, e.g. a Gamma of larger "
                "shape"
            )
        fine = np.isfinite(y).all(1)
        if len(u) >= _FEWEST and 1.0 - fine.mean() > _MOST_FAILED:
            raise ProgramError(
                f"{1.0 - fine.mean():.1%} of the data that {name} draws ({', '.join(map(repr, self.seen))}) are not "
                "finite: give narrower priors, or look at where the program overflows"
            )
        return u[kept & fine], y[kept & fine]


def has_inner_noise(target: Target, seen: tuple[str, ...]) -> bool:
    """Whether the program draws random numbers beside its sites, so that its density is not known.

    Found by two runs at the same values of all latents: log densities, or what is seen of deterministics, differ.
    """
    backend = target.backend
    values = {n: s.value for n, s in target.sites.items() if s.kind == "latent"}

    def look(seed: int) -> list[np.ndarray]:
        sites = target.trace(target.arrays, values=values, key=backend.key(seed))
        random = [s.log_prob for s in sites.values() if s.log_prob is not None]
        found = [*random, *(sites[n].value for n in seen if sites[n].kind == "deterministic")]
        return [np.asarray(backend.to_numpy(x)) for x in found]

    return not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(look(1), look(2), strict=True))
