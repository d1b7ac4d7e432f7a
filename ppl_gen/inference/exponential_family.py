"""Closed M-steps of a declared program: parameters that feed an exponential-family site directly, found by test.

A parameter phi feeds a site directly where it is, entry by entry, an argument of the site's distribution: the same for
all rows, or one for each value of discrete latents. Its maximum given the rest is then a ratio of weighted sums.
Whether that holds is tried out: the argument must equal phi at two random places, Q must be stationary where the
ratio says, and phi may be declared no narrower than the argument's own range, or the ratio could leave its support.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Site
from ppl_gen.enumeration import Factor
from ppl_gen.expectation import At, Counted, Expectation
from ppl_gen.precision import floats

_STATIONARY = 1e-6
_FAR, _NEAR = 1e30, 1e-30  # what a support that is the argument's own reaches to, in single precision too
_EDGE = 1e-7

# (xp, weight, value, distribution) -> numerator and denominator, whose sums' ratio gives the parameter.
Sums = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def _identity(xp: Any, ratio: Any) -> Any:
    return ratio


def _root(xp: Any, ratio: Any) -> Any:
    return xp.sqrt(ratio)


def _normal(transform: Callable[[Any, Any], Any]) -> dict[str, tuple[Sums, Any]]:
    """Bishop (2006), equations 2.121 and 2.122, of transformed values."""

    def loc(xp: Any, w: Any, x: Any, d: Any) -> tuple[Any, Any]:
        return w * transform(xp, x) / d.scale**2, w / d.scale**2

    def scale(xp: Any, w: Any, x: Any, d: Any) -> tuple[Any, Any]:
        return w * (transform(xp, x) - d.loc) ** 2, w

    return {"loc": (loc, _identity), "scale": (scale, _root)}


def _spread(xp: Any, w: Any, x: Any, d: Any) -> tuple[Any, Any]:
    off = x - d.loc
    return w[..., None] * off[..., :, None] * off[..., None, :], w[..., None]


def _covariance(xp: Any, ratio: Any) -> Any:
    """NaN where it is singular."""
    return xp.where(xp.isfinite(xp.linalg.cholesky(ratio)), ratio, np.nan)


def _tril(xp: Any, ratio: Any) -> Any:
    return xp.linalg.cholesky(ratio)


def _mean(xp: Any, w: Any, x: Any, d: Any) -> tuple[Any, Any]:
    return w * x, w


_FAMILIES: dict[str, dict[str, tuple[Sums, Any]]] = {
    "Normal": _normal(lambda xp, x: x),
    "LogNormal": _normal(lambda xp, x: xp.log(x)),
    "HalfNormal": {"scale": (lambda xp, w, x, d: (w * x * x, w), _root)},
    "Poisson": {"rate": (_mean, _identity)},
    "Bernoulli": {"probs": (_mean, _identity)},
    "Binomial": {"probs": (lambda xp, w, x, d: (w * x, w * d.total_count), _identity)},
    "Exponential": {"rate": (lambda xp, w, x, d: (w, w * x), _identity)},
    "Gamma": {"rate": (lambda xp, w, x, d: (w * d.concentration, w * x), _identity)},
    "Geometric": {"probs": (lambda xp, w, x, d: (w, w * (1 + x)), _identity)},
    "Categorical": {"probs": (lambda xp, w, x, d: _shares(xp, _one_hot(xp, w, x, d)), _identity)},
    "Multinomial": {"probs": (lambda xp, w, x, d: _shares(xp, w * x), _identity)},
    "MultivariateNormal": {  # Bishop (2006), equations 2.121 and 2.122
        "loc": (_mean, _identity),
        "scale_tril": (_spread, _tril),
        "covariance_matrix": (_spread, _covariance),
    },
    "MarkovChain, first": {"initial_probs": (lambda xp, w, x, d: _shares(xp, w), _identity)},  # Rabiner (1989), 40
    "MarkovChain, links": {"transition_probs": (lambda xp, w, x, d: _shares(xp, w), _identity)},
}


_OF_SIMPLEX = ("Categorical", "Multinomial", "MarkovChain, first", "MarkovChain, links")
_STATES = {"first": 1, "links": 2}  # that a chain's factor of this part goes over
_MATRICES = ("scale_tril", "covariance_matrix")


def _one_hot(xp: Any, w: Any, x: Any, d: Any) -> Any:
    values = xp.arange(d.probs.shape[-1])
    return w[..., None] * xp.where(x[..., None] == values, 1.0, 0.0)


def _shares(xp: Any, counts: Any) -> tuple[Any, Any]:
    """Counts, and what they are shares of."""
    return counts, xp.sum(counts, axis=-1, keepdims=True) + xp.zeros(counts.shape)


@dataclass(frozen=True)
class Direct:
    """A parameter that feeds a site directly.

    Attributes:
        name: of the parameter; ``argument`` of the site's distribution that it is.
        factor: which of the completed factors the site's is.
        axes: dimension of the argument (negative) of each axis of the parameter, None of one of length 1.
        shape: of the parameter.
    """

    name: str
    factor: int
    family: str
    argument: str
    axes: tuple[int | None, ...]
    shape: tuple[int, ...]

    def update(self, xp: Any, completed: list[Any], old: Any) -> Any:
        """The maximum of Q in the parameter given all others, ``old`` where nothing bears on it; inside its support.

        A rate or probability whose maximum is on the edge, such as that of what was never seen, comes to lie as close
        to the edge as floating point can tell, where Q is the same. A scale of 0 is NaN: Q has no maximum, and
        the restart has broken down.
        """
        return self.settled(xp, *self.sums(xp, completed), old)

    def sums(self, xp: Any, completed: list[Any]) -> tuple[Any, Any]:
        """The weighted sums whose ratio gives the parameter, both of its shape."""
        factor, weight, site = completed[self.factor]
        base, (sums, _) = base_of(site.distribution), _FAMILIES[self.family][self.argument]
        numerator, denominator = sums(xp, with_events(xp, factor, weight, site), site.value, base)
        zeros = 0.0 * (numerator + denominator + getattr(base, self.argument))
        return self.gathered(xp, numerator + zeros), self.gathered(xp, denominator + zeros)

    def settled(self, xp: Any, top: Any, bottom: Any, old: Any) -> Any:
        """The parameter of these sums; see :meth:`update`."""
        ratio = top / xp.where(bottom > 0, bottom, 1.0)
        new = self._inside(xp, _FAMILIES[self.family][self.argument][1](xp, ratio))
        return xp.where((bottom > 0) & xp.isfinite(ratio), new, old)

    def _inside(self, xp: Any, new: Any) -> Any:
        if self.argument == "loc" or self.argument in _MATRICES:
            return new
        info = floats(new)
        least, most = float(info.tiny), 1.0 - float(info.eps)
        if self.argument == "scale":
            return xp.where(new < least, np.nan, new)
        new = xp.where(new < least, least, new)
        unbounded = self.argument == "rate" or self.family in _OF_SIMPLEX
        return new if unbounded else xp.where(new > most, most, new)

    def ends(self) -> list[np.ndarray]:
        """Values of the parameter at the far ends of the argument's own range, each entry apart from its neighbours."""
        if self.family in _OF_SIMPLEX:
            axis = self.axes.index(-1) if -1 in self.axes else None
            if axis is None:
                return [np.ones(self.shape)]
            number = self.shape[axis]
            place = np.arange(number).reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
            whole = 1.0 - (number - 1) * _EDGE
            return [np.where(place == k, whole, _EDGE) + np.zeros(self.shape) for k in (0, number - 1)]
        if self.argument in _MATRICES:
            d = self.shape[-1]
            return [size * (np.eye(d) + side) + np.zeros(self.shape) for size, side in self._sides(d)]
        low, high = {"loc": (-_FAR, _FAR), "probs": (_EDGE, 1.0 - _EDGE)}.get(self.argument, (_NEAR, _FAR))
        odd = np.indices(self.shape).sum(0) % 2 if self.shape else np.array(0)
        return [np.where(odd == turn, low, high) for turn in (0, 1)]

    def _sides(self, d: int) -> list[tuple[float, Any]]:
        """Sizes of a matrix, and what it has beside a diagonal of ones."""
        side = np.tril(np.full((d, d), 0.5), -1)
        return [(_NEAR, 0.0), (_FAR, -side if self.argument == "scale_tril" else side + side.T)]

    def gathered(self, xp: Any, x: Any) -> Any:
        """The sum of x over all dimensions that the parameter does not lie along, in the parameter's shape."""
        kept = [d for d in self.axes if d is not None]
        gone = tuple(d for d in range(-len(x.shape), 0) if d not in kept)
        x = xp.sum(x, axis=gone) if gone else x
        order = [sorted(kept).index(d) for d in kept]
        return (xp.transpose(x, order) if len(order) > 1 else x).reshape(self.shape)


