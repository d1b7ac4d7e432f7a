"""Expectation-maximisation on a declared program: exact E-step, some L-BFGS iterations on Q as M-step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Site
from ppl_gen.expectation import Counted, Expectation
from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.maximum import of_point
from ppl_gen.inference.starts import positions


def counted(objective: str) -> Counted:
    """The terms of the log joint that an objective takes in; "likelihood" leaves out priors of what is maximised."""
    if objective == "posterior":
        return lambda site: True
    return lambda site: site.kind in ("observed", "factor") or site.discrete


class GradientSteps:
    """E- and M-steps of a program. State: vectors of what is maximised (restarts, dim)."""

    def __init__(self, expectation: Expectation, objective: str, m_steps: int):
        self.expectation, self.target = expectation, expectation.target
        self.objective, self.m_steps = objective, m_steps
        local = () if expectation.group is None else tuple(expectation.group.sites)
        self.local = local
        name = ("em", objective, local, expectation.weights is not None)
        self.e_step, (self.init, self.descend) = self.target.compiled(name, self._build)

    def _counted(self, site: Site) -> bool:
        return site.name in self.local or counted(self.objective)(site)

    def _build(self) -> Any:
        backend, expectation = self.target.backend, self.expectation

        def e_step(u: Any, arrays: Any, weights: Any) -> Any:
            return expectation.reweighted(weights).expect(u, arrays, self._counted)

        def loss(u: Any, held: Any, arrays: Any, weights: Any) -> Any:
            return -expectation.reweighted(weights).expected_log_joint(u, held, arrays, self._counted)

        batched = backend.vmap(e_step, in_axes=(0, None, None))
        return backend.compile(batched, calls=1000), backend.minimise(loss, calls=100_000)

    def start(self, num_restarts: int, seed: int, init: Mapping[str, Any] | None) -> Any:
        """Starts of optimisers, of what is maximised."""
        return positions(self.target, num_restarts, seed, init, self.expectation.layout)

    def advance(self, u: Any, count: int) -> tuple[Any, Any]:
        """``count`` iterations; the log likelihood reported is that before each."""
        values, arrays, weights = [], self.target.arrays, self.expectation.weights
        for _ in range(count):
            held, log_likelihood = self.e_step(u, arrays, weights)
            values.append(log_likelihood)
            state, _ = self.descend(self.init(u), self.m_steps + 1, held, arrays, weights)
            u = state["best"]
        return u, {"log_likelihood": self.target.backend.xp.stack(values)}

    def finish(self, u: Any, best: int) -> Outcome:
        """The point of the best restart."""
        target, expectation = self.target, self.expectation
        constrain = target.compiled(("point", self.local), lambda: target.backend.compile(expectation.constrain))
        values = target.backend.to_numpy(constrain(u[best], target.arrays))
        outcome = of_point({n: np.asarray(v) for n, v in values.items()}, expectation.layout.names)
        return replace(outcome, attrs={"e_step": expectation.kind, "m_step": "gradient"})
