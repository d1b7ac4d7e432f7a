"""Bad input gives one clear error before any fitting: what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist
from ppl_gen.inference.driver import Driver
from ppl_gen.models import LatentClass, NaiveBayes
from tests.bad_programs import (
    GRID,
    X,
    Y,
    broken_guide,
    changed,
    complains,
    complaint,
    counts,
    crowded,
    empty,
    endless,
    impossible,
    line,
    local_scales,
    mistyped,
    native_pyro,
    no_plate,
    not_a_number,
    odd_flat,
    one_more,
    only_discrete,
    only_numpyro,
    only_pyro,
    other_name,
    positive_scale,
    proportions,
    raises,
    short_plate,
    subsampled,
    twice,
    uneven_plate,
    with_param,
    wrong_shape,
)

BACKENDS = ("numpyro", "pyro")

# --- The table ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    name: str
    run: Callable[[str], Any]
    error: type[Exception]
    words: tuple[str, ...]
    backends: tuple[str, ...] = ("numpyro",)


def case(name: str, run: Callable[[str], Any], error: type[Exception], *words: str) -> Case:
    """A case in which the backend makes no difference."""
    return Case(name, run, error, words)


LABELS = np.resize([0, 1, 7], 6000)
LONG = np.linspace(-1.0, 1.0, 6000)


def both(name: str, run: Callable[[str], Any], error: type[Exception], *words: str) -> Case:
    """A case for either backend."""
    return Case(name, run, error, words, BACKENDS)


def fit(program: Any, data: Any, engine: Any = "nuts", **options: Any) -> Callable[[str], Any]:
    return lambda backend: pg.infer(program, data, engine, backend=backend, progress=False, **options)


def fit_on(backend: Any, **options: Any) -> Callable[[str], Any]:
    return lambda _: pg.infer(line, {"x": X, "y": Y}, backend=backend, **options)


def guided(guide: Any) -> Callable[[str], Any]:
    return fit(line, {"x": X, "y": Y}, "svi", guide=guide)


def model(name: str, *args: Any, data: Any = GRID, engine: str = "em", **kwargs: Any) -> Callable[[str], Any]:
    return lambda backend: fit(getattr(pg.models, name)(*args, **kwargs), data, engine)(backend)


def mixture_at(engine: str = "em", starts: str | None = None, **values: Any) -> Callable[[str], Any]:
    options = {} if starts is None else {"starts": starts}
    return fit(pg.models.GaussianMixture(2), Y[:, None], engine, init=values, **options)


def q_at(**values: Any) -> Callable[[str], Any]:
    return fit(pg.models.BayesianGaussianMixture(2), Y[:, None], "vbem", init=values)


def init(**values: Any) -> Callable[[str], Any]:
    return fit(positive_scale, Y, init=values)


DATA = [
    both("NaN", fit(line, {"x": X, "y": changed(Y, 2, np.nan)}), pg.DataError, "'y'", "1 ", "(2,)", "drop or impute"),
    case("infinite", fit(line, (X, changed(Y, [1, 3], np.inf))), pg.DataError, "'y'", "2 entries", "(1,)", "impute"),
    case(
        "infinite entry of a table",
        model("GaussianMixture", 2, data=changed(GRID, (4, 1), np.inf)),
        pg.DataError,
        "'x'",
        "(4, 1)",
    ),
    case("NaN as a number", fit(lambda s, y: None, {"s": np.nan, "y": Y}), pg.DataError, "'s' is nan", "finite"),
    both(
        "column in a plate",
        fit(line, {"x": X, "y": Y[:, None]}),
        pg.ProgramError,
        "'y'",
        "'row'",
        "(5, 1)",
        "reshape",
    ),
    both("column", fit(no_plate, {"x": X, "y": Y[:, None]}), pg.ProgramError, "'y'", "(5, 1)", "(5, 5)", "y[:, 0]"),
    both(
        "vector to a mixture",
        model("GaussianMixture", 2, data=Y),
        pg.ProgramError,
        "(num_data, num_features)",
        "(5,)",
        "x[:, None]",
    ),
    case("text", fit(line, {"x": X, "y": ["a", "b"]}), pg.DataError, "'y'", "dtype <U1", "numbers", "encode"),
    case("objects", fit(line, {"x": X, "y": np.array([1, None])}), pg.DataError, "'y'", "object", "numbers"),
    both("labels", fit(NaiveBayes(2), {"x": LONG[:, None], "y": LABELS}, "em"), pg.DataError, "0 to 1", "[0, 1, 7]"),
    both("few labels", fit(NaiveBayes(2), {"x": X[:, None], "y": LABELS[:5]}, "em"), pg.DataError, "[0, 1, 7]"),
    both("codes", fit(LatentClass(2, 3), LABELS[:5, None], "em"), pg.DataError, "from 0 to 2", "7]"),
    case("masked", fit(line, {"x": X, "y": np.ma.masked_array(Y, Y > 1)}), pg.DataError, "'y'", "masked", "filled"),
    case("huge", fit(line, {"x": X, "y": Y * 1e300}, precision="float32"), pg.DataError, "'y'", "3.4e+38", "float64"),
    case("a single NaN", fit(line, {"x": X, "y": np.float32("nan")}), pg.DataError, "'y'", "nan", "finite"),
    case("complex", fit(line, {"x": X, "y": Y * 1j}), pg.DataError, "'y'", "complex128", "numbers"),
    case("ragged", fit(line, {"x": X, "y": [[1.0, 2.0], [3.0]]}), pg.DataError, "'y'", "rectangular", "same length"),
    case("empty", fit(line, {"x": X, "y": []}), pg.DataError, "'y'", "empty", "(0,)", "at least one"),
    case("wrong keyword", fit(line, {"x": X, "Y": Y}), pg.DataError, "(x, y=None)", "'Y'", "dict"),
    case("missing argument", fit(line, {"y": Y}), pg.DataError, "(x, y=None)", "missing", "'x'", "dict"),
    case("no data", fit(line, None), pg.DataError, "missing", "'x'", "no data"),
    case("too many", fit(line, (X, Y, Y)), pg.DataError, "too many positional", "3 positional"),
    both("plate too short", fit(short_plate, Y), pg.ProgramError, "'y'", "'row' of size 3", "(5,)", "expected"),
    both("plate too long", fit(uneven_plate, Y), pg.ProgramError, "site", "loc", "5", "3"),
    both(
        "negative counts",
        fit(counts, np.array([1, -2, 3])),
        pg.ProgramError,
        "'y'",
        "1 of 3 values",
        "-2",
        "Poisson",
        "correct the data",
    ),
    both("fractional counts", fit(counts, np.array([1.0, 2.5])), pg.ProgramError, "'y'", "2.5", "support"),
    both(
        "on the edge of a support",
        fit(proportions, np.array([0.2, 1.4, 1.2])),
        pg.ProgramError,
        "'y'",
        "2 of 3 values",
        "1.4",
    ),
]

NAMES = [
    case("unknown engine", fit(line, (X, Y), "nutz"), ValueError, "'nutz'", "did you mean 'nuts'", "'mala'"),
    case("engine in capitals", fit(line, (X, Y), "NUTS"), ValueError, "'NUTS'", "did you mean 'nuts'"),
    case("engine of a wrong type", fit(line, (X, Y), 3), TypeError, "name or an engine object", "int"),
    case("engine class", lambda b: fit(line, (X, Y), pg.inference.NUTS)(b), TypeError, "the class NUTS", "NUTS()"),
    case("unknown option", fit(line, (X, Y), num_sample=5), ValueError, "'num_sample'", "did you mean 'num_samples'"),
    case(
        "options beside an object",
        lambda b: fit(line, (X, Y), pg.inference.NUTS(), num_samples=5)(b),
        TypeError,
        "'num_samples'",
        "NUTS(num_samples=...)",
    ),
    case("unknown backend", fit_on("jax"), ValueError, "'jax'", "'numpyro'", "'pyro'"),
    case("backend mistyped", fit_on("numpyr"), ValueError, "'numpyr'", "did you mean 'numpyro'"),
    case("backend of a wrong type", fit_on(None), ValueError, "None", "'numpyro'"),
    case("negative seed", fit_on("numpyro", seed=-1), ValueError, "seed", "whole number", "-1"),
    case("fractional seed", fit_on("numpyro", seed=1.5), ValueError, "seed", "whole number", "1.5"),
    both("precision", fit(line, (X, Y), precision="float16"), ValueError, "'float16'", "float32", "float64"),
    both("device", fit(line, (X, Y), device="abacus"), ValueError, "'abacus'", "cpu"),
    case("unknown guide", guided("gaussian"), ValueError, "'gaussian'", "'multivariate_normal'"),
    case("guide of a wrong type", guided(3), TypeError, "guide", "function", "int"),
    case("guide of a program", lambda b: pg.program(line, guide="mean field"), ValueError, "'mean field'", "diagonal"),
    both("optimizer", fit(line, (X, Y), "svi", optimizer="adm"), ValueError, "'adm'", "adam"),
    case("model", lambda b: pg.models.GausianMixture, AttributeError, "GausianMixture", "GaussianMixture"),
]

OPTIONS = [
    *(
        case(
            f"{name}={value!r}",
            fit(line, (X, Y), engine, **{name: value}),
            ValueError,
            name,
            "whole number",
            repr(value),
        )
        for engine in ("nuts", "mala")
        for name, value in (
            ("num_samples", 0),
            ("num_chains", -2),
            ("num_samples", True),
            ("num_samples", 100.0),
            ("thinning", 0),
            ("num_warmup", -1),
            ("num_warmup", 10.5),
            ("num_samples", "9"),
        )
    ),
    *(
        case(f"{name}={value!r}", fit(line, (X, Y), engine, **{name: value}), ValueError, name, repr(value), "between")
        for engine in ("hmc", "ula")
        for name, value in (
            ("target_accept_prob", 1.0),
            ("target_accept_prob", -0.5),
            ("target_accept_prob", np.nan),
            ("step_size", 0.0),
            ("step_size", -1.0),
            ("step_size", np.inf),
        )
    ),
    case(
        "trajectory_length", fit(line, (X, Y), "hmc", trajectory_length=-1.0), ValueError, "trajectory_length", "-1.0"
    ),
    case(
        "thinning of all", fit(line, (X, Y), "nuts", num_samples=5, thinning=9), ValueError, "thinning 9", "5 samples"
    ),
    case(
        "thinning of all", fit(line, (X, Y), "mala", num_samples=5, thinning=9), ValueError, "thinning 9", "5 samples"
    ),
    case("one particle", fit(line, (X, Y), "svi", elbo="iwae"), ValueError, "'iwae'", "num_particles", "at least 2"),
    case("unknown elbo", fit(line, (X, Y), "svi", elbo="elbow"), ValueError, "elbo", "'elbow'", "'trace'"),
    case("learning_rate", fit(line, (X, Y), "svi", learning_rate=0), ValueError, "learning_rate", "0"),
    case("negative tolerance", fit(line, (X, Y), "map", tolerance=-1.0), ValueError, "tolerance", "-1.0"),
    case("objective", fit(line, (X, Y), "map", objective="ml"), ValueError, "objective", "'ml'", "'likelihood'"),
    case("tolerance of em", fit(line, (X, Y), "em", tolerance=True), ValueError, "tolerance", "True"),
]

STARTS = [
    both("unknown site", init(scal=1.0), ValueError, "'scal'", "no continuous site", "scale", "did you mean 'scale'"),
    both("shape", init(locs=[1.0, 2.0, 3.0]), ValueError, "'locs'", "(3,)", "expected (2,)"),
    both("not finite", init(scale=np.nan), ValueError, "'scale'", "nan", "finite"),
    both("outside the support", init(scale=-1.0), ValueError, "'scale'", "outside", "support", "-1.0"),
    both("outside, a model's scales", mixture_at(scales=-np.ones((2, 1))), ValueError, "'scales'", "outside", "-1.0"),
    both("outside, scales of 0", mixture_at(scales=np.zeros((2, 1))), ValueError, "'scales'", "outside", "0.0"),
    both("outside, a model's weights", mixture_at(weights=[5.0, 5.0]), ValueError, "'weights'", "outside", "Simplex"),
    case("outside, prior starts", mixture_at(starts="prior", weights=[3, 1]), ValueError, "'weights'", "outside"),
    case("outside, stepwise", mixture_at("stepwise", weights=[3, 1]), ValueError, "'weights'", "outside"),
    case("outside, a part of q", q_at(weights_concentration=[-1, 2]), ValueError, "'weights_conc", "positive", "-1"),
    case("text", init(scale="big"), ValueError, "'scale'", "number", "'big'"),
    case("not a dict", fit(positive_scale, Y, init=[1.0]), TypeError, "init", "dict", "list"),
    both("outside, map", fit(positive_scale, Y, "map", init={"scale": -1.0}), ValueError, "'scale'", "outside", "-1.0"),
    both("impossible", fit(impossible, Y), pg.ProgramError, "'wall'", "-inf", "uniform starts", "init="),
    both("impossible under mala", fit(impossible, Y, "mala"), pg.ProgramError, "'wall'", "-inf", "init="),
    both("impossible at init", fit(impossible, Y, init={"loc": 3.0}), pg.ProgramError, "'wall'", "given init", "3.0"),
    both("NaN", fit(not_a_number, Y), pg.ProgramError, "'y'", "nan", "Check the data and priors"),
]

ENGINES = [
    both("endless", fit(endless, Y), pg.UnsupportedError, "nuts", "'n'", "no finite set", "Categorical"),
    case("endless under em", fit(endless, Y, "em"), pg.UnsupportedError, "em", "'n'", "no finite set"),
    both("only discrete", fit(only_discrete, Y), pg.UnsupportedError, "nuts", "'z'", "only discrete"),
    case("too many values", fit(crowded, Y), pg.UnsupportedError, "24 discrete", str(2**24), "plate"),
    *(
        case(f"param under {e}", fit(with_param, Y, e), pg.UnsupportedError, e, "'scale'", "prior", "'svi'")
        for e in ("nuts", "hmc", "mala", "ula")
    ),
    both("param under nuts", fit(with_param, Y), pg.UnsupportedError, "'scale'", "'map'"),
    *(
        both(f"subsampled under {e}", fit(subsampled, Y, e), pg.UnsupportedError, e, "'row'", "subsample_size", "'svi'")
        for e in ("nuts", "mala", "map", "em")
    ),
    both("em without discrete latents", fit(line, (X, Y), "em"), pg.UnsupportedError, "em", "integrate", "'map'"),
    both(
        "em with latents of a datum", fit(local_scales, Y, "em"), pg.UnsupportedError, "'scale'", "each datum", "'nuts'"
    ),
    case("closed form", fit(line, (X, Y), "closed_form"), pg.UnsupportedError, "line", "no closed form", "'map'"),
    case(
        "elbo and discrete",
        fit(local_scales, Y, "svi", elbo="iwae", num_particles=2),
        pg.UnsupportedError,
        "'z'",
        "'enum'",
    ),
]

PROGRAMS = [
    case("number", fit(3, Y), TypeError, "program", "int", "3"),
    case("text", fit("line", Y), TypeError, "program", "str", "'line'"),
    case("program of a number", lambda b: pg.program(3.0), TypeError, "function", "float"),
    case("program's backend", lambda b: pg.program(line, backend="stan"), ValueError, "'stan'", "portable"),
    case(
        "native elsewhere", fit(pg.program(native_pyro, backend="pyro"), Y), ValueError, "pyro", "numpyro", "pg.sample"
    ),
    both("no site", fit(empty, Y), pg.ProgramError, "empty", "pg.sample", "nothing to infer"),
    both("name twice", fit(twice, Y), pg.ProgramError, "'loc'", "twice", "another name"),
    both("mistyped distribution", fit(mistyped, Y), pg.ProgramError, "dist.Norml", "Did you mean dist.Normal"),
    both("only NumPyro", fit(only_numpyro, Y), pg.ProgramError, "Gompertz", "only NumPyro", 'backend="numpyro"'),
    both("only Pyro", fit(only_pyro, Y), pg.ProgramError, "Stable", "only Pyro", 'backend="pyro"'),
    case("sample outside", lambda b: pg.sample("a", None), RuntimeError, "pg.sample", "inside a program", "pg.on"),
    case("dist outside", lambda b: dist.Normal(0, 1), RuntimeError, "dist", "inside a program"),
    both("arithmetic", fit(raises, {"x": GRID, "y": Y}), pg.ProgramError, "raises", "x float64[6, 3]", "y float64[5]"),
    both(
        "its own error", fit(complains, Y), pg.ProgramError, "complains", "KeyError", "no column 'age'", "y float64[5]"
    ),
    both("guide misses", guided(other_name), pg.ProgramError, "no site", "'slope'", "'slop'", "same names"),
    both("guide adds", guided(one_more), pg.ProgramError, "'offset'", "the model does not"),
    both("guide's shape", guided(wrong_shape), pg.ProgramError, "'slope'", "(3,)", "()", "equal shapes"),
    both("guide raises", guided(broken_guide), pg.ProgramError, "guide of line", "IndexError", "out of range"),
    both("flat without a transform", fit(odd_flat, Y), pg.UnsupportedError, "'n'", "support", "nteger", "Flat"),
]

MODELS = [
    both(
        "more components than rows",
        model("GaussianMixture", 9),
        ValueError,
        "9 components",
        "at least as many rows",
        "6",
    ),
    both(
        "as many as features",
        model("ProbabilisticPCA", 3, engine="closed_form"),
        ValueError,
        "latent_dim 3",
        "below",
        "3 features",
    ),
    case(
        "covariance",
        model("GaussianMixture", 2, covariance_type="round"),
        ValueError,
        "covariance_type",
        "'round'",
        "'full'",
    ),
    case("no component", model("GaussianMixture", 0), ValueError, "num_components", "whole number", "0"),
    case("latent_dim", model("ProbabilisticPCA", 1.5), ValueError, "latent_dim", "whole number", "1.5"),
    case("regularization", model("GaussianMixture", 2, regularization=-1.0), ValueError, "regularization", "-1.0"),
]

TABLE = {
    "data": DATA,
    "names": NAMES,
    "options": OPTIONS,
    "starts": STARTS,
    "engines": ENGINES,
    "programs": PROGRAMS,
    "models": MODELS,
}
CASES = [
    pytest.param(one, backend, id=f"{group}: {one.name}, {backend}")
    for group, cases in TABLE.items()
    for one in cases
    for backend in one.backends
]


@pytest.mark.parametrize(("one", "backend"), CASES)
def test_error_before_any_fitting(one, backend, monkeypatch):
    monkeypatch.setattr(Driver, "run", lambda *a, **k: pytest.fail("fitting began"))
    complaint(one.error, one.words, lambda: one.run(backend))


def test_the_table_is_large():
    assert len(CASES) > 120


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_a_plain_number_is_an_observation(backend):
    def one_number(y):
        mu = pg.sample("mu", dist.Normal(0.0, 1.0))
        pg.sample("y", dist.Normal(mu, 1.0), obs=y)

    run = pg.infer(one_number, {"y": 1.0}, "map", backend, progress=False)
    np.testing.assert_allclose(run.params["mu"], 0.5, atol=1e-4)  # (0 + 1) / 2
