"""What a page shows of models of rows: rows drawn anew beside the fitted ones, reconstructions, a map of encodings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.capabilities import Denoises
from ppl_gen.results import identity
from ppl_gen.results.arviz import arrays_of
from ppl_gen.results.report import Section
from ppl_gen.results.row_figures import encodings_figure, images_figure, is_images, plane_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ppl_gen.results.run import Run

__all__ = ["row_sections", "tried"]

_SHOWN, _RECONSTRUCTED, _ENCODED, _DRAWN = 36, 12, 2000, 3000


def row_sections(run: Run) -> list[Section]:
    """Of a run of a model of rows with one observed site; none of others, or where the run holds no program or data."""
    if run.program is None or run.data is None or not (hasattr(run.program.model, "row_data") or run.energetic):
        return []
    held = {n: x for n, x in identity.arguments(run.program, run.data).items() if np.ndim(x)}
    outputs: tuple[str, ...] = getattr(run.program.model, "outputs", ())
    return list(_sections(run, outputs[0], held)) if len(outputs) == 1 and outputs[0] in held else []


def _sections(run: Run, name: str, held: dict[str, Any]) -> Iterator[Section]:
    x = np.asarray(held[name][:_ENCODED])
    if is_images(x):
        yield tried("Images", lambda: _images(run, x, {n: np.asarray(v)[:_SHOWN] for n, v in held.items()}, name))
    elif _is_plane(x) and (run.log_prob_kind == "exact" or run.energetic) and set(held) == {name}:
        yield tried("Density", lambda: _density(run, x))
    if run.guided:
        yield tried("Encodings", lambda: _encodings(run, {n: np.asarray(v)[:_ENCODED] for n, v in held.items()}))


def tried(title: str, draw: Callable[[], list[tuple[str, Figure]]]) -> Section:
    """A section, which says what kept its pictures from being drawn: no page is lost for one of them.

    Such as latents of single data that the run has no draws of, or chains that run off.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Section(title, figures=draw())
    except (ArithmeticError, TypeError, ValueError) as error:
        return Section(title, f"Not drawn: {error}")


def _is_plane(x: np.ndarray) -> bool:
    """Whether rows are points of the plane; counts and codes, which are whole numbers, have no density between."""
    if x.ndim != 2 or x.shape[1] != 2 or not np.isfinite(x).all(axis=1).any():
        return False
    return x.dtype.kind == "f" and not np.array_equal(x, np.round(x), equal_nan=True)


def _density(run: Run, x: np.ndarray) -> list[tuple[str, Figure]]:
    density = lambda points: np.exp(run.log_prob(points))
    figure = plane_figure(x, density, run.sample(_DRAWN))
    return [("Data, the fitted density, and draws from it.", figure)]


def _images(run: Run, x: np.ndarray, some: dict[str, Any], name: str) -> list[tuple[str, Figure]]:
    strips = {"data": x[:_SHOWN], "drawn by the model": _drawn(run, some, name)}
    figures = [("Some of the data, and as many draws.", images_figure(strips, 18))]
    if run.guided:
        few = {n: v[:_RECONSTRUCTED] for n, v in some.items()}
        pairs = {"data": few[name], "what is made of their encodings": run.reconstruct(few).reshape(few[name].shape)}
        figures.append(("Reconstructions: means of the data at the means of the guide.", images_figure(pairs)))
    return figures


def _drawn(run: Run, some: dict[str, Any], name: str) -> np.ndarray:
    """Rows of the model, of the labels and contexts of the data where it wants any."""
    if run.program is not None and isinstance(run.program.model, Denoises):
        return run.sample(len(some[name]), progress=False, **{n: some[n] for n in ("label", "context") if n in some})
    if "context" not in some:
        return run.sample(len(some[name]))
    drawn = arrays_of(run.predict({n: v for n, v in some.items() if n != name}))["posterior_predictive"][name]
    return drawn.reshape(-1, *drawn.shape[3:])[: len(some[name])]


def _encodings(run: Run, some: dict[str, Any]) -> list[tuple[str, Figure]]:
    """The first latent by name; coloured by labels where the data have any."""
    encoded = run.encode(some)
    name = next((n for n in sorted(encoded) if f"{n}_scale" in encoded), None)
    if name is None:
        raise ValueError("the guide draws no continuous latents")
    label = some.get("label")
    caption = f"Means of the guide for {name!r}" + ("" if label is None else ", coloured by label") + "."
    return [(caption, encodings_figure(encoded[name], label))]
