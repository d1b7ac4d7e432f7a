"""Flow matching: the velocity of a path from noise to data."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_gen.diffusion.paths import Path
from ppl_gen.diffusion.samplers import Sampler
from ppl_gen.diffusion.samplers.euler import Euler
from ppl_gen.models._noisy_rows import NoisyRows
from ppl_gen.nets.net import Net


@dataclass(frozen=True)
class FlowMatching(NoisyRows):
    """A network says the velocity of x_t = (1 - t) x + t e, whose flow carries noise e to data (Lipman et al. 2023).

    Sites: ``x`` (N, *shape); params: the weights of ``net``. Train it by ``engine="flow_matching"``, on data of about
    mean 0 and standard deviation 1. Time runs from data, 0, to noise, 1. ``run.pairs(n)`` are data for a second model
    whose flow is straighter (rectified flow).

    Attributes:
        shape: of one datum, (2,) or, for convolutions, (height, width, channels).
        path: "ot", straight lines; any other of :class:`~ppl_gen.models.Diffusion`.
        prediction, net, hidden, channels, num_classes, num_context, sigma_data, num_steps: as of
            :class:`~ppl_gen.models.Diffusion`.
        source: what e is, "gaussian", standard normal; or "data", rows ``noise`` like ``x`` that come with the data and
            from which draws start: the flow then carries any distribution to any other, and has no density.
    """

    shape: tuple[int, ...]
    path: str | Path = "ot"
    prediction: str = "velocity"
    net: Net | None = None
    hidden: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    num_classes: int = 0
    num_context: int = 0
    sigma_data: float = 1.0
    num_steps: int = 50
    source: str = "gaussian"

    @property
    def sampler(self) -> Sampler:
        """What draws are made by where nothing else is asked for."""
        return Euler(num_steps=100)
