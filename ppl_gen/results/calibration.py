"""What simulation-based calibration found."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen import evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG_LIKELIHOOD = "log_likelihood"  # the quantity beside the latents
_UNMIXED = 1.1
_ENOUGH = 0.75  # of the effective size that is asked for: estimates of it are noisy


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of true values among posterior draws, over replicates.

    Attributes:
        ranks: quantity -> (replicate, ...), whole numbers from 0 to num_draws; replicates that failed are left out.
        prior, simulated: site -> (replicate, ...), what was drawn; failed replicates left out too.
        failures: number of a replicate -> the error that ended it.
        diagnostics: "ess" (smallest bulk effective size), "r_hat" (largest), "diverging" (how many) -> (replicate,).
        prob: probability of the bands.
        warnings: what the ranks cannot be trusted for.
    """

    engine: str
    program: str
    ranks: dict[str, np.ndarray]
    prior: dict[str, np.ndarray]
    simulated: dict[str, np.ndarray]
    num_draws: int
    prob: float = 0.95
    failures: dict[int, str] = field(default_factory=dict)
    diagnostics: dict[str, np.ndarray] = field(default_factory=dict)
    dims: dict[str, list[str | None]] = field(default_factory=dict)
    coords: dict[str, list[Any]] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, held: Sequence[Any], *, prior: Mapping[str, np.ndarray], simulated: Mapping[str, np.ndarray],
           **others: Any) -> Calibration:
        """From what each replicate gave: (ranks, diagnostics), or an exception."""
        failed = {i: f"{type(x).__name__}: {x}" for i, x in enumerate(held) if isinstance(x, Exception)}
        good = [i for i in range(len(held)) if i not in failed]
        ranks, found = zip(*(held[i] for i in good), strict=True)
        result = cls(
            ranks={n: np.stack([r[n] for r in ranks]) for n in ranks[0]},
            prior={n: x[good] for n, x in prior.items()},
            simulated={n: x[good] for n, x in simulated.items()},
            failures=failed,
            diagnostics={n: np.array([d[n] for d in found]) for n in found[0]},
            **others,
        )
        for message in result.warnings:
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        return result

    @property
    def num_replicates(self) -> int:
        """How many replicates have ranks."""
        return len(next(iter(self.ranks.values())))

    @functools.cached_property
    def p_values(self) -> dict[str, np.ndarray]:
        """quantity -> (...), of the test for uniformity that goes with the bands (:func:`evaluation.uniformity`)."""
        return {n: evaluation.uniformity(r, self.num_draws) for n, r in self.ranks.items()}

    @property
    def uniform(self) -> dict[str, np.ndarray]:
        """quantity -> (...), whether its ranks stay inside of the bands of probability ``prob``, each by itself."""
        return {n: p >= 1 - self.prob for n, p in self.p_values.items()}

    @property
    def calibrated(self) -> bool:
        """Whether all quantities together pass: the smallest p-value, times their number, is not below 1 - prob."""
        return self._smallest()[1] >= 1 - self.prob

    def _smallest(self) -> tuple[str, float]:
        """The worst quantity, and its p-value after Bonferroni's correction for their number."""
        flat = [(p, _label(n, i)) for n, ps in self.p_values.items() for i, p in np.ndenumerate(ps)]
        p, label = min(flat)
        return label, min(1.0, float(p) * len(flat))

    @property
    def warnings(self) -> list[str]:
        """Replicates that failed, or whose draws are no fair sample of what the engine would give."""
        found, total = [], self.num_replicates + len(self.failures)
        if self.failures:
            first, error = next(iter(self.failures.items()))
            found.append(
                f"{len(self.failures)} of {total} replicates failed and have no ranks, which biases the rest where it "
                f"depends on the data; the first, {first}: {error}"
            )
        ess, r_hat = (self.diagnostics.get(n, np.zeros(0)) for n in ("ess", "r_hat"))
        few = int((ess < _ENOUGH * self.num_draws).sum())
        if few > 0.05 * self.num_replicates:
            found.append(
                f"in {few} of {self.num_replicates} replicates the smallest effective sample size is below "
                f"{_ENOUGH:.0%} of the {self.num_draws} draws that ranks are among (median {np.nanmedian(ess):.0f}): "
                "their dependence alone makes ranks uneven. Raise num_samples, or lower num_draws"
            )
        unmixed = int((r_hat > _UNMIXED).sum())
        if unmixed:
            found.append(
                f"in {unmixed} of {self.num_replicates} replicates chains had not mixed (R-hat above {_UNMIXED}): "
                "raise num_warmup"
            )
        return found

    def __repr__(self) -> str:
        count = sum(p.size for p in self.p_values.values())
        label, p = self._smallest()
        verdict = "calibrated" if self.calibrated else "NOT calibrated"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        diverged = int((self.diagnostics.get("diverging", np.zeros(1)) > 0).sum())
        doubts = f"; {diverged} replicates with divergences" if diverged else ""
        return (
            f"<calibration of {self.engine} on {self.program}: {verdict} at {self.prob:.0%}; {self.num_replicates} "
            f"replicates{failed}, {self.num_draws} draws, {count} quantities; smallest p {p:.2g} ({label}), corrected "
            f"for their number{doubts}>"
        )

    @functools.cached_property
    def idata(self) -> Any:
        """What ArviZ reads, one chain whose draws are the replicates.

        Groups ``prior`` (the true values), ``prior_predictive`` (the data), ``prior_sbc`` (ranks as shares of the
        draws, between 0 and 1) and ``sample_stats_prior`` (the diagnostics).
        """
        from ppl_gen.results.arviz import to_idata

        shares = {n: (r + 0.5) / (self.num_draws + 1) for n, r in self.ranks.items()}
        groups = {
            "prior": self.prior,
            "prior_predictive": self.simulated,
            "prior_sbc": shares,
            "sample_stats_prior": self.diagnostics,
        }
        attrs = {"program": self.program, "inference": self.engine, "num_draws": self.num_draws, **self.attrs}
        chains = {group: {n: x[None] for n, x in arrays.items()} for group, arrays in groups.items()}
        return to_idata(chains, dims=self.dims, coords=self.coords, attrs=attrs)

    def plot(self, prob: float | None = None) -> Figure:
        """Difference between the empirical distribution of the ranks and the uniform one, with simultaneous bands.

        Above zero on the left and below on the right: the truth lies too often in the tails, the posterior is too
        narrow; the other way round it is too wide. Above throughout: the draws are too high.
        """
        from ppl_gen.results.calibration_figures import ecdf_figure

        return ecdf_figure(self.ranks, self.num_draws, self.prob if prob is None else prob, self.p_values)


def _label(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name
