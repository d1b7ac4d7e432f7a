"""The demo: two programs on real data, by every engine that fits, on both backends; one page of pictures."""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen import demo_answers, demo_page
from ppl_gen.infer import infer
from ppl_gen.models import GaussianMixture
from ppl_gen.primitives import deterministic, dist, plate, sample
from ppl_gen.program import Program, program
from ppl_gen.reading import FileError, read_columns
from ppl_gen.results.run import Run

SCHOOLS = ("Choate", "Deerfield", "Phillips Andover", "Phillips Exeter", "Hotchkiss", "Lawrenceville", "St. Paul's",
           "Mt. Hermon")  # fmt: skip
EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # Rubin (1981), table 1
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

NUM_COMPONENTS = 3
COVARIANCE = "diag"  # with full ones the petals have two modes, and short chains do not agree on them
BACKENDS = {"numpyro": "NumPyro", "pyro": "Pyro"}
ENGINES = {"em": "EM", "svi": "SVI", "mala": "MALA", "nuts": "NUTS"}


@program(coords={"school": SCHOOLS})
def eight_schools(sigma: Any, y: Any = None) -> None:
    """Treatment effects in eight schools, non-centred (Rubin 1981; Gelman et al., Bayesian Data Analysis)."""
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(sigma)):
        z = sample("z", dist.Normal(0.0, 1.0))
        theta = deterministic("theta", mu + tau * z)
        sample("y", dist.Normal(theta, sigma), obs=y)


@dataclass(frozen=True)
class Data:
    """What the mixture is fitted to."""

    name: str
    x: np.ndarray
    columns: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def shown(self) -> list[int]:
        """The columns that the pictures show: the first two, or the only one."""
        return list(range(min(2, self.x.shape[1])))


