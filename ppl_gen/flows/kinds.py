"""Flows by name: which maps they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_gen.flows.autoregressive import Autoregressive
from ppl_gen.flows.bijector import Bijector, Chain, Inverse
from ppl_gen.flows.coupling import Coupling
from ppl_gen.flows.linear import Linear
from ppl_gen.flows.maps import Affine, Spline
from ppl_gen.flows.planar import Planar
from ppl_gen.flows.radial import Radial

Layer = Callable[..., list[Bijector]]


def _coupling(map: Any) -> Layer:
    def layer(i: int, features: int, options: dict[str, Any], **spline: Any) -> list[Bijector]:
        return [Coupling(features, map(**spline), swapped=i % 2 == 1, **options)]

    return layer


def _autoregressive(map: Any, inverse: bool) -> Layer:
    def layer(i: int, features: int, options: dict[str, Any], **spline: Any) -> list[Bijector]:
        order = tuple(range(features)) if i % 2 == 0 else tuple(reversed(range(features)))
        one = Autoregressive(features, map(**spline), order=order, **options)
        return [Inverse(one) if inverse else one]

    return layer


def _mixed(layer: Layer) -> Layer:
    """With a linear map before it on the way from data to noise, which is the way that is quick.

    It mixes the entries, and brings what lies outside of the box of a spline into it.
    """
    return lambda i, features, *rest, **spline: [*layer(i, features, *rest, **spline), Inverse(Linear(features))]


def _plain(kind: Any) -> Layer:
    return lambda i, features, options: [kind(features)]


# From noise to data. Where an autoregressive map is taken inversely, densities are quick and draws go entry by entry.
KINDS: dict[str, Layer] = {
    "realnvp": _coupling(Affine),
    "glow": _mixed(_coupling(Affine)),
    "nsf": _mixed(_autoregressive(Spline, inverse=True)),
    "nsf_coupling": _mixed(_coupling(Spline)),
    "maf": _autoregressive(Affine, inverse=True),
    "iaf": _autoregressive(Affine, inverse=False),
    "planar": _plain(Planar),
    "radial": _plain(Radial),
}
QUICK_TO_DRAW = ("iaf", "planar", "radial")  # the others are as quick, or quicker, to evaluate
_OF_SPLINES = ("nsf", "nsf_coupling")
_WITHOUT_NETWORKS = ("planar", "radial")


def flow(
    kind: str,
    features: int,
    num_layers: int = 5,
    hidden: tuple[int, ...] = (64, 64),
    activation: str = "relu",
    num_context: int = 0,
    **spline: Any,
) -> Chain:
    """The map from noise to data of a kind of :data:`KINDS`.

    Args:
        spline: ``num_bins`` and ``bound`` of kinds that are made of splines.

    Raises:
        ValueError: an unknown kind, or options that it does not have.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown flow {kind!r}: expected one of {', '.join(map(repr, KINDS))}")
    if spline and kind not in _OF_SPLINES:
        raise ValueError(f"{', '.join(spline)} are of splines, and {kind!r} has none: use one of {_OF_SPLINES}")
    if num_context and kind in _WITHOUT_NETWORKS:
        raise ValueError(f"{kind!r} has no networks that a context could go into: use another flow")
    if kind in _WITHOUT_NETWORKS:
        links = [one for i in range(num_layers) for one in KINDS[kind](i, features, {})]
    else:
        options = {"hidden": hidden, "activation": activation, "num_context": num_context}
        links = [one for i in range(num_layers) for one in KINDS[kind](i, features, options, **spline)]
    return Chain(tuple(links))
