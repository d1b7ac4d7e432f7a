"""Parallel tempering between prior and posterior, with non-reversible swaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.special import logsumexp

from ppl_gen import evaluation
from ppl_gen.backends.protocol import Backend
from ppl_gen.checks import ProgramError
from ppl_gen.inference import adaptation, langevin, preconditioning, tempered_moves, trajectory
from ppl_gen.inference.adaptation import Moments, StepSize
from ppl_gen.inference.chees import ChEES
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome, one_of, positive
from ppl_gen.inference.prior_draws import prior_draws, require_prior
from ppl_gen.inference.sampler import Sampler
from ppl_gen.inference.smc import combined
from ppl_gen.inference.trajectories import State as Kernel
from ppl_gen.target import Target

_WARMUP_CHUNK, _CHUNK = 25, 100
_START_STEP, _WINDOW_STEP = 0.1, 0.5
_EXTRA_DRAWS = 200  # of the prior, to see how much of it has a likelihood at all
_START_POWER = 4  # of the first ladder, whose temperatures are (i / n)^4
_LEAST_REJECTED = 1e-3


class State(NamedTuple):
    """Carried from iteration to iteration; the chains of all temperatures along one axis, from hot to cold.

    Attributes:
        kernel: positions and densities at their temperatures, step sizes (temperatures,), and a scale for each row.
        beta: (temperatures,), from 0 to 1.
        replica: (temperatures * chains,), at which temperature each began.
    """

    kernel: Kernel
    beta: Any
    replica: Any


class Learned(NamedTuple):
    """What is learned in warm-up, for each temperature."""

    step_size: StepSize
    draws: Moments
    gradients: Moments


@dataclass(frozen=True, kw_only=True)
class Tempering(Sampler):
    """Parallel tempering: chains from the prior to the posterior that swap places, for posteriors of several modes.

    At each iteration all chains take one Hamiltonian trajectory at their temperatures, then the even and the odd pairs
    of neighbours swap in turn, which carries replicas along (Okabe et al. 2001; Syed et al. 2022, algorithm 1). Warm-up
    sets the temperatures for equal rejection (Syed et al. 2022, section 5.2), and to each its step size and
    preconditioner. The draws are those of the cold chains.

    ``attrs`` hold the log evidence by stepping stones (Xie et al. 2011) with its standard error, the temperatures
    ``beta``, the ``swap_rates`` between neighbours, the number of ``round_trips`` of replicas from prior to posterior
    and back, and the ``barrier``, the sum of rejection rates: about 2 barrier + 1 temperatures are best.

    Attributes:
        num_warmup, num_samples: iterations, adapting and kept.
        num_chains: copies of the whole ladder, which share what is adapted and nothing else.
        thinning: every how many-th sample is kept.
        target_accept_prob: harmonic mean over chains that each temperature's step size is steered to.
        num_temperatures: from 0 to 1, both counted.
        preconditioner: "dense" or "diagonal", from the warm-up draws and their gradients; "identity" for none.
        max_steps: leapfrog steps of a trajectory at most.
    """

    name: ClassVar[str] = "tempering"
    needs: ClassVar[str] = "continuous latents with proper priors"

    num_temperatures: int = 12
    preconditioner: str = "dense"
    max_steps: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_temperatures", "max_steps")
        one_of(self, "preconditioner", tempered_moves.PRECONDITIONERS)
        if self.num_temperatures < 2:
            raise ValueError("num_temperatures must be at least 2: the prior and the posterior")
        if self.init is not None or self.start != "uniform":
            raise ValueError("tempering starts from draws of the prior: leave out init and start")

    def check(self, target: Target) -> None:
        require_prior(target, self.name)
        super().check(target)

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        state, possible = self._start(target, seed)
        state = self._warm_up(target, driver, seed, state)
        advance = self.advance(target, learns=False)

        def chunk(state: State, start: int, count: int) -> tuple[State, Any]:
            noise = self._noise(target, 2 * seed + 1, start, count)
            (state, _), report = advance((state, ()), noise, target.arrays)
            return state, report

        state, report, _ = driver.run(
            chunk, state, self.num_samples, label=self.name, chunk=_CHUNK, thinning=self.thinning, describe=_describe
        )
        beta = np.asarray(target.backend.to_numpy(state.beta))
        log_likelihood, rates, replica = (np.asarray(report[n]) for n in ("log_likelihood", "swap_rate", "replica"))
        log_evidence, error = stepping_stones(log_likelihood, beta)
        rates, trips = rates.mean(0), round_trips(replica)
        stats = {n: np.swapaxes(report[n], 0, 1) for n in ("lp", "acceptance_rate", "diverging")}
        return Outcome(
            positions=np.swapaxes(report["position"], 0, 1),
            stats=stats,
            attrs={
                "log_evidence": log_evidence + float(np.log(possible)),
                "log_evidence_se": error,
                "beta": beta.tolist(),
                "swap_rates": rates.tolist(),
                "round_trips": trips,
                "barrier": float((1.0 - rates).sum()),
            },
            warnings=_warnings(rates, trips),
        )

    def _start(self, target: Target, seed: int) -> tuple[State, float]:
        """All chains at draws of the prior that have a likelihood; and the share of draws that have."""
        backend, size = target.backend, self.num_temperatures * self.num_chains
        drawn = prior_draws(target, size + _EXTRA_DRAWS, seed)
        good = np.isfinite(tempered_moves.log_likelihoods(target, backend.asarray(drawn)))
        if not good.any():
            raise ProgramError(
                f"the likelihood of {target.program.name} is 0 or not a number at all of {len(drawn)} draws of the "
                "prior: check the data and priors"
            )
        beta = np.linspace(0.0, 1.0, self.num_temperatures) ** _START_POWER
        eyes = np.broadcast_to(np.eye(target.layout.dim), (self.num_temperatures, *np.eye(target.layout.dim).shape))
        scale = eyes if self.preconditioner == "dense" else eyes.sum(1, keepdims=True)
        state = State(None, None, backend.asarray(np.arange(size)))  # type: ignore[arg-type]
        steps = np.full(self.num_temperatures, _START_STEP)
        return self.at(target, state, np.resize(drawn[good], (size, drawn.shape[1])), beta, steps, scale), good.mean()

    def at(
        self, target: Target, state: State, position: Any, beta: np.ndarray, step_size: np.ndarray, scale: np.ndarray
    ) -> State:
        """The state of positions at temperatures with these kernels, a scale (temperatures, dim or 1, dim) to each."""
        asarray = target.backend.asarray
        rows = asarray(np.repeat(scale, self.num_chains, axis=0))
        start = asarray(position), asarray(np.repeat(beta, self.num_chains)), asarray(step_size), rows
        kernel, _ = tempered_moves.begun(target)(*start, target.arrays)
        return state._replace(kernel=kernel, beta=asarray(beta))

    def _noise(self, target: Target, stream: int, start: int, count: int) -> dict[str, Any]:
        pairs = self.num_temperatures - 1, self.num_chains
        spec = langevin.noise(self.num_temperatures * self.num_chains, target.layout.dim)
        drawn = target.backend.noise(stream, start, {**spec, "swap": ("uniform", pairs)}, count)
        asarray, number = target.backend.asarray, start + np.arange(count)
        return {**drawn, "jitter": asarray(trajectory.halton(start, count)), "parity": asarray(number % 2.0)}

    def advance(self, target: Target, learns: bool) -> Any:
        """Compiled ``((state, learned), noise, arrays) -> (both, report)``; learned is () where nothing ``learns``."""
        backend, xp = target.backend, target.backend.xp
        goal, most, shape = self.target_accept_prob, self.max_steps, (self.num_temperatures, self.num_chains)

        def begin(both: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            kernel, beta = both[0].kernel, _rows(xp, both[0].beta, shape)
            typical = xp.exp(xp.mean(xp.log(kernel.step_size)))  # all take as many steps
            path, count = ChEES.begin(xp, kernel._replace(step_size=typical), noise, most)
            now = kernel._replace(step_size=_rows(xp, kernel.step_size, shape)[:, None])
            return (path._replace(now=now), beta, both), count

        def repeat(carry: Any, arrays: Any) -> Any:
            return ChEES.leap(xp, target.tempered(arrays, carry[1]), carry[0]), carry[1], carry[2]

        def finish(carry: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            path, beta, (state, learned) = carry
            moved, info = ChEES.end(xp, path, noise)
            density = target.tempered(arrays, beta)
            likelihood = density.evaluate(moved.position)[2]
            order, rate = swap(xp, state.beta, likelihood.reshape(shape), noise["swap"], noise["parity"])
            position = xp.take(moved.position, order, axis=0)
            value, gradient, likelihood = density.evaluate(position)
            kernel = state.kernel._replace(position=position, log_density=value, gradient=gradient)
            state = State(kernel, state.beta, xp.take(state.replica, order, axis=0))
            accepted = info.acceptance_rate.reshape(shape)
            if learns:
                learned = _add(backend, learned, tempered_moves.harmonic(xp, accepted), goal, kernel, shape)
                state = state._replace(kernel=kernel._replace(step_size=xp.exp(learned.step_size.log_step)))
            report = {
                "position": position.reshape((*shape, -1))[-1],
                "lp": value.reshape(shape)[-1],
                "acceptance_rate": accepted[-1],
                "diverging": info.diverging.reshape(shape)[-1],
                "log_likelihood": likelihood.reshape(shape),
                "replica": state.replica.reshape(shape),
                "swap_rate": rate,
            }
            return (state, learned), report

        key = ("tempering", learns, goal, most, shape, self.preconditioner)
        calls = self.num_warmup if learns else self.num_samples
        return target.compiled(key, lambda: backend.scan_loops(begin, repeat, finish, calls=calls))

    # Warm-up --------------------------------------------------------------------------------------------------

    def _warm_up(self, target: Target, driver: Driver, seed: int, state: State) -> State:
        """In windows; each but the first and the last sets temperatures and preconditioners anew."""
        xp, done = target.backend.xp, 0
        learned, advance = self._untaught(target, _START_STEP), self.advance(target, learns=True)
        for window, learns in adaptation.windows(self.num_warmup):

            def chunk(both: Any, start: int, count: int, done: int = done) -> tuple[Any, Any]:
                return advance(both, self._noise(target, 2 * seed, done + start, count), target.arrays)

            both, report, _ = driver.run(
                chunk, (state, learned), window, label=f"{self.name} warm-up", chunk=_WARMUP_CHUNK, describe=_describe
            )
            (state, learned), done = both, done + window
            if learns:
                state = self._refitted(target, state, learned, report["swap_rate"].mean(0))
                learned = self._untaught(target, _WINDOW_STEP)
        if self.num_warmup:
            kernel = state.kernel._replace(step_size=xp.exp(learned.step_size.log_average))
            state = state._replace(kernel=kernel)
        return state

    def _untaught(self, target: Target, step_size: float) -> Learned:
        """Adaptation that has seen no draws."""
        xp, count = target.backend.xp, self.num_temperatures
        none = adaptation.start_moments(xp, target.layout.dim, self.preconditioner == "dense")
        none = Moments(*(xp.zeros((count, *x.shape)) for x in none))
        return Learned(adaptation.start_step_size(xp, step_size, (count,)), none, none)

    def _refitted(self, target: Target, state: State, learned: Learned, rates: np.ndarray) -> State:
        """New temperatures; to each the preconditioner of the old one that is next colder."""
        backend, old = target.backend, np.asarray(target.backend.to_numpy(state.beta))
        beta = equal_rejection(old, rates)
        colder = np.minimum(np.searchsorted(old, beta - 1e-12), len(old) - 1)
        if self.preconditioner == "identity":
            scale = np.ones((len(old), 1, target.layout.dim))
        else:
            draws, gradients = (backend.to_numpy(tuple(m)) for m in (learned.draws, learned.gradients))
            held = [[Moments(*(x[i] for x in m)) for m in (draws, gradients)] for i in range(len(old))]
            fitted = np.stack([preconditioning.from_moments(*both) for both in held])
            scale = fitted if fitted.ndim == 3 else fitted[:, None]
        steps = np.full(len(old), _WINDOW_STEP)
        return self.at(target, state, state.kernel.position, beta, steps, scale[colder])


def _rows(xp: Any, x: Any, shape: tuple[int, int]) -> Any:
    """A number for each temperature, repeated for its chains."""
    return (x[:, None] + xp.zeros(shape)).reshape((-1,))


def _add(backend: Backend, learned: Learned, rate: Any, goal: float, kernel: Kernel, shape: tuple[int, int]) -> Learned:
    """One iteration more, of acceptance rates (temperatures,)."""
    xp = backend.xp
    add = backend.vmap(lambda m, x: adaptation.add_draws(xp, m, x))
    return Learned(
        adaptation.adapt_step_size(xp, learned.step_size, rate, goal),
        add(learned.draws, kernel.position.reshape((*shape, -1))),
        add(learned.gradients, kernel.gradient.reshape((*shape, -1))),
    )


def swap(xp: Any, beta: Any, log_likelihood: Any, uniform: Any, parity: Any) -> tuple[Any, Any]:
    """Swaps of neighbours i, i + 1 with i even or odd, as ``parity`` is 0 or 1, for each chain by itself.

    Accepted with probability min(1, exp((beta_{i+1} - beta_i) (l_i - l_{i+1}))), l the log likelihoods.

    Args:
        beta: (temperatures,). log_likelihood: (temperatures, chains). uniform: (temperatures - 1, chains).

    Returns:
        for each row of temperatures * chains the row that comes there; the mean acceptance probability of every pair,
        those whose turn it is not included (temperatures - 1,).
    """
    count, chains = log_likelihood.shape
    log_ratio = (beta[1:] - beta[:-1])[:, None] * (log_likelihood[:-1] - log_likelihood[1:])
    log_ratio = xp.where(xp.isnan(log_ratio), -xp.inf, log_ratio)
    turn = xp.asarray(np.arange(count - 1) % 2.0) == parity
    accepted = xp.astype((xp.log(uniform) < log_ratio) & turn[:, None], xp.int64)
    none = xp.zeros_like(accepted[:1])
    here = xp.asarray(np.arange(count))[:, None]
    source = here + xp.concatenate([accepted, none]) - xp.concatenate([none, accepted])
    order = source * chains + xp.asarray(np.arange(chains))
    return order.reshape((-1,)), xp.mean(xp.exp(xp.minimum(log_ratio, 0.0)), axis=1)


def equal_rejection(beta: np.ndarray, swap_rates: np.ndarray) -> np.ndarray:
    """Temperatures between which rejections are equal, by linear interpolation of their sum along ``beta``."""
    rejected = np.maximum(1.0 - swap_rates, _LEAST_REJECTED)
    total = np.append(0.0, np.cumsum(rejected))
    found = np.interp(np.linspace(0.0, total[-1], len(beta)), total, beta)
    found[0], found[-1] = 0.0, 1.0
    return found


def stepping_stones(log_likelihood: np.ndarray, beta: np.ndarray) -> tuple[float, float]:
    """Log evidence and its standard error from log likelihoods (draw, temperature, chain).

    Xie et al. (2011), equation 9. The error is the larger of that from the spread between chains and that from the
    effective draws at each step.
    """
    log_weight = np.diff(beta)[:, None] * log_likelihood[:, :-1]
    size = len(log_weight)
    totals = logsumexp(log_weight, axis=0) - np.log(size)  # (temperatures - 1, chains)
    relative = np.exp(log_weight - totals)
    variance = relative.var(0)
    if size >= 4:
        each = np.moveaxis(relative, 2, 0)  # ArviZ's order: chain, draw, ...
        effective = np.stack([np.asarray(evaluation.ess(x[None], "mean")) for x in each], axis=1)
        variance = variance / np.where(np.isfinite(effective), effective, size)
    return combined(totals.sum(0), variance.sum(0))


def round_trips(replica: np.ndarray) -> int:
    """How often replicas (draw, temperature, chain) went from the hottest to the coldest temperature and back."""
    trips = 0
    for hot, cold in zip(replica[:, 0].T, replica[:, -1].T, strict=True):
        for who in np.intersect1d(hot, cold):
            ends = np.where(hot == who, 1, np.where(cold == who, -1, 0))
            ends = ends[ends != 0]
            ends = ends[np.append(True, ends[1:] != ends[:-1])]
            trips += max(int((ends == 1).sum()) - 1, 0)
    return trips


def _warnings(swap_rates: np.ndarray, trips: int) -> list[str]:
    if swap_rates.min() >= 0.1 and trips:
        return []
    return [
        f"the ladder hardly carries: smallest swap rate {swap_rates.min():.1%}, {trips} round trips from prior to "
        "posterior. Draws of several modes may have wrong weights: raise num_temperatures, num_warmup or num_samples"
    ]


def _describe(report: Mapping[str, np.ndarray]) -> str:
    return f"acceptance {report['acceptance_rate'].mean():.2f}, swaps {report['swap_rate'].mean():.2f}"
