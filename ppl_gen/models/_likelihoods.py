"""What a decoder's numbers mean: the distribution of a datum, given what is said of each of its entries.

A likelihood has a name in :data:`LIKELIHOODS`; a new one is a class and a line there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from ppl_gen.models._checks import check_levels
from ppl_gen.models._discretised_logistic import discretised_logistic_mixture, scaled
from ppl_gen.models._options import count, one_of
from ppl_gen.primitives import dist, param, xp
from ppl_gen.program import DataError

_LEAST = 1e-3  # standard deviation of the Gaussian


class Likelihood(Protocol):
    """Data of a shape, (..., *shape).

    Attributes:
        size: how many numbers a decoder says of an entry. width: how many of them an encoder is shown.
    """

    @property
    def size(self) -> int: ...
    @property
    def width(self) -> int: ...
    def of(self, says: Any, shape: tuple[int, ...]) -> Any:
        """The distribution of a datum, by ``says`` (..., *shape, size)."""

    def data(self, x: Any) -> Any:
        """Data as the distribution takes them."""

    def mean(self, says: Any) -> Any:
        """What is to be expected (..., *shape)."""

    def shown(self, x: Any) -> Any:
        """Data as an encoder is shown them, (..., *shape, width)."""

    def confined(self, u: Any) -> Any:
        """Real numbers (..., width) brought to where those shown lie."""

    def check(self, x: np.ndarray) -> None:
        """Raises DataError: x lies outside of the support."""


@dataclass(frozen=True)
class Bernoulli:
    """Of 0 and 1; of numbers between, its mean over draws with these as their means."""

    size: ClassVar[int] = 1
    width: ClassVar[int] = 1

    def of(self, says: Any, shape: tuple[int, ...]) -> Any:
        logits, axes = says[..., 0], tuple(range(-len(shape), 0))

        def log_prob(x: Any) -> Any:
            return xp.sum(x * logits - xp.softplus(logits), axis=axes)

        def generate(u: Any) -> Any:
            return xp.astype(u < xp.sigmoid(logits), u.dtype)

        noise = dist.Uniform(0.0, 1.0).expand(list(logits.shape)).to_event(len(shape))
        return dist.FromFunctions(noise, generate, log_prob, shape, dist.constraints.unit_interval)

    def data(self, x: Any) -> Any:
        return x

    def mean(self, says: Any) -> Any:
        return xp.sigmoid(says[..., 0])

    def shown(self, x: Any) -> Any:
        return x[..., None]

    def confined(self, u: Any) -> Any:
        return xp.sigmoid(u)

    def check(self, x: np.ndarray) -> None:
        low, high = float(x.min()), float(x.max())
        if not 0.0 <= low <= high <= 1.0:
            hint = ": pixels of 0 to 255 go in as x / 255" if low >= 0 and high <= 255 else ""
            raise DataError(f"a Bernoulli likelihood is of numbers in [0, 1], and x has {low:g} to {high:g}{hint}")


@dataclass(frozen=True)
class Gaussian:
    """Of real numbers, with one learned standard deviation, the param ``scale``."""

    size: ClassVar[int] = 1
    width: ClassVar[int] = 1

    def of(self, says: Any, shape: tuple[int, ...]) -> Any:
        scale = param("scale", 1.0, constraint=dist.constraints.greater_than(_LEAST))
        return dist.Normal(says[..., 0], scale).to_event(len(shape))

    def data(self, x: Any) -> Any:
        return x

    def mean(self, says: Any) -> Any:
        return says[..., 0]

    def shown(self, x: Any) -> Any:
        return x[..., None]

    def confined(self, u: Any) -> Any:
        return u

    def check(self, x: np.ndarray) -> None:
        pass


@dataclass(frozen=True)
class Categorical:
    """Of whole numbers 0 to ``num_levels`` - 1 without an order; what is to be expected is the most probable one."""

    num_levels: int

    @property
    def size(self) -> int:
        return self.num_levels

    @property
    def width(self) -> int:
        return self.num_levels

    def of(self, says: Any, shape: tuple[int, ...]) -> Any:
        return dist.Categorical(logits=says).to_event(len(shape))

    def data(self, x: Any) -> Any:
        return xp.astype(x, xp.int32)

    def mean(self, says: Any) -> Any:
        return xp.argmax(says, axis=-1)

    def shown(self, x: Any) -> Any:
        return xp.one_hot(self.data(x), self.num_levels)

    def confined(self, u: Any) -> Any:
        return xp.softmax(u, axis=-1)

    def check(self, x: np.ndarray) -> None:
        check_levels(x, self.num_levels)


@dataclass(frozen=True)
class DiscretisedLogistic:
    """Of whole numbers 0 to ``num_levels`` - 1 in their order, a location and a log scale for each entry.

    Kingma et al. (2016), "Improved variational inference with inverse autoregressive flow", section 5. What is to be
    expected is the location, as a level.
    """

    num_levels: int
    size: ClassVar[int] = 2
    width: ClassVar[int] = 1

    def of(self, says: Any, shape: tuple[int, ...]) -> Any:
        location, log_scale = says[..., :1], says[..., 1:]
        return discretised_logistic_mixture(
            xp.zeros_like(location), location, log_scale, self.num_levels
        ).to_event(len(shape))  # fmt: skip

    def data(self, x: Any) -> Any:
        return x

    def mean(self, says: Any) -> Any:
        return 0.5 * (xp.clip(says[..., 0], -1.0, 1.0) + 1.0) * (self.num_levels - 1)

    def shown(self, x: Any) -> Any:
        return scaled(x, self.num_levels)[..., None]

    def confined(self, u: Any) -> Any:
        return xp.tanh(u)

    def check(self, x: np.ndarray) -> None:
        check_levels(x, self.num_levels)


LIKELIHOODS: dict[str, Any] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "categorical": Categorical,
    "discretised_logistic": DiscretisedLogistic,
}


def likelihood(name: str, num_levels: int | None) -> Likelihood:
    """The likelihood of that name.

    Raises:
        ValueError: there is none, or ``num_levels`` is missing, too few or not wanted.
    """
    one_of("likelihood", name, tuple(LIKELIHOODS))
    kind = LIKELIHOODS[name]
    of_levels = bool(dataclasses.fields(kind))
    if not of_levels:
        if num_levels is not None:
            raise ValueError(f"a {name} likelihood has no levels: leave out num_levels")
        return kind()
    if num_levels is None:
        raise ValueError(f"a {name} likelihood is of whole numbers 0 to num_levels - 1: give num_levels")
    count("num_levels", num_levels)
    if num_levels < 2:
        raise ValueError(f"num_levels must be at least 2, got {num_levels}")
    return kind(num_levels)
