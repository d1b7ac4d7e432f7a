"""Flow-matching posterior estimation: the velocity from noise to the posterior, learned from simulations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ppl_gen.diffusion.paths import Path
from ppl_gen.inference.conditional_denoiser import DenoisingPosterior


@dataclass(frozen=True, kw_only=True)
class FMPE(DenoisingPosterior):
    """Flow-matching posterior estimation: the velocity of straight lines between latents and noise, given data.

    Wildberger, Dax, Buchholz, Green, Macke & Schölkopf (2023), "Flow matching for scalable simulation-based inference".
    The options are those of :class:`~ppl_gen.inference.neural_posterior.NeuralPosterior` and
    :class:`~ppl_gen.inference.conditional_denoiser.DenoisingPosterior`.
    """

    name: ClassVar[str] = "fmpe"
    needs: ClassVar[str] = "continuous latents with proper priors, and observed data that the program can draw"

    path: str | Path = "ot"
    prediction: str = "velocity"
