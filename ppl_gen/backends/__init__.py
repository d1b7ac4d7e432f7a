"""The two backends, loaded when first used, and which of them is active."""

from __future__ import annotations

import difflib
import importlib
import itertools
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ppl_gen.backends.protocol import Backend

NAMES = ("numpyro", "pyro")

_active: ContextVar[Backend | None] = ContextVar("ppl_gen_backend", default=None)
_seed: ContextVar[int] = ContextVar("ppl_gen_seed", default=0)
_networks: ContextVar[dict[tuple[str, int], Any] | None] = ContextVar("ppl_gen_networks", default=None)
_computing: ContextVar[str | None] = ContextVar("ppl_gen_computing", default=None)
_estimating: ContextVar[tuple[Any, Iterator[int]] | None] = ContextVar("ppl_gen_estimating", default=None)


def get(name: str) -> Backend:
    """The backend called ``name``.

    Raises:
        ValueError: ``name`` is neither "numpyro" nor "pyro".
        ImportError: the library behind it is not installed.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(str(name), NAMES, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown backend {name!r}{meant}: expected one of {', '.join(map(repr, NAMES))}")
    return importlib.import_module(f"ppl_gen.backends.{name}").backend


def active() -> Backend:
    """The backend that the running program is on.

    Raises:
        RuntimeError: called outside a program.
    """
    backend = _active.get()
    if backend is None:
        raise RuntimeError(
            "pg.sample, pg.param, pg.plate, dist and xp speak for the active backend, and none is active here: "
            "use them inside a program that pg.infer or pg.check runs, or under `with pg.on('numpyro'):`"
        )
    return backend


@contextmanager
def activate(backend: Backend, seed: int = 0) -> Iterator[Backend]:
    """Make ``backend`` the one that primitives, ``dist`` and ``xp`` speak for, in a run of this seed."""
    token, sown = _active.set(backend), _seed.set(seed)
    try:
        yield backend
    finally:
        _active.reset(token)
        _seed.reset(sown)


def computes_in() -> str | None:
    """The dtype that :func:`computing` has set."""
    return _computing.get()


def seed() -> int:
    """Of the run that is under way, 0 outside of any."""
    return _seed.get()


@contextmanager
def keeping(networks: dict[tuple[str, int], Any]) -> Iterator[None]:
    """Keep in ``networks`` those that a running program makes, so that each is made once, outside of any tracing.

    Once for each seed: what is compiled holds on to the data that it was first bound to, and serves runs of others.
    """
    token = _networks.set(networks)
    try:
        yield
    finally:
        _networks.reset(token)


@contextmanager
def computing(dtype: str | None) -> Iterator[None]:
    """Networks inside compute in this dtype, of weights that stay in the run's precision; in that one where None."""
    token = _computing.set(dtype)
    try:
        yield
    finally:
        _computing.reset(token)


@contextmanager
def estimating(key: Any) -> Iterator[None]:
    """Inside, costly sums may be replaced by unbiased estimates, by random numbers of this key: see :func:`signs`."""
    token = _estimating.set((key, itertools.count()))
    try:
        yield
    finally:
        _estimating.reset(token)


def signs(shape: tuple[int, ...]) -> Any:
    """1 or -1 at random, other ones at each call; None outside of :func:`estimating`, where sums are to be exact."""
    held = _estimating.get()
    return None if held is None else active().signs(held[0], next(held[1]), shape)


def network(name: str, make: Callable[[], Any]) -> Any:
    """The network of that name that the running program has made, or a new one."""
    held = _networks.get()
    if held is None:
        return make()
    if (name, seed()) not in held:
        with active().apart(zlib.crc32(f"{seed()} {name}".encode())):
            held[name, seed()] = make()
    return held[name, seed()]
