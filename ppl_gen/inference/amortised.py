"""Posteriors of any data by a network that another run has trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, one_of, positive, resolve
from ppl_gen.inference.neural_posterior import NeuralPosterior, with_options
from ppl_gen.inference.posterior_network import Trained
from ppl_gen.program import DataError
from ppl_gen.target import Target


@dataclass(frozen=True, kw_only=True)
class Amortised(Engine):
    """Draws from the network of an earlier run of ``npe``, ``npse`` or ``fmpe``, for other data; nothing is trained.

    ``run.posterior_for(data)`` is short for it. By ``pg.sbc`` it shows whether the network is calibrated.

    Attributes:
        trained: that run. num_samples, correction, oversampling, observe: as of its engine, whose they are where None.
    """

    name: ClassVar[str] = "amortised"
    needs: ClassVar[str] = "a run of npe, npse or fmpe on the same program"

    trained: Any = None
    num_samples: int | None = None
    correction: bool | None = None
    oversampling: int | None = None
    observe: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("num_samples", "oversampling"):
            if getattr(self, name) is not None:
                positive(self, name)
        one_of(self, "correction", (None, True, False))
        if self.trained is not None:
            learned_by(self.trained)

    def check(self, target: Target) -> None:
        if self.trained is None:
            raise ValueError("amortised draws from what another run has trained: pass trained=run, a run of npe")
        held = self.engine(target)
        name = self.trained.attrs.get("program")
        if target.program.name != name:
            raise ValueError(f"trained is a run of {name!r}, and the program is {target.program.name!r}")
        held.check(target)
        self._network(target)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        return self.engine(target).drawn(target, self._network(target), seed)

    def log_prob(self, target: Target, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """log q(latents | the target's data); see :meth:`NeuralPosterior.log_prob`."""
        return self.engine(target).log_prob(target, self._network(target), values)

    def engine(self, target: Target) -> NeuralPosterior:
        """The engine that trained the network, with the options of this one."""
        own = {n: getattr(self, n) for n in ("num_samples", "correction", "oversampling", "observe")}
        return with_options(learned_by(self.trained), **own)

    def _network(self, target: Target) -> Trained:
        """The network, which takes data of this target's shape.

        Raises:
            DataError: it does not.
        """
        engine, params = self.engine(target), self.trained.params
        expected, came = len(params["standard.y_loc"]), engine.simulator(target).num_seen
        latents = len(params["standard.u_loc"]), engine.simulator(target).layout.dim
        if expected != came or latents[0] != latents[1]:
            raise DataError(
                f"the network was trained for {latents[0]} latent numbers and {expected} observed ones, and these data "
                f"make {latents[1]} and {came}: expected data of the shape that it was trained for"
            )
        return Trained.of(engine.estimator_of(target), params)


def learned_by(run: Any) -> NeuralPosterior:
    """The engine of a run that trained a network.

    Raises:
        UnsupportedError: it trained none.
    """
    if isinstance(getattr(run, "options", None), NeuralPosterior):
        return run.options
    said = getattr(run, "attrs", {}).get("options")
    if said is None or "standard.y_loc" not in getattr(run, "params", {}):
        raise UnsupportedError(
            "posteriors of other data come from a network that was trained for any data: infer with engine='npe', "
            f"'npse' or 'fmpe'; this is {run!r}"
        )
    options = json.loads(said)
    objects = options.pop("objects")
    if objects:
        raise ValueError(
            f"a file holds no objects, and {', '.join(map(repr, objects))} of this run was one: set run.options to the "
            f"engine that it was trained by, e.g. pg.inference.NPE({objects[0]}=...)"
        )
    engine = resolve(run.engine, options)
    assert isinstance(engine, NeuralPosterior)
    return engine
