"""New data from what a run has fitted: by its program, or along a path from noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.protocol import Backend, Request, UnsupportedError
from ppl_gen.capabilities import Denoises, EnergyBased
from ppl_gen.diffusion import denoising
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.flowing import Flow
from ppl_gen.diffusion.guidance import LogProb, classified, classifier_free, observing
from ppl_gen.diffusion.samplers import Sampler
from ppl_gen.inference.driver import Driver
from ppl_gen.intake import DataError
from ppl_gen.options import count, is_number
from ppl_gen.program import as_program
from ppl_gen.results import predicting

_NUMBERS = 2**24  # of rows that are drawn side by side


class Sampling:
    """A part of :class:`~ppl_gen.results.run.Run`."""

    params: dict[str, np.ndarray]
    attrs: dict[str, Any]
    posterior: Any
    setting: Any
    _scope: Callable[[], Any]
    _target: Callable[..., Any]
    energy_draws: Callable[..., np.ndarray]
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
        guidance: float | None = None, classifier: LogProb | None = None, observed: Any = None,
        noise: Any = None, trajectory: bool = False, progress: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """``n`` rows, drawn along the path from noise to data.

        Args:
            sampler: of ``pg.diffusion.samplers``; the model's own where None.
            label: one class for all rows, or (n,). context: (num_context,) or (n, num_context).
            guidance: weight w of the label, (1 + w) with it less w without it; of the classifier where there is one.
            classifier: log p(y | x_t, t), ``(x (rows, *shape), t (rows,)) -> (rows,)`` of array functions of
                ``ppl_gen.xp``, whose gradient is added to the score.
            observed: (*shape) or (n, *shape), NaN in entries that are free; see ``ppl_gen.diffusion.guidance``.
            noise: (n, *shape), what rows are drawn from; standard normal where None.
            trajectory: where rows were after each step, too.

        Returns:
            (n, *shape); with ``trajectory`` (num_steps, n, *shape), data last.
        """
        model = self._denoises("denoise")
        count("n", n)
        sampler = model.sampler if sampler is None else sampler
        if not isinstance(sampler, Sampler):
            raise TypeError(f"sampler must be one of pg.diffusion.samplers, e.g. Heun(), got {sampler!r}")
        given = self._conditions(model, label, context, n)
        seen, begun = _seen(model, observed, n), _noise(model, noise, n)
        _check_guidance(model, guidance, label, classifier, self.attrs)
        kind = model.prediction if classifier is None and seen is None else "score"
        sampler.plan(model.along, kind)  # which refuses times outside the path
        parts = []
        with self._scope() as backend:
            driver, leaning = Driver(backend.to_numpy, progress), _Leaning(guidance is not None, classifier)
            if classifier is not None:
                _check_classifier(backend, model, classifier, n)
            for number, rows in enumerate(_blocks(n, max(1, _NUMBERS // int(np.prod(model.shape))))):
                held = {k: backend.asarray(x[rows]) for k, x in given.items() if x is not None}
                told = {k: backend.asarray(x[rows]) for k, x in (seen or {}).items()}
                told |= {} if guidance is None else {"guidance": backend.asarray(np.asarray(float(guidance)))}
                shape = (rows.stop - rows.start, *model.shape)
                key = ("denoise", sampler, tuple(held), tuple(told), leaning, shape, trajectory)
                make = lambda field_of: denoising.steps(backend, sampler, field_of, trajectory)
                advance = self._advance(backend, model, key, make, leaning)
                params = {k: backend.asarray(x) for k, x in self.params.items()}
                x, way = denoising.draw(
                    backend, driver, sampler, model.along, kind, model.sigma_data, advance, shape,
                    seed + 7919 * number, (params, held, told), trajectory, None if begun is None else begun[rows],
                )  # fmt: skip
                parts.append(x if way is None else way)
        drawn = np.concatenate(parts, axis=1 if trajectory else 0)
        if seen is None or trajectory:
            return drawn
        return np.where(seen["known"] > 0.0, seen["observed"], drawn).astype(drawn.dtype)

    def pairs(self, n: int, seed: int = 0, noise: Any = None, **how: Any) -> dict[str, np.ndarray]:
        """``n`` rows of noise and what the model makes of them, as data for ``engine="flow_matching"``.

        Of a deterministic sampler, a model that is trained on its own pairs has straighter paths, of less energy, and
        needs fewer steps (rectified flow, Liu, Gong & Liu 2023, "reflow").

        Args:
            noise: (n, *shape), standard normal where None. how: as of :meth:`denoise`.

        Returns:
            ``x`` and ``noise``, (n, *shape), and ``label`` or ``context`` where they were given.
        """
        model = self._denoises("pairs")
        if noise is None and _source(model) == "gaussian":
            noise = np.random.default_rng([seed, 3]).standard_normal((n, *model.shape))
        given = {"label": _labels(model, how.get("label"), n), "context": _contexts(model, how.get("context"), n)}
        pair = {"x": self.denoise(n, seed, noise=noise, **how), "noise": np.asarray(noise)}
        return {**pair, **{k: x for k, x in given.items() if x is not None}}

    def latent_variable(self, num_steps: int = 100, grid: str = "log_snr") -> Any:
        """The run of the same weights in the model's latent-variable program, see its ``latent_variable``.

        Its ``log_weights(x, num_draws)`` are log p(x, z) - log q(z | x), whose mean over draws is the variational bound
        of each datum (Ho et al. 2020, equation 5; Kingma et al. 2021, equation 11): ``evaluation.bits_per_dim`` of it
        is what papers report. Its ``log_prob`` is the importance-weighted bound.
        """
        chain = self._denoises("latent_variable").latent_variable(num_steps, grid)
        attrs = {**self.attrs, "guided": True, "elbo": "trace", "program": type(chain).__name__}
        return replace(self, program=as_program(chain), attrs=attrs)  # type: ignore[type-var]

    def flow_log_prob(
        self, x: Any, label: Any = None, context: Any = None, num_steps: int = 50, trace: str = "exact",
        num_probes: int = 10, seed: int = 0, progress: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """log p of rows by the probability-flow equation, and the standard errors of these numbers, both (rows,).

        What density this is, :mod:`ppl_gen.diffusion.probability_flow` says.

        Args:
            x: (rows, *shape). label, context: as of :meth:`denoise`.
            num_steps: of Runge-Kutta. trace: "exact", at a derivative for each entry of a row, its standard errors 0;
                or "hutchinson", by ``num_probes`` random directions for each row.
        """
        model = self._denoises("flow_log_prob")
        data = np.asarray(x)
        n = len(data) if data.ndim else 0
        if not data.size or not np.isfinite(data.astype(float)).all():
            raise DataError(f"flow_log_prob takes finite rows (rows, *shape), at least one; got shape {data.shape}")
        given = self._conditions(model, label, context, n)
        model.check_data({"x": data, **{k: v for k, v in given.items() if v is not None}})
        flow = Flow(num_steps, trace, num_probes)
        _, values, errors = self._flow(model, data.astype(float), n, given, flow, seed, progress)
        return values, errors

    def flow_sample(
        self, n: int = 1, seed: int = 0, label: Any = None, context: Any = None, num_steps: int = 50,
        trace: str = "exact", num_probes: int = 10, progress: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Rows (n, *shape), their log p (n,) and the standard errors of these, of one solution of the equation.

        Args: as of :meth:`flow_log_prob`.
        """
        model = self._denoises("flow_sample")
        count("n", n)
        given = self._conditions(model, label, context, n)
        return self._flow(model, None, n, given, Flow(num_steps, trace, num_probes), seed, progress)

    def _flow(
        self, model: Any, data: np.ndarray | None, n: int, given: Any, flow: Flow, seed: int, progress: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if _source(model) == "data":
            raise UnsupportedError("source='data': this flow knows its noise by draws alone, and has no density")
        parts = []
        with self._scope() as backend:
            driver = Driver(backend.to_numpy, progress)
            params = {k: backend.asarray(x) for k, x in self.params.items()}
            for number, rows in enumerate(_blocks(n, flow.rows(model.shape))):
                held = {k: backend.asarray(x[rows]) for k, x in given.items() if x is not None}
                shape = (rows.stop - rows.start, *model.shape)
                make = lambda field_of: flow.steps(backend, field_of, len(model.shape))
                advance = self._advance(backend, model, ("flow", flow, tuple(held), shape), make, _Leaning())
                parts.append(
                    flow.solve(
                        backend, driver, model.along, model.sigma_data, advance, None if data is None else data[rows],
                        shape, seed + 7919 * number, (params, held, {}),
                    )
                )  # fmt: skip
        y, values, errors = (np.concatenate(x) for x in zip(*parts, strict=True))
        return y, values, errors

    def _conditions(self, model: Any, label: Any, context: Any, n: int) -> dict[str, np.ndarray | None]:
        """What is told of n rows.

        Raises:
            DataError: not of n rows; a label, or none, where the network was never trained so.
        """
        unlabelled = self.attrs.get("unlabelled")
        if model.num_classes and unlabelled == (1.0 if label is not None else 0.0):
            raise DataError(
                "the network never saw a label: train it with labels in the data" if label is not None else
                "the network never saw a row without its label: pass label, or train it with drop_label"
            )
        return {"label": _labels(model, label, n), "context": _contexts(model, context, n)}

    def _denoises(self, what: str) -> Any:
        model = self._program().model
        if not isinstance(model, Denoises):
            raise UnsupportedError(
                f"{what} is of models along a path from data to noise, such as pg.models.Diffusion; "
                f"{self._program().name} is none"
            )
        return model

    def _advance(
        self, backend: Backend, model: Any, key: Any, make: Callable[[Any], Any], leaning: _Leaning
    ) -> Callable[..., Any]:
        """Compiled steps, made once for all draws that are alike in ``key``."""
        s, table = self.setting, self._program().compiled
        networks: dict[tuple[str, int], Any] = {}

        def says(params: Any, held: Any) -> Field:
            found: list[Field] = []
            with backends.keeping(networks):
                backend.trace(lambda: found.append(model.field(**held)), Request(values=params))
            return found[0]

        key = (s.backend, s.precision, s.device, *key)
        if key not in table:
            table.setdefault(key, make(lambda params, held, told: leaning.field(says, params, held, told)))
        return table[key]


@dataclass(frozen=True)
class _Leaning:
    """What the field of a model is made to lean towards."""

    guided: bool = False
    classifier: LogProb | None = None

    def field(self, says: Callable[[Any, Any], Field], params: Any, held: Any, told: Any) -> Field:
        """``told`` has the weight ``guidance``, and ``observed`` beside ``known``, where they are asked for."""
        field = says(params, held)
        if self.guided and self.classifier is None:
            free = says(params, {k: x for k, x in held.items() if k != "label"})
            field = classifier_free(field, free, told["guidance"])
        if self.classifier is not None:
            field = classified(field, self.classifier, told.get("guidance", 1.0))
        return observing(field, told["observed"], told["known"]) if "known" in told else field


def _blocks(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _check_guidance(model: Any, guidance: Any, label: Any, classifier: Any, attrs: Mapping[str, Any]) -> None:
    if guidance is None:
        return
    if not (is_number(guidance) and math.isfinite(guidance)):
        raise ValueError(f"guidance must be a finite number, got {guidance!r}")
    if classifier is None and (label is None or not model.num_classes or attrs.get("unlabelled") == 0.0):
        raise DataError(
            "guidance leans towards a label or a classifier: set num_classes of the model, train it with drop_label, "
            "and pass label; or pass classifier"
        )


def _check_classifier(backend: Backend, model: Any, classifier: Any, n: int) -> None:
    """Raises ValueError: it does not say one number for each row."""
    x, path = backend.asarray(np.zeros((n, *model.shape))), model.along
    t = backend.asarray(np.full(n, 0.5 * (path.start + path.end)))
    found = tuple(np.shape(backend.to_numpy(classifier(x, t))))
    if found != (n,):
        raise ValueError(f"classifier of rows {(n, *model.shape)} has shape {found}: expected {(n,)}, log p of each")


def _seen(model: Any, observed: Any, n: int) -> dict[str, np.ndarray] | None:
    """Entries that were observed, 0 elsewhere, and which they are."""
    if observed is None:
        return None
    given = np.asarray(observed, float)
    if given.shape not in (tuple(model.shape), (n, *model.shape)):
        raise DataError(f"observed must have shape {tuple(model.shape)} or {(n, *model.shape)}, got {given.shape}")
    if np.isinf(given).any():
        raise DataError("observed has infinite entries: expected numbers, and NaN where entries are free")
    full = np.broadcast_to(given, (n, *model.shape))
    return {"observed": np.nan_to_num(full, nan=0.0), "known": (~np.isnan(full)).astype(float)}


def _labels(model: Any, label: Any, n: int) -> np.ndarray | None:
    if label is None:
        return None
    held = np.asarray(label)
    if held.shape not in ((), (n,)):
        raise DataError(f"label must be one class, or one for each row, shape ({n},), got shape {held.shape}")
    found = np.broadcast_to(held, (n,))
    model.check_data({"label": found, **({"context": np.zeros((n, model.num_context))} if model.num_context else {})})
    return found.astype(np.int32)


def _source(model: Any) -> str:
    """What the noise is: "gaussian", or "data" that must be handed in."""
    return getattr(model, "source", "gaussian")


def _noise(model: Any, noise: Any, n: int) -> np.ndarray | None:
    if noise is None:
        if _source(model) == "data":
            raise DataError("source='data' draws no noise of its own: pass noise, rows that are taken to data")
        return None
    found = np.asarray(noise, float)
    if found.shape != (n, *model.shape) or not np.isfinite(found).all():
        raise DataError(f"noise must be finite, of shape {(n, *model.shape)}, got {found.shape}")
    return found


def _contexts(model: Any, context: Any, n: int) -> np.ndarray | None:
    if context is None:
        if model.num_context:
            raise DataError(f"num_context={model.num_context}: pass context, (num_context,) or (n, num_context)")
        return None
    if not model.num_context:
        raise DataError("the model has no context: leave it out, or set num_context")
    found, wanted = np.asarray(context, float), (model.num_context,)
    if found.shape not in (wanted, (n, *wanted)) or not np.isfinite(found).all():
        raise DataError(f"context must be finite, of shape {wanted} or {(n, *wanted)}, got shape {found.shape}")
    return np.broadcast_to(found, (n, *wanted))
