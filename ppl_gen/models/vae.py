"""The variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.flows.distribution import pushed
from ppl_gen.models._checks import check_images
from ppl_gen.models._likelihoods import Likelihood, likelihood
from ppl_gen.models._options import count, datum_shape, one_of
from ppl_gen.models.flow import Flow
from ppl_gen.models.vamp_prior import VampPrior
from ppl_gen.nets.convolutional import ConvDecoder, ConvEncoder
from ppl_gen.nets.mlp import MLP
from ppl_gen.nets.net import Net
from ppl_gen.primitives import deterministic, dist, module, plate, sample, xp
from ppl_gen.program import DataError


@dataclass(frozen=True)
class VAE:
    """z ~ p(z) of q entries, x | z by a decoder network; q(z | x) by an encoder network.

    Kingma & Welling (2014), "Auto-encoding variational Bayes"; Rezende, Mohamed & Wierstra (2014). Sites: ``z`` (N, q),
    ``x`` (N, *shape) and what is to be expected of it, ``x_mean``; params: the weights of ``encoder`` and ``decoder``,
    and what likelihood, prior and posterior have. Train it by ``engine="svi"`` with a ``batch_size``; a ``beta`` other
    than 1 makes it a beta-VAE (Higgins et al. 2017), ``elbo="iwae"`` with several particles the importance-weighted one
    (Burda et al. 2016). With ``num_classes`` or ``num_context`` all is conditional on ``label`` (N,), whole numbers
    from 0, or ``context`` (N, num_context), which both networks are given (Sohn, Lee & Yan 2015); the prior is not.

    Attributes:
        latent_dim: q. shape: of one datum, (784,) or, for convolutions, (height, width, channels).
        likelihood: "bernoulli" of numbers in [0, 1], "gaussian" with one learned standard deviation, and of whole
            numbers 0 to ``num_levels`` - 1 "categorical", where they have no order, and "discretised_logistic".
        hidden: widths of the layers of dense networks; ``channels`` of convolutional ones, which take their place where
            given, halving the image that often.
        encoder, decoder: networks of :mod:`ppl_gen.nets` in their place, from and to as many numbers as theirs.
        prior: "standard", N(0, I); a ``VampPrior``; a ``Flow`` of q features.
        posterior: "gaussian", N(mu(x), diag sigma(x)^2); or a ``Flow`` of q features that carries it on, whose context,
            if it has one, the encoder says (Rezende & Mohamed 2015; Kingma et al. 2016 with "iaf").
    """

    latent_dim: int
    shape: tuple[int, ...]
    likelihood: str = "bernoulli"
    num_levels: int | None = None
    hidden: tuple[int, ...] = (200, 200)
    channels: tuple[int, ...] | None = None
    activation: str = "relu"
    encoder: Net | None = None
    decoder: Net | None = None
    prior: str | VampPrior | Flow = "standard"
    posterior: str | Flow = "gaussian"
    num_classes: int = 0
    num_context: int = 0

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x", "label", "context")
    dims: ClassVar[dict[str, list[str | None]]] = {"z": ["latent"]}

    def __post_init__(self) -> None:
        count("latent_dim", self.latent_dim)
        datum_shape(self.shape)
        likelihood(self.likelihood, self.num_levels)
        if self.channels is not None and len(self.shape) != 3:
            raise ValueError(f"convolutions want a shape (height, width, channels), got {self.shape}")
        for name in ("num_classes", "num_context"):
            if getattr(self, name):
                count(name, getattr(self, name))
        if not isinstance(self.prior, VampPrior):
            _check_flow("prior", self.prior, "standard", self.latent_dim)
        _check_flow("posterior", self.posterior, "gaussian", self.latent_dim)

    def __call__(self, x: Any = None, label: Any = None, context: Any = None, num_data: int | None = None) -> None:
        """The program; ``x`` has shape (N, *shape)."""
        n = next((len(rows) for rows in (x, label, context) if rows is not None), num_data or 1)
        generate = self.generator()
        with plate("data", n):
            generate(x, self.given(label, context))

    def guide(self, x: Any, label: Any = None, context: Any = None, num_data: int | None = None) -> None:
        """q(z | x), row by row."""
        posterior = self.recogniser()
        with plate("data", len(x)):
            sample("z", posterior(self.shown(x), self.given(label, context)))

    # Parts, for programs that are made of them ------------------------------------------------------------------

    def generator(self) -> Callable[[Any, Any], None]:
        """``(x or None, given) -> None`` makes the sites of rows within their plate; networks are made beforehand."""
        decode, prior, kind = module("decoder", self._decoder()), self._prior(), self._kind

        def generate(x: Any, given: Any) -> None:
            read = _joined(sample("z", prior), given)
            says = decode(read).reshape((*read.shape[:-1], *self.shape, kind.size))
            sample("x", kind.of(says, self.shape), obs=None if x is None else kind.data(x))
            deterministic("x_mean", kind.mean(says))

        return generate

    def recogniser(self) -> Callable[[Any, Any], Any]:
        """``(data as shown, given) -> q(z | x)``; networks are made beforehand."""
        q, encode = self.latent_dim, module("encoder", self._encoder())
        carry = module("posterior", self.posterior.bijector()) if isinstance(self.posterior, Flow) else None

        def posterior(seen: Any, given: Any) -> Any:
            says = encode(self._into_encoder(seen, given))
            base = dist.Normal(says[..., :q], xp.exp(says[..., q : 2 * q])).to_event(1)
            if carry is None:
                return base
            return pushed(base, carry, q, says[..., 2 * q :] if self._num_said > 2 * q else None)

        return posterior

    def shown(self, x: Any) -> Any:
        """Data as the encoder is shown them, (..., numbers)."""
        seen = self._kind.shown(x)
        return seen.reshape((*seen.shape[: -len(self.shape) - 1], self.num_shown))

    def given(self, label: Any, context: Any = None) -> Any:
        """Labels (...) as indicators beside the context, (..., numbers); None where all is unconditional."""
        indicators = [] if label is None else [xp.one_hot(xp.astype(label, xp.int32), self.num_classes)]
        parts = indicators + ([] if context is None else [context])
        return xp.concatenate(parts, axis=-1) if parts else None

    @property
    def num_shown(self) -> int:
        """How many numbers the encoder is shown of a datum."""
        return math.prod(self.shape) * self._kind.width

    # ------------------------------------------------------------------------------------------------------------

    def _prior(self) -> Any:
        standard = dist.Normal(0.0, 1.0).expand([self.latent_dim]).to_event(1)
        if isinstance(self.prior, VampPrior):
            posterior = self.recogniser()
            return self.prior.mixture(lambda u: posterior(*self._confined(u)), self.num_shown + self._num_given)
        if isinstance(self.prior, Flow):
            base = standard if self.prior.base is None else self.prior.base()
            return pushed(base, module("prior", self.prior.bijector()), self.latent_dim)
        return standard

    def _confined(self, u: Any) -> tuple[Any, Any]:
        """Real numbers as data that the encoder could be shown, and what would be given beside them."""
        seen, given, classes = u[:, : self.num_shown], u[:, self.num_shown :], self.num_classes
        seen = self._kind.confined(seen.reshape((len(u), -1, self._kind.width))).reshape((len(u), -1))
        if not self._num_given:
            return seen, None
        labels = [xp.softmax(given[:, :classes], axis=-1)] if classes else []
        return seen, xp.concatenate([*labels, given[:, classes:]], axis=-1)

    def _into_encoder(self, seen: Any, given: Any) -> Any:
        if not self._convolves:
            return _joined(seen, given)
        height, width, channels = self._image
        image = seen.reshape((*seen.shape[:-1], height, width, channels * self._kind.width))
        return _joined(image, None if given is None else given[..., None, None, :])

    @property
    def _kind(self) -> Likelihood:
        return likelihood(self.likelihood, self.num_levels)

    @property
    def _num_given(self) -> int:
        return self.num_classes + self.num_context

    @property
    def _num_said(self) -> int:
        """By the encoder."""
        return 2 * self.latent_dim + (self.posterior.num_context if isinstance(self.posterior, Flow) else 0)

    @property
    def _convolves(self) -> bool:
        return isinstance(self._encoder(), ConvEncoder)

    def _encoder(self) -> Net:
        if self.encoder is not None:
            return self.encoder
        if self.channels is not None:
            height, width, channels = self._image
            shape = (height, width, channels * self._kind.width + self._num_given)
            return ConvEncoder(shape, self._num_said, self.channels, self.activation, gain=0.1)
        return MLP(self.num_shown + self._num_given, self._num_said, self.hidden, self.activation, gain=0.1)

    def _decoder(self) -> Net:
        num_in, size = self.latent_dim + self._num_given, self._kind.size
        if self.decoder is not None:
            return self.decoder
        if self.channels is not None:
            height, width, channels = self._image
            return ConvDecoder(num_in, (height, width, channels * size), self.channels[::-1], self.activation)
        return MLP(num_in, math.prod(self.shape) * size, self.hidden[::-1], self.activation)

    @property
    def _image(self) -> tuple[int, int, int]:
        height, width, channels = self.shape
        return height, width, channels

    # Data -------------------------------------------------------------------------------------------------------

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: another shape, numbers outside of the support, labels or context that are not as said."""
        x = data.get("x")
        if x is not None:
            self.check_x(x)
        for name, number in (("label", self.num_classes), ("context", self.num_context)):
            if (name in data) != bool(number):
                hint = ": run.predict({'context': ...}) draws new rows" if not {"x", "context"} & set(data) else ""
                raise DataError(f"VAE with num_{'classes' if name == 'label' else name}={number} takes "
                                f"{'no' if name in data else 'a'} {name}{hint}")  # fmt: skip
        if self.num_classes:
            check_labels(data["label"], self.num_classes, least=0)
        if self.num_context and data["context"].shape[1:] != (self.num_context,):
            raise DataError(f"VAE expects context of shape (N, {self.num_context}), got {data['context'].shape}")

    def check_x(self, x: np.ndarray) -> None:
        """Raises DataError: another shape, or numbers outside of the support of the likelihood."""
        check_images("VAE", x, self.shape)
        self._kind.check(x)

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, Any]:
        """Arguments that make n new rows, of the classes by turns."""
        return {"num_data": n} | ({"label": np.arange(n) % self.num_classes} if self.num_classes else {})


