"""Neural posterior estimation: a conditional normalizing flow of the posterior, learned from simulations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.flows.bijector import Bijector
from ppl_gen.flows.distribution import pushed
from ppl_gen.flows.kinds import flow
from ppl_gen.inference.neural_posterior import NeuralPosterior, context_of
from ppl_gen.primitives import dist, module, plate, sample


@dataclass(frozen=True)
class ConditionalFlow:
    """q(u | y): what an invertible map makes of normal noise, the map said by y or by an embedding of it.

    Attributes:
        bijector: the map. features: length of u. shape: of y as the embedding sees it.
    """

    bijector: Bijector
    features: int
    shape: tuple[int, ...]
    embedding: Any = None

    em_rows: ClassVar[tuple[str, ...]] = ("u", "y")

    def __call__(self, u: Any, y: Any) -> None:
        """Rows of u given those of y: their log density is what is learned by."""
        density = self._density(y)
        with plate("simulation", len(u)):
            sample("u", density, obs=u)

    def guide(self, u: Any, y: Any) -> None:
        """Of no latents."""

    def draw(self, noise: Any, y: Any) -> tuple[Any, Any]:
        """u (rows, features) at noise, and log q there."""
        u, log_det = module("flow", self.bijector)(noise, context_of(self, y))
        return u, self._base().log_prob(noise) - log_det

    def draw_alone(self, noise: Any, y: Any) -> Any:
        """u alone."""
        return self.draw(noise, y)[0]

    def log_prob(self, u: Any, y: Any) -> Any:
        """log q(u | y), (rows,)."""
        return self._density(y).log_prob(u)

    def _density(self, y: Any) -> Any:
        return pushed(self._base(), module("flow", self.bijector), self.features, context_of(self, y))

    def _base(self) -> Any:
        return dist.Normal(0.0, 1.0).expand([self.features]).to_event(1)


@dataclass(frozen=True, kw_only=True)
class NPE(NeuralPosterior):
    """Neural posterior estimation: a conditional flow is trained on simulations, and is the posterior of any data.

    Papamakarios & Murray (2016), "Fast epsilon-free inference of simulation models with Bayesian conditional density
    estimation"; with flows, and compared with others, Lueckmann et al. (2021), "Benchmarking simulation-based
    inference". What it shares with ``npse`` and ``fmpe``, rounds and the correction among it, stands at
    :class:`~ppl_gen.inference.neural_posterior.NeuralPosterior`.

    Attributes:
        flow: of :data:`ppl_gen.flows.KINDS`, all but "planar" and "radial"; couplings want two latent numbers.
        num_layers, hidden, activation, num_bins, bound, num_steps: as of :class:`ppl_gen.models.Flow`.
    """

    name: ClassVar[str] = "npe"
    needs: ClassVar[str] = "continuous latents with proper priors, and observed data that the program can draw"

    flow: str = "nsf"
    num_layers: int | None = None
    hidden: tuple[int, ...] = (64, 64)
    activation: str | None = None
    num_bins: int | None = None
    bound: float | None = None
    num_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._bijector(2, 1)

    def estimator(self, features: int, shape: tuple[int, ...], num_context: int) -> ConditionalFlow:
        return ConditionalFlow(self._bijector(features, num_context), features, shape, self.embedding)

    def _bijector(self, features: int, num_context: int) -> Bijector:
        own = {n: getattr(self, n) for n in ("num_bins", "bound", "num_steps")}
        return flow(self.flow, features, self.num_layers, self.hidden, self.activation, num_context, **own)
