"""What a run of a model that is known by an energy can be asked: its normaliser, and draws by chains."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.capabilities import EnergyBased
from ppl_gen.target import Target


class Energetic:
    """A part of :class:`~ppl_gen.results.run.Run`."""

    params: dict[str, np.ndarray]
    attrs: dict[str, Any]
    setting: Any
    program: Any
    _scope: Callable[[], Any]
    _target: Callable[..., Target]
    _program: Callable[[], Any]

    @property
    def energetic(self) -> bool:
        """Whether the model is known by its energy."""
        return self.program is not None and isinstance(self.program.model, EnergyBased)

    @functools.cached_property
    def unnormalised(self) -> bool:
        """Whether what the program says of data holds up to log Z."""
        if not self.energetic:
            return False
        with self._scope():
            return any(not s.normalised for s in self._target().sites.values())

    def energy(self, x: Any) -> np.ndarray:
        """E of rows x (N, *shape) at the fitted params, (N,).

        Raises:
            UnsupportedError: the model is not known by an energy.
        """
        energies = self._energies()
        with self._scope() as backend:
            target = self._target({"x": x})
            held = {"values": {n: backend.asarray(v) for n, v in self.params.items()}}
            return np.asarray(backend.to_numpy(energies(target).energy(held, target.arrays["x"])))

    def _energies(self) -> Any:
        """What makes energies of a target."""
        if not self.energetic:
            raise UnsupportedError(f"{self._program().name} is not known by an energy: use run.log_prob")
        from ppl_gen.inference.energies import Energies

        return Energies

    def log_normalizer(
        self, num_chains: int = 100, num_temperatures: int = 1000, seed: int | None = None, reverse: bool = True,
        progress: bool = True,
    ) -> Any:  # fmt: skip
        """log Z of the fitted energy: exact where the model knows it, else by annealed importance sampling.

        Args:
            num_chains: weights whose mean is Z. num_temperatures: of the path from what can be drawn from.
            seed: that of the run where None. reverse: go back too, at the same cost.

        Returns:
            a :class:`~ppl_gen.inference.energy_annealing.LogNormalizer`.

        Raises:
            UnsupportedError: the model is not known by an energy. ChainError: it has no normaliser.
        """
        energies = self._energies()
        from ppl_gen.inference.energy_annealing import EnergyAnnealing, LogNormalizer  # with SciPy

        if not self.unnormalised:
            return LogNormalizer(self._known_log_z(energies), exact=True)
        annealing = EnergyAnnealing(num_chains, num_temperatures, progress)
        with self._scope():
            seed = self.setting.seed if seed is None else seed
            found = annealing.log_normalizer(self._target(), self.params, seed, reverse)
        if found.doubt:
            warnings.warn(found.doubt, RuntimeWarning, stacklevel=2)
        return found

    def _known_log_z(self, energies: Any) -> float:
        """What the program takes off minus the energy."""
        with self._scope() as backend:
            target = self._target()
            held = {n: backend.asarray(v) for n, v in self.params.items()}
            sites = target.trace(target.arrays, values=held)
            name = target.program.model.outputs[0]
            off = -energies(target).energy({"values": held}, target.arrays["x"]) - sites[name].log_prob
            return float(np.mean(backend.to_numpy(off)))

    @functools.cached_property
    def log_z(self) -> float:
        """What densities are off by: log Z where the program leaves it out, else 0."""
        return self.log_normalizer(reverse=False).value if self.unnormalised else 0.0

    def energy_draws(
        self, n: int, seed: int = 0, num_temperatures: int = 300, num_moves: int = 100, progress: bool = True
    ) -> np.ndarray:
        """n draws (n, *shape) of the fitted energy, by as many chains.

        They go through temperatures as for :meth:`log_normalizer`, are resampled by their weights, and then moved on:
        more moves, more of them independent. Binary models move by block Gibbs sweeps, others by Hamiltonian paths.

        Raises:
            UnsupportedError: the model is not known by an energy. ChainError: it has no normaliser.
        """
        self._energies()
        from ppl_gen.inference.energy_annealing import EnergyAnnealing

        annealing = EnergyAnnealing(max(n, 2), num_temperatures, progress)
        with self._scope():
            return annealing.draws(self._target(), self.params, seed, num_moves)[:n]
