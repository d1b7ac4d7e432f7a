"""Posteriors of the latents of each datum, and their most probable values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.results import predicting
from ppl_gen.results.predicting import Draws
from ppl_gen.target import Target

_MOST_POINTS = 256  # of draws at which discrete latents are looked at


def exactly(target: Target, posterior: Draws, params: Draws) -> dict[str, np.ndarray]:
    """Posterior of the local latents of each row, over all draws; see :meth:`Run.latent`.

    Raises:
        UnsupportedError: the program has none, or none that can be dealt with exactly.
    """
    q = {n.removeprefix("q."): v for n, v in params.items() if n.startswith("q.")}
    if q and hasattr(target.program.model, "vb_latent"):
        return _of_q(target, q)
    values = predicting.values_of(target, posterior, params)
    own = getattr(target.program.model, "latent", None)
    if own is None:
        expectation = predicting.integrated(target, values)
        if expectation is None or not expectation.kind:
            raise UnsupportedError(
                f"latent gives the posterior of discrete and linear-Gaussian latents of single data, and "
                f"{target.program.name} has none that the run holds no draws of: look at run.posterior"
            )
        own = expectation.latent

    found = predicting.known_at(target, "latent", own, values)
    return {n: x.mean(0) + _between(found.get(n.removesuffix("_cov")), x) for n, x in found.items()}


def most_likely(target: Target, posterior: Draws, params: Draws) -> dict[str, np.ndarray]:
    """The jointly most probable discrete latents at a point; see :meth:`Run.most_likely`.

    Raises:
        UnsupportedError: no discrete latents, or many draws of what they depend on.
    """
    values, model = predicting.values_of(target, posterior, params), target.program.model
    own = getattr(model, "most_likely", None)
    discrete, single = own is not None or bool(target.discrete), all(len(v) == 1 for v in values.values())
    if not discrete or not single:
        but = "the run holds many draws: use run.latent" if discrete else "it has none"
        raise UnsupportedError(
            f"most_likely gives the discrete latents of {target.program.name} that are most probable together at a "
            f"point estimate, and {but}"
        )
    if own is None and hasattr(model, "latent"):  # independent rows, with one discrete latent each
        return {n: p.argmax(-1) for n, p in exactly(target, posterior, params).items() if n in target.discrete}
    if own is None:
        expectation = predicting.integrated(target, values)
        if expectation is None:
            raise UnsupportedError(
                f"most_likely needs the continuous latents of each datum of {target.program.name} summed out, and the "
                "program is not linear-Gaussian in them: look at run.latent"
            )
        own = expectation.most_likely

    return {n: x[0] for n, x in predicting.known_at(target, "most_likely", own, values).items()}


def of_new_rows(
    target: Target, names: Iterable[str], posterior: Draws, params: Draws, engine: Any, seed: int
) -> dict[str, np.ndarray]:
    """After an engine that drew the latents ``names`` of the fitted rows, those of others.

    By the guide where there is one; else exactly where that can be; else by the engine's own E-step.
    """
    guided = engine.name == "vbem" and callable(target.program.guide)
    if not guided and predicting.is_exact(target, posterior, params):
        return exactly(target, posterior, params)
    return of_points(target, names, *engine.of_rows(target, names, params, seed))


def of_points(target: Target | None, names: Iterable[str], values: Draws, masses: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of latents of rows from values of all continuous sites at points (P, ...) with masses (P,).

    Mean and covariance of the ``names``, and, where a target is given, probabilities of its discrete latents.
    """
    found = {}
    for name in names:
        x = values[name]
        found[name] = np.tensordot(masses, x, 1)
        off = (x - found[name]).reshape(*x.shape[:2], math.prod(x.shape[2:]))
        found[f"{name}_cov"] = np.einsum("s,s...i,s...j->...ij", masses, off, off)
    if target is None or not target.discrete:
        return found
    few = slice(None, None, -(-len(masses) // _MOST_POINTS) if masses.min() == masses.max() else 1)
    held = {n: values[n][few] for n in target.everything.names}
    expectation = predicting.integrated(target, held)
    if expectation is None:
        return found
    shares = masses[few] / masses[few].sum()
    drawn = predicting.known_at(target, "latent", expectation.latent, held)
    return {**found, **{n: np.tensordot(shares, x, 1) for n, x in drawn.items()}}


def _of_q(target: Target, q: Draws) -> dict[str, np.ndarray]:
    """What a model says of the latents of these rows under the q of variational Bayes."""
    backend = target.backend
    known = target.compiled("vb_latent", lambda: backend.compile(target.program.model.vb_latent))
    on_device = backend.from_numpy({n: np.ascontiguousarray(v) for n, v in q.items()})
    return {n: np.asarray(x) for n, x in backend.to_numpy(known(on_device, target.arrays)).items()}


def _between(means: np.ndarray | None, covariances: np.ndarray) -> Any:
    """Covariance of the draws' means, to be added to the covariances within draws (draws, ..., size, size)."""
    if means is None or means is covariances or len(means) == 1:
        return 0.0
    flat = means.reshape(*covariances.shape[:-1])
    off = flat - flat.mean(0)
    return np.einsum("s...i,s...j->...ij", off, off) / len(off)


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What blocks of rows gave, as of all rows."""
    return parts[0] if len(parts) == 1 else {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}
