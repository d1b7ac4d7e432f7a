"""A network of a posterior, q(u | y), with the scales of what goes in and out: its draws and densities on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.protocol import Request
from ppl_gen.target import Target

_LINEAR = 4.0  # standard deviations up to which standardising is about linear, and beyond which it is logarithmic
_BLOCK, _FEW = 2048, 128  # rows that go through a network at once; the latter of at most four times as many
_SCALES = ("u_loc", "u_scale", "y_loc", "y_scale")


class Standard(NamedTuple):
    """Of numbers of any spread: z = c asinh((x - loc) / (c scale)), c = 4.

    The median and half of the middle 68 % stand for mean and standard deviation: heavy tails, as of a Cauchy variable,
    leave them alone, and the logarithm brings what lies out there in.

    Attributes:
        loc, scale: (n,).
    """

    loc: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Standard:
        """That of each column of (rows, n)."""
        low, loc, high = np.quantile(rows, (0.16, 0.5, 0.84), axis=0)
        scale = 0.5 * (high - low)
        scale = np.where(scale > 0, scale, rows.std(0))  # of a column most of whose numbers are equal
        return cls(loc, np.where(scale > 0, scale, 1.0))

    def forward(self, x: np.ndarray) -> np.ndarray:
        return _LINEAR * np.arcsinh((x - self.loc) / (_LINEAR * self.scale))

    def inverse(self, z: np.ndarray) -> np.ndarray:
        return self.loc + self.scale * _LINEAR * np.sinh(z / _LINEAR)

    def log_slope(self, x: np.ndarray) -> np.ndarray:
        """log |dz / dx| of each row (rows,)."""
        off = (x - self.loc) / (_LINEAR * self.scale)
        return -(np.log(self.scale) + 0.5 * np.log1p(off**2)).sum(-1)


class Estimator(Protocol):
    """A network of q(u | y) for standardised u (rows, dim) and y (rows, num_seen): also the program that trains it.

    Called as a program of rows of both, it is fitted to them by ``svi``. The other methods are statements of a
    program, too, whose params are the network's weights; there y is one row for all.
    """

    em_rows: ClassVar[tuple[str, ...]]

    @property
    def features(self) -> int: ...
    def __call__(self, u: Any, y: Any) -> None: ...
    def guide(self, u: Any, y: Any) -> None: ...
    def draw(self, noise: Any, y: Any) -> tuple[Any, Any]: ...  # u (rows, dim) at normal noise, log q (rows,)
    def draw_alone(self, noise: Any, y: Any) -> Any: ...  # u
    def log_prob(self, u: Any, y: Any) -> Any: ...  # (rows,)


@dataclass(frozen=True)
class Trained:
    """q(u | y) with weights that have been learned, for u and y as they are.

    Attributes:
        estimator: the network. weights: its params, name -> array. u, y: what standardises both.
    """

    estimator: Any
    weights: Mapping[str, np.ndarray]
    u: Standard
    y: Standard

    @classmethod
    def of(cls, estimator: Any, params: Mapping[str, np.ndarray]) -> Trained:
        """From the params of a run; see :attr:`params`."""
        own = {f"standard.{n}" for n in _SCALES}
        u_loc, u_scale, y_loc, y_scale = (np.asarray(params[f"standard.{n}"]) for n in _SCALES)
        weights = {n: x for n, x in params.items() if n not in own}
        return cls(estimator, weights, Standard(u_loc, u_scale), Standard(y_loc, y_scale))

    @property
    def params(self) -> dict[str, np.ndarray]:
        """All that has been learned, by name."""
        return {**self.weights, **{f"standard.{n}": x for n, x in zip(_SCALES, (*self.u, *self.y))}}

    def draw(self, target: Target, y: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """u (count, dim) given one y (num_seen,), and log q(u | y) (count,)."""
        noise = np.random.default_rng(seed).standard_normal((count, self.estimator.features))
        z, log_q = self._evaluated(target, "draw", noise, y)
        u = self.u.inverse(z)
        return u, log_q + self.u.log_slope(u)

    def draw_alone(self, target: Target, y: np.ndarray, count: int, seed: int) -> np.ndarray:
        """The same u, for less where densities are dear."""
        noise = np.random.default_rng(seed).standard_normal((count, self.estimator.features))
        return self.u.inverse(self._evaluated(target, "draw_alone", noise, y)[0])

    def log_prob(self, target: Target, u: np.ndarray, y: np.ndarray) -> np.ndarray:
        """log q(u | y) of u (rows, dim); -inf where u is not finite."""
        inside = np.isfinite(u).all(1)
        at = np.where(inside[:, None], u, self.u.loc)
        log_q, = self._evaluated(target, "log_prob", self.u.forward(at), y)
        return np.where(inside, log_q + self.u.log_slope(at), -np.inf)

    def _evaluated(self, target: Target, what: str, rows: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
        """A method of the estimator at rows, block by block, each of one length."""
        backend = target.backend
        compiled = target.compiled(("posterior network", what, self.estimator), lambda: self._compiled(backend, what))
        weights = {n: backend.asarray(x) for n, x in self.weights.items()}
        seen = backend.asarray(self.y.forward(y))
        return in_blocks(lambda block: backend.to_numpy(compiled(weights, backend.asarray(block), seen)), rows)

    def _compiled(self, backend: Any, what: str) -> Callable[..., Any]:
        networks: dict[tuple[str, int], Any] = {}
        method = getattr(self.estimator, what)

        def evaluate(weights: Any, rows: Any, y: Any) -> tuple[Any, ...]:
            found: list[Any] = []
            with backends.keeping(networks):
                backend.trace(lambda: found.append(method(rows, y)), Request(values=weights))
            return found[0] if isinstance(found[0], tuple) else (found[0],)

        return backend.compile(evaluate, calls=8)


def in_blocks(f: Callable[[np.ndarray], tuple[Any, ...]], rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """``f`` of rows (rows, ...), block by block, all of one length, so that one compiled call serves."""
    found, size = [], _FEW if len(rows) <= 4 * _FEW else _BLOCK  # no more sizes: each is compiled for
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        whole = block[np.arange(size) % len(block)]
        found.append([np.asarray(x, float)[: len(block)] for x in f(whole)])
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True)) if found else (np.zeros(0),)
