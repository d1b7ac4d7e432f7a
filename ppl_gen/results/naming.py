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


def partial(target: Target) -> dict[str, str]:
    """What of the program is not all there: ``subsampled`` plates and ``unnormalised`` densities, if any."""
    energies = [n for n, s in target.sites.items() if not s.normalised]
    found = {"subsampled": ", ".join(target.subsampled), "unnormalised": ", ".join(energies)}
    return {n: text for n, text in found.items() if text}


def _dims(site: Site) -> list[str | None]:
    shape = tuple(site.value.shape)
    names: list[str | None] = [None] * len(shape)
    for plate in site.plates:
        at = len(shape) - site.event_dim + plate.dim
        if 0 <= at < len(shape) and shape[at] == plate.size:
            names[at] = plate.name
    return names
