"""A run: what was inferred, and everything that can be asked of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.checks import ProgramError
from ppl_gen.inference.engine import Engine, Outcome, resolve
from ppl_gen.options import count
from ppl_gen.program import Bound, Program
from ppl_gen.results import identity, latents, naming, predicting, storage
from ppl_gen.results.amortised import Amortised
from ppl_gen.results.asked import asked
from ppl_gen.results.densities import BLOCK_ROWS, Densities
from ppl_gen.results.diagnose import diagnose
from ppl_gen.results.energetic import Energetic
from ppl_gen.results.generating import Generating
from ppl_gen.results.guided import Guided
from ppl_gen.results.sampling import Sampling
from ppl_gen.target import Target


@dataclass(frozen=True)
class Setting:
    """Where a run took place."""

    backend: str
    precision: str
    device: str | None
    seed: int


@dataclass
class Run(Amortised, Densities, Energetic, Guided, Generating, Sampling):
    """The result of an engine, whichever engine made it.

    Attributes:
        posterior: name -> draws (chain, draw, ...); one draw where the result is a point.
        params: learned parameters, name -> array.
        history: loss, ELBO or log likelihood, name -> one number an iteration.
        warnings: what to be careful about, with the remedy.
        exact: False where the draws are of an approximation.
    """

    engine: str
    setting: Setting
    posterior: Mapping[str, np.ndarray]
    stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    params: dict[str, np.ndarray] = field(default_factory=dict)
    history: dict[str, np.ndarray] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    attrs: dict[str, Any] = field(default_factory=dict)
    exact: bool = True
    dims: dict[str, list[str | None]] = field(default_factory=dict)
    coords: dict[str, list[Any]] = field(default_factory=dict)
    observed: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    program: Program | None = None
    data: Any = None
    options: Engine | None = None
    saved: dict[str, Any] = field(default_factory=dict)  # of a loaded run: the model's options, and its sites

    @classmethod
    def of(
        cls, target: Target, setting: Setting, engine: Engine, outcome: Outcome, keep: Any = predicting.drawn
    ) -> Run:
        """The run of an engine's outcome, whose draws ``keep`` has made; inside the backend's scope."""
        posterior, stats, params = keep(target, outcome)
        names = [n for n in (*target.layout.names, *target.counts.names) if n in posterior]
        found = diagnose(posterior, stats, names) if "lp" in stats else []  # chains
        observed = {n: x for n in target.observed if (x := predicting.observed(target, n)) is not None}
        unobserved = {n: x for n, x in target.bound.host.items() if n not in target.observed}
        constants = {n: x for n, x in unobserved.items() if not isinstance(x, np.memmap)}  # files stay where they are
        return cls(
            engine.name,
            setting,
            posterior,
            stats=stats,
            params=params,
            history={n: np.asarray(x) for n, x in outcome.history.items()},
            warnings=outcome.warnings + found,
            attrs={"program": target.program.name, **outcome.attrs, **naming.subsampled(target)},
            exact=outcome.exact,
            dims=naming.dims(target),
            coords={k: list(v) for k, v in target.program.coords.items()},
            observed={**observed, **outcome.observed},
            constants=constants,
            program=target.program,
            data=target.bound.data,
            options=engine,
        )

    def __repr__(self) -> str:
        shape = next((x.shape[:2] for x in self.posterior.values()), (0, 0))
        doubts = f", {len(self.warnings)} warnings" if self.warnings else ""
        name = self.attrs.get("program", "?")
        return f"<run of {name}: {self.engine} on {self.setting.backend}, {shape[0]} x {shape[1]} draws{doubts}>"

    # ArviZ ----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def idata(self) -> Any:
        """What ArviZ reads: posterior, sample_stats, log_likelihood, observed_data, constant_data.

        log_likelihood is left out where draws times entries of the data are more than 20,000,000, and the attribute
        ``log_likelihood`` says so. Data in a file stay there: observed_data has those in memory only.
        """
        from ppl_gen.results.arviz import to_idata

        attrs = self.idata_attrs()
        if not self._has_log_likelihood() and self.program is not None:
            attrs.setdefault("log_likelihood", f"left out, {self._why_without()}: ask for run.log_likelihood")
        return to_idata(self._groups(), dims=self.dims, coords=self.coords, attrs=attrs)

    def _groups(self) -> dict[str, Mapping[str, np.ndarray]]:
        groups: dict[str, Mapping[str, np.ndarray]] = {"posterior": self.posterior, "sample_stats": self.stats}
        if self._has_log_likelihood():
            groups["log_likelihood"] = self.log_likelihood
        return {**groups, "observed_data": self.observed, "constant_data": self.constants}

    def idata_attrs(self) -> dict[str, Any]:
        """What the root of :attr:`idata` says of the run."""
        attrs = {"inference": self.engine, "inference_library": f"ppl_gen, {self.setting.backend}"}
        return {**attrs, "exact": self.exact, **asdict(self.setting), **self.attrs}

    # New data -------------------------------------------------------------------------------------------------

    def predict(self, data: Any = None, num_samples: int | None = None, seed: int = 0) -> Any:
        """Posterior predictive draws, as ArviZ reads them (group ``posterior_predictive``).

        Args:
            data: arguments of the program as in ``infer``; observations in them are not used. The fitted ones
                where None.
            num_samples: draws of the posterior to use, evenly spread; all of them where None.
        """
        from ppl_gen.results.arviz import to_idata

        if num_samples is not None:
            count("num_samples", num_samples)
        with self._scope():
            target = self._target(data)
            outputs = tuple(self.observed) or tuple(getattr(target.program.model, "outputs", ()))  # those of files
            drawn = predicting.predict(target, self.posterior, self.params, num_samples, seed, outputs)
        groups = {"posterior_predictive": drawn, "observed_data": self.observed if data is None else {}}
        coords = self.coords if data is None else {}
        return to_idata(groups, dims=naming.dims(target), coords=coords, attrs=self.idata_attrs())

    def latent(self, data: Any = None) -> dict[str, np.ndarray]:
        """Posterior of the latents of each datum: who belongs where, and what lies behind.

        Args:
            data: as in ``infer``; the fitted ones where None.

        Returns:
            of a discrete latent its probabilities (rows, values), of a continuous one its posterior mean, and under
            ``{name}_cov`` its covariance. Given several draws of the parameters, the posterior over all of them.
            After ``vbem`` with a guide, that of the guide. After ``vbem`` without one and ``mcem``, of new rows: exact
            where the latents can be integrated out, else by the E-step alone at the fitted params, a Gaussian q climbed
            to in ``vbem`` and new Langevin draws in ``mcem``.

        Raises:
            UnsupportedError: no latent of single data that can be summed or integrated out exactly.
        """
        if data is None and self._locals():
            return self._of_fitted_rows()
        parts = self._by_rows(self._of_rows, data)
        return latents.joined(parts)

    def most_likely(self, data: Any = None) -> dict[str, np.ndarray]:
        """The discrete latents of the data that are most probable together, at a point: of a chain its Viterbi path.

        Args:
            data: as in ``infer``; the fitted ones where None.

        Returns:
            name -> integers (*plates), of a chain (*plates, steps), continuous latents of each datum integrated out.

        Raises:
            UnsupportedError: no discrete latents, or a run that holds many draws of its parameters.
        """
        parts = self._by_rows(lambda t: latents.most_likely(t, self._without_locals(), self.params), data)
        return latents.joined(parts)

    def _of_fitted_rows(self) -> dict[str, np.ndarray]:
        """From the draws of their latents, which the run holds; with probabilities of discrete ones."""
        values = {n: x.reshape(-1, *x.shape[2:]) for n, x in self.posterior.items()}
        num_draws = len(next(iter(values.values())))
        masses = np.full(num_draws, 1.0 / num_draws)
        if self.program is None or self.data is None:
            return latents.of_points(None, self._locals(), values, masses)
        with self._scope():
            return latents.of_points(self._target(), self._locals(), values, masses)

    def _of_rows(self, target: Target) -> dict[str, np.ndarray]:
        point, engine = self._without_locals(), self.options or resolve(self.engine, {})
        if not self._locals():
            return latents.exactly(target, point, self.params)
        return latents.of_new_rows(target, self._locals(), point, self.params, engine, self.setting.seed)

    def _locals(self) -> list[str]:
        """Latents of single data that are drawn beside a point: they belong to the fitted rows."""
        return [n for n in self.attrs.get("local_latents", "").split(", ") if n]

    def _without_locals(self) -> Mapping[str, np.ndarray]:
        """The posterior, of a point with drawn latents the point alone."""
        if not self._locals():
            return self.posterior
        return {n: x[None, None] for n, x in self.params.items() if n in self.posterior}

    def _program(self) -> Program:
        if self.program is None:
            raise ValueError("a loaded run holds no code: pass the program, pg.load(path, program, data)")
        return self.program

    def _scope(self) -> Any:
        s = self.setting
        return backends.get(s.backend).scope(precision=s.precision, device=s.device, seed=s.seed)

    def _bind(self, data: Any, block_rows: int | None = None) -> Bound:
        program, data = self._program(), self.data if data is None else data
        if data is None and self.observed:
            raise ValueError("the run was loaded without its data: pass them, pg.load(path, program, data)")
        s = self.setting
        return program.bind(data, backends.get(s.backend), (s.precision, s.device), block_rows)

    def _target(self, data: Any = None) -> Target:
        return self._checked(self._bind(data))

    def _checked(self, bound: Bound) -> Target:
        target = asked(bound)
        identity.require_sites(target, self.saved.get("sites", ()))
        return target

    def _by_rows(self, f: Callable[[Target], Any], data: Any, block_rows: int = BLOCK_ROWS) -> list[Any]:
        """``f`` of the target at these data; for a model of rows, at blocks of them, which bounds the memory."""
        with self._scope():
            bound = self._bind(data, block_rows)
            try:
                if not bound.by_rows:
                    return [f(self._checked(bound))]
                return [f(self._target(block)) for block in bound.blocks()]
            except predicting.ShapeError as error:
                fitted = {**self.constants, **self.observed, **identity.arguments(bound.program, self.data)}
                raise ProgramError(identity.other_features(fitted, bound.host) or str(error)) from None

    # Keeping --------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write a folder: draws as netCDF, parameters as npz, the rest as JSON. See :func:`ppl_gen.load`.

        Options of a model of ``pg.models``, or of another dataclass, are kept by their values.
        """
        meta = {
            "engine": self.engine,
            "setting": asdict(self.setting),
            "warnings": self.warnings,
            "attrs": self.attrs,
            "exact": self.exact,
            "model": self.saved.get("model") or identity.options(self.program),
        }
        return storage.save_result(
            path,
            meta=meta,
            params=self.params,
            groups={k: v for k, v in self._groups().items() if v},
            history=self.history,
            dims=self.dims,
            coords=self.coords,
        )

    @classmethod
    def load(cls, path: str | Path, program: Program | None, data: Any) -> Run:
        """The run in a folder that :meth:`save` wrote.

        Raises:
            CorruptFileError: missing, truncated or altered files.
            ValueError: ``program`` is not the one that was saved: it has another name, or other options. One that
                lacks a site of the file is refused by what asks it for numbers.
        """
        held = storage.load_result(path)
        meta, groups = held["meta"], held["groups"]
        options = meta.get("model", {})
        if program is not None:
            identity.require_same(program, meta["attrs"].get("program"), options, path)
        run = cls(
            meta["engine"],
            Setting(**meta["setting"]),
            groups.get("posterior", {}),
            stats=groups.get("sample_stats", {}),
            params=held["params"],
            history=held["history"],
            warnings=list(meta["warnings"]),
            attrs=dict(meta["attrs"]),
            exact=meta["exact"],
            dims=held["dims"],
            coords=held["coords"],
            observed=groups.get("observed_data", {}),
            constants=groups.get("constant_data", {}),
            program=program,
            data=data,
            saved={"model": options, "sites": list(groups.get("posterior", {}))},
        )
        if "log_likelihood" in groups:
            run.__dict__["log_likelihood"] = groups["log_likelihood"]
        return run

    def report(self, path: str | Path) -> Path:
        """Write one HTML page with the summary, warnings and pictures."""
        from ppl_gen.results.pages import run_page

        return run_page(self, path)
