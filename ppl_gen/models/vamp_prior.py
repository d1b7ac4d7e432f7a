"""The mixture of variational posteriors as a prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.models._options import count
from ppl_gen.nets.layers import Weight
from ppl_gen.nets.net import Net
from ppl_gen.primitives import dist, module, xp


@dataclass(frozen=True)
class VampPrior:
    """p(z) = 1/K sum_k q(z | u_k): the posterior of learned pseudo-inputs u_k (Tomczak & Welling 2018, equation 9).

    A ``prior`` of :class:`VAE`. Params: ``pseudo_inputs``, real numbers that are brought to where data lie; with labels
    or a context each pseudo-input has its own of these, too.

    Attributes:
        num_components: K.
    """

    num_components: int = 100

    def __post_init__(self) -> None:
        count("num_components", self.num_components)

    def mixture(self, posterior: Callable[[Any], Any], inputs: int) -> Any:
        """The prior of one z.

        Args:
            posterior: pseudo-inputs (K, inputs), real numbers -> the distribution of their z, batch shape (K,).
        """
        pseudo = module("pseudo_inputs", PseudoInputs(self.num_components, inputs))()
        even = dist.Categorical(logits=xp.zeros((self.num_components,)))
        return dist.MixtureSameFamily(even, posterior(pseudo))


@dataclass(frozen=True)
class PseudoInputs(Net):
    """Learned numbers (count, features), drawn from N(0, 1) to begin with; called without arguments."""

    count: int
    features: int

    def parts(self) -> Mapping[str, Any]:
        return {"inputs": Weight((self.count, self.features), gain=1.0)}

    def forward(self, f: Any, p: Any) -> Any:
        return p.inputs()
