"""What a run whose guide is a function can be asked of single data: encodings, what is made of them, and bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_gen import evaluation
from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.inference.elbo import RowBound
from ppl_gen.inference.training import rows_of
from ppl_gen.target import Target

_DRAWS_AT_ONCE = 8  # of a block of rows
DRAWS = 100  # of each datum, for its log probability


class Guided:
    """A part of :class:`~ppl_gen.results.run.Run`."""

    params: dict[str, np.ndarray]
    attrs: dict[str, Any]
    options: Any
    program: Any
    _by_rows: Callable[..., list[Any]]
    _scope: Callable[[], Any]
    _target: Callable[..., Target]
    _program: Callable[[], Any]

    @property
    def guided(self) -> bool:
        """Whether a guide that is a function was trained for latents of single data."""
        return bool(self.attrs.get("guided")) and callable(self._guide())

    def _guide(self) -> Any:
        return getattr(self.options, "guide", None) or getattr(self.program, "guide", None)

    def _require_guide(self, what: str) -> Any:
        if not self.guided:
            raise UnsupportedError(
                f"{what} asks a guide of the latents of single data, and this run has none: infer with engine='svi', a "
                "batch_size and a guide that is a function of the data"
            )
        return self._guide()

    def encode(self, data: Any = None) -> dict[str, np.ndarray]:
        """Means of the guide for the latents of each datum, name -> (rows, ...); ``{name}_scale`` their deviations.

        Raises:
            UnsupportedError: the run has no trained guide.
        """
        guide = self._require_guide("encode")

        def of_rows(target: Target) -> dict[str, np.ndarray]:
            values = {n: target.backend.asarray(x) for n, x in self.params.items()}
            sites = target.trace_guide(
                lambda arrays: target.bound.call(guide, arrays), target.arrays, values=values, key=target.backend.key(0)
            )
            latents = {n: s.distribution for n, s in sites.items() if s.kind == "latent"}
            found = {n: d.mean for n, d in latents.items()}
            found |= {f"{n}_scale": d.variance**0.5 for n, d in latents.items()}
            return {n: np.asarray(target.backend.to_numpy(x)) for n, x in found.items()}

        parts = self._by_rows(of_rows, data)
        return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    def decode(self, latents: Mapping[str, Any]) -> np.ndarray:
        """Mean of the data at latents, name -> (rows, ...), of a model of rows; (rows, ...).

        Raises:
            UnsupportedError: the model does not say how new rows are made (``row_data``).
        """
        model = self._program().model
        if not hasattr(model, "row_data"):
            raise UnsupportedError(f"decode makes new rows, and {self._program().name} brings no row_data")
        count = len(next(iter(latents.values())))
        with self._scope():
            target = self._target(model.row_data({}, count))
            values = {n: target.backend.asarray(np.asarray(x)) for n, x in {**self.params, **latents}.items()}
            sites = target.trace(target.arrays, values=values, key=target.backend.key(0))
            name = model.outputs[0]
            mean = sites[f"{name}_mean"].value if f"{name}_mean" in sites else sites[name].distribution.mean
            return np.asarray(target.backend.to_numpy(mean))

    def reconstruct(self, data: Any = None) -> np.ndarray:
        """What is made of the encoding of each datum."""
        return self.decode(self._means(data))

    def interpolate(self, one: Any, other: Any, num_steps: int = 8) -> np.ndarray:
        """What is made of points evenly on the line between the encodings of data, (num_steps, rows, ...)."""
        ends = [self._means(x) for x in (one, other)]
        shares = np.linspace(0.0, 1.0, num_steps)
        return np.stack([self.decode({n: (1 - t) * x + t * ends[1][n] for n, x in ends[0].items()}) for t in shares])

    def traverse(self, data: Any, index: int, values: Any = (-3, -2, -1, 0, 1, 2, 3)) -> np.ndarray:
        """What is made of the encodings of data with latent entry ``index`` at each of ``values``, (values, rows, ...).

        Raises:
            UnsupportedError: there is more than one latent.
        """
        means = self._means(data)
        if len(means) != 1:
            raise UnsupportedError(f"traverse moves one latent, and there are {sorted(means)}: use encode and decode")
        (name, z), rows = next(iter(means.items())), []
        for value in values:
            moved = z.copy()
            moved[:, index] = value
            rows.append(self.decode({name: moved}))
        return np.stack(rows)

    def _means(self, data: Any) -> dict[str, np.ndarray]:
        return {n: x for n, x in self.encode(data).items() if not n.endswith("_scale")}

    def log_weights(self, data: Any = None, num_draws: int = DRAWS, seed: int = 0) -> np.ndarray:
        """log p(x, z) - log q(z | x) of draws of the guide for each datum, (draws, rows).

        ``evaluation.importance_bound`` makes of them a lower bound of log p(x), with its error.
        """
        guide = self._require_guide("log_weights")

        def of_rows(target: Target) -> np.ndarray:
            backend, (_, plate) = target.backend, rows_of(target, "log_weights")
            bound = RowBound(plate.size)

            def draw(_: Any, key: Any, both: Any) -> Any:
                values, arrays = both
                called = lambda a: target.bound.call(guide, a)
                return bound.log_weights(target, called, plate, values, arrays, key)

            mapped = target.compiled(
                ("log weights", guide), lambda: backend.map_draws(draw, random=True, batch_size=_DRAWS_AT_ONCE)
            )
            values = {n: backend.asarray(x) for n, x in self.params.items()}
            found = mapped(backend.asarray(np.zeros(num_draws)), seed, (values, target.arrays))
            return np.asarray(backend.to_numpy(found))

        return np.concatenate(self._by_rows(of_rows, data), axis=1)

    def _bounds(self, data: Any) -> np.ndarray:
        """The importance-weighted bound of each datum."""
        return evaluation.importance_bound(self.log_weights(data)).value