def _name(distribution: Any) -> str:
    return type(distribution).__name__.removesuffix("Probs").removesuffix("Logits")


def base_of(distribution: Any) -> Any:
    """The distribution under what makes its dimensions events or expands it."""
    while hasattr(distribution, "base_dist") and _name(distribution) not in _FAMILIES:
        distribution = distribution.base_dist
    return distribution


def with_events(xp: Any, factor: Factor, weight: Any, site: Site) -> Any:
    """Weights that stand beside a site's values, or beside the probabilities of a chain's states."""
    if not factor.part:
        return weight.reshape((*weight.shape, *(1 for _ in range(site.event_dim))))
    states = sorted(factor.variables)
    return xp.moveaxis(weight, states, list(range(-len(states), 0)))


def _family(distribution: Any, factor: Factor) -> str:
    """Its name on both backends, "" where it is not among those with a closed M-step."""
    name = _name(base_of(distribution))
    if factor.part:
        name = f"{name}, {factor.part}" if len(factor.variables) == _STATES[factor.part] else ""
    return name if name in _FAMILIES and all(hasattr(base_of(distribution), a) for a in _FAMILIES[name]) else ""


def discover(expectation: Expectation, counted: Counted) -> list[Direct]:
    """The parameters with a closed M-step, in the order of declaration."""
    rng, layout = np.random.default_rng(0), expectation.layout
    look, places = _Look(expectation, counted), [rng.uniform(-1, 1, layout.dim) for _ in range(2)]
    one = look.at(places[0])
    candidates = []
    for name in layout.names:
        inside = np.array([layout.label(i) == name for i in range(layout.dim)])
        candidates.append(_direct(name, look, one, look.at(np.where(inside, places[1], places[0]))))
    return look.stationary([c for c in candidates if c is not None and look.is_free(c)], places[0])


