"""New data from what a run has fitted: by its program, or along a path from noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.protocol import Backend, Request
from ppl_gen.capabilities import Denoises, EnergyBased
from ppl_gen.diffusion.samplers import Sampler
from ppl_gen.inference import denoising
from ppl_gen.inference.driver import Driver
from ppl_gen.intake import DataError
from ppl_gen.options import count
from ppl_gen.results import predicting

_NUMBERS = 2**24  # of rows that are drawn side by side


class Sampling:
    """A part of :class:`~ppl_gen.results.run.Run`."""

    params: dict[str, np.ndarray]
    posterior: Any
    setting: Any
    energy_draws: Callable[..., np.ndarray]
    _scope: Callable[[], Any]
    _target: Callable[..., Any]
    _program: Callable[[], Any]

    def sample(self, n: int = 1, seed: int = 0, **how: Any) -> Any:
        """``n`` new data from the fitted model.

        A model of rows (one that brings ``row_data``) gives n rows; any other program n data sets like the one
        it was fitted to, each from its own draw of the posterior.

        Args:
            how: of models along a path from noise, see :meth:`denoise`; of those known by an energy, see
                :meth:`energy_draws`.

        Returns:
            an array (n, ...), or a dict of them where several sites are observed.
        """
        count("n", n)
        model = self._program().model
        if isinstance(model, Denoises):
            return self.denoise(n, seed, **how)
        if isinstance(model, EnergyBased):
            return self.energy_draws(n, seed, **how)
        if how:
            raise TypeError(f"sample of {self._program().name} takes n and seed alone, got {', '.join(how)}")
        with self._scope():
            rows = getattr(model, "row_data", None)
            if rows is not None:
                return predicting.sample_rows(self._target, rows, self.posterior, self.params, int(n), seed)
            return predicting.sample(self._target(), self.posterior, self.params, int(n), seed)

    def denoise(
        self, n: int = 1, seed: int = 0, sampler: Sampler | None = None, label: Any = None, context: Any = None,
        trajectory: bool = False, progress: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """``n`` rows, drawn along the path from noise to data.

        Args:
            sampler: of ``pg.diffusion.samplers``; the model's own where None.
            label: one class for all rows, or (n,). context: (num_context,) or (n, num_context).
            trajectory: where rows were after each step, too.

        Returns:
            (n, *shape); with ``trajectory`` (num_steps, n, *shape), data last.
        """
        model = self._program().model
        sampler = model.sampler if sampler is None else sampler
        given = {"label": _labels(model, label, n), "context": _contexts(model, context, n)}
        size = max(1, _NUMBERS // int(np.prod(model.shape)))
        parts = []
        with self._scope() as backend:
            driver = Driver(backend.to_numpy, progress)
            for number, start in enumerate(range(0, n, size)):
                held = {k: backend.asarray(x[start : start + size]) for k, x in given.items() if x is not None}
                rows = min(size, n - start)
                advance = self._steps(backend, model, sampler, tuple(held), rows, trajectory)
                params = {k: backend.asarray(x) for k, x in self.params.items()}
                x, way = denoising.draw(
                    backend, driver, sampler, model.along, advance, (rows, *model.shape), seed + 7919 * number,
                    (params, held), trajectory,
                )  # fmt: skip
                parts.append(x if way is None else way)
        return np.concatenate(parts, axis=1 if trajectory else 0)

    def _steps(
        self, backend: Backend, model: Any, sampler: Sampler, given: tuple[str, ...], rows: int, keep: bool
    ) -> Callable[..., Any]:
        """Compiled steps, made once for all draws that are alike in these."""
        s, table = self.setting, self._program().compiled
        networks: dict[tuple[str, int], Any] = {}

        def field_of(params: Any, held: Any) -> Any:
            found = []
            with backends.keeping(networks):
                backend.trace(lambda: found.append(model.field(**held)), Request(values=params))
            return found[0]

        key = ("denoise", s.backend, s.precision, s.device, sampler, given, rows, keep)
        if key not in table:
            table.setdefault(key, denoising.steps(backend, sampler, field_of, keep))
        return table[key]


def _labels(model: Any, label: Any, n: int) -> np.ndarray | None:
    if label is None:
        return None
    found = np.broadcast_to(np.asarray(label), (n,))
    model.check_data({"label": found, **({"context": np.zeros((n, model.num_context))} if model.num_context else {})})
    return found.astype(np.int32)


def _contexts(model: Any, context: Any, n: int) -> np.ndarray | None:
    if context is None:
        if model.num_context:
            raise DataError(f"num_context={model.num_context}: pass context, (num_context,) or (n, num_context)")
        return None
    found = np.asarray(context, float)
    found = np.broadcast_to(found, (n, found.shape[-1]))
    model.check_data({"context": found})
    return found
