"""Annealed importance sampling of the latents of single rows at given params: log p(x) of each datum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Plate, UnsupportedError
from ppl_gen.inference import annealed_walk, langevin
from ppl_gen.inference.annealed_walk import Schedule
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.elbo import RowBound
from ppl_gen.inference.engine import positive
from ppl_gen.inference.trajectories import Path
from ppl_gen.target import Target

_PILOTS, _FIRST_STEP = 2, 0.2  # chains of a row that learn its step sizes


@dataclass(frozen=True)
class RowAnnealing:
    """From the prior of each row's latents to their posterior, or back, by Hamiltonian moves (Wu et al. 2017).

    "On the quantitative analysis of decoder-based generative models", section 2.2. Two pilot chains of each row learn
    its step size at each temperature, which are then fixed: the mean weight of the others is p(x) without bias.

    Attributes:
        num_chains: of each row. num_temperatures: of the path. num_steps: leapfrog steps of a move.
    """

    num_chains: int = 16
    num_temperatures: int = 500
    num_steps: int = 10
    progress: bool = True

    def __post_init__(self) -> None:
        positive(self, "num_chains", "num_temperatures", "num_steps")

    def log_weights(
        self, target: Target, names: tuple[str, ...], plate: Plate, params: Mapping[str, np.ndarray], seed: int,
        latents: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """(chains, rows), whose mean exponential is p(x); on the way back the mean of their inverses is 1 / p(x).

        Args:
            names: the arguments that hold the rows of the plate.
            latents: exact draws of the posterior, name -> (rows, ...): then the way back is taken, from there.
        """
        backend = target.backend
        pilot = _Rows(target, names, plate, _PILOTS, params)
        schedule = self._schedule(pilot, 3 * seed)
        rows = _Rows(target, names, plate, self.num_chains, params)
        forth = latents is None
        start = rows.prior(seed) if latents is None else rows.positions(latents)
        state, _ = annealed_walk.walk(
            Driver(backend.to_numpy, self.progress), backend, rows.advance(self.num_steps, self.num_temperatures),
            lambda done, count: rows.noise(3 * seed + 1 + (not forth), done, count), start, schedule, rows.constants,
            f"annealing {plate.size} rows {'forth' if forth else 'back'}", forth,
        )  # fmt: skip
        found = np.asarray(backend.to_numpy(state.log_weight))
        if not forth:
            _, _, likelihood = rows.tempered(rows.constants, 1.0).evaluate(state.position)
            found = found + schedule.steps[0] * np.asarray(backend.to_numpy(likelihood))
        return np.where(np.isnan(found), -np.inf, found).reshape(self.num_chains, -1)

    def _schedule(self, rows: _Rows, stream: int) -> Schedule:
        """Sigmoidal temperatures, and step sizes (temperatures, rows) by the acceptance of the pilot chains."""
        beta = annealed_walk.sigmoidal(self.num_temperatures)
        ones = np.ones((self.num_temperatures, rows.dim))
        step_size = annealed_walk.learned_steps(
            Driver(rows.target.backend.to_numpy, self.progress), rows.target.backend,
            rows.advance(self.num_steps, self.num_temperatures), lambda done, count: rows.noise(stream, done, count),
            rows.prior(stream), beta, np.full(rows.plate.size // _PILOTS, _FIRST_STEP), ones[0], rows.constants,
            lambda rates: rates.reshape(_PILOTS, -1).mean(0),
        )  # fmt: skip
        return Schedule(beta, step_size, ones)


class _Rows:
    """Latents of single rows, ``copies`` of each: positions (copies * rows, dim) whose densities stand side by side.

    Attributes:
        constants: data and params, which what is compiled is given.
        plate: of all copies.
    """

    def __init__(
        self, target: Target, names: tuple[str, ...], plate: Plate, copies: int, params: Mapping[str, np.ndarray]
    ):
        index = np.tile(np.arange(plate.size), copies)
        self.target, self.copies = Target(target.bound.part(names, index)), copies
        self.plate = Plate(plate.name, plate.dim, len(index), len(index))
        self._require_rows()
        self.constants = (self.target.arrays, {n: target.backend.asarray(x) for n, x in params.items()})
        self._columns, self.dim = {}, 0
        for name, shape, _ in self.target.layout.sites:
            width = math.prod(shape[1:])
            self._columns[name] = (slice(self.dim, self.dim + width), shape)
            self.dim += width

    def _require_rows(self) -> None:
        of_rows = [n for n in self.target.layout.names if self.target.sites[n].batch_shape == (self.plate.size,)]
        others = [n for n in (*self.target.layout.names, *self.target.discrete) if n not in of_rows]
        if others or not of_rows:
            raise UnsupportedError(
                f"annealing moves continuous latents with one value for each row, and {self.target.program.name} has "
                f"{', '.join(map(repr, others)) or 'none'}: use run.log_weights"
            )

    def prior(self, seed: int) -> Any:
        """Positions drawn from the prior."""
        arrays, values = self.constants
        sites = self.target.trace(arrays, values=values, key=self.target.backend.key(seed))
        return self._joined({n: sites[n].value for n in self._columns})

    def positions(self, latents: Mapping[str, np.ndarray]) -> Any:
        """Positions of latents, name -> (rows, ...)."""
        backend = self.target.backend
        tiled = {n: np.concatenate([np.asarray(latents[n])] * self.copies) for n in self._columns}
        return self._joined({n: backend.asarray(x) for n, x in tiled.items()})

    def _joined(self, values: Mapping[str, Any]) -> Any:
        backend, sites = self.target.backend, self.target.sites
        moved = [backend.bijection(sites[n].constraint).inverse(values[n]) for n in self._columns]
        return backend.xp.concatenate([u.reshape((self.plate.size, -1)) for u in moved], axis=1)

    def noise(self, stream: int, done: int, count: int) -> dict[str, Any]:
        """What moves take."""
        return self.target.backend.noise(stream, done, langevin.noise(self.plate.size, self.dim), count)

    def tempered(self, constants: Any, beta: Any) -> _Tempered:
        """The densities at an inverse temperature."""
        return _Tempered(self, constants, beta)

    def log_parts(self, position: Any, constants: Any) -> tuple[Any, Any]:
        """Log prior of each row's latents as a density of its position, and its log likelihood."""
        arrays, values = constants
        moved = {n: position[:, part].reshape(shape) for n, (part, shape) in self._columns.items()}
        sites, bound = self.target.trace(arrays, values=values, unconstrained=moved), RowBound(1)
        of_rows = lambda site, x: bound.of_rows(self.target, self.plate, site, x)[0, 0]
        prior = [of_rows(sites[n], x) for n in moved for x in (sites[n].log_prob, sites[n].log_det)]
        seen = [of_rows(s, s.log_prob) for s in sites.values() if s.kind in ("observed", "factor")]
        return sum(prior), sum(seen)

    def advance(self, num_steps: int, calls: int) -> Any:
        """Compiled moves of equally many leapfrog steps, each row's of its own size."""
        xp, copies = self.target.backend.xp, self.copies

        def begin(kernel: Any, row: Any) -> tuple[Path, Any]:
            kernel = kernel._replace(step_size=xp.concatenate([kernel.step_size] * copies)[:, None])
            count = xp.astype(xp.zeros(()) + num_steps, xp.int32)
            return Path(kernel, kernel, row["normal"], xp.zeros(kernel.log_density.shape), count), count

        def build() -> Any:
            report = lambda moved, info: {"acceptance_rate": info.acceptance_rate}
            return annealed_walk.advance(self.target.backend, self.tempered, begin, report, calls=calls)

        return self.target.compiled(("row annealing", copies, num_steps), build)


@dataclass(frozen=True)
class _Tempered:
    """Of each row prior(z) p(x | z)^beta, as kernels see it."""

    rows: _Rows
    constants: Any
    beta: Any

    def log_density_and_grad(self, position: Any) -> tuple[Any, Any]:
        return self.evaluate(position)[:2]

    def evaluate(self, position: Any) -> tuple[Any, Any, Any]:
        """Log densities (rows,), gradients (rows, dim), log likelihoods (rows,), of one run and back.

        A row's log density is the slope of the weighted sum of all in its weight, its log likelihood that in its beta.
        """
        backend = self.rows.target.backend
        ones = backend.xp.ones(position.shape[:1])

        def weighted(at: tuple[Any, Any, Any], constants: Any) -> Any:
            prior, likelihood = self.rows.log_parts(at[0], constants)
            return backend.xp.sum(at[1] * (prior + at[2] * likelihood))

        _, (gradient, value, likelihood) = backend.value_and_grad(weighted)(
            (position, ones, ones * self.beta), self.constants
        )
        return value, gradient, likelihood
