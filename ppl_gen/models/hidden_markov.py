"""Hidden Markov models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen import markov, markov_blocks, markov_layout
from ppl_gen.missing import Missing, split
from ppl_gen.models._categories import Categories, normalised
from ppl_gen.models._emissions import Gaussians, Mixtures, taken
from ppl_gen.models._options import count, one_of
from ppl_gen.models._scale import data_scale
from ppl_gen.models.gaussian_mixture import GaussianMixture
from ppl_gen.primitives import dist, plate, sample, xp
from ppl_gen.program import DataError

_EMISSIONS = ("gaussian", "categorical", "mixture")


@dataclass(frozen=True)
class HiddenMarkov:
    """z_1 ~ pi, z_t ~ A[z_{t-1}], x_t ~ p(x | z_t); Rabiner (1989).

    Data are one sequence (T, D) or several (num_sequences, T, D), of codes (T,) or (num_sequences, T) where emissions
    are categorical; ``lengths`` (num_sequences,) says how many steps of each count. NaN stands for what was not
    observed, a whole step or some of its features. The states are summed out: the density of a sequence is exact.

    Sites: ``initial_probs`` pi (K,), ``transition_probs`` A (K, K), from row to column, and those of the emissions:

    * "gaussian": ``locs``, ``scales``, ``correlation`` as in :class:`GaussianMixture`, for states;
    * "mixture": ``weights`` (K, M) and the same with axes (K, M), for M Gaussians of each state;
    * "categorical": ``probs`` (K, num_categories).

    Priors: Dirichlet(1) of all probabilities, else as in :class:`GaussianMixture`. States are ordered in every draw: by
    the first coordinate of their means, by their mean code.

    Attributes:
        num_states: K.
        emission: "gaussian", "categorical" or "mixture" (of Gaussians).
        covariance_type: "full", "tied", "diag" or "spherical", of Gaussians.
        num_mixtures: M, Gaussians of each state of a mixture.
        num_categories: codes of categorical emissions, 0 to num_categories - 1.
        regularization: added to variances in EM's M-step, as in :class:`GaussianMixture`.
    """

    num_states: int
    emission: str = "gaussian"
    covariance_type: str = "full"
    num_mixtures: int = 2
    num_categories: int | None = None
    regularization: float = 1e-6

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    missing: ClassVar[tuple[str, ...]] = ("x",)

    def __post_init__(self) -> None:
        count("num_states", self.num_states)
        count("num_mixtures", self.num_mixtures)
        one_of("emission", self.emission, _EMISSIONS)
        if self.emission == "categorical":
            count("num_categories", self.num_categories)
        GaussianMixture(self.num_states, self.covariance_type, self.regularization)

    @property
    def dims(self) -> dict[str, list[str | None]]:
        of_each: list[str | None] = ["state", "component"] if self.emission == "mixture" else ["state"]
        return {
            "initial_probs": ["state"],
            "transition_probs": ["state", "next_state"],
            "probs": ["state", "category"],
            "weights": of_each,
            "locs": [*of_each, "feature"],
            "scales": [*of_each, "feature"],
        }

    @property
    def _emission(self) -> Any:
        if self.emission == "categorical":
            return Categories(self.num_states, self.num_categories or 1)
        number = self.num_states * (self.num_mixtures if self.emission == "mixture" else 1)
        gaussians = Gaussians(GaussianMixture(number, self.covariance_type, self.regularization))
        return Mixtures(gaussians, self.num_states) if self.emission == "mixture" else gaussians

    # The program ----------------------------------------------------------------------------------------------

    def __call__(
        self,
        x: Any = None,
        lengths: Any = None,
        num_sequences: int | None = None,
        num_steps: int | None = None,
        num_features: int | None = None,
    ) -> None:
        """The program; without ``x`` it makes sequences of ``num_steps``.

        Raises:
            DataError: ``lengths`` are not one whole number from 1 to T for each sequence.
        """
        given = (*([] if num_sequences is None else [num_sequences]), num_steps or 1, num_features or 1)
        *lead, steps, d = given if x is None else self._shape(x)
        k, emission, (values, observed) = self.num_states, self._emission, self._entries(x)
        if x is not None:
            _check_lengths(lengths, values.shape)
        initial = sample("initial_probs", dist.Dirichlet(xp.ones((k,))))
        transition = sample("transition_probs", dist.Dirichlet(xp.ones((k,))).expand([k]).to_event(1))
        scale, codes = self._scale(values, observed, lengths, d), self.emission == "categorical"
        params, reference = emission.declare(d, *scale), emission.reference(*scale)
        chain = {"initial_probs": initial, "transition_probs": transition, **params}
        hidden = {name: part for name, part in (("observed", observed), ("lengths", lengths)) if part is not None}

        def generate(noise: Any) -> Any:
            return xp.jit(_generate, (self,))(chain, noise)

        def log_prob(x: Any) -> Any:
            return xp.jit(_log_prob, (self,))(chain, reference, x, hidden)

        series = dist.FromFunctions(
            noise=dist.Normal(0.0, 1.0).expand([steps, 1 + emission.noise_width + d]).to_event(2),
            generate=generate,
            log_prob=log_prob,
            event_shape=(steps,) if codes else (steps, d),
            support=dist.constraints.nonnegative_integer if codes else None,
        )
        with plate("sequence", lead[0]) if lead else nullcontext():
            sample("x", series, obs=None if x is None else values[..., 0] if codes else values)

    def _shape(self, x: Any) -> tuple[int, ...]:
        """(T, D) or (num_sequences, T, D); codes are one feature."""
        codes = self.emission == "categorical"
        if len(x.shape) not in ((1, 2) if codes else (2, 3)):
            expected = "(T,) or (num_sequences, T)" if codes else "(T, D) or (num_sequences, T, D)"
            remedy = "; a single feature goes in as x[:, None]" if len(x.shape) == 1 else ""
            raise ValueError(
                f"HiddenMarkov with {self.emission} emissions expects x of shape {expected}, got "
                f"{tuple(x.shape)}{remedy}"
            )
        return (*x.shape, 1) if codes else tuple(x.shape)

    def _entries(self, x: Any) -> tuple[Any, Any]:
        """Values (..., T, D) and which of them were observed; None where all were, or without data."""
        if isinstance(x, np.ndarray) and x.dtype.kind == "f" and np.isnan(x).any():
            x = split(x)
        parts = (x.values, x.observed) if isinstance(x, Missing) else (x, None)
        values, observed = (None if part is None else xp.asarray(part).reshape(self._shape(part)) for part in parts)
        return values, observed

    def _scale(self, x: Any, observed: Any, lengths: Any, d: int) -> tuple[Any, Any]:
        """Mean and spread of the features."""
        if x is None or self.emission == "categorical":
            return data_scale(None, d)
        if lengths is not None:
            alive = _alive(lengths, x)[..., None] + xp.zeros_like(x)
            observed = alive if observed is None else observed * alive
        rows = x.reshape((-1, d))
        return data_scale(rows if observed is None else Missing(rows, observed.reshape((-1, d))), d)

    def _log_densities(
        self, params: Mapping[str, Any], reference: Mapping[str, Any], x: Any, observed: Any, lengths: Any
    ) -> Any:
        """log p(x_t | z_t) (..., T, K) of x (..., T, D); 0 after the end of a sequence."""
        emission = self._emission
        prepared = {n: v[None] for n, v in emission.prepare(params, reference, observed is not None).items()}
        parts = emission.lay_out(x, None if observed is None else xp.broadcast_to(observed, x.shape), reference)
        columns = {name: part.reshape((-1, part.shape[-1])).T[None] for name, part in parts.items()}
        found = emission.log_density(xp, prepared, columns)[0].T.reshape((*x.shape[:-1], self.num_states))
        return found if lengths is None else xp.where(_alive(lengths, x)[..., None] > 0, found, 0.0)

    def relabel(self, draws: Mapping[str, np.ndarray], lead: int) -> dict[str, np.ndarray]:
        """States of every draw in order; ``lead`` leading axes are of draws."""
        found, key = self._emission.permuted(draws, lead)
        order = np.argsort(key, axis=lead)
        for name in ("initial_probs", "transition_probs", *self._emission.of_states()):
            if name in found:
                found[name] = taken(found[name], order, lead)
        found["transition_probs"] = np.take_along_axis(found["transition_probs"], order[..., None, :], axis=lead + 1)
        return found

    # What is known of the states ------------------------------------------------------------------------------

    def latent(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """``z``: p(z_t = k | x), shape (..., T, K).

        Arrays of the active backend, or of NumPy inside ``with pg.on(...)``.
        """
        return {"z": markov.forward_backward(xp, *self._chain(params, data))[1]}

    def viterbi(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        """The most probable states (..., T), after the end of a sequence its last one; arrays as for ``latent``."""
        return markov.viterbi(xp, *self._chain(params, data), data.get("lengths"))

    def most_likely(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """``z``: the states of :meth:`viterbi`."""
        return {"z": self.viterbi(params, data)}

    def _chain(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Logarithms of the initial and transition probabilities and of the emissions."""
        params = {name: xp.asarray(value) for name, value in params.items()}
        x, observed = self._entries(data["x"])
        _check_lengths(data.get("lengths"), x.shape)
        found = self._log_densities(params, params, x, observed, data.get("lengths"))
        return xp.log(params["initial_probs"]), xp.log(params["transition_probs"]), found

    # Expectation-maximisation ---------------------------------------------------------------------------------

    def starts(
        self, data: Mapping[str, np.ndarray], num_starts: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Emissions of k-means++ partitions of at most 20,000 steps, drawn transitions that favour to stay.

        Raises:
            DataError: fewer steps than Gaussians, a feature without any entry, codes or lengths out of range.
        """
        x = np.asarray(data["x"], dtype=float)
        shape = self._shape(x)
        x, k = x.reshape(-1, *shape[-2:]), self.num_states
        lengths = data.get("lengths")
        _check_lengths(lengths, x.shape)
        last = np.full(len(x), shape[-2]) if lengths is None else np.asarray(lengths)
        seen = np.arange(shape[-2]) < last[:, None]
        rows = x[seen]
        found = self._emission.starts(rows[~np.isnan(rows).all(1)], num_starts, rng)
        drawn = rng.dirichlet(np.ones(k), (num_starts, k))
        chain = {"initial_probs": np.full((num_starts, k), 1.0 / k), "transition_probs": 0.5 * (drawn + np.eye(k))}
        return self.relabel({**chain, **found}, 1)

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Lengths that fit the sequences.

        Raises:
            DataError: others.
        """
        if "x" in data:
            _check_lengths(data.get("lengths"), self._shape(data["x"]))

    @property
    def em_regularised(self) -> str | None:
        """The option that EM's steps add to variances by, if they do."""
        return "regularization" if self.regularization > 0 and self.emission != "categorical" else None

    def em_layout(self, data: Mapping[str, Any], weights: Any) -> dict[str, Any]:
        """The data in blocks of time, as ``em_statistics`` wants them."""
        x, observed = (part if part is None or part.ndim == 3 else part[None] for part in self._entries(data["x"]))
        lengths, (sequences, steps) = data.get("lengths"), x.shape[:2]
        _check_lengths(lengths, x.shape)
        if weights is not None and weights.shape[0] != sequences:
            raise ValueError(f"{weights.shape[0]} weights came for {sequences} sequences: expected one for each")
        length = markov_layout.block_length(sequences, steps)

        def cut(part: Any) -> Any:
            return markov_layout.cut(xp, part[None], length)

        emission, rows = self._emission, x.reshape((-1, x.shape[-1]))
        scale = self._scale(x, observed, lengths, x.shape[-1])
        whole = observed is None and lengths is None and self.emission != "categorical"
        reference = emission.reference(*scale, rows if whole else None)
        parts = {name: cut(part) for name, part in emission.lay_out(x, observed, reference).items()}
        once = xp.ones_like(x[:, 0, 0], dtype=xp.ones(()).dtype) if weights is None else weights
        at, last = xp.arange(steps), steps if lengths is None else xp.reshape(lengths, (-1, 1))
        alive = xp.where(at < last, 1.0, 0.0) * once[:, None]
        if lengths is not None or steps % length:
            parts["live"] = cut(xp.where(at < last, 1.0, 0.0)[..., None] + 0.0 * x[..., :1]) > 0
        if lengths is not None or steps % length or weights is not None:
            parts["counts"] = cut(alive[..., None])
        pairs = cut((xp.where(at < last - 1, 1.0, 0.0) * once[:, None])[..., None])
        return {"chains": markov_layout.Chains(parts, pairs, once[None, None]), "reference": reference}

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """E-step (Rabiner 1989, equations 27 and 37): expected transitions, and moments as in GaussianMixture.

        ``weights`` has an entry for each sequence.
        """
        data = data if "chains" in data else self.em_layout(data, weights)
        chains, reference, emission = data["chains"], data["reference"], self._emission
        incomplete = chains.x["level"].shape[-2] > 1 if "level" in chains.x else "observed" in chains.x
        prepared = emission.prepare(params, reference, incomplete)
        infer = xp.routine(markov_blocks.sums, (xp, emission))
        sums = infer(params["initial_probs"], params["transition_probs"], prepared, chains)
        value = xp.sum(sums.log_marginal * chains.first[0, 0])
        moments = emission.moments(sums.statistics, params, reference, around)
        return {"initial": sums.first, "transition": sums.pairs, **moments}, value

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """M-step (Rabiner 1989, equations 40, 52 to 54); what no step says anything of stays as it is."""
        return {
            "initial_probs": normalised(statistics["initial"], around["initial_probs"]),
            "transition_probs": normalised(statistics["transition"], around["transition_probs"]),
            **self._emission.update(statistics, around),
        }


def _generate(model: HiddenMarkov, params: Mapping[str, Any], noise: Any) -> Any:
    """A series of standard normals (..., T, numbers of a step)."""
    z = markov.simulate(xp, params["initial_probs"], params["transition_probs"], xp.ndtr(noise[..., 0]))
    drawn = model._emission.generate(params, z, noise[..., 1:])
    return drawn[..., 0] if model.emission == "categorical" else drawn


def _log_prob(
    model: HiddenMarkov, params: Mapping[str, Any], reference: Mapping[str, Any], x: Any, hidden: Mapping[str, Any]
) -> Any:
    """The log density of each series."""
    x = x[..., None] if model.emission == "categorical" else x
    found = model._log_densities(params, reference, x, hidden.get("observed"), hidden.get("lengths"))
    return markov.log_marginal(xp, xp.log(params["initial_probs"]), xp.log(params["transition_probs"]), found)


def _alive(lengths: Any, x: Any) -> Any:
    """1.0 up to the end of each sequence of x (..., T, D), shape (..., T)."""
    return xp.where(xp.arange(x.shape[-2]) < xp.asarray(lengths)[..., None], 1.0, 0.0)


def _check_lengths(lengths: Any, shape: tuple[int, ...]) -> None:
    """Lengths of sequences x of this shape (..., T, D); inside of a function that is being compiled they pass.

    Raises:
        DataError: not one whole number from 1 to T for each.
    """
    if lengths is None:
        return
    try:
        held = np.asarray(lengths.detach().cpu() if hasattr(lengths, "detach") else lengths)
    except (TypeError, RuntimeError):  # no numbers yet: a tracer
        return
    number, steps = math.prod(shape[:-2]), shape[-2]
    if held.shape != (number,) or not np.isin(held, np.arange(1, steps + 1)).all():
        raise DataError(
            f"lengths must be one whole number from 1 to {steps} for each of {number} sequences, got {held}"
        )