@dataclass(frozen=True)
class _Seen:
    """The completed factors at one place, on the host: their tensors and their distributions' arguments."""

    tensors: list[np.ndarray]
    arguments: list[dict[str, np.ndarray]]
    values: dict[str, np.ndarray]


class _Look:
    """Runs the program at chosen places, after an E-step at the first of them, compiled once."""

    def __init__(self, expectation: Expectation, counted: Counted):
        self.expectation, self.counted = expectation, counted
        self.room, self.arrays = expectation.target.backend, expectation.target.arrays
        self.families: list[str] = []
        self._e_step = self.room.compile(lambda u, arrays: expectation.expect(u, arrays, counted)[0])
        self._compiled = self.room.compile(self._factors)
        self._held: Any = None

    def _factors(self, u: Any, held: Any, arrays: Any) -> Any:
        completed = self.expectation.weighted_factors(u, held, arrays, self.counted)
        self.families = [_family(site.distribution, f) for f, _, site in completed]
        arguments = [
            {a: getattr(base_of(site.distribution), a) for a in _FAMILIES.get(family, {})}
            for family, (_, _, site) in zip(self.families, completed, strict=True)
        ]
        return [f.tensor for f, _, _ in completed], arguments, self.expectation.constrain(u, arrays)

    def at(self, u: np.ndarray) -> _Seen:
        """What is seen at the vector u."""
        on_device = self.room.asarray(u)
        if self._held is None:
            self._held = self._e_step(on_device, self.arrays)
        return _Seen(*self.room.to_numpy(self._compiled(on_device, self._held, self.arrays)))

    def is_free(self, direct: Direct) -> bool:
        """Whether a parameter is declared on the whole range of its argument: no narrower, and without an order."""
        constraint = self.expectation.target.sites[direct.name].constraint
        tried = [self.room.to_numpy(constraint.check(self.room.asarray(v))) for v in direct.ends()]
        return bool(np.all([np.all(inside) for inside in tried]))

    def stationary(self, candidates: list[Direct], u: np.ndarray) -> list[Direct]:
        """Those in which Q has no slope where their update puts them, from u."""
        if not candidates:
            return []
        slopes = self.room.compile(lambda u, held, arrays: [self._slopes(c, u, held, arrays) for c in candidates])
        found = self.room.to_numpy(slopes(self.room.asarray(u), self._held, self.arrays))
        return [c for c, (before, after) in zip(candidates, found, strict=True) if _vanishes(after, before)]

    def _slopes(self, direct: Direct, u: Any, held: Any, arrays: Any) -> tuple[Any, Any]:
        """The gradient of Q by the parameter's own coordinates, before and after the update."""
        expectation, room = self.expectation, self.room
        values = {n: v for n, v in expectation.constrain(u, arrays).items() if n in expectation.layout.names}
        own = expectation.layout.only([direct.name])
        old = values.pop(direct.name)
        new = direct.update(room.xp, expectation.weighted_factors(u, held, arrays, self.counted), old)
        bijection = room.bijection(expectation.target.sites[direct.name].constraint)

        def q(v: Any) -> Any:
            return expectation.expected_log_joint(At(values, v, own), held, arrays, self.counted)

        slope = room.value_and_grad(q)
        before, after = (slope(bijection.inverse(v).reshape((-1,)))[1] for v in (old, new))
        return before, after


