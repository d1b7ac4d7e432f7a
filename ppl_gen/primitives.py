"""What a portable program is written in; every name speaks for the active backend."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ppl_gen import backends
from ppl_gen.backends import names
from ppl_gen.backends.protocol import Backend


class _Namespace:
    """A name space of the active backend."""

    def __init__(self, attribute: str, listing: Callable[[], list[str]]):
        self._attribute = attribute
        self._listing = listing

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(getattr(backends.active(), self._attribute), name)

    def __dir__(self) -> list[str]:
        return self._listing()

    def __repr__(self) -> str:
        return f"<ppl_gen.{self._attribute}: {', '.join(self._listing())}>"


dist = _Namespace("dist", lambda: sorted(names.DISTRIBUTIONS))
xp = _Namespace("xp", lambda: sorted(names.ARRAY_FUNCTIONS))


def sample(name: str, fn: Any, obs: Any = None, **options: Any) -> Any:
    """A random variable of distribution ``fn``; an observation where ``obs`` is given.

    Returns:
        a value of shape batch_shape + event_shape.
    """
    active = backends.active()
    if isinstance(obs, int | float):  # a plain number among the data
        obs = active.asarray(obs)
    return active.sample(name, fn, obs=obs, **options)


def param(name: str, init: Any, constraint: Any = None, event_dim: int | None = None) -> Any:
    """A learnable parameter; ``init`` is its first value or a function that makes it.

    Args:
        constraint: of ``dist.constraints``; real where it is None.
        event_dim: number of rightmost dimensions that a subsampled plate leaves alone.
    """
    return backends.active().param(name, init, constraint, event_dim)


def plate(
    name: str, size: int, subsample_size: int | None = None, dim: int | None = None
) -> AbstractContextManager[Any]:
    """Conditionally independent rows along batch dimension ``dim`` (negative; the next free one where None).

    As a context it gives the indices of the rows in view: all ``size`` of them, or a random ``subsample_size``
    whose log density is scaled up to the whole.
    """
    return backends.active().plate(name, size, subsample_size=subsample_size, dim=dim)


def factor(name: str, log_factor: Any) -> None:
    """Add ``log_factor`` to the log density."""
    backends.active().factor(name, log_factor)


def deterministic(name: str, value: Any) -> Any:
    """Record ``value``, which the sites before it determine, in the posterior."""
    return backends.active().deterministic(name, value)


def module(name: str, net: Any) -> Callable[..., Any]:
    """A network (flax.nnx or Equinox on NumPyro, torch.nn on Pyro) whose weights are params ``{name}.{path}``.

    It sees whole batches: modules of Equinox are written for one row, and go in within one that maps over rows.

    Args:
        net: one of ``ppl_gen.nets``, which lives on both; else the network itself, or a function without arguments
            that makes it, for a portable program a dict of them, ``{"jax": ..., "torch": ...}``.
    """
    active = backends.active()
    if hasattr(net, "build"):
        net = functools.partial(net.build, active.array_library, backends.seed())
    if isinstance(net, Mapping):
        if active.array_library not in net:
            raise KeyError(f"module {name!r} has networks for {sorted(net)}: expected one for {active.array_library!r}")
        net = net[active.array_library]
    if _makes_network(net):
        net = backends.network(name, net)
    return active.module(name, net, backends.computes_in())


def _makes_network(net: Any) -> bool:
    """Networks are callable too, so that a function is told by its type; JAX's own kind of partial is a network."""
    return inspect.isroutine(net) or inspect.isclass(net) or type(net) is functools.partial


def mask(mask: Any) -> AbstractContextManager[Any]:
    """Sites inside count only where ``mask`` is True."""
    return backends.active().mask(mask=mask)


def scale(scale: Any) -> AbstractContextManager[Any]:
    """Multiply the log density of the sites inside by ``scale``."""
    return backends.active().scale(scale=scale)


@contextmanager
def on(backend: str, *, precision: str = "float64", device: str | None = None, seed: int = 0) -> Iterator[Backend]:
    """Make a backend active, e.g. to look at ``dist`` by hand."""
    with backends.get(backend).scope(precision=precision, device=device, seed=seed) as active:
        yield active
