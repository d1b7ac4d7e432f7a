"""What must hold before any fitting: errors that say what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Request, Site, SiteError, UnsupportedError
from ppl_gen.program import Bound

_AGAIN = 10  # counts of two runs are often the same by chance


class ProgramError(ValueError):
    """A program that cannot be run on the data it was given."""


def explain_failure(error: Exception, bound: Bound) -> Exception:
    """The error of a program that failed on its data, with what the data were."""
    if isinstance(error, ProgramError | UnsupportedError):
        return error
    if isinstance(error, AttributeError) and "ppl_gen" in str(error):
        return error
    shapes = ", ".join(f"{n} {x.dtype}{list(x.shape)}" for n, x in bound.host.items()) or "no arrays"
    return ProgramError(
        f"{bound.program.name} failed when it was run on the data ({shapes}) on {bound.backend.name}: {in_short(error)}"
    )


def in_short(error: Exception) -> str:
    """Kind and first line of an error; the whole of it is its cause in the traceback."""
    said = (str(error).strip().splitlines() or ["no message"])[0]
    return said if isinstance(error, SiteError) else f"{type(error).__name__}: {said}"


def check_prototype(sites: Mapping[str, Site], bound: Bound, again: Callable[[], Mapping[str, Site]]) -> None:
    """Sites that fit together and data inside their supports.

    Args:
        again: runs the program once more, with other latents: a support that differs then is not the data's fault, and
            the density says where they are impossible.

    Raises:
        ProgramError: naming the site.
    """
    name = bound.program.name
    random = [s for s in sites.values() if s.kind in ("latent", "observed")]
    if not random and not any(s.kind in ("factor", "param") for s in sites.values()):
        raise ProgramError(f"{name} has no pg.sample, pg.param or pg.factor statement: nothing to infer")
    for site in random:
        _check_shapes(site, name)
    for site in random:
        outside = site.kind == "observed" and not np.all(bound.backend.to_numpy(site.in_support))
        said = repr(site.constraint)
        if outside and all(repr(again()[site.name].constraint) == said for _ in range(_AGAIN)):
            _refuse_values(site, bound)


def _check_shapes(site: Site, program: str) -> None:
    shape = tuple(site.value.shape)
    batch = shape[: len(shape) - site.event_dim]
    for plate in site.plates:
        rows = batch[plate.dim] if len(batch) >= -plate.dim else 1
        if rows not in (1, plate.size) or (site.kind == "observed" and rows != plate.size):
            raise ProgramError(
                f"site {site.name!r} of {program} stands in plate {plate.name!r} of size {plate.size} and has {rows} "
                f"rows along dimension {plate.dim} (shape {shape}): expected {plate.size}; make the plate as long as "
                "the data, or reshape them, e.g. y[:, 0] for a column"
            )
    spans = tuple(np.shape(site.log_prob))  # type: ignore[arg-type]
    if site.kind == "observed" and site.batch_shape and spans not in (batch, tuple(site.batch_shape), ()):
        raise ProgramError(
            f"site {site.name!r} of {program}: the data have shape {shape} and the distribution {site.batch_shape} + "
            f"event; together they broadcast to {spans}, which counts every datum more than once. Expected equal "
            "shapes; reshape one of them, e.g. y[:, 0] for a column"
        )


def _refuse_values(site: Site, bound: Bound) -> None:
    inside = np.asarray(bound.backend.to_numpy(site.in_support))
    value = bound.backend.to_numpy(site.value)
    bad = np.broadcast_to(~inside, value.shape[: inside.ndim]) if inside.ndim else np.array(True)
    some = np.unique(value[bad])[:3] if bad.ndim else value
    raise ProgramError(
        f"observed site {site.name!r} of {bound.program.name} has {int(bad.sum())} of {bad.size} values outside the "
        f"support {site.constraint} of {kind(site.distribution)}, e.g. {np.asarray(some).tolist()}: correct the "
        "data or choose a distribution that can give them"
    )


def kind(distribution: Any) -> str:
    """The name of a distribution, without what expands or masks it."""
    while hasattr(distribution, "base_dist") and type(distribution).__name__.startswith(("Expand", "Mask", "Indep")):
        distribution = distribution.base_dist
    return type(distribution).__name__


def name_bad_sites(target: Any, values: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[str]:
    """Sites whose log probability or value is not finite at constrained ``values``, with what it is."""
    sites = target.backend.trace(
        lambda: target.bound.model(arrays),
        Request(values=values, enumerated=target.enumerated, key=target.backend.key(0)),
    )
    bad = []
    for s in sites.values():
        tables = (("value", s.value), ("log probability", s.log_prob))
        for what, table in tables:
            table = None if table is None else np.asarray(target.backend.to_numpy(table))
            if table is not None and table.dtype.kind == "f" and not np.isfinite(table).all():
                bad.append(f"{s.name!r} ({what} {table[~np.isfinite(table)].flat[0]})")
                break
    return bad


def check_count(name: str, value: Any) -> None:
    """Raises ValueError: not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
