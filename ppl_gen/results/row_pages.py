"""What a page shows of models of rows: rows drawn anew beside the fitted ones, reconstructions, a map of encodings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.results import identity
from ppl_gen.results.report import Section
from ppl_gen.results.row_figures import encodings_figure, images_figure, is_images, plane_figure

if TYPE_CHECKING:
    from ppl_gen.results.run import Run

__all__ = ["row_sections"]

_SHOWN, _RECONSTRUCTED, _ENCODED, _DRAWN = 36, 12, 2000, 3000


def row_sections(run: Run) -> list[Section]:
    """Of a run of a model of rows with one observed site; none of others, or where the run holds no program or data."""
    if run.program is None or run.data is None or not hasattr(run.program.model, "row_data"):
        return []
    held = identity.arguments(run.program, run.data)
    name = run.program.model.outputs[0]
    if name not in held or len(run.program.model.outputs) > 1:
        return []
    return list(_sections(run, name, held))


def _sections(run: Run, name: str, held: dict[str, Any]) -> Iterator[Section]:
    x = np.asarray(held[name][:_ENCODED])
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_images(x):
            yield _images(run, x, {n: np.asarray(v)[:_RECONSTRUCTED] for n, v in held.items()})
        elif x.ndim == 2 and x.shape[1] == 2 and run.log_prob_kind == "exact" and set(held) == {name}:
            drawn = run.sample(_DRAWN, seed=int(rng.integers(2**31)))
            density = lambda points: np.exp(run.log_prob(points))
            yield Section("Density", figures=[("Data, the fitted density, and draws from it.",
                                               plane_figure(x, density, drawn))])  # fmt: skip
        if run.guided:
            yield _encodings(run, {n: np.asarray(v)[:_ENCODED] for n, v in held.items()})


def _images(run: Run, x: np.ndarray, some: dict[str, Any]) -> Section:
    drawn = run.sample(_SHOWN)
    strips = {"data": x[:_SHOWN], "drawn by the model": drawn}
    figures = [("Some of the data, and as many draws.", images_figure(strips, 18))]
    if run.guided:
        again = run.reconstruct(some).reshape(-1, *x.shape[1:])
        pairs = {"data": x[:_RECONSTRUCTED], "what is made of their encodings": again}
        figures.append(("Reconstructions: means of the data at the means of the guide.", images_figure(pairs)))
    return Section("Images", figures=figures)


def _encodings(run: Run, some: dict[str, Any]) -> Section:
    """The first latent by name; coloured by labels where the data have any."""
    encoded = run.encode(some)
    name = next(n for n, z in sorted(encoded.items()) if z.dtype.kind == "f" and f"{n}_scale" in encoded)
    label = some.get("label")
    caption = f"Means of the guide for {name!r}" + ("" if label is None else ", coloured by label") + "."
    return Section("Encodings", figures=[(caption, encodings_figure(encoded[name], label))])
