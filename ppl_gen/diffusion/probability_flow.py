"""The distribution that the probability-flow equation carries noise to: samples and densities by one solver."""

from __future__ import annotations

from typing import Any

from ppl_gen import backends
from ppl_gen.diffusion.field import Field
from ppl_gen.flows.continuous import runge_kutta
from ppl_gen.nets.net import home
from ppl_gen.primitives import dist, xp


def probability_flow(field: Field, shape: tuple[int, ...], num_steps: int) -> Any:
    """x at the start of the path, where x at its end is Gaussian noise and dx / dt is the field's velocity.

    log p(x) = log N(x_end) + integral of the trace of the velocity's Jacobian (Song et al. 2021, equation 39), both by
    Runge-Kutta steps of order 4 and equal length: exact up to their error, which falls as num_steps^-4.
    """
    path, f, ndim = field.path, home(backends.active().array_library).Functions, len(shape)
    base = dist.Normal(0.0, path.noise_scale).expand(list(shape)).to_event(ndim)

    def change(state: tuple[Any, Any], t: Any) -> tuple[Any, Any]:
        lead = tuple(state[0].shape)[: state[0].ndim - ndim]
        flat = state[0].reshape((*lead, -1))
        velocity = lambda u: field(xp, "velocity", u.reshape((*lead, *shape)), t).reshape((*lead, -1))
        along, trace = f.trace(velocity, flat)
        return along.reshape(state[0].shape), trace

    def solved(x: Any, start: float, end: float) -> tuple[Any, Any]:
        h = (end - start) / num_steps
        times = start + h * xp.astype(xp.arange(num_steps), x.dtype)
        zero = xp.zeros_like(x[(..., *(0,) * ndim)])
        return xp.scan(lambda state, t: (runge_kutta(change, state, t, h), t), (x, zero), times)[0]

    def log_prob(x: Any) -> Any:
        noise, gained = solved(x, path.start, path.end)
        return base.log_prob(noise) + gained

    def both(noise: Any) -> tuple[Any, Any]:
        x, lost = solved(noise, path.end, path.start)
        return x, base.log_prob(noise) - lost

    return dist.FromFunctions(base, lambda noise: both(noise)[0], log_prob, shape, both=both)
