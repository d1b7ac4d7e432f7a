"""Monte Carlo expectation-maximisation."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.checks import ProgramError
from ppl_gen.inference import adaptation, langevin
from ppl_gen.inference.climbing import check_weights
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Engine, Outcome, between, one_of, positive
from ppl_gen.inference.gain_left import GainLeft
from ppl_gen.inference.local_gaussian import Locals
from ppl_gen.inference.mala import MALA
from ppl_gen.inference.maximum import OBJECTIVES, counted
from ppl_gen.inference.starts import check_init, positions
from ppl_gen.target import Target

_ACCEPT, _ADAPTING = 0.574, 15  # acceptance of Roberts & Rosenthal (1998); steps that adapt at the head of an E-step
_WARM_UP, _MORE = 100, 4
_DRAWS_OF_ROWS = 64
_CALLS = 3000
_PIECES = 16  # of the way between two ends, along which they are compared


@dataclass(frozen=True, kw_only=True)
class MCEM(Engine):
    """EM whose E-step draws the local latents by Metropolis-adjusted Langevin steps (Wei & Tanner 1990).

    The latents of each datum have chains of their own, which go on from one iteration to the next. After Caffo, Jank
    & Jones (2005) an update is taken where the gain in Q is above its Monte Carlo error. There are four times as many
    draws after one that is not, and after a step that the next draws see no gain in. It ends where what is left to gain
    in the log likelihood (see :mod:`~ppl_gen.inference.gain_left`) is below the tolerance, with that certainty, three
    times in a row; or where, with all ``max_draws``, the last five steps together do not stand out of their error: the
    history's ``gain_left`` then says how far the maximum may be. Discrete latents are summed out.

    Attributes:
        num_steps: iterations at most.
        num_chains: of each datum's latents.
        num_draws: kept of each chain in the first E-step; ``max_draws`` in any.
        sweeps: Langevin steps between two draws that are kept.
        num_restarts: starts, one run after the other; of the ends the one with the highest likelihood is kept, compared
            by path sampling (Gelman & Meng 1998) on the way from one to the next.
        certainty: of a gain before an update is taken, and of little being left at the end; by Student's t.
        tolerance: what may be left to gain in the log likelihood, in nats.
        objective: "likelihood" leaves out the priors of what is maximised, "posterior" takes them in.
        m_steps: L-BFGS iterations of an M-step.
        init: site -> starting value, constrained.
        weights: how often each row counts, (rows,); None for once.
        integrate: continuous latents that are drawn; those with one value for each datum where None.
    """

    name: ClassVar[str] = "mcem"
    needs: ClassVar[str] = "continuous latents of each datum"

    num_steps: int = 200
    num_chains: int = 8
    num_draws: int = 4
    max_draws: int = 256
    sweeps: int = 5
    num_restarts: int = 1
    certainty: float = 0.9
    tolerance: float = 0.01
    objective: str = "likelihood"
    m_steps: int = 5
    init: Mapping[str, Any] | None = None
    weights: Any = None
    integrate: Sequence[str] | None = None

    def __post_init__(self) -> None:
        positive(self, "num_steps", "num_draws", "max_draws", "sweeps", "num_restarts", "m_steps")
        if self.max_draws < self.num_draws:
            raise ValueError(f"max_draws={self.max_draws} is below num_draws={self.num_draws}, the first E-step's")
        one_of(self, "objective", OBJECTIVES)
        between(self, 0.5, 1, "certainty")
        between(self, 0, math.inf, "tolerance")
        check_weights(self.weights)
        if isinstance(self.num_chains, bool) or not isinstance(self.num_chains, int) or self.num_chains < 2:
            raise ValueError(f"num_chains must be at least 2, whose spread tells the error; got {self.num_chains!r}")

    def check(self, target: Target) -> None:
        target.require_enumeration(self.name)
        target.require_full_data(self.name)
        locals_ = self._locals(target)
        if not locals_.layout.dim:
            raise UnsupportedError(f"mcem needs latents or params to maximise, and {target.program.name} has none")
        locals_.check_weights(check_weights(self.weights))
        check_init(target, self.init, locals_.layout)
        locals_.require_apart(self.name)

    def of_rows(
        self, target: Target, names: Sequence[str], params: Mapping[str, np.ndarray], seed: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What is known of the latents ``names`` of new rows at a run's params: Langevin draws, each of one mass."""
        options = replace(self, weights=None, init=None)
        return _Steps(target, Locals(target, names), options, seed).of_rows(params)

    def _locals(self, target: Target) -> Locals:
        return Locals.chosen(target, self.integrate, "mcem draws each datum's own continuous latents")

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        locals_ = self._locals(target)
        starts = positions(target, self.num_restarts, seed, self.init, locals_.layout)
        runs = [self._from(u, _Steps(target, locals_, self, seed + i), driver) for i, u in enumerate(starts)]
        ended = [run for run in runs if np.isfinite(run.report["gain"][-1])]
        if not ended:
            raise ProgramError(
                f"mcem lost the density of {target.program.name}: Q at the new params is not finite at draws made at "
                "the old ones; bounds that depend on what is maximised do that: use engine='map' or 'nuts'"
            )
        best = functools.reduce(_higher, ended)
        outcome = best.steps.finish(best.state)
        outcome.history.update({n: best.report[n] for n in ("gain", "error", "num_draws", "gain_left")})
        outcome.attrs["num_restarts"] = self.num_restarts
        if len(ended) < len(runs):
            outcome.warnings.append(f"{len(runs) - len(ended)} of {len(runs)} restarts broke down")
        if best.reason is None:
            outcome.warnings.append(f"mcem stopped at num_steps={self.num_steps} with more to gain: raise it")
        return outcome

    def _from(self, u: Any, steps: _Steps, driver: Driver) -> _Ended:
        """One run, from the vector u."""
        state, report, reason = driver.run(
            lambda s, first, count: steps.advance(s),
            steps.start(u),
            self.num_steps,
            label=self.name,
            chunk=1,
            stop=steps.stop,
            describe=lambda r: f"gain {r['gain'][-1]:.3f}, {int(r['num_draws'][-1])} draws",
        )
        return _Ended(steps, state, report, reason)


