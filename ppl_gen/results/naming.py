"""Names of dimensions: plates, and what a model says of its own."""

from __future__ import annotations

from ppl_gen.backends.protocol import Site
from ppl_gen.target import Target


def dims(target: Target) -> dict[str, list[str | None]]:
    """Site -> names of its dimensions; None where nothing names one."""
    named = {name: _dims(site) for name, site in target.sites.items() if site.kind != "plate"}
    for name, own in getattr(target.program.model, "dims", {}).items():
        if name in named and len(own) == len(named[name]):
            named[name] = list(own)
    return named


def subsampled(target: Target) -> dict[str, str]:
    """``{"subsampled": names}`` of the plates of which the program sees some rows at a time; nothing without any."""
    return {"subsampled": ", ".join(target.subsampled)} if target.subsampled else {}


def _dims(site: Site) -> list[str | None]:
    shape = tuple(site.value.shape)
    names: list[str | None] = [None] * len(shape)
    for plate in site.plates:
        at = len(shape) - site.event_dim + plate.dim
        if 0 <= at < len(shape) and shape[at] == plate.size:
            names[at] = plate.name
    return names