def iris() -> Data:
    """Petals of Fisher's irises, from scikit-learn.

    Raises:
        FileError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_iris
    except ImportError:
        raise FileError(
            "the demo's data come with scikit-learn, which is not installed: pip install 'ppl_gen[demo]', or pass "
            "--data FILE.csv"
        ) from None
    return Data("Fisher's irises", load_iris().data[:, 2:], ["petal length (cm)", "petal width (cm)"])


def from_csv(path: str | Path) -> Data:
    """The numeric columns of a CSV file."""
    columns, notes = read_columns(path)
    x = np.stack(list(columns.values()), axis=1)
    if len(x) < 5 * NUM_COMPONENTS:
        raise FileError(f"{path} has {len(x)} complete rows: the demo's mixture needs at least {5 * NUM_COMPONENTS}")
    return Data(Path(path).name, x, list(columns), notes)


# Fitting ----------------------------------------------------------------------------------------------------------


def _mixture_options(quick: bool) -> dict[str, dict[str, Any]]:
    if quick:
        return {"em": {"num_restarts": 2}, "svi": {"num_steps": 200, "num_samples": 200}}
    return {
        "em": {},
        "svi": {"num_steps": 1000, "learning_rate": 0.03},
        "mala": {"num_samples": 8000, "thinning": 8},
        "nuts": {"num_warmup": 300, "num_samples": 500},
    }


#: On Pyro a step of the mixture is the dearest, and chains of NUTS take turns: fewer steps and chains.
_SHORTER: dict[tuple[str, str], dict[str, Any]] = {
    ("svi", "pyro"): {"num_steps": 800, "learning_rate": 0.03, "num_samples": 400},
    ("mala", "pyro"): {"num_warmup": 500, "num_samples": 2000, "thinning": 2},
    ("nuts", "pyro"): {"num_warmup": 150, "num_samples": 200, "num_chains": 2},
}


def _schools_options(quick: bool) -> dict[str, dict[str, Any]]:
    if quick:
        return {
            "svi": {"num_steps": 300, "num_samples": 200},
            "mala": {"num_warmup": 200, "num_samples": 400, "thinning": 2},
            "nuts": {"num_warmup": 100, "num_samples": 100, "num_chains": 2},
        }
    return {
        "svi": {"num_steps": 2000},
        "mala": {"num_samples": 10_000, "thinning": 10},
        "nuts": {"num_warmup": 500, "num_samples": 500, "target_accept_prob": 0.9},
    }


@dataclass
class Fits:
    """All runs of one program, label -> run, as they come."""

    title: str
    program: Program
    data: Any
    options: dict[str, dict[str, Any]]
    shorter: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)

    def jobs(self) -> Iterator[tuple[str, str]]:
        """(engine, backend)."""
        for engine in self.options:
            for backend in BACKENDS:
                yield engine, backend

    def fit(self, engine: str, backend: str, seed: int, say: Any) -> Run:
        """One run, announced before and described after."""
        options = {**self.options[engine], **self.shorter.get((engine, backend), {})}
        asked = ", ".join(f"{name}={value}" for name, value in options.items())
        label = f"{ENGINES[engine]}, {BACKENDS[backend]}"
        say(f"{self.title}: {label}" + (f" ({asked})" if asked else ""))
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = infer(self.program, self.data, engine=engine, backend=backend, seed=seed,
                        progress=sys.stderr.isatty(), **options)  # fmt: skip
        say(f"    {time.perf_counter() - began:.1f} s; {_outcome(run)}", counted=False)
        self.runs[label] = run
        return run


def _outcome(run: Run) -> str:
    doubts = f"; {len(run.warnings)} warning{'s' * (len(run.warnings) > 1)}" if run.warnings else ""
    if "log_likelihood" in run.history:
        return f"log likelihood {run.history['log_likelihood'][-1]:.4f}{doubts}"
    if "loss" in run.history:
        return f"bound on the log evidence {-np.mean(run.history['loss'][-200:]):.2f}{doubts}"
    from ppl_gen.results.pages import worst

    size, ratio = worst(run)
    return f"smallest ESS {size:.0f}, largest R-hat {ratio:.3f}{doubts}"


class _Say:
    """Prints as it goes; announcements carry their number."""

    def __init__(self, total: int):
        self.total, self.done = total, 0

    def __call__(self, text: str, counted: bool = True) -> None:
        self.done += counted
        print(f"[{self.done:2d}/{self.total}] {text}" if counted else text, flush=True)


# All of it --------------------------------------------------------------------------------------------------------


def run_demo(out: str | Path = "ppl_gen_demo", data: str | Path | None = None, quick: bool = False,
             seed: int = 0) -> Path:
    """Fit, print the summaries, save the runs and write the page; returns its path.

    Raises:
        FileError: data that cannot be used.
    """
    began = time.perf_counter()
    chosen = iris() if data is None else from_csv(data)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    declared = program(GaussianMixture(NUM_COMPONENTS, COVARIANCE), coords={"feature": chosen.columns})
    mixture = Fits("mixture", declared, chosen.x, _mixture_options(quick), {} if quick else _SHORTER)
    schools = Fits("eight schools", eight_schools, {"sigma": ERROR, "y": EFFECT}, _schools_options(quick))
    _introduce(chosen, mixture, schools)
    jobs = [(fits, *job) for fits in (schools, mixture) for job in fits.jobs()]
    say = _Say(len(jobs))
    for fits, engine, backend in jobs:
        fits.fit(engine, backend, seed, say).save(out / "runs" / f"{fits.title} {engine} {backend}".replace(" ", "_"))
    exact, evidence = demo_answers.eight_schools_posterior(EFFECT, ERROR)
    demo_page.print_tables(mixture.runs, schools.runs, exact)
    seconds = time.perf_counter() - began
    page = demo_page.write(out, chosen, mixture.runs, schools.runs, exact, evidence, seconds)
    print(f"\nDone in {time.perf_counter() - began:.0f} s. Open {page.resolve()}")
    return page


def _introduce(data: Data, mixture: Fits, schools: Fits) -> None:
    n, d = data.x.shape
    print(f"ppl_gen demo, Python {platform.python_version()}: two programs, {len(ENGINES)} engines, two backends.")
    print(f"  mixture: {NUM_COMPONENTS} Gaussians with {COVARIANCE} covariances on {data.name}, {n} rows, "
          f"{d} columns ({', '.join(data.columns)})")  # fmt: skip
    print("  eight schools: a hierarchical model of eight treatment effects (Rubin 1981)")
    for note in data.notes:
        print(f"  note: {note}")
    print("First calls on a backend compile; the second demo starts faster.\n", flush=True)
