"""What a model may bring beside its program, as small Protocols that engines ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Starts(Protocol):
    """A model that knows good starting values: constrained, with a leading axis of starts, on the host."""

    def starts(self, data: Mapping[str, Any], num_starts: int, rng: Any) -> dict[str, Any]: ...


@runtime_checkable
class ChecksData(Protocol):
    """A model that looks at its data on the host before its program runs; a DataError says what is wrong with them."""

    def check_data(self, data: Mapping[str, Any]) -> None: ...


@runtime_checkable
class LargeRows(Protocol):
    """A model that makes much of each row: ``most_rows(data)`` of them go through it together, where data may be split.

    ``data`` are on the host; the rows those of the arguments ``em_rows``.
    """

    def most_rows(self, data: Mapping[str, Any]) -> int: ...


@runtime_checkable
class Continues(Protocol):
    """A model of sequences that goes on from any beginning, one token after the other.

    ``encode(prompt)`` gives tokens (T,) on the host, and a DataError where it cannot; ``decode(tokens)`` what is shown
    of them. On the backend's arrays: ``begin(rows) -> (token (rows,), cache)`` before the first token, and, in the
    words of programs, ``following(token, cache) -> (logits of the next token (rows, tokens), cache)``, at an equal cost
    for every token.
    """

    def encode(self, text: Any) -> Any: ...

    def decode(self, tokens: Any) -> Any: ...

    def begin(self, rows: int) -> tuple[Any, Any]: ...

    def following(self, token: Any, cache: Any) -> tuple[Any, Any]: ...


@runtime_checkable
class EnergyBased(Protocol):
    """A model of rows known up to its normaliser: log p(x) = -E(x) - log Z.

    Its program observes the rows, argument and site ``x`` (N, *event_shape), by ``dist.LogDensity``. ``energy(x)`` is
    E of any rows (rows,), in the words of programs: it declares the params that it hangs on.

    Engines ask for the score, minus the gradient of the energy, through :class:`ppl_gen.inference.energies.Energies`.
    """

    event_shape: tuple[int, ...]

    def energy(self, x: Any) -> Any: ...


@runtime_checkable
class GibbsSampled(EnergyBased, Protocol):
    """An energy of binary variables that is linear in natural parameters and brings block Gibbs moves.

    ``natural()`` are those, name -> array, in the words of programs. On the backend's arrays, at any values of them:
    ``log_density(natural, x)``, minus the energy, with what else there is summed out; ``sweep(natural, x, u) -> x``,
    all variables of rows drawn anew once, by uniforms (rows, ``num_uniforms``). ``values`` of a variable are low and
    high. On the host: ``independent(share) -> (natural, log Z)`` has variables high with given shares, without any
    interaction.
    """

    values: tuple[float, float]
    num_uniforms: int

    def natural(self) -> dict[str, Any]: ...

    def log_density(self, natural: Mapping[str, Any], x: Any) -> Any: ...

    def sweep(self, natural: Mapping[str, Any], x: Any, u: Any) -> Any: ...

    def independent(self, share: Any) -> tuple[dict[str, Any], float]: ...


@runtime_checkable
class ClosedFormEM(Starts, Protocol):
    """A model that brings its expectation-maximisation in closed form, split so that rows of data add up.

    Both are functions on the backend's arrays for one start, without Python branches on values:

    * ``em_statistics(params, around, data, weights) -> (statistics, log likelihood)``, the E-step on some rows:
      expected sufficient statistics (a dict of arrays) and the log likelihood at ``params``, each a sum over rows.
    * ``em_update(statistics, around) -> params``, the M-step on the sum over all rows.

    ``around`` are params that stay the same while statistics are added up: sums taken about their locations do not
    cancel. ``data`` maps argument names to arrays (or :class:`Missing`); ``weights`` (rows,) says how often each row
    counts, None for once.

    A model may also bring

    * ``em_rows``: the arguments whose leading axis are rows, so that the engine may hand them over block by block;
    * ``em_summary(around, data, weights)``: a sum over rows that says all that ``em_statistics`` needs; it then gets
      the summary as its ``data``, and None for ``weights`` (not where entries are missing). It takes NumPy's arrays
      as well as the backend's;
    * ``em_layout(data, weights)``: the data as ``em_statistics`` wants them, made once (not with ``em_rows``);
    * ``em_regularised``: the name of the option that ``em_update`` adds to variances by, None where it adds nothing:
      such a step is near the maximum, not at it, so that the history may fall without any precision being lost;
    * ``em_penalty(params)``: a log prior that the update climbs beside the log likelihood, such as that of smoothed
      counts; the history then holds their sum, which never falls, as ``log_penalised`` beside ``log_likelihood``;
    * ``latent(params, data)``: posterior of the latents of each row, name -> array;
    * ``most_likely(params, data)``: discrete latents that are most probable together, name -> integers, where one
      depends on another.
    """

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]: ...

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]: ...


@runtime_checkable
class ClosedFormVB(Protocol):
    """A model that brings variational Bayes EM in closed form; q is a dict of hyperparameters, for one start.

    ``vb_starts`` has a leading axis of starts and runs on the host; ``vb_step(q, data, weights) -> (new q, ELBO of q)``
    on the backend's arrays, where the ELBO holds every constant and never falls; on the host again, ``vb_draws`` gives
    ``num_draws`` draws of the sites from q and ``vb_mean`` their means. ``weights`` as in :class:`ClosedFormEM`.

    A run holds q in its params, each name with "q." before it. A model may also bring ``vb_latent(q, data)``: posterior
    of the latents of each row of any data, name -> array, on the backend's arrays; and ``em_regularised``, as in
    :class:`ClosedFormEM`.
    """

    def vb_starts(self, data: Mapping[str, Any], num_starts: int, rng: Any) -> dict[str, Any]: ...

    def vb_step(self, q: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]: ...

    def vb_draws(self, q: Any, num_draws: int, rng: Any) -> dict[str, Any]: ...

    def vb_mean(self, q: Any) -> dict[str, Any]: ...


@runtime_checkable
class ClosedForm(Protocol):
    """A model whose maximum likelihood has a closed form."""

    def closed_form(self, data: Mapping[str, Any]) -> dict[str, Any]: ...


@runtime_checkable
class LearnsByRegression(Protocol):
    """A model along a path from data to noise, trained without ever following it.

    ``regression(objective, drop_label)`` is the program of that: of the same arguments as the model, and of ``noise``
    like the data where it is not to be drawn; its factors are minus the losses of rows, its ``guide`` draws the noise.
    """

    def regression(self, objective: Any, drop_label: float = 0.0) -> Any: ...


@runtime_checkable
class Denoises(Protocol):
    """A model that says at any time what a noisy row comes from, so that samplers draw from it.

    ``field(label, context)``, in the words of programs, is a :class:`~ppl_gen.diffusion.field.Field`; ``along`` its
    path and ``prediction`` its kind; ``sampler`` what draws are made by where nothing else is asked for; ``shape`` that
    of a row, and ``sigma_data`` the standard deviation of its entries.
    """

    shape: tuple[int, ...]
    prediction: str
    sigma_data: float

    @property
    def along(self) -> Any: ...

    @property
    def sampler(self) -> Any: ...

    def field(self, label: Any = None, context: Any = None) -> Any: ...
