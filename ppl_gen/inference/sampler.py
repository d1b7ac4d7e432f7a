"""What all samplers share, whoever's kernel they run: options, and what a program must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, between, not_negative, one_of, positive
from ppl_gen.inference.journal import Report
from ppl_gen.inference.ladder import STARTS, Begun, begin
from ppl_gen.inference.starts import check_init
from ppl_gen.target import Target


@dataclass(frozen=True, kw_only=True)
class Sampler(Engine):
    """An engine that draws from a posterior with a gradient, in chains.

    Attributes:
        num_warmup, num_samples: transitions per chain, adapting and kept.
        num_chains: how many.
        thinning: every how many-th sample is kept.
        target_accept_prob: that dual averaging steers the step size to.
        init: site -> starting value, constrained; of the climbs where ``start`` is an approximation.
        start: "uniform" for random points; "pathfinder" or "laplace" for wide draws of an approximation, which has
            modes in proportion to their mass and gives a first preconditioner.
    """

    resumes: ClassVar[bool] = True

    num_warmup: int = 1000
    num_samples: int = 1000
    num_chains: int = 4
    thinning: int = 1
    target_accept_prob: float = 0.8
    init: Mapping[str, Any] | None = None
    start: str = "uniform"

    def __post_init__(self) -> None:
        positive(self, "num_samples", "num_chains", "thinning")
        not_negative(self, "num_warmup")
        between(self, 0, 1, "target_accept_prob")
        one_of(self, "start", STARTS)
        if self.thinning > self.num_samples:
            raise ValueError(f"thinning {self.thinning} leaves none of the {self.num_samples} samples")

    def check(self, target: Target) -> None:
        target.require_gradient(self.name)
        check_init(target, self.init, target.layout)

    def starting(self, target: Target, driver: Driver, seed: int) -> Begun:
        """Where the chains start."""
        return begin(target, driver, seed, self.start, self.num_chains, self.init)

    # Chains in groups, as jobs of an executor -------------------------------------------------------------------

    def group(self, target: Target, driver: Driver, seed: int, held: Any, rows: slice) -> tuple[Any, Report]:
        """What the chains ``rows`` end with, and their draws (steps, chains, ...); they begin with ``held``."""
        raise TypeError("a sampler that spreads defines group(target, driver, seed, held, rows)")

    def part(self, held: Any, rows: slice) -> Any:
        """What some chains need of that which all begin with, on the host."""
        return held

    def joined(self, held: list[Any]) -> Any:
        """What all chains end with, of what the groups end with; None where nothing is asked of it."""
        return None

    def extra(self, target: Target) -> Any:
        """What :meth:`received` needs to make this target of one that is only program and data."""
        return None

    def received(self, target: Target, extra: Any) -> Target:
        """The target of the run, in a worker."""
        return target
