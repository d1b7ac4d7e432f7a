"""What a run that trained a network of the posterior can be asked of other data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.inference.driver import Driver
from ppl_gen.program import DataError
from ppl_gen.results import identity
from ppl_gen.target import Target

if TYPE_CHECKING:
    from ppl_gen.inference import amortised
    from ppl_gen.results.run import Run


class Amortised:
    """A part of :class:`~ppl_gen.results.run.Run`."""

    data: Any
    attrs: dict[str, Any]
    setting: Any
    _scope: Callable[[], Any]
    _target: Callable[..., Target]
    _program: Callable[[], Any]

    def posterior_for(
        self, data: Any = None, observe: Mapping[str, Any] | None = None, num_samples: int | None = None,
        correction: bool | None = None, seed: int = 0,
    ) -> Run:  # fmt: skip
        """The posterior given other data, from the network that ``npe``, ``npse`` or ``fmpe`` has trained.

        Args:
            data: as in ``infer``, of the same shapes; all but observed values as they were. The fitted ones where None.
            observe: values of the deterministic sites that were observed, where the run was made with ``observe``.
            num_samples, correction: as of the engine, whose they are where None.

        Returns:
            a run with these draws, its ``engine`` "amortised".

        Raises:
            UnsupportedError: the run trained no network. DataError: data of another shape, or other covariates.
            ValueError: the network was trained in rounds, for the data of the run alone.
        """
        engine = self._amortised(observe, num_samples=num_samples, correction=correction)
        with self._scope():
            target = self._asked_of(engine, data)
            outcome = engine.run(target, Driver(target.backend.to_numpy, progress=False), seed)
            own: Any = type(self)
            return own.of(target, replace(self.setting, seed=seed), engine, outcome)

    def posterior_log_prob(
        self, latents: Mapping[str, Any], data: Any = None, observe: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """log q(latents | data) of the trained network, a normalised density of the latents as they are; (draws,).

        It is the network's own, before any importance weights; -inf outside of supports.

        Args:
            latents: name -> (draws, ...), of all latents that were inferred. data, observe: as in
                :meth:`posterior_for`.

        Raises:
            ValueError: latents that are not those, or of other shapes; else as :meth:`posterior_for`.
        """
        engine = self._amortised(observe)
        with self._scope():
            return engine.log_prob(self._asked_of(engine, data), {n: np.asarray(x) for n, x in latents.items()})

    def _amortised(self, observe: Mapping[str, Any] | None, **options: Any) -> amortised.Amortised:
        from ppl_gen.inference import amortised  # with SciPy, which takes longer to load than all of this

        return amortised.Amortised(trained=self, observe=observe, **options)

    def _asked_of(self, engine: amortised.Amortised, data: Any) -> Target:
        """The target at these data, for which the network was trained."""
        target = self._target(data)
        engine.check(target)
        held = engine.engine(target)
        if data is not None:
            self._require_same_rest(target)
        if self.attrs.get("num_rounds", 1) > 1 and (data is not None or engine.observe is not None):
            from ppl_gen.inference import amortised

            fitted = amortised.learned_by(self)
            if not np.array_equal(held.observation(target), fitted.observation(self._target())):
                raise ValueError(
                    f"the network was trained in {self.attrs['num_rounds']} rounds, for the data of the run alone: "
                    "infer anew, with num_rounds=1 for the posterior of any data"
                )
        return target

    def _require_same_rest(self, target: Target) -> None:
        """All that the program makes of its data beside the observed sites is as it was where the network was trained.

        Raises:
            DataError: naming the argument that differs.
        """
        from ppl_gen.inference.simulation import observed_arguments

        program, free = self._program(), set(observed_arguments(target).values())
        default = {n: p.default for n, p in program.signature.parameters.items()}
        now, then = ({**default, **identity.arguments(program, x)} for x in (target.bound.data, self.data))
        for name in (n for n in {**now, **then} if n not in free):
            if name not in now or name not in then or not np.array_equal(now[name], then[name]):
                raise DataError(
                    f"{name!r} differs from what the network was trained with, and it is more than an observed value: "
                    "the posterior that was learned is one given it. Train anew, or pass it as it was"
                )