def check_labels(label: np.ndarray, num_classes: int, least: int) -> None:
    """Raises DataError: others than ``least``, ..., num_classes - 1, one for each row."""
    unknown = ", -1 of a row without one" if least < 0 else ""
    if label.ndim != 1 or (label != np.round(label)).any() or label.min() < least or label.max() >= num_classes:
        raise DataError(
            f"label must hold a whole number from 0 to {num_classes - 1} for each row{unknown}; got shape "
            f"{label.shape} with {label.min():g} to {label.max():g}"
        )


def _joined(x: Any, given: Any) -> Any:
    """x (..., a) with what is given (..., b) behind it."""
    if given is None:
        return x
    batch = xp.broadcast_shapes(tuple(x.shape[:-1]), tuple(given.shape[:-1]))
    return xp.concatenate([xp.broadcast_to(part, (*batch, part.shape[-1])) for part in (x, given)], axis=-1)


def _check_flow(name: str, value: Any, plain: str, features: int) -> None:
    """``plain``, or a flow of so many features; of a prior one without a context, of a posterior without a base."""
    if not isinstance(value, Flow):
        one_of(name, value, (plain,))
        return
    if value.features != features:
        raise ValueError(f"{name} is a Flow of {value.features} features, and latent_dim is {features}")
    if name == "prior" and value.num_context:
        raise ValueError("a prior has no context: leave out num_context of its Flow")
    if name == "posterior" and value.base is not None:
        raise ValueError("the base of a posterior is what the encoder says: leave out base of its Flow")
