"""Paths from what can be drawn from and normalised to an energy: for binary models, and for real data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_gen.inference import annealed_walk, langevin
from ppl_gen.inference.annealed_walk import Schedule, State
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.energies import Energies
from ppl_gen.inference.trajectories import Path

_NUMBERS = 2**22  # of noise in a compiled call, at most
_PILOTS, _PILOT_STEPS, _FIRST_STEP = 20, 200, 0.2  # chains and temperatures that learn step sizes
_FAR = 100.0  # standard deviations of the data from their mean: there a chain is lost


class BinaryPath:
    """From independent variables, with the data's shares, by block Gibbs sweeps (Salakhutdinov & Murray 2008).

    Natural parameters go straight from those to the model's; what the model sums out, such as hidden units, is summed
    out in the weights, which hold log p*_k(x_(k-1)) - log p*_(k-1)(x_(k-1)).

    Attributes:
        constants: natural parameters of both ends. log_base: log Z of the first.
        chunk: moves in a compiled call.
    """

    label = "gibbs"

    def __init__(self, energies: Energies, params: Mapping[str, np.ndarray]):
        self.energies, self.backend, model = energies, energies.backend, energies.model
        self._share = energies.share()
        base, self.log_base = model.independent(self._share)
        held = {"values": {n: self.backend.asarray(x) for n, x in params.items()}}
        place = lambda tree: {n: self.backend.asarray(x) for n, x in tree.items()}
        self.constants = (place(base), place(self.backend.to_numpy(energies.natural(held))))

    def start(self, count: int, seed: int) -> Any:
        """(count, *shape)."""
        low, high = self.energies.model.values
        up = np.random.default_rng([seed, 1]).random((count, *self._share.shape)) < self._share
        return self.backend.asarray(np.where(up, high, low))

    def chunk(self, count: int) -> int:
        """Moves of so many chains in a compiled call."""
        return max(10, min(500, _NUMBERS // (count * self.energies.model.num_uniforms)))

    def schedule(self, num_temperatures: int, driver: Driver, seed: int) -> Schedule:
        """Evenly spaced."""
        beta = np.arange(1, num_temperatures + 1) / num_temperatures
        return Schedule(beta, np.ones(num_temperatures), np.ones(num_temperatures))

    def noise(self, stream: int, done: int, count: int, num_chains: int) -> dict[str, Any]:
        """What ``count`` moves take."""
        spec = {"uniform": ("uniform", (num_chains, self.energies.model.num_uniforms))}
        return self.backend.noise(stream, done, spec, count)

    def compiled(self, forth: bool) -> Any:
        """Weigh and move, at each of the rows."""
        xp, model = self.backend.xp, self.energies.model

        def step(state: State, row: Any, constants: Any) -> tuple[State, Any]:
            beta, gap = row["beta"], row["step"]
            ends = (beta, beta - gap) if forth else (beta + gap, beta)
            colder, hotter = (model.log_density(_between(constants, b), state.position) for b in ends)
            moved = model.sweep(_between(constants, beta), state.position, row["uniform"])
            return State(moved, state.log_weight + colder - hotter), {"lost": xp.zeros(())}

        build = lambda: self.backend.scan(step, calls=1000)
        return self.energies.target.compiled(("binary path", forth), build)

    def gained(self, position: Any, beta: float) -> Any:
        """log p* at an inverse temperature minus that at 0, (chains,)."""
        model = self.energies.model

        def difference(position: Any, beta: Any, constants: Any) -> Any:
            return model.log_density(_between(constants, beta), position) - model.log_density(constants[0], position)

        made = self.energies.target.compiled("binary path, end", lambda: self.backend.compile(difference))
        return made(position, self.backend.asarray(np.asarray(beta)), self.constants)

    def rows(self, position: np.ndarray) -> np.ndarray:
        """Data of positions."""
        return position


def _between(ends: Any, beta: Any) -> dict[str, Any]:
    first, last = ends
    return {n: first[n] + beta * (last[n] - first[n]) for n in first}


class GaussianPath:
    """From a Gaussian with the data's means and variances by Hamiltonian moves (Neal 2001), of real data.

    Attributes:
        constants: params, means and standard deviations; positions are (chains, dim).
    """

    label = "hmc"
    log_base = 0.0

    def __init__(self, energies: Energies, params: Mapping[str, np.ndarray], num_steps: int = 5):
        self.energies, self.backend, self.num_steps = energies, energies.backend, num_steps
        self.mean, self.scale = (x.ravel() for x in energies.moments())
        self.dim = self.mean.size
        placed = {n: self.backend.asarray(x) for n, x in params.items()}
        self.constants = (placed, self.backend.asarray(self.mean), self.backend.asarray(self.scale))

    def start(self, count: int, seed: int) -> Any:
        """(count, dim)."""
        drawn = np.random.default_rng([seed, 1]).standard_normal((count, self.dim))
        return self.backend.asarray(self.mean + self.scale * drawn)

    def chunk(self, count: int) -> int:
        """Moves of so many chains in a compiled call."""
        return max(10, min(100, _NUMBERS // (count * self.dim)))

    def schedule(self, num_temperatures: int, driver: Driver, seed: int) -> Schedule:
        """Closer together at both ends; step sizes are those that pilot chains learn on fewer temperatures."""
        few = annealed_walk.sigmoidal(min(num_temperatures, _PILOT_STEPS))
        learned = annealed_walk.learned_steps(
            driver, self.backend, self.compiled(True), lambda done, count: self.noise(seed, done, count, _PILOTS),
            self.start(_PILOTS, seed), few, np.asarray(_FIRST_STEP), self.scale, self.constants,
            lambda rates: rates.mean(),
        )  # fmt: skip
        beta = annealed_walk.sigmoidal(num_temperatures)
        step_size = np.exp(np.interp(beta, few, np.log(learned)))
        return Schedule(beta, step_size, np.broadcast_to(self.scale, (num_temperatures, self.dim)))

    def noise(self, stream: int, done: int, count: int, num_chains: int) -> dict[str, Any]:
        """What ``count`` moves take."""
        return self.backend.noise(stream, done, langevin.noise(num_chains, self.dim), count)

    def compiled(self, forth: bool) -> Any:
        """Weigh and move, at each of the rows; each says which chain is lost, counted from 1, 0 for none."""
        xp, (_, mean, scale) = self.backend.xp, self.constants

        def begin(kernel: Any, row: Any) -> tuple[Path, Any]:
            count = xp.astype(xp.zeros(()) + self.num_steps, xp.int32)
            return Path(kernel, kernel, row["normal"], xp.zeros(kernel.log_density.shape), count), count

        def report(moved: Any, info: Any) -> dict[str, Any]:
            far = xp.max(xp.abs(moved.position - mean) / scale, axis=-1) > _FAR
            lost = far | ~xp.isfinite(moved.log_density)
            number = xp.astype(xp.arange(1, lost.shape[0] + 1), moved.position.dtype)
            return {"acceptance_rate": info.acceptance_rate, "lost": xp.max(xp.where(lost, number, 0.0))}

        build = lambda: annealed_walk.advance(self.backend, self.tempered, begin, report, calls=1000)
        key = ("gaussian path", self.num_steps, self.mean.tobytes(), self.scale.tobytes())
        return self.energies.target.compiled(key, build)

    def tempered(self, constants: Any, beta: Any) -> _Tempered:
        """The density at an inverse temperature."""
        return _Tempered(self, constants, beta)

    def gained(self, position: Any, beta: float) -> Any:
        """log p* at an inverse temperature minus that at 0, (chains,)."""
        return beta * self.tempered(self.constants, 1.0).evaluate(position)[2]

    def rows(self, position: np.ndarray) -> np.ndarray:
        """Data of positions."""
        return position.reshape((-1, *self.energies.model.event_shape))


class _Tempered:
    """base(x)^(1 - beta) p*(x)^beta, as kernels see it."""

    def __init__(self, path: GaussianPath, constants: Any, beta: Any):
        self.path, self.constants, self.beta = path, constants, beta

    def log_density_and_grad(self, position: Any) -> tuple[Any, Any]:
        return self.evaluate(position)[:2]

    def evaluate(self, position: Any) -> tuple[Any, Any, Any]:
        """Log densities (chains,), gradients (chains, dim), log p* - log base (chains,), of one run and back.

        The log density of a chain is the slope of the weighted sum of all in its weight, the rest that in its beta.
        """
        path = self.path
        ones = path.backend.xp.ones(position.shape[:1])

        def weighted(at: tuple[Any, Any, Any], constants: Any) -> Any:
            base, energy = self._parts(at[0], constants)
            return path.backend.xp.sum(at[1] * (base - at[2] * (energy + base)))

        _, (gradient, value, gain) = path.backend.value_and_grad(weighted)(
            (position, ones, ones * self.beta), self.constants
        )
        return value, gradient, gain

    def _parts(self, position: Any, constants: Any) -> tuple[Any, Any]:
        """log base, and the energy."""
        path, (params, mean, scale) = self.path, constants
        xp, z = path.backend.xp, (position - mean) / scale
        base = -0.5 * xp.sum(z * z, axis=-1) - xp.sum(xp.log(scale)) - 0.5 * path.dim * math.log(2.0 * math.pi)
        x = position.reshape((position.shape[0], *path.energies.model.event_shape))
        return base, path.energies.energy({"values": params}, x)
