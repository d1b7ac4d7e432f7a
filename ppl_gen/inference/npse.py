"""Neural posterior score estimation: a conditional diffusion model of the posterior, learned from simulations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ppl_gen.diffusion.paths import Path
from ppl_gen.inference.conditional_denoiser import DenoisingPosterior


@dataclass(frozen=True, kw_only=True)
class NPSE(DenoisingPosterior):
    """Neural posterior score estimation: the score of noisy latents given data, learned from simulations.

    Sharrock, Simons, Liu & Beaumont (2024), "Sequential neural score estimation: likelihood-free inference with
    conditional score based diffusion models"; Geffner, Papamakarios & Mnih (2023). Rounds are theirs too, by truncated
    proposals. The options are those of :class:`~ppl_gen.inference.neural_posterior.NeuralPosterior` and
    :class:`~ppl_gen.inference.conditional_denoiser.DenoisingPosterior`.
    """

    name: ClassVar[str] = "npse"
    needs: ClassVar[str] = "continuous latents with proper priors, and observed data that the program can draw"

    path: str | Path = "edm"
    prediction: str = "edm"
