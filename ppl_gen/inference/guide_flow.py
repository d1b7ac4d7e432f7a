"""A flow over all continuous latents of a program as the guide of ``svi``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ppl_gen import backends
from ppl_gen.flows.guide import FlowGuide
from ppl_gen.primitives import deterministic, module, xp
from ppl_gen.target import Target

MOST_DENSE = 200  # latent numbers whose base has a full covariance
_NAME = "auto_flow"  # before its params
_OWN = "params"  # those of the program, unconstrained, in one vector


class Base(NamedTuple):
    """Where a flow starts, which stays as it is: N(loc, root root').

    Attributes:
        loc: (dim,). root: a Cholesky factor (dim, dim), or standard deviations (dim,).
    """

    loc: Any
    root: Any


class JointFlow:
    """q of the unconstrained vector u of all latents: u = loc + root (shift + S T(e)), e ~ N(0, I).

    T is the flow, S lower triangular, or diagonal where the base is; loc and root are those of a :class:`Base`, so that
    all that is learned is about as large as 1. Discrete latents are summed out. The params are unconstrained: those of
    the flow by their names, those of the program in one vector.
    """

    def __init__(self, guide: FlowGuide, target: Target):
        self.target, self.dim = target, target.layout.dim
        self._net = guide.bijector(self.dim)
        self._networks: dict[tuple[str, int], Any] = {}
        self._constraints: dict[str, Any] = {}

    def start(self, own: Any, scale: float) -> dict[str, Any]:
        """Params of a q whose T is about the identity.

        Args:
            own: params of the program, unconstrained. scale: what the base's spread is multiplied by.
        """
        backend, dim = self.target.backend, self.dim
        sites = self._carried(backend.asarray(np.zeros((1, dim))), key=backend.key(0))
        self._constraints = {n: s.constraint for n, s in sites.items() if s.kind == "param"}
        found = {n: backend.bijection(c).inverse(sites[n].value) for n, c in self._constraints.items()}
        affine = {"shift": np.zeros(dim), "log_scale": np.full(dim, math.log(scale))}
        if dim <= MOST_DENSE:
            affine["lower"] = np.zeros((dim, dim))
        return {**found, **{f"{_NAME}.{n}": backend.asarray(x) for n, x in affine.items()}, _OWN: own}

    def learned(self, params: Mapping[str, Any], base: Base) -> dict[str, Any]:
        """All that q is made of, by name; params of the flow as it sees them."""
        bijection = self.target.backend.bijection
        seen = {n: bijection(self._constraints[n]).forward(x) if n in self._constraints else x
                for n, x in params.items() if n != _OWN}  # fmt: skip
        return {**seen, f"{_NAME}.base_loc": base.loc, f"{_NAME}.base_root": base.root}

    def draw(self, params: Mapping[str, Any], base: Base, noise: Any) -> tuple[Any, Any]:
        """Vectors of latents and params (draws, dim) at ``noise``, and log q of the latents there (draws,)."""
        sites = self._carried(noise, unconstrained={n: params[n] for n in self._constraints})
        x, log_det = sites[f"{_NAME}.x"].value, sites[f"{_NAME}.log_det"].value
        log_scale, lower = params[f"{_NAME}.log_scale"], params.get(f"{_NAME}.lower")
        x = params[f"{_NAME}.shift"] + x * xp.exp(log_scale) + (0.0 if lower is None else x @ xp.tril(lower, -1).T)
        dense = base.root.ndim == 2
        u = base.loc + (x @ base.root.T if dense else x * base.root)
        log_det = log_det + xp.sum(log_scale) + xp.sum(xp.log(xp.diagonal(base.root) if dense else base.root))
        log_e = -0.5 * xp.sum(noise * noise, axis=-1) - 0.5 * self.dim * math.log(2.0 * math.pi)
        own = params[_OWN]
        return xp.concatenate([u, xp.broadcast_to(own, (u.shape[0], own.shape[0]))], axis=-1), log_e - log_det

    def log_weights(self, params: Any, base: Base, noise: Any, arrays: Any, times: Any = None) -> tuple[Any, Any]:
        """Vectors of latents and params (draws, dim) at ``noise``, and log p(data, u) - log q(u) there (draws,).

        Args:
            times: what the log likelihood is multiplied by where the data are some rows; None where they are all.
        """
        u, log_q = self.draw(params, base, noise)
        target = self.target

        def log_density(u: Any, arrays: Any) -> Any:
            if times is None:
                return target.log_density(u, arrays)
            prior, likelihood = target.log_parts(u, arrays)
            return prior + times * likelihood

        return u, target.backend.vmap(log_density, in_axes=(0, None))(u, arrays) - log_q

    def _carried(self, noise: Any, **request: Any) -> Any:
        with backends.keeping(self._networks):
            return self.target.trace_guide(lambda _: self._carry(noise), {}, **request)

    def _carry(self, noise: Any) -> None:
        x, log_det = module(_NAME, self._net)(noise)
        deterministic(f"{_NAME}.x", x)
        deterministic(f"{_NAME}.log_det", log_det)


def bound(log_weight: Any, alpha: float | None) -> Any:
    """Mean over estimates, of log weights (estimates, particles).

    The ELBO where ``alpha`` is None, else the bound of order alpha, 0 for the importance-weighted one.

    Rezende & Mohamed (2015), equation 15; Li & Turner (2016), equation 11.
    """
    if alpha is None:
        return xp.mean(log_weight)
    share = 1.0 - alpha
    return xp.mean(xp.logsumexp(share * log_weight, axis=1) - math.log(log_weight.shape[1])) / share
