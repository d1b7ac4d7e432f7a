"""What samplers by minibatches share: gradients estimated from some rows of a plate, and how far to step with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.checks import ProgramError
from ppl_gen.inference import low_rank, pathfinder
from ppl_gen.inference.chains import Chains, stream
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome, between, positive
from ppl_gen.inference.ladder import Begun
from ppl_gen.inference.laplace import at_modes
from ppl_gen.inference.plates import row_arguments
from ppl_gen.inference.starts import evaluator, search
from ppl_gen.target import Target

_POINTS = 64  # at which the noise of the gradient is measured
_CLIMB, _HISTORY = 300, 6  # of the climb to the mode
_MOST_HESSIAN = 200  # dimensions of which the Hessian is taken; the climb's own estimate does for more
_ROW, _MODE = "row of ", "at the mode "  # before the names of a batch's arguments, and of what is known at the mode


class Batches(Target):
    """A target seen through some rows at a time; ``arrays`` hold what is known at the mode beside fixed arguments.

    Attributes:
        whole: the target of all rows; ``rows`` its arguments that hold them.
        mode: (dim,), and ``scale``, standard deviations or a Cholesky factor, of the Gaussian there.
    """

    whole: Target
    rows: tuple[str, ...]
    mode: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, whole: Target, part: Target, rows: tuple[str, ...], mode: np.ndarray, scale: np.ndarray) -> Batches:
        """Around a mode, where the full density and its gradient are taken once."""
        made = cls.__new__(cls)
        made.__dict__.update(part.__dict__)
        asarray, count = part.backend.asarray, [len(t.bound.host[rows[0]]) for t in (whole, part)]
        value, gradient = evaluator(whole, 1)(mode[None])
        known = {"position": mode, "value": value[0], "gradient": gradient[0], "times": count[0] / count[1]}
        fixed = {n: x for n, x in part.arrays.items() if n not in rows}
        made.arrays = {**fixed, **{_MODE + n: asarray(np.asarray(x)) for n, x in known.items()}}
        made.whole, made.rows, made.mode, made.scale = whole, rows, mode, scale
        return made

    def drawn(self, seed: int, start: int, shape: tuple[int, int]) -> dict[str, Any]:
        """Rows, with replacement, of (steps, chains) batches; steps are numbered from ``start``."""
        host, size = self.whole.bound.host, len(self.bound.host[self.rows[0]])
        count = len(host[self.rows[0]])
        draws = (np.random.default_rng([seed, start + i]) for i in range(shape[0]))
        picked = np.stack([rng.integers(count, size=(shape[1], size)) for rng in draws])
        return {_ROW + n: self.bound.on_device(n, host[n][picked]) for n in self.rows}


@dataclass(frozen=True)
class _Estimate:
    """log p(u) and its gradient from a batch for each chain: the prior's, and the batch's likelihood times N / B.

    With control variates its difference from that at the mode is added to the full one there (Baker, Fearnhead, Fox &
    Nemeth 2019, equation 3), so that the noise vanishes near it.
    """

    target: Target
    arrays: Mapping[str, Any]
    rows: dict[str, Any]
    corrected: bool

    @property
    def dim(self) -> int:
        return self.target.layout.dim

    def log_density_and_grad(self, position: Any) -> tuple[Any, Any]:
        target, at = self.target, {n: self.arrays[_MODE + n] for n in ("position", "value", "gradient", "times")}

        def estimate(u: Any, rows: Any) -> Any:
            prior, likelihood = target.log_parts(u, {**self.arrays, **rows})
            return prior + at["times"] * likelihood

        batched = target.backend.vmap(target.backend.value_and_grad(estimate), in_axes=(0, 0))
        value, gradient = batched(position, self.rows)
        if not self.corrected:
            return value, gradient
        there, slope = batched(at["position"] + 0.0 * position, self.rows)
        return value - there + at["value"], gradient - slope + at["gradient"]


@dataclass(frozen=True, kw_only=True)
class MinibatchChains(Chains):
    """A sampler whose gradients come from a few rows of the program's plate, scaled up.

    Chains start around a mode, found with all rows, and move in coordinates in which the Gaussian there is round. The
    noise of gradients is measured there, and the step size is the one for which theory expects variances of a Gaussian
    to be too large by ``bias``; ``run.attrs["variance_bias"]`` is what it expects.
    """

    exact: ClassVar[bool] = False
    needs: ClassVar[str] = "one plate of rows that holds all observations, and no latents of single rows"
    unbiased: ClassVar[str] = "engine='chees'"

    num_warmup: int = 500
    batch_size: int = 256
    control_variates: bool = True
    bias: float = 0.02
    # No options: chains start around a mode, in its coordinates, and the bias sets the step size.
    start: str = field(init=False, repr=False, default="uniform")
    preconditioner: str = field(init=False, repr=False, default="identity")
    target_accept_prob: float = field(init=False, repr=False, default=0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "batch_size")
        between(self, 0, 1, "bias")

    def check(self, target: Target) -> None:
        super().check(target)
        rows = row_arguments(target, self.name, "takes a few rows at a time")
        if Target(target.bound.part(rows, slice(0, 1))).layout.dim != target.layout.dim:
            raise UnsupportedError(
                f"{self.name} keeps all latents while it sees some rows, and {target.program.name} has latents of "
                "single rows: use engine='chees', or 'svi' with a subsampled plate"
            )

    def _part(self, target: Target, rows: tuple[str, ...]) -> Target:
        return Target(target.bound.part(rows, slice(0, self.batch_size)))

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        rows = row_arguments(target, self.name, "takes a few rows at a time")
        batches = Batches.of(target, self._part(target, rows), rows, *self._found(target, driver, seed))
        noise = self._gradient_noise(batches, seed)
        step_size = self.step_size or self.step_for(self.bias, noise)
        outcome = super(MinibatchChains, replace(self, step_size=step_size)).run(batches, driver, seed)
        found = {"variance_bias": self.bias_of(step_size, noise), "gradient_noise": noise}
        biased = (
            f"{self.name} takes every step, with gradients that are estimates: of a Gaussian posterior its variances "
            f"would be {found['variance_bias']:.1%} too large. Lower bias=, or use {self.unbiased} for draws without it"
        )
        return replace(outcome, attrs={**outcome.attrs, **found}, warnings=[biased, *outcome.warnings])

    # Theory, for a Gaussian -----------------------------------------------------------------------------------

    @staticmethod
    def bias_of(step_size: float, noise: float) -> float:
        """By what share variances are too large, with gradients of this noise variance in standard deviations."""
        raise TypeError("a sampler by minibatches defines bias_of and step_for")

    @staticmethod
    def step_for(bias: float, noise: float) -> float:
        """The step size at which they are so much too large."""
        raise TypeError("a sampler by minibatches defines bias_of and step_for")

    # What of Chains is different ------------------------------------------------------------------------------

    def key(self) -> tuple[Any, ...]:
        return (self.control_variates,)

    def density(self, target: Target, arrays: Mapping[str, Any], noise: Mapping[str, Any]) -> _Estimate:
        """Of the batches that come with the noise of a step."""
        rows = {n.removeprefix(_ROW): x for n, x in noise.items() if n.startswith(_ROW)}
        return _Estimate(target, arrays, rows, self.control_variates)

    def noise(self, target: Target, seed: int, start: int, count: int, phase: str) -> dict[str, Any]:
        """With the rows of each step."""
        assert isinstance(target, Batches)
        drawn = super().noise(target, seed, start, count, phase)
        return {**drawn, **target.drawn(stream(seed, phase), start, (count, self.num_chains))}

    def starting(self, target: Target, driver: Driver, seed: int) -> Begun:
        """Draws of the Gaussian at the mode."""
        assert isinstance(target, Batches)
        xi = np.random.default_rng([seed, 1]).standard_normal((self.num_chains, target.layout.dim))
        return Begun(target.mode + _scaled(target.scale, xi))

    def init_state(self, target: Target, position: Any) -> Any:
        assert isinstance(target, Batches)
        xp = target.backend.xp

        def build(position: Any, scale: Any, noise: Any, arrays: Any) -> Any:
            return self.make_state(xp, self.density(target, arrays, noise), position, scale)

        rows = target.drawn(0, 0, (1, self.num_chains))
        rows = {n: x[0] for n, x in rows.items()}
        made = target.compiled((self.name, "init", self.step_size, *self.key()), lambda: target.backend.compile(build))
        return made(position, target.backend.asarray(target.scale), rows, target.arrays)

    def extra(self, target: Target) -> Any:
        assert isinstance(target, Batches)
        return target.mode, target.scale

    def received(self, target: Target, extra: Any) -> Target:
        """The batches around the mode that was found."""
        if isinstance(target, Batches):
            return target
        rows = row_arguments(target, self.name, "takes a few rows at a time")
        return Batches.of(target, self._part(target, rows), rows, *extra)

    def doubts(self, target: Target, state: Any, stats: Mapping[str, np.ndarray]) -> list[str]:
        """None of the kernel's own: ``run`` says what theory expects."""
        return []

    # The mode -------------------------------------------------------------------------------------------------

    def _found(self, target: Target, driver: Driver, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The mode and scale, which a run that goes on does not look for again."""
        backend, dim = target.backend, target.layout.dim
        like = backend.asarray(np.zeros(dim)), backend.asarray(np.zeros((dim, dim) if dim <= _MOST_HESSIAN else dim))

        def make(driver: Driver) -> Any:
            return tuple(map(backend.asarray, self._mode(target, driver, seed)))

        mode, scale = backend.to_numpy(driver.once(f"{self.name} mode", make, like))
        return np.asarray(mode), np.asarray(scale)

    def _mode(self, target: Target, driver: Driver, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """A mode (dim,) and the scale of the Gaussian there, from all rows.

        Raises:
            ProgramError: the log density is flat there, or curves upwards.
        """
        evaluate, dim = evaluator(target, 1), target.layout.dim
        position, _ = search(target, 1, seed, self.init, evaluate=evaluate)
        state, _, _ = pathfinder.climb(
            driver, evaluate, position, np.zeros((1, 0, dim)), history_size=_HISTORY, max_steps=_CLIMB
        )
        small = dim <= _MOST_HESSIAN
        args = state.position, state.gradient
        held = at_modes(target, *args) if small else low_rank.gaussians(state.pairs, *args)
        if not held.exist()[0]:
            raise ProgramError(
                f"{self.name} starts around a mode, and where its climb ended the log density of {target.program.name} "
                "is flat or curves upwards: pass init near a mode, or use engine='chees'"
            )
        return held.mean[0], np.linalg.cholesky(held.covariances()[0]) if small else np.sqrt(held.variances()[0])

    def _gradient_noise(self, batches: Batches, seed: int) -> float:
        """Variance of the estimated gradient in coordinates of standard deviations, mean over them."""
        backend, dim = batches.backend, batches.layout.dim
        xi = np.random.default_rng([seed, 2]).standard_normal((_POINTS, dim))
        at = backend.asarray(batches.mode + _scaled(batches.scale, xi))

        def gradient(x: Any, rows: Any, arrays: Any) -> Any:
            return self.density(batches, arrays, rows).log_density_and_grad(x)[1]

        evaluate = batches.compiled((self.name, "noise", *self.key()), lambda: backend.compile(gradient))
        rows = batches.drawn(seed, 2**40, (2, _POINTS))
        one, other = (
            np.asarray(backend.to_numpy(evaluate(at, {n: x[i] for n, x in rows.items()}, batches.arrays)))
            for i in range(2)
        )
        off = one - other
        whitened = off @ batches.scale if batches.scale.ndim == 2 else off * batches.scale
        return float(0.5 * (whitened**2).mean())


def _scaled(scale: np.ndarray, xi: np.ndarray) -> np.ndarray:
    return xi @ scale.T if scale.ndim == 2 else xi * scale
