"""What a backend offers: tracing, arrays, autodiff, compilation, randomness, native algorithms.

``backends/numpyro`` and ``backends/pyro`` are two mirror images of this page. Arrays are the backend's own
(``jax.Array`` or ``torch.Tensor``); trees are nested dicts, tuples and named tuples of arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Array = Any
Tree = Any
Kind = Literal["latent", "observed", "param", "factor", "deterministic", "plate"]


class UnsupportedError(TypeError):
    """A program asks for something that the engine or backend at hand does not do."""


class SiteError(ValueError):
    """A statement of a program that cannot be run."""


@dataclass(frozen=True)
class Plate:
    """A vectorised plate: batch dimension ``dim`` (negative) of ``size`` rows in view out of ``full_size``."""

    name: str
    dim: int
    size: int
    full_size: int


@dataclass(frozen=True)
class Site:
    """One statement of a program that has been run.

    Attributes:
        value: shape batch_shape + event_shape, constrained.
        unscaled: log probability, masked, shape batch_shape (leading dimensions may be enumerated); None for
            params and deterministics.
        scale: what it counts for, from subsampled plates and ``pg.scale``; None for once.
        log_det: log |d value / d u| where the value came from unconstrained coordinates u, else None.
        constraint: of a latent (its support) or a param, as the backend's own object.
        cardinality: number of values of a finite discrete latent, else None; of a Markov chain, that of its states.
        normalised: False of a density that is known up to a constant only, which may hang on params.
        num_steps: of a latent Markov chain, else None.
        links: of a Markov chain laid out along its states, log transition probabilities (*batch, from, to);
            ``unscaled`` is then that of the first state.
    """

    name: str
    kind: Kind
    value: Array
    unscaled: Array | None = None
    scale: Array | None = None
    log_det: Array | None = None
    distribution: Any = None
    plates: tuple[Plate, ...] = ()
    event_dim: int = 0
    batch_shape: tuple[int, ...] = ()
    constraint: Any = None
    discrete: bool = False
    cardinality: int | None = None
    improper: bool = False
    normalised: bool = True
    in_support: Array | None = None
    num_steps: int | None = None
    links: Array | None = None

    @property
    def log_prob(self) -> Array | None:
        """Scaled and masked."""
        return self.unscaled if self.unscaled is None or self.scale is None else self.scale * self.unscaled


def check_fit(name: str, value: Array, fn: Any, plates: Sequence[Plate]) -> None:
    """A value that broadcasts with the shape of its distribution ``fn``.

    Raises:
        SiteError: naming the site.
    """
    try:
        np.broadcast_shapes(np.shape(value), tuple(fn.batch_shape) + tuple(fn.event_shape))
    except ValueError:
        where = "".join(f", in plate {p.name!r} of size {p.size}," for p in plates)
        raise SiteError(
            f"site {name!r}{where} has a value of shape {tuple(np.shape(value))} and a distribution of shape "
            f"{tuple(fn.batch_shape)} + event {tuple(fn.event_shape)}: expected shapes that broadcast; make the "
            "plate as long as the data, or reshape one of them"
        ) from None


def check_new(name: str, seen: set[str]) -> None:
    """A site whose name none before it has.

    Raises:
        SiteError: naming the site.
    """
    if name in seen:
        raise SiteError(f"site {name!r} is declared twice: give one of the two another name")
    seen.add(name)


@dataclass(frozen=True)
class Request:
    """How to run a program once.

    Attributes:
        values: constrained values of latents and params, indices of subsampled plates.
        unconstrained: unconstrained values of latents and params; the site's constraint maps them.
        enumerated: discrete latent -> the negative batch dimension along which all its values are laid out.
        hide_observed: observed sites are drawn anew instead.
        key: randomness of what is drawn (NumPyro); Pyro draws from the scope's generator.
        check: fill ``in_support`` of observed sites.
    """

    values: Mapping[str, Array] = field(default_factory=dict)
    unconstrained: Mapping[str, Array] = field(default_factory=dict)
    enumerated: Mapping[str, int] = field(default_factory=dict)
    hide_observed: bool = False
    key: Any = None
    check: bool = False


@dataclass(frozen=True)
class Share:
    """How the rows of a batch lie over devices and processes.

    Attributes:
        here: rows that this process hands in; seen: rows that a compiled step sees.
        place: ``place(tree, axis)`` lays rows along ``axis`` as they are to lie; what has none (axis None) on each.
    """

    here: int
    seen: int
    place: Callable[[Tree, int | None], Tree]


class Bijection(Protocol):
    """Unconstrained coordinates of a constraint; same coordinates on both backends."""

    def forward(self, u: Array) -> Array: ...
    def inverse(self, x: Array) -> Array: ...
    def log_abs_det(self, u: Array, x: Array) -> Array: ...
    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]: ...


class NativeChains(Protocol):
    """A native sampler as the driver wants it: a state and how to advance it. Made of a flat potential.

    Attributes:
        independent: what a chain draws does not hang on the others; ``rows`` may then pick some of ``positions``.
    """

    @property
    def independent(self) -> bool: ...
    def init(self, positions: Array, seed: int, arrays: Tree, rows: slice = slice(None)) -> Tree: ...
    def advance(self, state: Tree, num_steps: int, arrays: Tree) -> tuple[Tree, dict[str, Array]]: ...


class MakesChains(Protocol):
    """What makes them."""

    @property
    def independent(self) -> bool: ...
    def __call__(self, *args: Any, **options: Any) -> NativeChains: ...


class NativeSVI(Protocol):
    """A native stochastic variational inference as the driver wants it. Made of a model and a guide."""

    def init(self, seed: int, arrays: Tree, values: Mapping[str, Array] | None = None) -> Tree: ...
    def advance(self, state: Tree, num_steps: int, arrays: Tree) -> tuple[Tree, dict[str, Array]]: ...
    def params(self, state: Tree) -> dict[str, Array]: ...
    def guide(self, arrays: Tree) -> Any: ...


class Backend(Protocol):
    """One of the two rooms that know JAX from PyTorch."""

    @property
    def name(self) -> str: ...
    @property
    def array_library(self) -> str: ...
    @property
    def xp(self) -> Any: ...
    @property
    def dist(self) -> Any: ...

    # The scope of a run: precision, device, seed; everything global is put back after it.
    def scope(
        self, *, precision: str = "float64", device: str | None = None, seed: int = 0
    ) -> AbstractContextManager[Backend]: ...

    # What runs here is computed at once, though the program around it be compiled, and what it draws from a generator
    # hangs on this seed alone.
    @property
    def apart(self) -> Callable[[int], AbstractContextManager[Any]]: ...

    # Programs. draws(model) -> drawn(arrays, seed): the sites of model(arrays) with latents from the prior, checked.
    @property
    def trace(self) -> Callable[[Callable[[], Any], Request], dict[str, Site]]: ...
    @property
    def draws(self) -> Callable[[Callable[[Tree], Any]], Callable[[Tree, int], dict[str, Site]]]: ...
    # divergence(q, p): Kullback-Leibler, of the batch shape; None where these two have no closed form.
    @property
    def divergence(self) -> Callable[[Any, Any], Array | None]: ...
    @property
    def bijection(self) -> Callable[[Any], Bijection]: ...
    @property
    def is_unbounded(self) -> Callable[[Any], bool]: ...  # of a constraint: every real number or vector is in it
    @property
    def sample(self) -> Callable[..., Array]: ...
    @property
    def param(self) -> Callable[..., Array]: ...
    @property
    def plate(self) -> Callable[..., AbstractContextManager[Array]]: ...
    @property
    def factor(self) -> Callable[[str, Array], None]: ...
    @property
    def deterministic(self) -> Callable[[str, Array], Array]: ...
    @property
    def module(self) -> Callable[[str, Any, str | None], Callable[..., Array]]: ...
    @property
    def mask(self) -> Callable[..., AbstractContextManager[Any]]: ...
    @property
    def scale(self) -> Callable[..., AbstractContextManager[Any]]: ...
    @property
    def observing(self) -> Callable[[Mapping[str, Array]], AbstractContextManager[Any]]: ...

    # Arrays: to the device in the active precision, to the host, back with the bits unchanged; on_host() says whether
    # the device is the CPU, so that NumPy does its work no slower; has_bfloat16(), whether it computes in bfloat16.
    @property
    def on_host(self) -> Callable[[], bool]: ...
    @property
    def has_bfloat16(self) -> Callable[[], bool]: ...
    @property
    def asarray(self) -> Callable[..., Array]: ...
    @property
    def to_numpy(self) -> Callable[[Tree], Tree]: ...
    @property
    def from_numpy(self) -> Callable[[Tree], Tree]: ...

    # Autodiff by the first argument, and batching.
    @property
    def value_and_grad(self) -> Callable[[Callable[..., Array]], Callable[..., tuple[Array, Tree]]]: ...
    @property
    def hessian(self) -> Callable[[Callable[..., Array]], Callable[..., Array]]: ...
    @property
    def stopped(self) -> Callable[[Array], Array]: ...  # without its gradient
    @property
    def vmap(self) -> Callable[..., Callable[..., Tree]]: ...

    # Compilation. compile(f, calls=); scan(step, calls=) -> advance(state, inputs, *constants);
    # scan_loops(begin, repeat, end, calls=): the same, of a step that repeats a part of it as often as ``begin`` says;
    # ahead(compiled, args) -> wait: compilation for the arguments that args() makes, beside other work;
    # flops(f, *args): about how many floating-point operations a call takes;
    # sum_over_rows(f, calls=) -> total(args, rows) of f(*args, block of rows);
    # map_draws(f, random=, batch_size=) -> mapped(draws, seed, *constants) for f(draw, key, *constants), draws of NumPy
    # too.
    @property
    def compile(self) -> Callable[..., Callable[..., Tree]]: ...
    @property
    def ahead(self) -> Callable[[Callable[..., Tree], Callable[[], tuple[Any, ...]]], Callable[[], None]]: ...
    @property
    def flops(self) -> Callable[..., float]: ...
    @property
    def scan(self) -> Callable[..., Callable[..., tuple[Tree, Tree]]]: ...
    @property
    def scan_loops(self) -> Callable[..., Callable[..., tuple[Tree, Tree]]]: ...
    @property
    def sum_over_rows(self) -> Callable[..., Callable[..., Tree]]: ...
    @property
    def map_draws(self) -> Callable[..., Callable[..., Tree]]: ...

    # Randomness. key(seed) for one run of a program; keys(seed, start, count) -> {"key": one for each step}, nothing
    # where there is a generator; noise(seed, index, spec, num_steps), spec: name -> (kind, shape),
    # kind "normal" or "uniform", gives arrays (num_steps, *shape). signs(key, index, shape): 1 or -1, floating.
    @property
    def key(self) -> Callable[[int], Any]: ...
    @property
    def keys(self) -> Callable[[int, int, int], dict[str, Array]]: ...
    @property
    def noise(self) -> Callable[[int, int, Mapping[str, tuple[str, tuple[int, ...]]], int], dict[str, Array]]: ...
    @property
    def signs(self) -> Callable[[Any, int, tuple[int, ...]], Array]: ...

    # A state that a file can keep: the arrays in it by name, the same state of such arrays again, bits unchanged; and
    # what the scope's generator, where there is one, goes on from.
    @property
    def leaves(self) -> Callable[[Tree], dict[str, np.ndarray]]: ...
    @property
    def rebuilt(self) -> Callable[[Tree, Mapping[str, np.ndarray]], Tree]: ...
    @property
    def generator(self) -> Callable[[], dict[str, np.ndarray]]: ...
    @property
    def set_generator(self) -> Callable[[Mapping[str, np.ndarray]], None]: ...

    # Several devices and threads. spread(count) -> place(tree, axis), which lays ``count`` rows along ``axis`` over the
    # devices of the process, and what has none (axis None) on each; scope_of_thread: whether threads may be in scopes
    # of their own at one time.
    @property
    def spread(self) -> Callable[[int], Callable[[Tree, int | None], Tree]]: ...
    @property
    def scope_of_thread(self) -> bool: ...

    # Processes that work on parts of one data set. share(count, processes) of a batch of so many rows, over all
    # processes where ``processes``, of which each then hands in the same number.
    @property
    def share(self) -> Callable[[int, bool], Share]: ...
    @property
    def num_processes(self) -> Callable[[], int]: ...
    @property
    def process_index(self) -> Callable[[], int]: ...
    @property
    def sum_over_processes(self) -> Callable[[Tree], Tree]: ...
    @property
    def from_first_process(self) -> Callable[[Tree], Tree]: ...

    # Native algorithms. minimise(f, method=, learning_rate=, calls=) -> (init, advance); descend(loss, optimizer=,
    # learning_rate=, clip_norm=, ema=, processes=, calls=) -> (init, advance), by minibatches.
    @property
    def minimise(self) -> Callable[..., tuple[Callable[..., Tree], Callable[..., tuple[Tree, Array]]]]: ...
    @property
    def descend(self) -> Callable[..., tuple[Callable[[Tree], Tree], Callable[..., tuple[Tree, Tree]]]]: ...
    @property
    def svi(self) -> Callable[..., NativeSVI]: ...
    @property
    def hmc(self) -> MakesChains: ...
