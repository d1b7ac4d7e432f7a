"""A network as a description, of which each library makes one of its own: flax.nnx on JAX, torch.nn on PyTorch."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from ppl_gen.nets.layers import Arrays

HOMES = {"jax": "flax_home", "torch": "torch_home"}


class Net:
    """A frozen dataclass of sizes with parts and one text of what is computed with them.

    A new network is a subclass with ``parts()``, name -> layer, network or tuple of them, and ``forward``.

    Attributes:
        one_time: whether one that is told times (rows,) takes one time of all rows, (1,), as well.
    """

    one_time: ClassVar[bool] = False

    def parts(self) -> Mapping[str, Any]:
        """Name -> layer, network, or tuple of such."""
        raise TypeError(f"{type(self).__name__} defines no parts")

    def forward(self, f: Any, p: Any, *inputs: Any, **options: Any) -> Any:
        """What comes out.

        Args:
            f: functions of the library: ``f.xp`` as in programs, ``f.activation``, ``f.attention``, ``f.upsample``,
                and ``f.stopped``, which takes the gradient away.
            p: the parts, as attributes that are called.
        """
        raise TypeError(f"{type(self).__name__} defines no forward")

    def build(self, library: str, seed: int = 0) -> Any:
        """The network itself, an ``nnx.Module`` ("jax") or ``torch.nn.Module`` ("torch"); equal weights on both.

        Raises:
            ValueError: another library. ImportError: it is not installed.
        """
        return home(library).build(self, self.start(seed))

    def start(self, seed: int) -> Arrays:
        """Starting weights by their paths; what a path has depends on it and the seed alone."""
        found: Arrays = {}
        for path, layer in self.layers():
            rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
            found.update({f"{path}.{name}": x for name, x in layer.start(rng).items()})
        return found

    def layers(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """All layers with their paths, in fixed order."""
        for name, part in self.parts().items():
            held = {f"{name}.{i}": x for i, x in enumerate(part)} if isinstance(part, tuple) else {name: part}
            for path, one in held.items():
                if isinstance(one, Net):
                    yield from one.layers(f"{prefix}{path}.")
                else:
                    yield prefix + path, one

    @property
    def num_weights(self) -> int:
        """How many numbers there are to learn."""
        return sum(x.size for x in self.start(0).values())


def home(library: str) -> Any:
    """What makes networks of a library."""
    if library not in HOMES:
        raise ValueError(f"no networks for {library!r}: expected one of {', '.join(map(repr, HOMES))}")
    try:
        return importlib.import_module(f"ppl_gen.nets.{HOMES[library]}")
    except ModuleNotFoundError as error:
        if error.name in ("flax", "torch"):
            raise ImportError(f"networks on {library} need {error.name}: pip install 'ppl_gen[nets]'") from error
        raise


def home_of(network: Any) -> Any:
    """The home that a network was made in.

    Raises:
        TypeError: it was made by no ``Net``.
    """
    kinds = {kind.__module__ for kind in type(network).__mro__}
    for library, name in HOMES.items():
        if f"ppl_gen.nets.{name}" in kinds:
            return home(library)
    raise TypeError(f"a {type(network).__name__} was not made by a network of ppl_gen.nets: expected net.build(...)")


def weights(network: Any) -> Arrays:
    """All weights of a network by their paths, in one layout whichever library it lives in."""
    return home_of(network).weights(network)


def load(network: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Put weights, as :func:`weights` gives them, into a network.

    Raises:
        ValueError: some are missing, too many, or of other shapes.
    """
    own = weights(network)
    shapes, came = ({n: tuple(np.shape(x)) for n, x in held.items()} for held in (own, arrays))
    if shapes != came:
        off = sorted(n for n in shapes.keys() | came.keys() if shapes.get(n) != came.get(n))[:3]
        said = ", ".join(f"{n}: expected {shapes.get(n, 'none')}, got {came.get(n, 'none')}" for n in off)
        raise ValueError(f"these weights are of another network: {said}")
    home_of(network).load(network, arrays)
