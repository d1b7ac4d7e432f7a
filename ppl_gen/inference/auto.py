"""Choice of an engine by what a program is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.capabilities import ClosedForm, ClosedFormEM, ClosedFormVB
from ppl_gen.inference.engine import Engine, resolve
from ppl_gen.inference.starts import evaluator, search
from ppl_gen.target import Target

_MANY = 64  # chains that chees runs side by side
_SLOW = 0.25  # seconds of a gradient of so many chains: with more, few chains and long paths are the better use of time
_TRIALS = 3
_LARGE = 20_000  # dimensions of which 64 chains hold too many numbers


@dataclass(frozen=True, kw_only=True)
class Auto(Engine):
    """The engine that fits the program; ``run.attrs["chosen"]`` says which one and why.

    Programs with a posterior of continuous latents get an exact sampler: ``chees``, or ``nuts`` with few chains where
    a gradient is dear or there are very many latents; ``gibbs`` where discrete latents cannot be summed out. Learnable
    params beside latents of each datum get ``em``, params alone ``map``; subsampled plates ``svi``, whose result is not
    exact, as ``run.exact`` says.
    """

    name: ClassVar[str] = "auto"
    needs: ClassVar[str] = "latents or params"

    def pick(self, target: Target) -> tuple[Engine, str]:
        """The first engine that takes the program.

        Raises:
            UnsupportedError: none does; what each says.
        """
        said = []
        for name, why in _candidates(target):
            chosen = resolve(name, {})
            try:
                chosen.admit(target)
            except (UnsupportedError, ValueError) as error:
                said.append(f"{name}: {error}")
                continue
            return chosen, f"{name}: {why}"
        raise UnsupportedError(f"no engine takes {target.program.name} as it is. " + "; ".join(said))


def _candidates(target: Target) -> list[tuple[str, str]]:
    """Engines worth trying, in order, with the reason for each."""
    model = target.program.model
    if target.subsampled:
        return [("svi", f"{_listed(target.subsampled)} is subsampled, and only a bound can be had from minibatches")]
    if isinstance(model, ClosedForm):
        return [("closed_form", "the model brings its maximum likelihood in closed form")]
    if isinstance(model, ClosedFormVB):
        return [("vbem", "the model brings its variational posterior in closed form")]
    if isinstance(model, ClosedFormEM):
        return [("em", "the model brings its expectation-maximisation in closed form")]
    if target.counts.names:
        return [("gibbs", f"{_listed(target.counts.names)} has no finite set of values to sum over, and is drawn")]
    if target.params.names or not target.layout.dim:
        what = f"params without a prior ({_listed(target.params.names)})" if target.params.names else "discrete latents"
        summed = "latents of each datum, which can be summed or integrated out exactly"
        return [
            ("em", f"{what} beside {summed}"),
            ("map", f"{what} and no such latents: their maximum is all there is"),
            ("svi", f"{what} beside latents that only a guide can stand for"),
        ]
    return [_sampler(target)]


def _sampler(target: Target) -> tuple[str, str]:
    dim, summed = target.layout.dim, ""
    if target.discrete:
        summed = f", with {_listed(target.discrete)} summed out"
    if dim > _LARGE:
        return "nuts", f"an exact posterior of {dim} continuous latents{summed}, too many for {_MANY} chains at once"
    target.require_gradient("auto")
    seconds = _seconds(target)
    if seconds > _SLOW:
        dear = f"a gradient of {_MANY} chains takes {seconds:.2g} s, so that few chains are the better use of time"
        return "nuts", f"an exact posterior of {dim} continuous latents{summed}; {dear}"
    return "chees", f"an exact posterior of {dim} continuous latents{summed}, by {_MANY} chains side by side"


def _seconds(target: Target) -> float:
    """Of one gradient of many chains, once compiled; the same function serves the chains' starts."""
    evaluate = evaluator(target, _MANY)
    position = np.resize(search(target, 1, 0, evaluate=evaluate)[0], (_MANY, target.layout.dim))
    taken: list[float] = []  # some, for a busy machine must not look like a dear gradient
    while len(taken) < _TRIALS and not (taken and min(taken) <= _SLOW):
        began = time.perf_counter()
        evaluate(position)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))
