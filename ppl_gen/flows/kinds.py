"""Flows by name: which maps they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ppl_gen.flows.autoregressive import Autoregressive
from ppl_gen.flows.bijector import Bijector, Chain, Inverse
from ppl_gen.flows.continuous import Continuous
from ppl_gen.flows.coupling import Coupling
from ppl_gen.flows.linear import Linear
from ppl_gen.flows.maps import Affine, Spline
from ppl_gen.flows.planar import Planar
from ppl_gen.flows.radial import Radial
from ppl_gen.nets.layers import check_activation, check_counts

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


def _continuous(i: int, features: int, options: dict[str, Any], **own: Any) -> list[Bijector]:
    return [Continuous(features, **options, **own)]


@dataclass(frozen=True)
class Kind:
    """How the maps of a kind are made.

    Attributes:
        layer: ``(place, features, options of networks, **own) -> maps``.
        own: names of options that not every kind has. networks: whether there are any.
        num_layers, activation: where nothing else is said.
        quick_to_draw: from noise to data takes no longer than the way back.
    """

    layer: Layer
    own: tuple[str, ...] = ()
    networks: bool = True
    num_layers: int = 5
    activation: str = "relu"
    quick_to_draw: bool = True


_OF_SPLINES = ("num_bins", "bound")

# From noise to data. Where an autoregressive map is taken inversely, densities are quick and draws go entry by entry.
KINDS: dict[str, Kind] = {
    "realnvp": Kind(_coupling(Affine)),
    "glow": Kind(_mixed(_coupling(Affine))),
    "nsf": Kind(_mixed(_autoregressive(Spline, inverse=True)), _OF_SPLINES, quick_to_draw=False),
    "nsf_coupling": Kind(_mixed(_coupling(Spline)), _OF_SPLINES),
    "maf": Kind(_autoregressive(Affine, inverse=True), quick_to_draw=False),
    "iaf": Kind(_autoregressive(Affine, inverse=False)),
    "planar": Kind(_plain(Planar), networks=False),
    "radial": Kind(_plain(Radial), networks=False),
    "ffjord": Kind(_continuous, ("num_steps", "trace"), num_layers=1, activation="tanh"),
}


def flow(
    kind: str,
    features: int,
    num_layers: int | None = None,
    hidden: tuple[int, ...] = (64, 64),
    activation: str | None = None,
    num_context: int = 0,
    **own: Any,
) -> Chain:
    """The map from noise to data of a kind of :data:`KINDS`.

    Args:
        num_layers, activation: those of the kind where None.
        own: ``num_bins`` and ``bound`` of kinds that are made of splines, ``num_steps`` and ``trace`` of "ffjord";
            their own defaults where None.

    Raises:
        ValueError: an unknown kind, options that it does not have, or values that an option cannot have.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown flow {kind!r}: expected one of {', '.join(map(repr, KINDS))}")
    made, own = KINDS[kind], {n: x for n, x in own.items() if x is not None}
    for name in (n for n in own if n not in made.own):
        having = ", ".join(repr(k) for k, other in KINDS.items() if name in other.own)
        raise ValueError(f"a flow {kind!r} has no {name}" + (f": it is an option of {having}" if having else ""))
    if num_context and not made.networks:
        raise ValueError(f"{kind!r} has no networks that a context could go into: use another flow")
    activation = activation or made.activation
    options = {"hidden": hidden, "activation": activation, "num_context": num_context}
    count = made.num_layers if num_layers is None else num_layers
    if not isinstance(hidden, tuple | list):
        raise ValueError(f"hidden must hold the widths of layers, such as (64, 64), got {hidden!r}")
    check_counts(features=features, num_layers=count, hidden=tuple(hidden))
    check_activation(activation)
    of_layer = options if made.networks else {}
    return Chain(tuple(one for i in range(count) for one in made.layer(i, features, of_layer, **own)))
