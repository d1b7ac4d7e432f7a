"""A diffusion as what it is: a deep latent-variable model whose guide, noise put on the datum, has nothing to learn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ppl_gen.diffusion.denoiser import Denoiser
from ppl_gen.diffusion.paths import Point
from ppl_gen.diffusion.samplers._bridge import posterior_variance
from ppl_gen.diffusion.samplers._grids import IN_RATIO, IN_TIME
from ppl_gen.options import count, one_of
from ppl_gen.primitives import dist, plate, sample, xp

_LOG_2PI = math.log(2.0 * math.pi)


class _Steps(NamedTuple):
    """Of x_s given x_t and datum and noise that x_t is made of: mean ``datum`` x + ``noise`` e, deviation ``scale``.

    Each (steps, 1, ...), to be multiplied with rows; ``alpha`` and ``sigma`` are those of t.
    """

    datum: Any
    noise: Any
    scale: Any
    alpha: Any
    sigma: Any


@dataclass(frozen=True)
class LatentChain:
    """p(z_T) prod p(z_s | z_t) p(x | z_1), and q(z_T | x) prod q(z_s | z_t, x) (Ho et al. 2020; Kingma et al. 2021).

    Sites: ``z`` (N, num_steps, *shape), noise first, and ``x`` (N, *shape). p(z_s | z_t) is q(z_s | z_t, x) where the
    datum x is what the network expects; p(x | z_1) is normal about that, of the deviation sigma / alpha of noise there.
    The bound of ``engine="svi"`` is the variational bound of the papers.

    Attributes:
        model: whose ``denoiser`` says what is expected, and which checks data.
        num_steps: times T, between ``path.inside`` of the path's two ends.
        grid: "log_snr", even in log(sigma / alpha); "uniform" in time (Ho et al. 2020); "quadratic"; "karras".
    """

    model: Any
    num_steps: int
    grid: str = "log_snr"

    outputs: ClassVar[tuple[str, ...]] = ("x",)
    em_rows: ClassVar[tuple[str, ...]] = ("x", "label", "context")

    def __post_init__(self) -> None:
        count("num_steps", self.num_steps)
        one_of("grid", self.grid, (*IN_TIME, *IN_RATIO))

    @property
    def copies(self) -> int:
        """Of each row, one for each time, that go through the network at once."""
        return self.num_steps

    def __call__(self, x: Any = None, label: Any = None, context: Any = None, num_data: int | None = None) -> None:
        """The program; ``x`` has shape (N, *shape)."""
        n = next((len(rows) for rows in (x, label, context) if rows is not None), num_data or 1)
        denoiser, network = self._denoiser, self._denoiser.network()
        field = lambda times: denoiser.field(network, *(_repeated(y, times) for y in (label, context)))
        with plate("data", n):
            z = sample("z", self._prior(field))
            first = Point(*(float(v[0]) for v in denoiser.path.at(np, self.times[-1:])))
            expected = field(1)(xp, "data", z[:, -1], float(self.times[-1]))
            sample("x", dist.Normal(expected, first.sigma / first.alpha).to_event(len(denoiser.shape)), obs=x)

    def guide(self, x: Any = None, label: Any = None, context: Any = None, num_data: int | None = None) -> None:
        """Noise that is put on the data, and taken off a little at a time."""
        with plate("data", len(x)):
            sample("z", self._noised(x))

    @property
    def times(self) -> np.ndarray:
        """(num_steps,), from noise to data."""
        path = self._denoiser.path
        low, high = (float(t) for t in path.inside(np.asarray([path.start, path.end])))
        return {**IN_TIME, **IN_RATIO}[self.grid](path, high, low, self.num_steps - 1)

    @property
    def _denoiser(self) -> Denoiser:
        return self.model.denoiser

    def _levels(self) -> tuple[Point, _Steps]:
        """The path at all times (num_steps, 1, ...), and the steps between them."""
        ones = (1,) * len(self._denoiser.shape)
        levels = Point(*(v.reshape((-1, *ones)) for v in self._denoiser.path.at(np, self.times)))
        at, to = Point(*(v[:-1] for v in levels)), Point(*(v[1:] for v in levels))
        variance = posterior_variance(np, at, to)
        kept = np.sqrt(np.maximum(to.sigma**2 - variance, 0.0))
        return levels, _Steps(to.alpha, kept, np.sqrt(variance), at.alpha, at.sigma)

    def _base(self) -> Any:
        shape = [self.num_steps, *self._denoiser.shape]
        return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))

    def _prior(self, field: Any) -> Any:
        """p(z): noise, then step by step towards what the network expects."""
        shape, times = self._denoiser.shape, self.times
        levels, steps = self._levels()
        start = float(levels.sigma.reshape(-1)[0])

        def log_prob(z: Any) -> Any:
            n, count, held = len(z), self.num_steps - 1, _like(z, steps)
            total = _log_normal(z[:, :1], 0.0, start)
            if not count:
                return total
            rows = lambda y: y.reshape((n * count, *shape))
            t = xp.tile(xp.astype(xp.asarray(times[:-1]), z.dtype), (n,))
            datum, noise = (y.reshape((n, count, *shape)) for y in field(count).both(xp, rows(z[:, :-1]), t))
            return total + _log_normal(z[:, 1:], held.datum * datum + held.noise * noise, held.scale)

        def generate(e: Any) -> Any:
            def step(at: Any, row: Any) -> tuple[Any, Any]:
                xi, t, of = row
                datum, noise = field(1).both(xp, at, t)
                moved = of.datum * datum + of.noise * noise + of.scale * xi
                return moved, moved

            at = xp.astype(xp.asarray(times[:-1]), e.dtype)
            return _walked(step, start * e[:, 0], e[:, 1:], at, _like(e, steps))

        return dist.FromFunctions(self._base(), generate, log_prob, (self.num_steps, *shape))

    def _noised(self, x: Any) -> Any:
        """q(z | x): all noise at once, then what is left of it at each time given the one before."""
        levels, steps = self._levels()
        alpha, sigma = (float(v.reshape(-1)[0]) for v in levels[:2])
        within = x[:, None]

        def log_prob(z: Any) -> Any:
            held = _like(z, steps)
            total = _log_normal(z[:, :1], alpha * within, sigma)
            noise = (z[:, :-1] - held.alpha * within) / held.sigma
            return total + _log_normal(z[:, 1:], held.datum * within + held.noise * noise, held.scale)

        def generate(e: Any) -> Any:
            def step(at: Any, row: Any) -> tuple[Any, Any]:
                xi, of = row
                moved = of.datum * x + of.noise * (at - of.alpha * x) / of.sigma + of.scale * xi
                return moved, moved

            return _walked(step, alpha * x + sigma * e[:, 0], e[:, 1:], _like(e, steps))

        return dist.FromFunctions(self._base(), generate, log_prob, (self.num_steps, *self._denoiser.shape))

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: what the model has against them."""
        self.model.check_data(data)

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n}


def _like(rows: Any, steps: _Steps) -> _Steps:
    """On the device, in the precision of rows."""
    return _Steps(*(xp.astype(xp.asarray(v), rows.dtype) for v in steps))


def _repeated(rows: Any, times: int) -> Any:
    """Each of the rows so often, one after the other."""
    if rows is None or times == 1:
        return rows
    return xp.repeat(rows, times, axis=0)


def _walked(step: Any, start: Any, noise: Any, *rows: Any) -> Any:
    """The start and what comes of each step, along axis 1, as the noise (N, steps, ...) is."""
    if not noise.shape[1]:
        return start[:, None]
    _, found = xp.scan(step, start, (xp.moveaxis(noise, 1, 0), *rows))
    return xp.concatenate([start[:, None], xp.moveaxis(found, 0, 1)], axis=1)


def _log_normal(x: Any, loc: Any, scale: Any) -> Any:
    """Of rows x (N, ...), summed over all that follows."""
    z = (x - loc) / scale
    each = -0.5 * z * z - xp.log(scale + 0.0 * z) - 0.5 * _LOG_2PI
    return xp.sum(each.reshape((len(x), -1)), axis=-1)
