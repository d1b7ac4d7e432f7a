"""EM of a declared program by rows: statistics of blocks of rows that add up, and closed M-steps from their sums.

A program whose params all have a closed M-step gets here what a model of ``pg.models`` brings by hand. Which arguments
hold the rows is read off the plates; that statistics of rows add up is tried out.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.expectation import Expectation
from ppl_gen.inference.exponential_family import Direct, discover, with_events
from ppl_gen.inference.maximum import counted
from ppl_gen.inference.plates import row_arguments
from ppl_gen.inference.starts import positions
from ppl_gen.program import Program
from ppl_gen.target import Target

_SEEN, _TRIED = 512, 64  # rows that parameters are looked for in, and that sums are tried out on
_SPREADS = ("scale", "scale_tril", "covariance_matrix")


def by_rows(target: Target, engine: str) -> Program:
    """The program of a target as one that brings the steps of its EM by rows; made once.

    Raises:
        UnsupportedError: it cannot; says why, and which engines would do.
    """
    return target.compiled("by rows", lambda: _made(target, engine))


def _made(target: Target, engine: str) -> Program:
    program = target.program
    made = Program(OwnRows(target, engine), backend=program.backend, coords=program.coords)
    made.name = program.name
    return made


class _Pair(NamedTuple):
    """A location and a spread of the same Gaussian site, both parameters."""

    loc: Direct
    spread: Direct

    @property
    def events(self) -> tuple[int, int]:
        """How many of their last dimensions are the site's own vector or matrix."""
        return (0, 0) if self.spread.argument == "scale" else (1, 2)

    def cells(self) -> tuple[set[int], set[int]]:
        """Dimensions, less those, that location and spread lie along."""
        pairs = zip((self.loc, self.spread), self.events, strict=True)
        return tuple({a + n for a in d.axes if a is not None and a < -n} for d, n in pairs)  # type: ignore[return-value]


