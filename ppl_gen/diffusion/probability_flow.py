"""The distribution that the probability-flow equation carries noise to: samples and densities by one solver.

With y = x / alpha, r = sigma / alpha and S^2 = sigma_data^2 + r^2 it is solved for z = y / S in u = log r, where it is
dz / du = r e / S - r^2 z / S^2 and e is the noise that is expected behind x. Nothing in it grows without bound at
either end of any path, and z of Gaussian data of that standard deviation stays where it is. Places in u are closest
together about half the standard deviation of the data, where z of other data turns. It runs between ``path.inside`` of
the path's two ends: densities are those of the data plus Gaussian noise of standard deviation sigma / alpha near the
data, which is 0.01 of "vp", "cosine" 0.006, "ve" 0.01, "ot" 0.001, "trigonometric" and "edm" 0.002, "sub_vp" 0.0001.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ppl_gen import backends
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import Path
from ppl_gen.flows.continuous import runge_kutta
from ppl_gen.nets.net import home
from ppl_gen.primitives import dist, xp

Change = Callable[[Any, Any], tuple[Any, Any]]


def places(path: Path, sigma_data: float, num_steps: int) -> np.ndarray:
    """u from near the data to near the noise, (num_steps + 1,)."""
    low, high = np.log(path.ratio(path.inside(np.asarray([path.start, path.end]))))
    centre = math.log(0.5 * sigma_data)
    return centre + np.sinh(np.linspace(np.arcsinh(low - centre), np.arcsinh(high - centre), num_steps + 1))


def scale(xp: Any, sigma_data: float, u: Any) -> Any:
    """S, the standard deviation of y."""
    return xp.sqrt(sigma_data**2 + xp.exp(2.0 * u))


def change(xp: Any, field: Field, event_dim: int, signs: Any = None) -> Change:
    """``(state, u) -> d state / du`` of a state (z, log-determinant) (Song et al. 2021, equation 39).

    Args:
        signs: (probes, *lead, entries), 1 or -1: the trace of the Jacobian is then told by each of them alone, as
            e^T J e (Hutchinson; Grathwohl et al. 2019, equation 8), and the log-determinant (probes, *lead); the exact
            trace, (*lead), where None.
    """
    f = home(backends.active().array_library).Functions

    def slope(state: Any, u: Any) -> tuple[Any, Any]:
        shape = tuple(state[0].shape)
        along, flat = _along(xp, field, shape, u), state[0].reshape((*shape[: len(shape) - event_dim], -1))
        if signs is None:
            moved, trace = f.trace(along, flat)
        else:
            moved, pushed = backends.active().vmap(lambda e: f.jvp(along, flat, e))(signs)
            moved, trace = moved[0], xp.sum(signs * pushed, axis=-1)
        return moved.reshape(shape), trace

    return slope


def _along(xp: Any, field: Field, shape: tuple[int, ...], u: Any) -> Callable[[Any], Any]:
    """dz / du of z of this shape, or of as many numbers whose last axis is that of a datum."""
    r, s = xp.exp(u), scale(xp, field.sigma_data, u)
    t = field.path.time_of(r, xp)
    grown, shrunk = s * field.path.at(xp, t).alpha, xp.square(r / s)
    return lambda z: r / s * field(xp, "noise", grown * z.reshape(shape), t).reshape(z.shape) - shrunk * z


class Solution(NamedTuple):
    """Ways there: ``log_prob(y)``; ``there(noise)``, y at noise; ``both(noise)``, y and log p(y) there."""

    base: Any
    log_prob: Callable[[Any], Any]
    there: Callable[[Any], Any]
    both: Callable[[Any], tuple[Any, Any]]


def probability_flow(field: Field, shape: tuple[int, ...], num_steps: int) -> Any:
    """y near the data, where z near the noise is standard normal.

    log p(y) = log N(z near the noise) + integral of the trace of the slope's Jacobian - log S^D near the data, by
    Runge-Kutta steps of order 4: exact up to their error, which falls as num_steps^-4.
    """
    base, log_prob, there, both = solution(field, shape, num_steps)
    return dist.FromFunctions(base, there, log_prob, shape, both=both)


def solution(field: Field, shape: tuple[int, ...], num_steps: int) -> Solution:
    """What :func:`probability_flow` is made of."""
    at = places(field.path, field.sigma_data, num_steps)
    ndim, first = len(shape), float(scale(np, field.sigma_data, at[0]))
    base = dist.Normal(0.0, 1.0).expand(list(shape)).to_event(ndim)
    grown = math.prod(shape) * math.log(first)

    def steps(slope: Any, state: tuple[Any, ...], u: np.ndarray) -> tuple[Any, ...]:
        rows = tuple(xp.astype(xp.asarray(x), state[0].dtype) for x in (u[:-1], np.diff(u)))
        return xp.scan(lambda state, row: (runge_kutta(slope, state, *row), row[0]), state, rows)[0]

    def solved(z: Any, u: np.ndarray) -> tuple[Any, ...]:
        return steps(change(xp, field, ndim), (z, xp.zeros_like(z[(..., *(0,) * ndim)])), u)

    def log_prob(y: Any) -> Any:
        noise, gained = solved(y / first, at)
        return base.log_prob(noise) + gained - grown

    def there(noise: Any) -> Any:
        along = lambda state, u: (_along(xp, field, tuple(noise.shape), u)(state[0]),)
        return first * steps(along, (noise,), at[::-1].copy())[0]

    def both(noise: Any) -> tuple[Any, Any]:
        z, lost = solved(noise, at[::-1].copy())
        return first * z, base.log_prob(noise) - lost - grown

    return Solution(base, log_prob, there, both)
