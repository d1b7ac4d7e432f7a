"""A posterior known by what noise is in it: a conditional score or velocity, its training and its probability flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.diffusion.denoiser import Denoiser
from ppl_gen.diffusion.objectives import Denoising
from ppl_gen.diffusion.paths import Path, path_of
from ppl_gen.diffusion.predictions import check_prediction
from ppl_gen.diffusion.probability_flow import Solution, solution
from ppl_gen.diffusion.regression import Regression
from ppl_gen.inference.engine import positive
from ppl_gen.inference.neural_posterior import NeuralPosterior, context_of
from ppl_gen.nets.time_residual import TimeResidual
from ppl_gen.primitives import xp


@dataclass(frozen=True)
class ConditionalDenoiser:
    """q(u | y): where the probability flow of a network that sees noisy u, the time and y carries normal noise to.

    Attributes:
        denoiser: the network on its path. objective: what it is trained on. shape: of y as the embedding sees it.
        num_steps: of the solver.
    """

    denoiser: Denoiser
    objective: Denoising
    shape: tuple[int, ...]
    num_steps: int
    embedding: Any = None

    em_rows: ClassVar[tuple[str, ...]] = ("u", "y")

    def __post_init__(self) -> None:
        self.objective.check(self.denoiser.path, self.denoiser.prediction)

    @property
    def features(self) -> int:
        return self.denoiser.size

    @property
    def _regression(self) -> Regression:
        return Regression(self.denoiser, self.objective)

    def __call__(self, u: Any, y: Any) -> None:
        """Rows of u given those of y: minus the squared error of what is said of the noise that is put on u."""
        self._regression(u, context=context_of(self, y))

    def guide(self, u: Any, y: Any) -> None:
        """That noise."""
        self._regression.guide(u)

    def draw(self, noise: Any, y: Any) -> tuple[Any, Any]:
        """u (rows, features) at noise, and log q there, by one solution."""
        return self._flow(y, len(noise)).both(noise)

    def draw_alone(self, noise: Any, y: Any) -> Any:
        """u alone, without the derivatives that its density takes."""
        return self._flow(y, len(noise)).there(noise)

    def log_prob(self, u: Any, y: Any) -> Any:
        """log q(u | y), (rows,)."""
        return self._flow(y, len(u)).log_prob(u)

    def _flow(self, y: Any, rows: int) -> Solution:
        context = context_of(self, y)
        context = xp.broadcast_to(context, (rows, context.shape[-1]))
        field = self.denoiser.field(self.denoiser.network(), context=context)
        return solution(field, self.denoiser.shape, self.num_steps)


@dataclass(frozen=True, kw_only=True)
class DenoisingPosterior(NeuralPosterior):
    """Neural posteriors that are learned by regression on noisy latents, along a path from them to noise.

    Draws and densities come from the probability-flow equation, solved in ``num_steps`` Runge-Kutta steps of order 4
    with the exact trace: a density is that of a draw up to the solver's error, and normalised.

    Attributes:
        path: of :class:`ppl_gen.models.Diffusion`. prediction: what the network says, as there.
        width, num_blocks: of the network, a :class:`ppl_gen.nets.TimeResidual`. num_steps: of the solver.
        weighting, times: of the objective, as of ``score_matching``; times lie evenly in the logarithm of the noise,
            since a posterior may be thin beside its prior.
    """

    num_epochs: int = 150
    patience: int = 30
    learning_rate: float = 5e-3
    path: str | Path = "vp"
    prediction: str = "noise"
    width: int = 64
    num_blocks: int = 3
    num_steps: int = 32
    weighting: str = "likelihood"
    times: str | None = "log_snr"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_steps", "width", "num_blocks")
        path_of(self.path)
        check_prediction(self.prediction)
        self.estimator(1, (1,), 1)

    def estimator(self, features: int, shape: tuple[int, ...], num_context: int) -> ConditionalDenoiser:
        net = TimeResidual(features, self.width, self.num_blocks, num_context=num_context)
        denoiser = Denoiser(net, (features,), path_of(self.path), self.prediction)
        objective = Denoising(self.weighting, self.times)
        return ConditionalDenoiser(denoiser, objective, shape, self.num_steps, self.embedding)
