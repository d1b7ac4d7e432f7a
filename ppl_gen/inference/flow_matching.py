"""Flow matching: networks that say the velocity from data to noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.diffusion.objectives import Bridge, Denoising, Objective
from ppl_gen.diffusion.times import TIMES
from ppl_gen.inference.engine import one_of
from ppl_gen.inference.feed import Augment
from ppl_gen.inference.regressing import Regressing
from ppl_gen.target import Target

COUPLINGS = ("independent", "optimal_transport", "schroedinger_bridge", "paired")


@dataclass(frozen=True, kw_only=True)
class FlowMatching(Regressing):
    """Learns the velocity of paths between data and noise (Lipman et al. 2023; Tong et al. 2024).

    Noise is Gaussian, or comes with the data as rows ``noise`` like ``x``: of another data set that the model is to
    transport (``source="data"``), or the ends of its own paths, for a flow that is straighter
    (:meth:`~ppl_gen.results.run.Run.pairs`; rectified flow, Liu, Gong & Liu 2023).

    Attributes:
        coupling: of data and noise within each batch: "independent"; "optimal_transport", exact among them, for paths
            that are short and nearly straight; "schroedinger_bridge", entropic, with bridges for paths; "paired", as
            noise has come. Where None "paired" if noise has come, else "independent"; of ``source="data"`` it must be
            said. Labels are coupled class by class.
        bridge_scale: standard deviation of the Brownian motion of "schroedinger_bridge", in the unit of the data.
        times: at which rows are looked at, "uniform", "logit_normal" (Esser et al. 2024), or what
            :class:`~ppl_gen.inference.score_matching.ScoreMatching` has; by the path where None.

    It trains by minibatches as :class:`~ppl_gen.inference.training.Training` says; ``history`` holds the loss. Optimal
    transport of a batch is done beside the steps, on the host: its cost grows with the cube of ``batch_size``.
    """

    name: ClassVar[str] = "flow_matching"
    needs: ClassVar[str] = "a model along a path from data to noise, such as FlowMatching"

    coupling: str | None = None
    bridge_scale: float = 0.5
    times: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "coupling", (None, *COUPLINGS))
        one_of(self, "times", (None, *TIMES))
        self.learns()

    def learns(self) -> Objective:
        if self.coupling == "schroedinger_bridge":
            return Bridge("velocity", self.times, self.bridge_scale)
        return Denoising("velocity", self.times)

    def check(self, target: Target) -> None:
        super().check(target)
        held = target.bound.host
        if self.coupling == "paired" and "noise" not in held:
            raise ValueError("coupling='paired' takes noise as it comes with the data: pass {'x': ..., 'noise': ...}")
        if self.coupling is None and target.program.model.needs_noise:
            raise ValueError(
                "source='data': say by coupling whether a row of noise belongs to the row of x beside it, 'paired', or "
                "to any, 'optimal_transport', 'independent' or 'schroedinger_bridge'"
            )
        if "context" in held and self.coupling in ("optimal_transport", "schroedinger_bridge"):
            raise UnsupportedError(
                f"coupling={self.coupling!r} would match noise to each context, and draws start from any noise: use "
                "'independent'"
            )

    def adds(self, target: Target) -> Augment | None:
        """Noise, where it is not the program that draws it, or that it comes in its order."""
        from ppl_gen.diffusion import couplings  # with SciPy, which import ppl_gen does without

        given = "noise" in target.bound.host
        if self.coupling in (None, "paired") or (self.coupling == "independent" and not given):
            return None
        entropic = couplings.Entropic(2.0 * self.bridge_scale**2)
        match: Any = {
            "independent": couplings.independent,
            "optimal_transport": couplings.optimal_transport,
            "schroedinger_bridge": entropic,
        }[self.coupling]
        return couplings.Coupling(match)