class OwnRows:
    """A :class:`~ppl_gen.capabilities.ClosedFormEM` made of a declared program. Params are its values, constrained."""

    e_step = "enumeration"

    def __init__(self, target: Target, engine: str):
        self._model, name = target.program.model, target.program.name
        self.__signature__, self.__doc__ = inspect.signature(self._model), target.program.__doc__
        target.require_enumeration(engine)
        self.em_rows = row_arguments(target, engine, "adds up statistics of rows")
        self._say = f"{engine} adds up statistics of rows, and {name}"
        self.target = self._first_rows(target)
        ones = self.target.backend.asarray(np.ones(self._count(self.target)))
        self._expectation = Expectation(self.target, None, ones)
        if self._expectation.group is not None or not self.target.discrete:
            has = "continuous latents of single rows" if self._expectation.group else "no latents to sum out"
            raise UnsupportedError(f"{self._say} has {has}: use engine='em', or 'svi' with a subsampled plate")
        self._counted = counted("likelihood")
        self._direct = discover(self._expectation.reweighted(None), self._counted)
        self._require_closed()
        self._pairs = [_Pair(a, b) for a in self._direct for b in self._direct if _belong(a, b)]
        self._require_cells()
        self._alone = [d for d in self._direct if not any(d in pair for pair in self._pairs)]
        self._require_sums()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._model(*args, **kwargs)

    def _count(self, target: Target) -> int:
        return len(target.bound.host[self.em_rows[0]])

    def _first_rows(self, target: Target) -> Target:
        try:
            return Target(target.bound.part(self.em_rows, slice(0, _SEEN)))
        except (ValueError, TypeError) as error:
            raise UnsupportedError(
                f"{self._say} does not run on its first rows alone ({error}): take their number from the data, as in "
                "pg.plate('row', len(x))"
            ) from None

    # What must hold -------------------------------------------------------------------------------------------

    def _require_closed(self) -> None:
        found = [d.name for d in self._direct]
        others = [n for n in self._expectation.layout.names if n not in found]
        if others or not found:
            which = ", ".join(map(repr, others)) or "nothing to maximise"
            raise UnsupportedError(
                f"{self._say} has no closed M-step of {which}: use engine='em' on all rows, or 'svi' with a subsampled "
                "plate"
            )

    def _require_cells(self) -> None:
        for pair in self._pairs:
            loc, spread = pair.cells()
            if not spread <= loc:
                raise UnsupportedError(
                    f"{self._say} has one {pair.loc.name!r} for several values of {pair.spread.name!r}, whose maxima "
                    "depend on each other: use engine='em'"
                )

    def _require_sums(self) -> None:
        """Statistics of two halves of some rows add up to those of all of them."""
        room, n = self.target.backend, min(_TRIED, self._count(self.target))
        drawn = self.starts({}, 1, np.random.default_rng(0))
        at = {name: room.asarray(v[0]) for name, v in drawn.items()}

        def looked_at(rows: slice) -> dict[str, np.ndarray]:
            arrays = {k: v[rows] if k in self.em_rows else v for k, v in self.target.arrays.items()}
            found, value = room.to_numpy(self.em_statistics(at, at, arrays, None))
            return {**found, "value": value}

        if n < 2:
            raise UnsupportedError(f"{self._say} has {n} rows alone: use engine='em'")
        try:
            whole, one, other = (looked_at(slice(*span)) for span in ((0, n), (0, n // 2), (n // 2, n)))
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            taken = ", ".join(map(repr, self.em_rows))
            raise UnsupportedError(
                f"{self._say} cannot run on some of its rows alone, which {taken} are taken to hold, being as long as "
                f"the plate ({error}): give an argument that holds no rows another form, or use engine='em'"
            ) from None
        eps = float(np.finfo(np.asarray(whole["value"]).dtype).eps)
        for name, x in whole.items():
            size = np.abs(one[name]) + np.abs(other[name]) + 1.0
            if not (np.abs(x - one[name] - other[name]) <= 100 * eps * np.sqrt(n) * size).all():
                raise UnsupportedError(
                    f"{self._say} has none that add up: something is shared by the rows beside its params, such as a "
                    "latent or a factor outside of their plate; use engine='em'"
                )

    # What a model brings --------------------------------------------------------------------------------------

    def starts(self, data: Mapping[str, Any], num_starts: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Params where they are declared, latents at random; of starts after the first both, (num_starts, ...)."""
        target, layout = self.target, self._expectation.layout
        u = positions(target, num_starts, int(rng.integers(2**31)), None, layout)
        constrain = target.backend.vmap(self._expectation.constrain, in_axes=(0, None))
        found = target.backend.to_numpy(constrain(u, target.arrays))
        return {n: np.asarray(found[n]) for n in layout.names}

    def em_statistics(self, params: Any, around: Any, data: Any, weights: Any) -> tuple[dict[str, Any], Any]:
        """Weighted sums of each param alone; of a location and a spread, moments about the location ``around``."""
        expectation, xp = self._expectation.reweighted(weights), self.target.backend.xp
        held, value = expectation.expect(params, data, self._counted)
        completed = expectation.weighted_factors(params, held, data, self._counted)
        found = {}
        for d in self._alone:
            found[f"{d.name}, top"], found[f"{d.name}, bottom"] = d.sums(xp, completed)
        for pair in self._pairs:
            moments = _moments(xp, pair, completed, around[pair.loc.name])
            found.update({f"{pair.loc.name}, {i}": x for i, x in enumerate(moments)})
        return found, value

    def em_update(self, statistics: Any, around: Any) -> dict[str, Any]:
        """Closed M-steps; what nothing bears on stays where it is."""
        xp, new = self.target.backend.xp, {}
        for d in self._alone:
            top, bottom = statistics[f"{d.name}, top"], statistics[f"{d.name}, bottom"]
            new[d.name] = d.settled(xp, top, bottom, around[d.name])
        for pair in self._pairs:
            moments = [statistics[f"{pair.loc.name}, {i}"] for i in range(3)]
            new.update(_updated(xp, pair, moments, around))
        return new


def _belong(one: Direct, other: Direct) -> bool:
    return one.argument == "loc" and other.argument in _SPREADS and one.factor == other.factor


def _moments(xp: Any, pair: _Pair, completed: list[Any], around: Any) -> tuple[Any, Any, Any]:
    """Sums of weights, of x less the location ``around``, and of squares of that, by cell."""
    factor, weight, site = completed[pair.loc.factor]
    transformed = xp.log(site.value) if pair.loc.family == "LogNormal" else site.value
    w, off = with_events(xp, factor, weight, site), transformed - _along(xp, pair.loc, around)
    w = w + 0.0 * off
    kept = set.union(*pair.cells())
    if not pair.events[0]:
        return tuple(_summed(xp, x, kept, 0) for x in (w, w * off, w * off * off))  # type: ignore[return-value]
    first, second = w * off, w[..., None] * off[..., :, None] * off[..., None, :]
    return _summed(xp, w[..., 0], kept, 0), _summed(xp, first, kept, 1), _summed(xp, second, kept, 2)


def _updated(xp: Any, pair: _Pair, moments: list[Any], around: Any) -> dict[str, Any]:
    """Location and spread from their moments (Bishop 2006, equations 9.24 and 9.25)."""
    loc, spread = pair
    weight, first, second = moments
    of_loc = weight[..., None] if pair.events[0] else weight
    top, bottom = loc.gathered(xp, first), loc.gathered(xp, of_loc + 0.0 * first)
    moved = top / xp.where(bottom > 0, bottom, 1.0)
    off = _along(xp, loc, moved)
    if pair.events[0]:
        cross = off[..., :, None] * first[..., None, :]
        of_spread = weight[..., None, None]
        second = second - cross - xp.swapaxes(cross, -1, -2) + of_spread * off[..., :, None] * off[..., None, :]
    else:
        of_spread = weight
        second = xp.maximum(second - 2.0 * off * first + weight * off * off, 0.0)
    top, bottom = spread.gathered(xp, second), spread.gathered(xp, of_spread + 0.0 * second)
    return {loc.name: around[loc.name] + moved, spread.name: spread.settled(xp, top, bottom, around[spread.name])}


def _along(xp: Any, d: Direct, value: Any) -> Any:
    """A parameter's value along the dimensions of its argument."""
    axes = [i for i, a in enumerate(d.axes) if a is not None]
    order = sorted(axes, key=lambda i: d.axes[i] or 0)
    lying = {d.axes[i]: d.shape[i] for i in axes}
    x = value.reshape(tuple(d.shape[i] for i in axes))
    x = xp.transpose(x, [axes.index(i) for i in order]) if len(axes) > 1 else x
    rank = max((-a for a in lying if a is not None), default=0)
    return x.reshape(tuple(lying.get(a, 1) for a in range(-rank, 0)))


def _summed(xp: Any, x: Any, kept: set[int], events: int) -> Any:
    """The sum over all dimensions but the ``kept`` ones and the last ``events``, whose sizes become 1."""
    gone = tuple(a for a in range(-len(x.shape), -events) if a + events not in kept)
    return xp.sum(x, axis=gone, keepdims=True) if gone else x

