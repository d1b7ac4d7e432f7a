"""Variational EM on a declared program: a Gaussian q for the local latents of each datum, or that of a guide.

The bound is F(q, u) = E_q log p(data, z | u) + H(q); the E-step climbs it over q, the M-step over u (Neal & Hinton
1998). Both are deterministic, see :mod:`~ppl_gen.inference.local_gaussian`, so that F never falls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ppl_gen.inference.engine import Outcome
from ppl_gen.inference.guide_gaussian import Guide
from ppl_gen.inference.local_gaussian import Diagonal, Full, Locals, entropy, points
from ppl_gen.inference.maximum import counted
from ppl_gen.inference.settling import Steps
from ppl_gen.inference.starts import positions
from ppl_gen.target import Target

_LENGTHS = (0.0, 1.0, 0.5, 0.2, 0.05)
_MOST_E_STEPS, _SMALL_GAIN = 100, 1e-10
_CALLS = 3000  # of a gradient in a usual run: machine code pays only where that is a large graph


class VariationalSteps(Steps):
    """E- and M-steps with a q of its own for each datum.

    The E-step takes steps along the natural gradient: precision and mean move towards minus the mean Hessian and the
    Newton point under q (Opper & Archambeau 2009; Khan & Lin 2017), by the length, from none to the whole, at which the
    datum's own bound is highest. Where z given the rest is Gaussian, the first step is exact.

    State: ``u`` (restarts, dim), what is maximised, and ``q``: ``mean`` (restarts, *cells, q) and ``root``.
    """

    e_name = "Gaussian q of each datum"

    def __init__(self, target: Target, locals_: Locals, options: Any, weights: Any):
        self.target, self.locals, self.options, self.weights = target, locals_, options, weights
        self._counted = counted(options.objective, locals_.names)
        self.kind: Any = Full if options.covariance == "full" else Diagonal
        number = options.num_points or max(32, 2 * locals_.size)
        e, w = points(locals_.size, locals_.cells, number, np.random.default_rng(0))
        asarray = target.backend.asarray
        self.points, self.masses = asarray(e), asarray(w.reshape((-1, *(1 for _ in locals_.cells))))
        name = ("vbem", self.e_name, locals_.names, options.objective, options.covariance, number, weights is not None)
        self.e_step, self.bound, (self.init, self.descend) = target.compiled(name, self._build)
        self._seed = 0

    def _build(self) -> tuple[Any, Any, Any]:
        backend = self.target.backend

        def loss(u: Any, q: Any, arrays: Any, weights: Any) -> Any:
            return -self._bound(u, q, arrays, weights)

        minimise = backend.minimise(loss, calls=_CALLS)
        return self._build_e_step(), self._batched(self._bound), minimise

    def _build_e_step(self) -> Callable[..., Any]:
        return self._batched(self._towards)

    def _batched(self, f: Callable[..., Any]) -> Callable[..., Any]:
        backend = self.target.backend
        return backend.compile(backend.vmap(f, in_axes=(0, 0, None, None)), calls=_CALLS // 10)

    # The bound ------------------------------------------------------------------------------------------------

    def gaussian(self, q: Any, arrays: Any) -> tuple[Any, Any]:
        """Mean and root of the q of each cell."""
        return q["mean"], q["root"]

    def _at(self, u: Any, z: Any, arrays: Any) -> tuple[Any, Any]:
        """The log joint at several z (P, *cells, q): of cells (P, *cells), and the rest (P,)."""
        return self.target.backend.vmap(lambda z: self.locals.log_joint(u, z, arrays, self._counted))(z)

    def _bound(self, u: Any, q: Any, arrays: Any, weights: Any) -> Any:
        xp = self.target.backend.xp
        mean, root = self.gaussian(q, arrays)
        own, rest = self._at(u, mean + self.kind.times(root, self.points), arrays)
        value = xp.sum(self.masses * own, axis=0) + entropy(xp, self.kind, root, self.locals.size)
        return xp.sum(self._counts(value, weights)) + rest[0]

    def _counts(self, value: Any, weights: Any) -> Any:
        return value if weights is None else value * weights.reshape(self.locals.cells)

    def _towards(self, u: Any, q: Any, arrays: Any, weights: Any) -> Any:
        """One step of the q of every cell."""
        backend, xp, kind, size = self.target.backend, self.target.backend.xp, self.kind, self.locals.size
        mean, root = q["mean"], q["root"]
        z = mean + kind.times(root, self.points)
        g = backend.value_and_grad(lambda z: xp.sum(self._at(u, z, arrays)[0]))(z)[1]
        w = self.masses[..., None]
        old, new = kind.curvature(xp, root, g, self.points, w)
        lengths = xp.array(_LENGTHS).reshape((-1, *(1 for _ in old.shape)))
        roots = kind.root_of(xp, (1.0 - lengths) * old + lengths * new)
        lengths = lengths.reshape((-1, *(1 for _ in mean.shape)))
        means = mean + lengths * kind.solve(xp, roots, xp.sum(w * g, axis=0))
        tried = means[:, None] + kind.times(roots[:, None], self.points)
        own = self._at(u, tried.reshape((-1, *tried.shape[2:])), arrays)[0].reshape(tried.shape[:-1])
        values = xp.sum(self.masses * own, axis=1) + entropy(xp, kind, roots, size)
        best = xp.argmax(xp.where(xp.isnan(values), -xp.inf, values), axis=0)
        return {"mean": _pick(xp, means, best), "root": _pick(xp, roots, best)}

    # Iterations -----------------------------------------------------------------------------------------------

    def start(self, num_restarts: int, seed: int, init: Mapping[str, Any] | None) -> Any:
        """Starts of optimisers, and q ~ N(0, I) in unconstrained coordinates."""
        self._seed = seed
        u = positions(self.target, num_restarts, seed, init, self.locals.layout)
        return {"u": u, "q": self._first(num_restarts, seed)}

    def _first(self, num_restarts: int, seed: int) -> Any:
        lead, size = (num_restarts, *self.locals.cells), self.locals.size
        root = self.kind.identity(size)
        asarray = self.target.backend.asarray
        return {"mean": asarray(np.zeros((*lead, size))), "root": asarray(np.zeros((*lead, *root.shape)) + root)}

    def _expect(self, u: Any, q: Any) -> Any:
        for _ in range(self.options.e_steps):
            q = self.e_step(u, q, self.target.arrays, self.weights)
        return q

    def step(self, state: Any) -> tuple[Any, Any]:
        """One iteration; the bound reported is that after its E-step."""
        arrays, weights, u = self.target.arrays, self.weights, state["u"]
        q = self._expect(u, state["q"])
        value = self.bound(u, q, arrays, weights)
        if self.locals.layout.dim:
            u = self.descend(self.init(u), self.options.m_steps + 1, q, arrays, weights)[0]["best"]
        return {"u": u, "q": q}, {"value": value}

    # The result -----------------------------------------------------------------------------------------------

    def finish(self, state: Any, best: int) -> Outcome:
        """Draws from q of the best restart, with what was maximised beside them."""
        target = self.target
        u = state["u"][best : best + 1]
        q = self._expect(u, {n: x[best : best + 1] for n, x in state["q"].items()})
        u, q = u[0], {n: x[0] for n, x in q.items()}
        mean, root = self.gaussian(q, target.arrays)
        shape = (self.options.num_samples, *self.locals.cells, self.locals.size)
        noise = target.backend.asarray(np.random.default_rng(self._seed).standard_normal(shape))
        draws = self.locals.constrained(mean + self.kind.times(root, noise), u)
        return Outcome(
            draws={n: v[None] for n, v in draws.items()},
            params={**{n: draws[n][0] for n in self.locals.layout.names}, **self._learned(q)},
            attrs={
                "e_step": self.e_name,
                "m_step": "gradient",
                "objective": self.options.objective,
                "local_latents": ", ".join(self.locals.names),
            },
            exact=False,
        )

    def _learned(self, q: Any) -> dict[str, np.ndarray]:
        """What else a run keeps as its params."""
        return {}

    def of_rows(self, params: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What is known of these rows at a run's params: all continuous sites at points of q, and their masses (P,)."""
        u = self.locals.unconstrained(params)
        q = {n: x[0] for n, x in self._known(u[None], params).items()}
        mean, root = self.gaussian(q, self.target.arrays)
        masses = np.asarray(self.target.backend.to_numpy(self.masses)).reshape(-1)
        return self.locals.constrained(mean + self.kind.times(root, self.points), u), masses

    def _known(self, u: Any, params: Mapping[str, np.ndarray]) -> Any:
        """q of these rows at u (1, dim): E-steps alone, until the bound gains no more."""
        q, old = self._first(1, 0), -np.inf
        for _ in range(_MOST_E_STEPS):
            q = self._expect(u, q)
            new = float(self.target.backend.to_numpy(self.bound(u, q, self.target.arrays, self.weights))[0])
            if not new - old > _SMALL_GAIN * max(abs(new), 1.0):
                break
            old = new
        return q


