"""Rows that the network of a run draws along a path from noise, and their densities by the probability flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.protocol import Backend, Request, UnsupportedError
from ppl_gen.diffusion import denoising
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.flowing import Flow
from ppl_gen.diffusion.guidance import LogProb, classified, classifier_free, observing
from ppl_gen.diffusion.samplers import Sampler
from ppl_gen.inference.driver import Driver
from ppl_gen.intake import DataError
from ppl_gen.options import is_number

_NUMBERS = 2**24  # of rows that are drawn side by side


def draw(
    run: Any, model: Any, n: int, seed: int, sampler: Sampler | None, given: Mapping[str, np.ndarray], *,
    guidance: float | None, classifier: LogProb | None, observed: Any, noise: Any, trajectory: bool, progress: bool,
) -> np.ndarray:  # fmt: skip
    """What :meth:`~ppl_gen.results.sampling.Sampling.denoise` returns; ``given`` is of :func:`conditions`."""
    sampler = model.sampler if sampler is None else sampler
    if not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must be one of pg.diffusion.samplers, e.g. Heun(), got {sampler!r}")
    seen, begun = _seen(model, observed, n), _noise(model, noise, n)
    _check_guidance(model, guidance, given, classifier, run.attrs)
    kind = model.prediction if classifier is None and seen is None else "score"
    sampler.plan(model.along, kind)  # which refuses times outside the path
    parts = []
    with run._scope() as backend:
        driver, leaning = Driver(backend.to_numpy, progress), _Leaning(guidance is not None, classifier)
        if classifier is not None:
            _check_classifier(backend, model, classifier, n)
        params = {k: backend.asarray(x) for k, x in run.params.items()}
        for rows, own in denoising.blocks(n, max(1, _NUMBERS // math.prod(model.shape)), seed):
            held = {k: backend.asarray(x[rows]) for k, x in given.items()}
            told = {k: backend.asarray(x[rows]) for k, x in (seen or {}).items()}
            told |= {} if guidance is None else {"guidance": backend.asarray(np.asarray(float(guidance)))}
            shape = (rows.stop - rows.start, *model.shape)
            key = ("denoise", sampler, tuple(held), tuple(told), leaning, shape, trajectory)
            make = lambda field_of: denoising.steps(backend, sampler, field_of, trajectory)
            x, way = denoising.draw(
                backend, driver, sampler, model.along, kind, model.sigma_data,
                _advance(run, backend, model, key, make, leaning), shape, own, (params, held, told),
                trajectory, None if begun is None else begun[rows],
            )  # fmt: skip
            parts.append(x if way is None else way)
    drawn = np.concatenate(parts, axis=1 if trajectory else 0)
    if seen is None or trajectory:
        return drawn
    return np.where(seen["known"] > 0.0, seen["observed"], drawn).astype(drawn.dtype)


def flow(
    run: Any, model: Any, data: np.ndarray | None, n: int, given: Mapping[str, np.ndarray], how: Flow, seed: int,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Rows (n, *shape), ``data`` or new ones, their log p (n,) and the standard errors of these."""
    if source(model) == "data":
        raise UnsupportedError("source='data': this flow knows its noise by draws alone, and has no density")
    parts = []
    with run._scope() as backend:
        driver = Driver(backend.to_numpy, progress)
        params = {k: backend.asarray(x) for k, x in run.params.items()}
        for rows, own in denoising.blocks(n, how.rows(model.shape), seed):
            held = {k: backend.asarray(x[rows]) for k, x in given.items()}
            shape = (rows.stop - rows.start, *model.shape)
            key = ("flow", how, tuple(held), shape)
            make = lambda field_of: how.steps(backend, field_of, len(model.shape))
            advance = _advance(run, backend, model, key, make, _Leaning())
            block = None if data is None else data[rows]
            parts.append(
                how.solve(
                    backend, driver, model.along, model.sigma_data, advance, block, shape, own, (params, held, {}),
                )
            )  # fmt: skip
    y, values, errors = (np.concatenate(x) for x in zip(*parts, strict=True))
    return y, values, errors


def conditions(run: Any, model: Any, label: Any, context: Any, n: int) -> dict[str, np.ndarray]:
    """What is told of n rows, where it is: ``label`` (n,) and ``context`` (n, num_context).

    Raises:
        DataError: not of n rows; a label, or none, where the network was never trained so.
    """
    unlabelled = run.attrs.get("unlabelled")
    if model.num_classes and unlabelled == (1.0 if label is not None else 0.0):
        raise DataError(
            "the network never saw a label: train it with labels in the data" if label is not None else
            "the network never saw a row without its label: pass label, or train it with drop_label"
        )
    given = {"label": _labels(model, label, n), "context": _contexts(model, context, n)}
    return {k: x for k, x in given.items() if x is not None}


def source(model: Any) -> str:
    """What the noise is: "gaussian", or "data" that must be handed in."""
    return getattr(model, "source", "gaussian")


def _advance(
    run: Any, backend: Backend, model: Any, key: Any, make: Callable[[Any], Any], leaning: _Leaning
) -> Callable[..., Any]:
    """Compiled steps, made once for all draws that are alike in ``key``."""
    s = run.setting
    networks: dict[tuple[str, int], Any] = {}

    def says(params: Any, held: Any) -> Field:
        found: list[Field] = []
        with backends.keeping(networks):
            backend.trace(lambda: found.append(model.field(**held)), Request(values=params))
        return found[0]

    build = lambda: make(lambda params, held, told: leaning.field(says, params, held, told))
    return run._program().once((s.backend, s.precision, s.device, *key), build)


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


def _check_guidance(
    model: Any, guidance: Any, given: Mapping[str, Any], classifier: Any, attrs: Mapping[str, Any]
) -> None:
    if guidance is None:
        return
    if not (is_number(guidance) and math.isfinite(guidance)):
        raise ValueError(f"guidance must be a finite number, got {guidance!r}")
    if classifier is None and ("label" not in given or not model.num_classes or attrs.get("unlabelled") == 0.0):
        raise DataError(
            "guidance leans towards a label or a classifier: set num_classes of the model, train it with drop_label, "
            "and pass label; or pass classifier"
        )


def _check_classifier(backend: Backend, model: Any, classifier: Any, n: int) -> None:
    """Raises TypeError: it is no function. ValueError: it does not say one number for each row."""
    if not callable(classifier):
        raise TypeError(f"classifier must be a function of rows and times, got {type(classifier).__name__}")
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


def _noise(model: Any, noise: Any, n: int) -> np.ndarray | None:
    if noise is None:
        if source(model) == "data":
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
