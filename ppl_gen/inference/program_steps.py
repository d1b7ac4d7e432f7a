"""Expectation-maximisation on a declared program: exact E-step; closed M-step where there is one, else L-BFGS on Q."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ppl_gen.backends.protocol import Site
from ppl_gen.expectation import At, Expectation
from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.exponential_family import discover
from ppl_gen.inference.maximum import counted, of_point
from ppl_gen.inference.settling import Steps
from ppl_gen.inference.starts import positions


class ProgramSteps(Steps):
    """E- and M-steps of a program. The M-step is one conditional maximisation after another (Meng & Rubin 1993).

    State: ``values`` of the params with a closed M-step, constrained, and the vector ``u`` of the others, both with a
    leading axis of restarts.
    """

    def __init__(self, expectation: Expectation, objective: str, m_steps: int):
        self.expectation, self.target = expectation, expectation.target
        self.objective, self.m_steps = objective, m_steps
        self.local = () if expectation.group is None else tuple(expectation.group.sites)
        key = ("em", objective, self.local, expectation.weights is not None)
        self.direct = self.target.compiled((*key, "direct"), lambda: discover(expectation, self._counted))
        closed = [d.name for d in self.direct]
        self.rest = expectation.layout.only([n for n in expectation.layout.names if n not in closed])
        self.e_step, self.update, (self.init, self.descend) = self.target.compiled(key, self._build)

    def _counted(self, site: Site) -> bool:
        return counted(self.objective, self.local)(site)

    def _at(self, values: Any, u: Any) -> At:
        return At(values, u, self.rest)

    def _build(self) -> Any:
        backend, expectation = self.target.backend, self.expectation

        def e_step(values: Any, u: Any, arrays: Any, weights: Any) -> Any:
            return expectation.reweighted(weights).expect(self._at(values, u), arrays, self._counted)

        def update(values: Any, u: Any, held: Any, arrays: Any, weights: Any) -> Any:
            for d in self.direct:
                at, weighted = self._at(values, u), expectation.reweighted(weights)
                completed = weighted.weighted_factors(at, held, arrays, self._counted)
                values = {**values, d.name: d.update(backend.xp, completed, values[d.name])}
            return values

        def loss(u: Any, batched: Any, arrays: Any, weights: Any) -> Any:
            values, held = batched
            weighted = expectation.reweighted(weights)
            return -weighted.expected_log_joint(self._at(values, u), held, arrays, self._counted)

        batched = backend.vmap(e_step, in_axes=(0, 0, None, None))
        updated = backend.vmap(update, in_axes=(0, 0, 0, None, None))
        return (
            backend.compile(batched, calls=1000),
            backend.compile(updated, calls=1000),
            backend.minimise(loss, calls=100_000),
        )

    def start(self, num_restarts: int, seed: int, init: Mapping[str, Any] | None) -> Any:
        """Starts of optimisers, of what is maximised."""
        target, layout = self.target, self.expectation.layout
        u = positions(target, num_restarts, seed, init, layout)
        constrain = target.backend.vmap(self.expectation.constrain, in_axes=(0, None))
        values = target.compiled(("start", self.local), lambda: target.backend.compile(constrain))(u, target.arrays)
        inside = [i for i in range(layout.dim) if layout.label(i) in self.rest.names]
        return {"values": {d.name: values[d.name] for d in self.direct}, "u": u[:, inside]}

    def step(self, state: Any) -> tuple[Any, Any]:
        """One iteration; the objective reported is that before it."""
        arrays, weights, values, u = self.target.arrays, self.expectation.weights, state["values"], state["u"]
        held, objective = self.e_step(values, u, arrays, weights)
        if self.direct:
            values = self.update(values, u, held, arrays, weights)
        if self.rest.dim:
            u = self.descend(self.init(u), self.m_steps + 1, (values, held), arrays, weights)[0]["best"]
        return {"values": values, "u": u}, {"value": objective}

    def value(self, held: Any, count: int) -> Any:
        state = held["state"]
        return self.e_step(state["values"], state["u"], self.target.arrays, self.expectation.weights)[1]

    def finish(self, state: Any, best: int) -> Outcome:
        """The point of the best restart."""
        target, expectation = self.target, self.expectation

        def constrain(values: Any, u: Any, arrays: Any) -> Any:
            return expectation.constrain(self._at(values, u), arrays)

        compiled = target.compiled(("point", self.local, self.rest), lambda: target.backend.compile(constrain))
        values = {n: v[best] for n, v in state["values"].items()}
        found = target.backend.to_numpy(compiled(values, state["u"][best], target.arrays))
        outcome = of_point({n: np.asarray(v) for n, v in found.items()}, expectation.layout.names)
        return replace(outcome, attrs={"e_step": expectation.kind, "m_step": self._m_step()})

    def _m_step(self) -> str:
        """In words, with the params of each kind where there are both."""
        closed = ", ".join(d.name for d in self.direct)
        if not closed:
            return "gradient"
        return f"closed form of {closed}; gradient of {', '.join(self.rest.names)}" if self.rest.dim else "closed form"
