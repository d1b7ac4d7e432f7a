"""Score models: noise-conditional score networks."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_gen.diffusion.paths import Ladder, Path
from ppl_gen.diffusion.samplers import Sampler
from ppl_gen.diffusion.samplers.annealed_langevin import AnnealedLangevin
from ppl_gen.models._noisy_rows import NoisyRows
from ppl_gen.nets.net import Net


@dataclass(frozen=True)
class ScoreModel(NoisyRows):
    """A network says the score of x + sigma e at a ladder of noise levels sigma (Song & Ermon 2019, NCSN).

    Sites: ``x`` (N, *shape); params: the weights of ``net``. Train it by ``engine="score_matching"``, e.g. with
    ``weighting="noise"``, the paper's, which is what it comes to with the prediction "noise". Draws are made by
    annealed Langevin dynamics down the ladder, or by any other sampler of ``pg.diffusion.samplers``.

    Attributes:
        shape: of one datum, (2,) or, for convolutions, (height, width, channels).
        sigma_min, sigma_max: ends of the geometric sequence of ``num_scales`` noise levels, in the unit of the data:
            the least is to be small beside their details, the largest about the greatest distance between two of them
            (Song & Ermon 2020, technique 1).
        prediction: what the network says; "noise" is minus sigma times the score, so that it need not grow as 1 / sigma
            (technique 3).
        net, hidden, channels, num_classes, num_context, sigma_data, num_steps: as of
            :class:`~ppl_gen.models.Diffusion`.
    """

    shape: tuple[int, ...]
    sigma_min: float = 0.01
    sigma_max: float = 10.0
    num_scales: int = 20
    prediction: str = "noise"
    net: Net | None = None
    hidden: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    num_classes: int = 0
    num_context: int = 0
    sigma_data: float = 1.0
    num_steps: int = 50

    @property
    def path(self) -> Path:  # type: ignore[override]
        """The ladder."""
        return Ladder(self.sigma_min, self.sigma_max, self.num_scales)

    @property
    def sampler(self) -> Sampler:
        """What draws are made by where nothing else is asked for."""
        return AnnealedLangevin(num_steps=self.num_scales - 1)