def _vanishes(after: np.ndarray, before: np.ndarray) -> bool:
    least = max(_STATIONARY, 2000 * float(np.finfo(after.dtype).eps))
    return bool(np.isfinite(after).all() and np.abs(after).max() < least * (1.0 + np.abs(before).max()))


def _direct(name: str, look: _Look, one: _Seen, other: _Seen) -> Direct | None:
    """How a parameter, in which the two places differ, feeds its one site; None where it does not."""
    pairs = zip(one.tensors, other.tensors, strict=True)
    changed = [i for i, (a, b) in enumerate(pairs) if not np.array_equal(a, b)]
    if len(changed) != 1:
        return None
    (index,) = changed
    for argument in one.arguments[index]:
        maps = [_axes(np.asarray(seen.arguments[index][argument]), seen.values[name]) for seen in (one, other)]
        if maps[0] is not None and maps[0] == maps[1] and _in_order(argument, maps[0]):
            shape = tuple(one.values[name].shape)
            return Direct(name, index, look.families[index], argument, maps[0], shape)
    return None


def _in_order(argument: str, axes: tuple[int | None, ...]) -> bool:
    """Whether a matrix stands in the parameter's last axes."""
    return argument not in _MATRICES or (len(axes) > 1 and axes[-2:] in ((-2, -1), (None, None)))


def _axes(theta: np.ndarray, phi: np.ndarray) -> tuple[int | None, ...] | None:
    """Dimension of ``theta`` that each axis of ``phi`` lies along, where they are equal entry by entry."""
    for axis in range(theta.ndim):  # rows that an expansion has repeated
        first = np.take(theta, [0], axis)
        theta = first if np.array_equal(theta, np.broadcast_to(first, theta.shape)) else theta
    wide = [d for d in range(-theta.ndim, 0) if theta.shape[d] > 1]
    axes = [i for i in range(phi.ndim) if phi.shape[i] > 1]
    if len(wide) != len(axes):
        return None
    for order in itertools.permutations(range(len(axes))):
        turned = np.squeeze(phi).transpose(order) if axes else np.squeeze(phi)
        if turned.shape == np.squeeze(theta).shape and _equal(np.squeeze(theta), turned):
            at = {axes[axis]: wide[position] for position, axis in enumerate(order)}
            return tuple(at.get(i) for i in range(phi.ndim))
    return None


def _equal(theta: np.ndarray, phi: np.ndarray) -> bool:
    """Entry by entry, but for the rounding of a matrix that was taken apart and put together."""
    eps = float(np.finfo(phi.dtype).eps)
    return np.allclose(theta, phi, rtol=max(1e-9, 64 * eps), atol=64 * eps * float(np.max(np.abs(phi), initial=0.0)))
