"""The variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models._options import count, one_of
from ppl_gen.nets.convolutional import ConvDecoder, ConvEncoder
from ppl_gen.nets.mlp import MLP
from ppl_gen.nets.net import Net
from ppl_gen.primitives import deterministic, dist, module, param, plate, sample, xp
from ppl_gen.program import DataError

_LIKELIHOODS = ("bernoulli", "gaussian")
_LEAST = 1e-3  # standard deviation of the Gaussian likelihood


@dataclass(frozen=True)
class VAE:
    """z ~ N(0, I_q), x | z by a decoder network; q(z | x) = N(mu(x), diag sigma(x)^2) by an encoder network.

    Kingma & Welling (2014), "Auto-encoding variational Bayes"; Rezende, Mohamed & Wierstra (2014). Sites: ``z`` (N, q),
    ``x`` (N, *shape) and its mean ``x_mean``; params: the weights of ``encoder`` and ``decoder``, and ``scale`` of a
    Gaussian likelihood. Train it by ``engine="svi"`` with a ``batch_size``; a ``beta`` other than 1 makes it a beta-VAE
    (Higgins et al. 2017), ``elbo="iwae"`` with several particles the importance-weighted one (Burda et al. 2016).

    Attributes:
        latent_dim: q. shape: of one datum, (784,) or, for convolutions, (height, width, channels).
        likelihood: "bernoulli" of numbers in [0, 1], "gaussian" with one learned standard deviation.
        hidden: widths of the layers of dense networks; ``channels`` of convolutional ones, which take their place where
            given, halving the image that often.
        encoder, decoder: networks of :mod:`ppl_gen.nets` in their place, datum -> 2 q numbers and q numbers -> datum.
    """

    latent_dim: int
    shape: tuple[int, ...]
    likelihood: str = "bernoulli"
    hidden: tuple[int, ...] = (200, 200)
    channels: tuple[int, ...] | None = None
    activation: str = "relu"
    encoder: Net | None = None
    decoder: Net | None = None

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x",)
    dims: ClassVar[dict[str, list[str | None]]] = {"z": ["latent"]}

    def __post_init__(self) -> None:
        count("latent_dim", self.latent_dim)
        for n in self.shape:
            count("shape", n)
        one_of("likelihood", self.likelihood, _LIKELIHOODS)
        if self.channels is not None and len(self.shape) != 3:
            raise ValueError(f"convolutions want a shape (height, width, channels), got {self.shape}")

    def __call__(self, x: Any = None, num_data: int | None = None) -> None:
        """The program; ``x`` has shape (N, *shape)."""
        n = (num_data or 1) if x is None else x.shape[0]
        decode = module("decoder", self._decoder())
        with plate("data", n):
            z = sample("z", dist.Normal(0.0, 1.0).expand([self.latent_dim]).to_event(1))
            mean = decode(z).reshape((*z.shape[:-1], *self.shape))
            sample("x", self._likelihood(mean), obs=x)
            deterministic("x_mean", xp.sigmoid(mean) if self.likelihood == "bernoulli" else mean)

    def guide(self, x: Any, num_data: int | None = None) -> None:
        """q(z | x), data after data."""
        encode = module("encoder", self._encoder())
        with plate("data", x.shape[0]):
            found = encode(x if self._convolves else x.reshape((x.shape[0], -1)))
            mean, log_scale = found[..., : self.latent_dim], found[..., self.latent_dim :]
            sample("z", dist.Normal(mean, xp.exp(log_scale)).to_event(1))

    def _likelihood(self, says: Any) -> Any:
        """Of a datum, of what the decoder says of each of its numbers."""
        if self.likelihood == "bernoulli":
            return _bernoulli(says, self.shape)
        scale = param("scale", 1.0, constraint=dist.constraints.greater_than(_LEAST))
        return dist.Normal(says, scale).to_event(len(self.shape))

    @property
    def _convolves(self) -> bool:
        return self.channels is not None or isinstance(self.encoder, ConvEncoder)

    def _encoder(self) -> Net:
        if self.encoder is not None:
            return self.encoder
        if self.channels is not None:
            return ConvEncoder(self._image, 2 * self.latent_dim, self.channels, self.activation, gain=0.1)
        return MLP(math.prod(self.shape), 2 * self.latent_dim, self.hidden, self.activation, gain=0.1)

    def _decoder(self) -> Net:
        if self.decoder is not None:
            return self.decoder
        if self.channels is not None:
            return ConvDecoder(self.latent_dim, self._image, self.channels[::-1], self.activation)
        return MLP(self.latent_dim, math.prod(self.shape), self.hidden[::-1], self.activation)

    @property
    def _image(self) -> tuple[int, int, int]:
        height, width, channels = self.shape
        return height, width, channels

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: another shape, or numbers outside of the support of the likelihood."""
        x = data.get("x")
        if x is None:
            return
        if x.shape[1:] != self.shape:
            swapped = len(self.shape) == 3 and x.shape[1:] == (self.shape[2], *self.shape[:2])
            hint = ": channels come last, np.moveaxis(x, 1, -1)" if swapped else ""
            raise DataError(f"VAE expects x of shape (N, {', '.join(map(str, self.shape))}), got {x.shape}{hint}")
        low, high = float(x.min()), float(x.max())
        if self.likelihood == "bernoulli" and not 0.0 <= low <= high <= 1.0:
            hint = ": pixels of 0 to 255 go in as x / 255" if low >= 0 and high <= 255 else ""
            raise DataError(f"a Bernoulli likelihood is of numbers in [0, 1], and x has {low:g} to {high:g}{hint}")

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n}


def _bernoulli(logits: Any, shape: tuple[int, ...]) -> Any:
    """Of 0 and 1; of numbers between its mean over draws with these as their means."""
    axes = tuple(range(-len(shape), 0))

    def log_prob(x: Any) -> Any:
        return xp.sum(x * logits - xp.softplus(logits), axis=axes)

    noise = dist.Uniform(0.0, 1.0).expand([*logits.shape[: -len(shape)], *shape]).to_event(len(shape))
    return dist.FromFunctions(
        noise, lambda u: xp.astype(u < xp.sigmoid(logits), u.dtype), log_prob, shape, dist.constraints.unit_interval
    )
