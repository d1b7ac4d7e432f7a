"""What a run whose guide is a function can be asked of single data: encodings, what is made of them, and bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_gen import evaluation
from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.inference import encoding
from ppl_gen.inference.elbo import RowBound
from ppl_gen.inference.training import rows_of
from ppl_gen.results import identity
from ppl_gen.target import Target

_MOST_ROWS, _MOST_NUMBERS = 16384, 2**22  # of data that go through networks at once
_DRAWS_AT_ONCE = 8  # of a block of rows
DRAWS = 100  # of each datum, for its log probability


class Guided:
    """A part of :class:`~ppl_gen.results.run.Run`."""

    params: dict[str, np.ndarray]
    data: Any
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

        Of a discrete latent its most probable value, and ``{name}_probs`` (rows, values); others are then told at these
        values. Moments that have no closed form are those of 64 draws.

        Raises:
            UnsupportedError: the run has no trained guide.
        """
        guide = self._require_guide("encode")

        def of_rows(target: Target) -> dict[str, np.ndarray]:
            found, masses = encoding.encode(target, lambda arrays: target.bound.call(guide, arrays), self.params)
            means = {n: p.argmax(-1) for n, p in masses.items()} | {n: x.mean for n, x in found.items()}
            probs = {f"{n}_probs": p for n, p in masses.items()}
            return {**means, **probs, **{f"{n}_scale": x.scale for n, x in found.items()}}

        parts = self._by_rows(of_rows, data, self._block_rows(data))
        return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    def decode(self, latents: Mapping[str, Any], **given: Any) -> np.ndarray:
        """Mean of the data at latents, name -> (rows, ...), of a model of rows; (rows, ...).

        Args:
            given: arguments of the model beside its data, e.g. ``label`` (rows,).

        Raises:
            UnsupportedError: the model does not say how new rows are made (``row_data``).
        """
        model = self._program().model
        if not hasattr(model, "row_data"):
            raise UnsupportedError(f"decode makes new rows, and {self._program().name} brings no row_data")
        count = len(next(iter(latents.values())))
        with self._scope():
            target = self._target({**model.row_data({}, count), **given})
            values = {n: target.backend.asarray(np.asarray(x)) for n, x in {**self.params, **latents}.items()}
            sites = target.trace(target.arrays, values=values, key=target.backend.key(0))
            name = model.outputs[0]
            mean = sites[f"{name}_mean"].value if f"{name}_mean" in sites else sites[name].distribution.mean
            return np.asarray(target.backend.to_numpy(mean))

    def reconstruct(self, data: Any = None) -> np.ndarray:
        """What is made of the encoding of each datum."""
        return self.decode(self._means(data), **self._given(data))

    def interpolate(self, one: Any, other: Any, num_steps: int = 8) -> np.ndarray:
        """What is made of points evenly on the line between the encodings of data, (num_steps, rows, ...).

        Discrete latents, and what is given beside data, such as labels, are those of ``one``.
        """
        (first, last), given = (self._means(x) for x in (one, other)), self._given(one)
        moving = [n for n, x in first.items() if x.dtype.kind == "f"]
        between = ({n: (1 - t) * first[n] + t * last[n] for n in moving} for t in np.linspace(0.0, 1.0, num_steps))
        return np.stack([self.decode({**first, **latents}, **given) for latents in between])

    def traverse(self, data: Any, index: int, values: Any = (-3, -2, -1, 0, 1, 2, 3)) -> np.ndarray:
        """What is made of the encodings of data with latent entry ``index`` at each of ``values``, (values, rows, ...).

        Raises:
            UnsupportedError: there is more than one continuous latent.
        """
        means, rows = self._means(data), []
        moving = [n for n, x in means.items() if x.dtype.kind == "f"]
        if len(moving) != 1:
            raise UnsupportedError(f"traverse moves one latent, and there are {sorted(moving)}: use encode and decode")
        for value in values:
            moved = means[moving[0]].copy()
            moved[:, index] = value
            rows.append(self.decode({**means, moving[0]: moved}, **self._given(data)))
        return np.stack(rows)

    def _means(self, data: Any) -> dict[str, np.ndarray]:
        return {n: x for n, x in self.encode(data).items() if not n.endswith(("_scale", "_probs"))}

    def _given(self, data: Any) -> dict[str, Any]:
        """Arguments of the model beside its outputs, such as labels."""
        held = identity.arguments(self._program(), self.data if data is None else data)
        return {n: x for n, x in held.items() if n not in getattr(self._program().model, "outputs", ())}

    def _block_rows(self, data: Any, num_draws: int = _DRAWS_AT_ONCE) -> int:
        """How many rows may go through the networks at once, each with so many draws."""
        held = identity.arguments(self._program(), self.data if data is None else data)
        names = getattr(self._program().model, "em_rows", ())
        width = sum(math.prod(np.shape(held[n])[1:]) for n in names if n in held)
        rows = min(_MOST_ROWS, _MOST_NUMBERS // (max(width, 1) * num_draws))
        return max(1, rows // getattr(self._program().model, "copies", 1))

    def log_weights(self, data: Any = None, num_draws: int = DRAWS, seed: int = 0) -> np.ndarray:
        """log p(x, z) - log q(z | x) of draws of the guide for each datum, (draws, rows).

        ``evaluation.importance_bound`` makes of them a lower bound of log p(x), with its error.
        """
        guide = self._require_guide("log_weights")

        def of_rows(target: Target) -> np.ndarray:
            backend, (_, plate) = target.backend, rows_of(target.guided(), "log_weights")
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

        return np.concatenate(self._by_rows(of_rows, data, self._block_rows(data)), axis=1)

    def annealed_log_weights(
        self, data: Any = None, num_draws: int = 16, num_temperatures: int = 500, num_steps: int = 10, seed: int = 0,
        latents: Mapping[str, Any] | None = None, progress: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """Log weights (draws, rows) of annealed importance sampling from prior to posterior of each datum's latents.

        ``evaluation.importance_bound`` makes of them a lower bound of log p(x), as of :meth:`log_weights`, whatever the
        guide is worth (Wu, Burda, Salakhutdinov & Grosse 2017). Of data that were simulated with ``latents`` these are
        exact draws of the posterior to go back from: minus the bound of minus the weights is then an upper bound, on
        average (bidirectional Monte Carlo; Grosse, Ghahramani & Adams 2015).

        Args:
            num_draws: chains of each datum.
            num_temperatures: from prior to posterior; num_steps: leapfrog steps at each.
            latents: name -> (rows, ...), where the way back is asked for. progress: show a bar.

        Raises:
            UnsupportedError: latents that are discrete or not those of single rows.
        """
        from ppl_gen.inference.row_annealing import RowAnnealing  # with SciPy, which import ppl_gen does without

        annealing, begun = RowAnnealing(num_draws, num_temperatures, num_steps, progress), 0

        def of_rows(target: Target) -> np.ndarray:
            nonlocal begun
            names, plate = rows_of(target.guided(), "annealed_log_weights")
            part = slice(begun, begun := begun + plate.size)
            ends = None if latents is None else {n: np.asarray(x)[part] for n, x in latents.items()}
            return annealing.log_weights(target, names, plate, self.params, seed, ends)

        return np.concatenate(self._by_rows(of_rows, data, self._block_rows(data, num_draws)), axis=1)

    def _bounds(self, data: Any) -> np.ndarray:
        """The importance-weighted bound of each datum."""
        return evaluation.importance_bound(self.log_weights(data)).value