class AmortisedSteps(VariationalSteps):
    """E- and M-steps with the q of the program's guide; the E-step is some L-BFGS iterations on the guide's params.

    State: ``u``, and ``q``: ``params`` of the guide (restarts, ...), unconstrained.
    """

    e_name = "guide"

    def __init__(self, target: Target, locals_: Locals, options: Any, weights: Any):
        self.guide = Guide(target, locals_)
        super().__init__(target, locals_, replace(options, covariance="diagonal"), weights)

    def gaussian(self, q: Any, arrays: Any) -> tuple[Any, Any]:
        return self.guide.gaussian(q["params"], arrays)

    def _build_e_step(self) -> Callable[..., Any]:
        def loss(params: Any, u: Any, arrays: Any, weights: Any) -> Any:
            return -self._bound(u, {"params": params}, arrays, weights)

        init, descend = self.target.backend.minimise(loss, calls=_CALLS)

        def e_step(u: Any, q: Any, arrays: Any, weights: Any) -> Any:
            found, _ = descend(init(q["params"]), self.options.e_steps + 1, u, arrays, weights)
            return {"params": found["best"]}

        return e_step

    def _first(self, num_restarts: int, seed: int) -> Any:
        xp = self.target.backend.xp
        return {"params": xp.stack([self.guide.start] * num_restarts)}

    def _expect(self, u: Any, q: Any) -> Any:
        return self.e_step(u, q, self.target.arrays, self.weights)

    def _known(self, u: Any, params: Mapping[str, np.ndarray]) -> Any:
        """The guide at these rows, with nothing to climb."""
        return {"params": self.guide.unconstrained(params)[None]}

    def _learned(self, q: Any) -> dict[str, np.ndarray]:
        values = self.target.backend.to_numpy(self.guide.constrain(q["params"], self.target.arrays))
        return {n: np.asarray(v) for n, v in values.items()}


def _pick(xp: Any, tried: Any, best: Any) -> Any:
    """tried (T, *cells, ...) at the best (*cells) of the T."""
    index = best.reshape((1, *best.shape, *(1 for _ in range(len(tried.shape) - 1 - len(best.shape)))))
    return xp.take_along_axis(tried, index + xp.zeros_like(tried[:1], dtype=index.dtype), axis=0)[0]
