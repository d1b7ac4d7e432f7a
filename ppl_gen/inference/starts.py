"""Starting points of chains and optimisers: uniform in unconstrained space, a user's values, and fall-backs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_gen.capabilities import Starts
from ppl_gen.checks import ProgramError, name_bad_sites
from ppl_gen.inference.lbfgs import Evaluate
from ppl_gen.layout import Layout
from ppl_gen.target import Target

_RADIUS = 2.0
_TRIES = 30
_TYPED = 1e-3
_SHOWN = 64  # numbers in a message


def check_init(target: Target, init: Mapping[str, Any] | None, layout: Layout) -> dict[str, np.ndarray]:
    """A user's starting values, constrained.

    Raises:
        ValueError: unknown site, wrong shape, not finite.
    """
    return _checked(init, {name: shape for name, _, shape in layout.sites}, "continuous site")


def require_names(init: Any) -> None:
    """Raises TypeError: a user's starting values are no dict."""
    if not isinstance(init, Mapping | None):
        raise TypeError(f"init must be a dict of names and values, got {type(init).__name__}")


def _checked(init: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int, ...]], kind: str) -> dict[str, np.ndarray]:
    require_names(init)
    given = {}
    for name, value in (init or {}).items():
        if name not in shapes:
            near = difflib.get_close_matches(str(name), shapes, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"init names {name!r}, which is no {kind}{meant}: expected among {list(shapes)}")
        value = _numbers(name, value)
        if not np.isfinite(value).all():
            raise ValueError(f"init of {name!r} is not finite: {_said(value)}")
        try:
            given[name] = np.array(np.broadcast_to(value, shapes[name]))
        except ValueError:
            raise ValueError(f"init of {name!r} has shape {value.shape}: expected {shapes[name]}") from None
    return given


