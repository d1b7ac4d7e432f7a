"""Diffusion models: data are what is left when noise is taken away, a little at a time."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.samplers import Sampler
from ppl_gen.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from ppl_gen.models._noisy_rows import NoisyRows
from ppl_gen.nets.net import Net


@dataclass(frozen=True)
class Diffusion(NoisyRows):
    """x_t = alpha_t x + sigma_t e; a network says what noise e is in x_t (Ho, Jain & Abbeel 2020; Song et al. 2021).

    Sites: ``x`` (N, *shape); params: the weights of ``net``. Train it by ``engine="score_matching"``, on data of about
    mean 0 and standard deviation ``sigma_data``. ``run.log_prob`` is that of the probability-flow equation, and the
    variational bound that of ``run.latent_variable``; draws are made by any sampler of ``pg.diffusion.samplers``.

    Attributes:
        shape: of one datum, (2,) or, for convolutions, (height, width, channels).
        path: "vp", "sub_vp", "cosine", "ve", "edm", "trigonometric", "ot", or a path of ``pg.diffusion``.
        prediction: what the network says, "noise", "data", "score", "v", "velocity", or "edm", which is the
            preconditioned network of Karras et al. (2022).
        net: of :mod:`ppl_gen.nets`, ``(x, time, label, context) -> like x``. Where it is None, ``hidden`` widths make a
            plain perceptron and, for images, ``channels`` a U-Net; else rows have a residual one
            (:class:`~ppl_gen.nets.TimeResidual`), which learns thin and crooked densities in far fewer steps.
        num_classes: of ``label`` (N,), whole numbers from 0; num_context: length of ``context`` (N, num_context).
        sigma_data: standard deviation of the data.
        num_steps: of the solver of the probability-flow equation, in ``log_prob`` and in programs.
    """

    shape: tuple[int, ...]
    path: str | Path = "vp"
    prediction: str = "noise"
    net: Net | None = None
    hidden: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    num_classes: int = 0
    num_context: int = 0
    sigma_data: float = 1.0
    num_steps: int = 50

    @property
    def sampler(self) -> Sampler:
        """What draws are made by where nothing else is asked for."""
        return DPMSolverPP(num_steps=50)