class _State(NamedTuple):
    """What is maximised, the chains of the latents, their step sizes, and how much has been drawn."""

    u: Any
    chains: langevin.State
    step_size: adaptation.StepSize
    num_draws: int
    taken: int
    step: Any  # that led here; None where the last update was not taken


class _Ended(NamedTuple):
    """One run from one start."""

    steps: _Steps
    state: _State
    report: Mapping[str, np.ndarray]
    reason: str | None


def _higher(one: _Ended, other: _Ended) -> _Ended:
    """The one whose end has the higher likelihood."""
    return other if one.steps.rise(one.state, other.state.u) > 0 else one


class _Density(NamedTuple):
    """Of the latents of all cells in all chains as rows (chains * cells, q), at given params."""

    dim: int
    log_density_and_grad: Any


class _Steps:
    def __init__(self, target: Target, locals_: Locals, options: MCEM, seed: int):
        self.target, self.locals, self.options, self.seed = target, locals_, options, seed
        self.rows = options.num_chains * math.prod(locals_.cells)
        weights = check_weights(options.weights)
        self.weights = None if weights is None else target.backend.asarray(weights)
        name = (locals_.names, options.objective, options.num_chains, weights is not None)
        self.adapt, self.draw, self.begin, self.gain, (self.init, self.descend) = target.compiled(
            ("mcem", *name), self._build
        )
        self._left = GainLeft(options.num_chains, options.certainty)
        self._done = False
        self._counted = counted(options.objective, locals_.names)

    def _build(self) -> Any:
        backend, xp, step = self.target.backend, self.target.backend.xp, MALA.step

        def drawing(chains: Any, noise: Any, u: Any, arrays: Any) -> Any:
            chains, info = step(xp, self._density(u, arrays), chains, noise)
            return chains, {"position": chains.position, "rate": info.acceptance_rate}

        def adapting(both: Any, noise: Any, u: Any, arrays: Any) -> Any:
            chains, sizes = both
            chains, report = drawing(chains._replace(step_size=xp.exp(sizes.log_step)), noise, u, arrays)
            return (chains, adaptation.adapt_step_size(xp, sizes, report["rate"][:, None], _ACCEPT)), {}

        def begin(position: Any, step_size: Any, u: Any, arrays: Any) -> Any:
            return langevin.init(self._density(u, arrays), position, step_size, xp.ones((self.locals.size,)))

        def loss(u: Any, draws: Any, arrays: Any, weights: Any) -> Any:
            return -xp.mean(self._log_joints(u, draws, arrays, weights))

        def gain(new: Any, old: Any, draws: Any, arrays: Any, weights: Any) -> Any:
            rise = self._log_joints(new, draws, arrays, weights) - self._log_joints(old, draws, arrays, weights)
            return xp.mean(rise, axis=0)

        return (
            backend.scan(adapting, calls=_CALLS),
            backend.scan(drawing, calls=_CALLS),
            backend.compile(begin),
            backend.compile(gain),
            backend.minimise(loss, calls=_CALLS),
        )

    def _density(self, u: Any, arrays: Any) -> _Density:
        backend, cells, q = self.target.backend, self.locals.cells, self.locals.size
        xp = backend.xp

        def of_cells(z: Any) -> Any:
            z = z.reshape((self.options.num_chains, *cells, q))
            own = backend.vmap(lambda z: self.locals.log_joint(u, z, arrays, self._counted)[0])(z)
            return own.reshape((self.rows,))

        def both(z: Any) -> tuple[Any, Any]:
            return of_cells(z), backend.value_and_grad(lambda z: xp.sum(of_cells(z)))(z)[1]

        return _Density(q, both)

    def _log_joints(self, u: Any, draws: Any, arrays: Any, weights: Any) -> Any:
        """Log joint of all data at each draw (num_draws, num_chains)."""
        xp, cells = self.target.backend.xp, self.locals.cells
        z = draws.reshape((-1, *cells, self.locals.size))
        own, rest = self.target.backend.vmap(lambda z: self.locals.log_joint(u, z, arrays, self._counted))(z)
        own = own if weights is None else own * weights.reshape(cells)
        value = xp.sum(own.reshape((z.shape[0], -1)), axis=-1) + rest
        return value.reshape((-1, self.options.num_chains))

    # Iterations -----------------------------------------------------------------------------------------------

    def start(self, u: Any) -> _State:
        """At the vector u, chains near zero, warmed up."""
        return self._start(u, self.options.num_draws, _WARM_UP)

    def rise(self, state: _State, end: Any) -> float:
        """What the log likelihood gains from the state to the vector ``end``, by path sampling."""
        step, total = (end - state.u) / _PIECES, 0.0
        state = state._replace(num_draws=self.options.max_draws)
        for i in range(_PIECES):
            middle = state.u + (0.5 if i == 0 else 1.0) * step
            state, draws = self._drawn(self._adapted(state._replace(u=middle), _WARM_UP))
            total += float(np.mean(self._gains(middle + 0.5 * step, middle - 0.5 * step, draws)))
        return total

    def _start(self, u: Any, num_draws: int, warm_up: int) -> _State:
        target, rng, xp = self.target, np.random.default_rng(self.seed), self.target.backend.xp
        position = target.backend.asarray(0.1 * rng.standard_normal((self.rows, self.locals.size)))
        sizes = adaptation.start_step_size(xp, 0.5, (self.rows, 1))
        chains = self.begin(position, xp.exp(sizes.log_step), u, target.arrays)
        return self._adapted(_State(u, chains, sizes, num_draws, 0, None), warm_up)

    def _noise(self, state: _State, count: int) -> Any:
        return self.target.backend.noise(self.seed, state.taken, langevin.noise(self.rows, self.locals.size), count)

    def _adapted(self, state: _State, count: int) -> _State:
        """After steps that adapt, at the present params."""
        xp, arrays = self.target.backend.xp, self.target.arrays
        chains = self.begin(state.chains.position, state.chains.step_size, state.u, arrays)
        (chains, sizes), _ = self.adapt((chains, state.step_size), self._noise(state, count), state.u, arrays)
        chains = chains._replace(step_size=xp.exp(sizes.log_average))
        return state._replace(chains=chains, step_size=sizes, taken=state.taken + count)

    def _drawn(self, state: _State) -> tuple[_State, Any]:
        """Draws (num_draws, chains * cells, q), every so many steps."""
        count = state.num_draws * self.options.sweeps
        chains, report = self.draw(state.chains, self._noise(state, count), state.u, self.target.arrays)
        draws = report["position"][self.options.sweeps - 1 :: self.options.sweeps]
        return state._replace(chains=chains, taken=state.taken + count), draws

    def advance(self, state: _State) -> tuple[_State, Any]:
        """One E- and M-step; the update is taken where it is sure to gain, else there will be more draws."""
        options, arrays, left = self.options, self.target.arrays, self._left
        state, draws = self._drawn(self._adapted(state, _ADAPTING))
        half = 0.0 if state.step is None else 0.5 * state.step
        sure = state.step is None or left.add(self._gains(state.u + half, state.u - half, draws))
        found, _ = self.descend(self.init(state.u[None]), options.m_steps + 1, draws[None], arrays, self.weights)
        new = found["best"][0]
        gain, error = left.moments(self._gains(new, state.u, draws))
        report = {"gain": gain, "error": error, "num_draws": state.num_draws, "gain_left": left.left().estimate}
        most = state.num_draws >= options.max_draws
        if state.step is not None:
            self._done = left.settled(options.tolerance) or (most and left.invisible())
        taken = most or gain - left.quantile * error > 0
        if not (sure and taken):
            state = state._replace(num_draws=min(_MORE * state.num_draws, options.max_draws))
        state = state._replace(u=new, step=new - state.u) if taken else state._replace(step=None)
        return state, {n: np.array([x]) for n, x in report.items()}

    def _gains(self, new: Any, old: Any, draws: Any) -> np.ndarray:
        """Gain in Q from the one to the other by the draws of each chain (num_chains,)."""
        return np.asarray(self.target.backend.to_numpy(self.gain(new, old, draws, self.target.arrays, self.weights)))

    def stop(self, before: Any, after: Any, report: Any) -> str | None:
        """Sure to gain little, or broken."""
        if not np.isfinite(report["gain"][-1]):
            return "not finite"
        return "settled" if self._done else None

    def finish(self, state: _State) -> Outcome:
        """The params, and draws of the latents given them."""
        state, draws = self._drawn(self._adapted(state, _ADAPTING))
        z = draws.reshape((-1, *self.locals.cells, self.locals.size))
        values = self.locals.constrained(z, state.u)
        return Outcome(
            draws={n: v[None] for n, v in values.items()},
            params={n: values[n][0] for n in self.locals.layout.names},
            attrs={
                "e_step": "Langevin draws",
                "m_step": "gradient",
                "objective": self.options.objective,
                "local_latents": ", ".join(self.locals.names),
            },
            exact=False,
        )

    def of_rows(self, params: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What is known of these rows at a run's params: draws of all continuous sites (P, ...), and masses (P,)."""
        u = self.locals.unconstrained(params)
        _, draws = self._drawn(self._start(u, _DRAWS_OF_ROWS, 4 * _WARM_UP))
        z = draws.reshape((-1, *self.locals.cells, self.locals.size))
        return self.locals.constrained(z, u), np.full(len(z), 1.0 / len(z))