def of_params(
    backend: Any, values: Mapping[str, Any], constraints: Mapping[str, Any], init: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Where params start, unconstrained: at ``values``, or where a user says; both constrained.

    Raises:
        TypeError, ValueError: no dict, unknown param, wrong shape, not finite, outside of the support or on its edge.
    """
    given = _checked(init, {n: tuple(x.shape) for n, x in values.items()}, "param")
    bijections = {n: backend.bijection(constraints[n]) for n in values}
    there = {n: _there_and_back(backend, bijections[n], x) for n, x in given.items()}
    bad = {n: constraints[n] for n, (_, same) in there.items() if not same}
    if bad:
        raise _outside(given, bad)
    return {n: there[n][0] if n in there else bijections[n].inverse(x) for n, x in values.items()}


def _there_and_back(backend: Any, bijection: Any, value: np.ndarray) -> tuple[Any, bool | None]:
    """A constrained value on the other side of a bijection, and whether it comes back as it was.

    None where it has no finite other side; the same to the digits that people type.
    """
    try:
        u = bijection.inverse(backend.asarray(value))
    except RuntimeError:  # PyTorch's, of a matrix that is not positive definite
        return None, None
    back = backend.to_numpy(bijection.forward(u))
    if not np.isfinite(backend.to_numpy(u)).all() or back.shape != value.shape:
        return u, None
    return u, bool(np.allclose(back, value, rtol=_TYPED, atol=_TYPED))


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError, RuntimeError):  # the last of tensors that ask for gradients
        raise ValueError(f"init of {name!r} is {value!r}: expected a number or an array of numbers") from None


def _said(value: np.ndarray) -> str:
    return str(value.tolist()) if value.size <= _SHOWN else f"an array of shape {value.shape}"


def evaluator(target: Target, rows: int) -> Evaluate:
    """Log density and gradient of any number of points (points, dim), on the host, by calls of so many rows.

    One compiled shape serves all: the last rows of the last call are filled up.
    """
    backend, compiled = target.backend, target.value_and_grad()

    def evaluate(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(points)
        filled = np.concatenate([points, np.repeat(points[-1:], -count % rows, 0)])
        calls = [compiled(backend.asarray(filled[i : i + rows]), target.arrays) for i in range(0, count, rows)]
        values, gradients = zip(*(backend.to_numpy(c) for c in calls), strict=True)
        return np.concatenate(values)[:count], np.concatenate(gradients)[:count]

    return evaluate


def starts(target: Target, num_chains: int, seed: int, init: Mapping[str, Any] | None = None) -> Any:
    """Starting positions (chains, dim) with finite log density and gradient, on the device: see :func:`search`."""
    return target.backend.asarray(search(target, num_chains, seed, init)[0])


def search(
    target: Target,
    num_chains: int,
    seed: int,
    init: Mapping[str, Any] | None = None,
    *,
    radius: float = _RADIUS,
    jitter: float = 0.0,
    evaluate: Evaluate | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Positions (chains, dim) with finite log density and gradient, on the host, and what to be careful about.

    Sites that ``init`` names start there; the others uniformly in (-radius, radius) of their unconstrained
    coordinates; where 30 such tries fail for a chain, ever nearer to zero, which is the middle of a support.

    Args:
        jitter: half the width of the uniform noise that chains but the first have about ``init``.
        evaluate: of :func:`evaluator`, where there is one that has been compiled, or will be used again.

    Raises:
        ProgramError: no such point was found; names the sites at fault.
    """
    layout, given = target.layout, check_init(target, init, target.layout)
    rng = np.random.default_rng(seed)
    fixed = _scattered(target, _preferred(target, num_chains, seed, given, layout), given, jitter, seed)
    evaluate = evaluate or evaluator(target, num_chains)
    found, outside = np.full((num_chains, layout.dim), np.nan), None
    tried = found
    for attempt in range(_TRIES):
        narrowing = max(attempt - _TRIES // 2 + 1, 0) / (_TRIES // 2)
        if attempt == _TRIES // 2:  # a model's own starts have failed: from here only what the user gave
            fixed, outside = _fixed(target, given, layout), tried[np.isnan(found[:, 0])]
        uniform = rng.uniform(-1.0, 1.0, found.shape) * radius * (1.0 - narrowing)
        tried = np.where(np.isnan(fixed), uniform, fixed)
        value, gradient = evaluate(tried)
        good = np.isfinite(value) & np.isfinite(gradient).all(1) & np.isnan(found[:, 0])
        found[good] = tried[good]
        if not np.isnan(found).any():
            return found, [] if outside is None else [_narrowed(target, outside, num_chains, radius)]
    raise _hopeless(target, tried[np.isnan(found[:, 0])][0], given, radius)


def _scattered(
    target: Target, fixed: np.ndarray, given: Mapping[str, Any], jitter: float, seed: int
) -> np.ndarray:
    """Fixed coordinates (chains, dim), those of the user's sites with noise in all chains but the first."""
    if not jitter or not given:
        return fixed
    own = np.isin([target.layout.label(i) for i in range(target.layout.dim)], list(given))
    noise = np.random.default_rng([seed, 2]).uniform(-jitter, jitter, fixed.shape)
    return fixed + noise * own * (np.arange(len(fixed)) > 0)[:, None]


def bad_sites(target: Target, u: np.ndarray) -> list[str]:
    """Sites without a finite log density at the unconstrained vector ``u``."""
    values = target.constrain(target.backend.asarray(u), target.arrays)
    return name_bad_sites(target, {n: values[n] for n in target.layout.names}, target.arrays)


def _narrowed(target: Target, outside: np.ndarray, num_chains: int, radius: float) -> str:
    """Says that chains start near zero, and which sites are why."""
    return (
        f"{len(outside)} of {num_chains} starts found no finite log density in (-{radius:g}, {radius:g}) and lie "
        f"nearer to zero; at fault: {', '.join(bad_sites(target, outside[0])) or 'the gradient'}. They may not be "
        "spread enough for R-hat to tell: pass init={site: value}, or narrower priors"
    )


def positions(target: Target, num_starts: int, seed: int, init: Mapping[str, Any] | None, layout: Layout) -> Any:
    """Starts (num_starts, dim) of an optimiser: params where they are declared, ``init`` where it is given.

    The latents are uniform in (-2, 2); params of restarts after the first are jittered by a standard normal.
    """
    given = check_init(target, init, layout)
    rng = np.random.default_rng(seed)
    drawn = rng.uniform(-_RADIUS, _RADIUS, (num_starts, layout.dim))
    declared = _fixed(target, {n: target.backend.to_numpy(target.sites[n].value) for n in target.params.names}, layout)
    jitter = rng.standard_normal(drawn.shape) * (np.arange(num_starts) > 0)[:, None]
    drawn = np.where(np.isnan(declared), drawn, declared + jitter)
    fixed = _preferred(target, num_starts, seed, given, layout)
    return target.backend.asarray(np.where(np.isnan(fixed), drawn, fixed))


def check_model_init(target: Target, init: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """A user's starting values of a model's own steps, in the sites' supports; shares may be zero.

    Raises:
        ValueError: unknown site, wrong shape, not finite, outside of the support.
    """
    given = check_init(target, init, target.everything)
    bad = [n for n, v in given.items() if not _inside(target, target.sites[n].constraint, v)]
    if bad:
        raise _outside(given, {n: target.sites[n].constraint for n in bad})
    return given


def _inside(target: Target, constraint: Any, value: np.ndarray) -> bool:
    """Whether a value is in a support, to the digits that people type: shares that add up to 0.9999 are."""
    backend = target.backend
    _, same = _there_and_back(backend, backend.bijection(constraint), value)
    if same is not None:
        return same
    shares = value.ndim > 0 and np.allclose(value.sum(-1), 1.0, atol=_TYPED)
    return bool(shares and np.all(backend.to_numpy(constraint.check(backend.asarray(value)))))


def model_starts(
    target: Target, count: int, rng: np.random.Generator, init: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Constrained starts that a model brings (count, ...), with what the user gave in their place, on the device."""
    given = check_model_init(target, init)
    drawn = target.program.model.starts(target.bound.host, count, rng)
    drawn.update({n: np.broadcast_to(v, (count, *v.shape)).copy() for n, v in given.items()})
    return {n: target.backend.asarray(v) for n, v in drawn.items()}


def prior_starts(target: Target, count: int, seed: int, init: Mapping[str, Any] | None) -> dict[str, Any]:
    """Constrained starts drawn from the program's prior (count, ...), with what the user gave in their place."""
    given, host, asarray = check_model_init(target, init), target.backend.to_numpy, target.backend.asarray
    runs = [target.draw(seed + i) for i in range(count)]
    values = {n: [given.get(n, host(run[n].value)) for run in runs] for n in target.everything.names}
    return {n: asarray(np.stack([np.asarray(v) for v in held])) for n, held in values.items()}


def _preferred(target: Target, count: int, seed: int, given: Mapping[str, Any], layout: Layout) -> np.ndarray:
    """Where the user or else the model says to start (count, dim), NaN where neither does."""
    model = target.program.model
    if not isinstance(model, Starts):
        return np.tile(_fixed(target, given, layout), (count, 1))
    drawn = model.starts(target.bound.host, count, np.random.default_rng(seed))
    rows = [{**{n: v[i] for n, v in drawn.items() if n in layout.names}, **given} for i in range(count)]
    return np.stack([_fixed(target, row, layout) for row in rows])


def _fixed(target: Target, given: Mapping[str, np.ndarray], layout: Layout) -> np.ndarray:
    """The unconstrained vector of the given values, NaN where nothing is given."""
    if not given:
        return np.full(layout.dim, np.nan)
    backend = target.backend
    on_device = {n: backend.asarray(v) for n, v in given.items()}
    u = backend.to_numpy(target.unconstrain(on_device, layout, target.arrays))
    names = np.array([layout.label(i) for i in range(layout.dim)])
    inside = np.isin(names, list(given))
    if not np.isfinite(u[inside]).all():
        bad = sorted(map(str, set(names[inside & ~np.isfinite(u)])))
        raise _outside(given, {n: target.sites[n].constraint for n in bad})
    return np.where(inside, u, np.nan)


def _outside(given: Mapping[str, np.ndarray], bad: Mapping[str, Any]) -> ValueError:
    """What is said of values that are not in their supports; ``bad``: name -> support."""
    came = ", ".join(f"{n!r} ({_said(given[n])}, support {support})" for n, support in bad.items())
    return ValueError(f"init of {came} is outside or on the edge of its support: expected a point inside")


def _hopeless(target: Target, u: np.ndarray, given: Mapping[str, Any], radius: float) -> ProgramError:
    backend = target.backend
    values = target.constrain(backend.asarray(u), target.arrays)
    at = {n: np.round(np.asarray(backend.to_numpy(values[n])), 3).tolist() for n in target.layout.names}
    uniform = f"uniform starts in (-{radius:g}, {radius:g})"
    start = f"the given init and {uniform}" if given else f"{uniform} and ever nearer to zero"
    return ProgramError(
        f"{target.program.name} has no finite log density at any of {_TRIES} starting points ({start}, unconstrained); "
        f"at the last, {at}, not finite: {', '.join(bad_sites(target, u)) or 'the gradient'}. Check the data and "
        "priors of these sites, or "
        "pass init={site: value} with a point where the density is finite"
    )
