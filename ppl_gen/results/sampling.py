"""New data from what a run has fitted: by its program, or along a path from noise."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.capabilities import Denoises, EnergyBased
from ppl_gen.intake import DataError
from ppl_gen.options import count
from ppl_gen.program import as_program
from ppl_gen.results import predicting

if TYPE_CHECKING:
    from ppl_gen.diffusion.guidance import LogProb
    from ppl_gen.diffusion.samplers import Sampler


class Sampling:
    """A part of :class:`~ppl_gen.results.run.Run`."""

    params: dict[str, np.ndarray]
    attrs: dict[str, Any]
    posterior: Any
    setting: Any
    _scope: Callable[[], Any]
    _target: Callable[..., Any]
    energy_draws: Callable[..., np.ndarray]
    _program: Callable[[], Any]

    def sample(self, n: int = 1, seed: int = 0, **how: Any) -> Any:
        """``n`` new data from the fitted model.

        A model of rows (one that brings ``row_data``) gives n rows; any other program n data sets like the one
        it was fitted to, each from its own draw of the posterior.

        Args:
            how: of models along a path from noise, see :meth:`denoise`; of those known by an energy, see
                :meth:`energy_draws`.

        Returns:
            an array (n, ...), or a dict of them where several sites are observed.
        """
        count("n", n)
        model = self._program().model
        if isinstance(model, Denoises):
            return self.denoise(n, seed, **how)
        if isinstance(model, EnergyBased):
            return self.energy_draws(n, seed, **how)
        if how:
            raise TypeError(f"sample of {self._program().name} takes n and seed alone, got {', '.join(how)}")
        with self._scope():
            rows = getattr(model, "row_data", None)
            if rows is not None:
                return predicting.sample_rows(self._target, rows, self.posterior, self.params, int(n), seed)
            return predicting.sample(self._target(), self.posterior, self.params, int(n), seed)

    def denoise(
        self, n: int = 1, seed: int = 0, sampler: Sampler | None = None, label: Any = None, context: Any = None,
        guidance: float | None = None, classifier: LogProb | None = None, observed: Any = None,
        noise: Any = None, trajectory: bool = False, progress: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """``n`` rows, drawn along the path from noise to data.

        Args:
            sampler: of ``pg.diffusion.samplers``; the model's own where None.
            label: one class for all rows, or (n,). context: (num_context,) or (n, num_context).
            guidance: weight w of the label, (1 + w) with it less w without it; of the classifier where there is one.
            classifier: log p(y | x_t, t), ``(x (rows, *shape), t (rows,)) -> (rows,)`` of array functions of
                ``ppl_gen.xp``, whose gradient is added to the score.
            observed: (*shape) or (n, *shape), NaN in entries that are free; see ``ppl_gen.diffusion.guidance``.
            noise: (n, *shape), what rows are drawn from; standard normal where None.
            trajectory: where rows were after each step, too.

        Returns:
            (n, *shape); with ``trajectory`` (num_steps, n, *shape), data last.
        """
        model, denoised = self._denoises("denoise")
        count("n", n)
        given = denoised.conditions(self, model, label, context, n)
        return denoised.draw(
            self, model, n, seed, sampler, given, guidance=guidance, classifier=classifier, observed=observed,
            noise=noise, trajectory=trajectory, progress=progress,
        )  # fmt: skip

    def pairs(self, n: int, seed: int = 0, noise: Any = None, **how: Any) -> dict[str, np.ndarray]:
        """``n`` rows of noise and what the model makes of them, as data for ``engine="flow_matching"``.

        Of a deterministic sampler, a model that is trained on its own pairs has straighter paths, of less energy, and
        needs fewer steps (rectified flow, Liu, Gong & Liu 2023, "reflow").

        Args:
            noise: (n, *shape), standard normal where None. how: as of :meth:`denoise`.

        Returns:
            ``x`` and ``noise``, (n, *shape), and ``label`` or ``context`` where they were given.
        """
        if how.get("trajectory"):
            raise TypeError("pairs are of noise and data: the rows between, trajectory=True, are of denoise")
        model, denoised = self._denoises("pairs")
        count("n", n)
        if noise is None and denoised.source(model) == "gaussian":
            noise = np.random.default_rng([seed, 3]).standard_normal((n, *model.shape))
        given = denoised.conditions(self, model, how.get("label"), how.get("context"), n)
        return {"x": self.denoise(n, seed, noise=noise, **how), "noise": np.asarray(noise), **given}

    def latent_variable(self, num_steps: int = 100, grid: str = "log_snr") -> Any:
        """The run of the same weights in the model's latent-variable program, see its ``latent_variable``.

        Its ``log_weights(x, num_draws)`` are log p(x, z) - log q(z | x), whose mean over draws is the variational bound
        of each datum (Ho et al. 2020, equation 5; Kingma et al. 2021, equation 11): ``evaluation.bits_per_dim`` of it
        is what papers report. Its ``log_prob`` is the importance-weighted bound.
        """
        model, _ = self._denoises("latent_variable")
        chain = model.latent_variable(num_steps, grid)
        attrs = {**self.attrs, "guided": True, "elbo": "trace", "program": type(chain).__name__}
        return replace(self, program=as_program(chain), attrs=attrs)  # type: ignore[type-var]

    def flow_log_prob(
        self, x: Any, label: Any = None, context: Any = None, num_steps: int = 50, trace: str = "exact",
        num_probes: int = 10, seed: int = 0, progress: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """log p of rows by the probability-flow equation, and the standard errors of these numbers, both (rows,).

        What density this is, :mod:`ppl_gen.diffusion.probability_flow` says.

        Args:
            x: (rows, *shape). label, context: as of :meth:`denoise`.
            num_steps: of Runge-Kutta. trace: "exact", at a derivative for each entry of a row, its standard errors 0;
                or "hutchinson", by ``num_probes`` random directions for each row.
        """
        model, denoised = self._denoises("flow_log_prob")
        data = np.asarray(x)
        n = len(data) if data.ndim else 0
        if not data.size or not np.isfinite(data.astype(float)).all():
            raise DataError(f"flow_log_prob takes finite rows (rows, *shape), at least one; got shape {data.shape}")
        given = denoised.conditions(self, model, label, context, n)
        model.check_data({"x": data, **given})
        how = denoised.Flow(num_steps, trace, num_probes)
        _, values, errors = denoised.flow(self, model, data.astype(float), n, given, how, seed, progress)
        return values, errors

    def flow_sample(
        self, n: int = 1, seed: int = 0, label: Any = None, context: Any = None, num_steps: int = 50,
        trace: str = "exact", num_probes: int = 10, progress: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Rows (n, *shape), their log p (n,) and the standard errors of these, of one solution of the equation.

        Args: as of :meth:`flow_log_prob`.
        """
        model, denoised = self._denoises("flow_sample")
        count("n", n)
        given = denoised.conditions(self, model, label, context, n)
        how = denoised.Flow(num_steps, trace, num_probes)
        return denoised.flow(self, model, None, n, given, how, seed, progress)

    def _denoises(self, what: str) -> tuple[Any, Any]:
        """The model, and the module that draws from it: no other run waits for that to be loaded."""
        model = self._program().model
        if not isinstance(model, Denoises):
            raise UnsupportedError(
                f"{what} is of models along a path from data to noise, such as pg.models.Diffusion; "
                f"{self._program().name} is none"
            )
        return model, importlib.import_module("ppl_gen.results.denoised")
