"""What densities a run can be asked for: of the fitted data draw by draw, and of each datum under the fitted model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_gen.capabilities import Denoises
from ppl_gen.results import identity, predicting
from ppl_gen.target import Target

_MOST_LOG_LIKELIHOODS = 20_000_000
BLOCK_ROWS = 16384


class Densities:
    """A part of :class:`~ppl_gen.results.run.Run`."""

    posterior: Mapping[str, np.ndarray]
    params: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    attrs: dict[str, Any]
    observed: dict[str, np.ndarray]
    data: Any
    program: Any
    guided: Any
    log_z: Any
    unnormalised: Any
    _bounds: Callable[[Any], np.ndarray]
    _by_rows: Callable[..., list[Any]]
    _scope: Callable[[], Any]
    _bind: Callable[..., Any]
    _target: Callable[..., Target]
    _checked: Callable[..., Target]
    _program: Callable[[], Any]
    _locals: Callable[[], list[str]]
    _without_locals: Callable[[], Mapping[str, np.ndarray]]

    @functools.cached_property
    def log_likelihood(self) -> dict[str, np.ndarray]:
        """log p(datum | draw) for each observed site (chain, draw, *plates), discrete latents summed out.

        A model of rows goes by blocks of them, unless the run holds draws of the latents of each row.
        """

        def of_rows(target: Target) -> dict[str, np.ndarray]:
            return predicting.log_likelihood(target, self.posterior, self.params)

        log_z = self.log_z
        with self._scope():
            bound = self._bind(None, BLOCK_ROWS)
            if not bound.by_rows or not predicting.fits(self._checked(bound), self.posterior):
                return {n: x - log_z for n, x in of_rows(self._target()).items()}
        parts = self._by_rows(of_rows, None)
        return {n: np.concatenate([p[n] for p in parts], axis=2) - log_z for n in parts[0]}

    def _has_log_likelihood(self) -> bool:
        return "log_likelihood" in vars(self) or (self.program is not None and self._affordable())

    def _affordable(self) -> bool:
        if self._why_not():
            return False
        draws = next((x.shape[0] * x.shape[1] for x in self.posterior.values()), 0)
        fitted = identity.arguments(self._program(), self.data)
        in_files = sum(x.size for x in fitted.values() if isinstance(x, np.memmap))
        return draws * max(in_files, sum(x.size for x in self.observed.values())) <= _MOST_LOG_LIKELIHOODS

    def _why_without(self) -> str:
        """Why log_likelihood is not among what ArviZ reads."""
        return self._why_not() or "draws times data are many"

    def _why_not(self) -> str:
        """Why it is not computed unless it is asked for, however few draws and data there are; empty where it is."""
        if isinstance(self._program().model, Denoises):
            return "an equation is solved for each datum"
        if isinstance(self.attrs.get("log_likelihood"), str):  # the engine says why; of some it is a number
            return self.attrs["log_likelihood"]
        if self.unnormalised:
            return "its normaliser is an estimate"
        return "plates are subsampled" if "subsampled" in self.attrs else ""

    def log_prob(self, data: Any) -> np.ndarray:
        """log p(x) of each datum under the fitted model; :attr:`log_prob_kind` says what kind of number it is.

        A point estimate gives log p(x | estimate); draws give log of the mean of p(x | draw) over the draws.
        Discrete latents are summed out. After training with a guide of the latents of each datum it is the importance-
        weighted bound of 100 draws; :meth:`log_weights` takes more. Of an energy whose normaliser is not known it is an
        estimate by annealed importance sampling, of which :meth:`log_normalizer` tells the error.

        Raises:
            UnsupportedError: latents of each datum that cannot be integrated out exactly.
            ProgramError: data with another number of features than the fitted ones, or without observations.
        """

        def of_rows(target: Target) -> np.ndarray:
            target.require_full_data("log_prob")
            return predicting.log_prob(target, self._without_locals(), self.params)

        if self.guided:
            return self._bounds(data)
        log_z = self.log_z
        parts = self._by_rows(of_rows, data)
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)) - log_z

    @property
    def log_prob_kind(self) -> str:
        """"exact" for a point estimate, "estimate" for a Monte Carlo average over draws, "lower bound" by a guide.

        "unavailable" where latents of each datum are left that cannot be integrated out, as after ``mcem`` and ``vbem``
        on programs that are not linear-Gaussian in them, or where a flow begins at rows of data: :meth:`log_prob`
        raises there.
        """
        model = None if self.program is None else self.program.model
        if isinstance(model, Denoises) and getattr(model, "source", "gaussian") == "data":
            return "unavailable"
        if self.guided:
            return "lower bound"
        if self.unnormalised:
            return "estimate"
        if self._locals():
            with self._scope():
                exact = predicting.is_exact(self._target(), self._without_locals(), self.params)
            return "exact" if exact else "unavailable"
        draws = next((x.shape[0] * x.shape[1] for x in self._without_locals().values()), 1)
        return "exact" if draws == 1 and "elbo" not in self.history else "estimate"
