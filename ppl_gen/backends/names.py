"""What the two backends share, as tables: no array library is loaded to read them.

`DISTRIBUTIONS` is the portable `dist` namespace: every name with its one signature (NumPyro's names, order
and defaults are the norm). `ARRAY_FUNCTIONS` is the portable `xp`. The tests hold both backends to them.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DISTRIBUTIONS: dict[str, str] = {
    # continuous, univariate
    "AsymmetricLaplace": "loc=0.0, scale=1.0, asymmetry=1.0",
    "Beta": "concentration1, concentration0",
    "Cauchy": "loc=0.0, scale=1.0",
    "Chi2": "df",
    "Exponential": "rate=1.0",
    "Gamma": "concentration, rate=1.0",
    "Gumbel": "loc=0.0, scale=1.0",
    "HalfCauchy": "scale=1.0",
    "HalfNormal": "scale=1.0",
    "InverseGamma": "concentration, rate=1.0",
    "Kumaraswamy": "concentration1, concentration0",
    "Laplace": "loc=0.0, scale=1.0",
    "LogNormal": "loc=0.0, scale=1.0",
    "Logistic": "loc=0.0, scale=1.0",
    "Normal": "loc=0.0, scale=1.0",
    "Pareto": "scale, alpha",
    "RelaxedBernoulli": "temperature, probs=None, logits=None",
    "SoftLaplace": "loc, scale",
    "StudentT": "df, loc=0.0, scale=1.0",
    "TruncatedNormal": "loc=0.0, scale=1.0, low=None, high=None",
    "TruncatedPolyaGamma": "batch_shape=()",
    "Uniform": "low=0.0, high=1.0",
    "VonMises": "loc, concentration",
    "Weibull": "scale, concentration",
    # continuous, multivariate
    "Dirichlet": "concentration",
    "LKJ": "dimension, concentration=1.0",
    "LKJCholesky": "dimension, concentration=1.0",
    "LowRankMultivariateNormal": "loc, cov_factor, cov_diag",
    "MultivariateNormal": "loc=0.0, covariance_matrix=None, precision_matrix=None, scale_tril=None",
    "MultivariateStudentT": "df, loc=0.0, scale_tril=None",
    "ProjectedNormal": "concentration",
    "SineBivariateVonMises": "phi_loc, psi_loc, phi_concentration, psi_concentration, correlation=None, "
    "weighted_correlation=None",
    "SineSkewed": "base_dist, skewness",
    "Wishart": "concentration, scale_matrix=None, rate_matrix=None, scale_tril=None",
    # discrete
    "Bernoulli": "probs=None, logits=None",
    "BetaBinomial": "concentration1, concentration0, total_count=1",
    "Binomial": "total_count=1, probs=None, logits=None",
    "Categorical": "probs=None, logits=None",
    "DirichletMultinomial": "concentration, total_count=1",
    "DiscreteUniform": "low=0, high=1",
    "GammaPoisson": "concentration, rate=1.0",
    "Geometric": "probs=None, logits=None",
    "MarkovChain": "initial_probs, transition_probs, num_steps",
    "Multinomial": "total_count=1, probs=None, logits=None",
    "NegativeBinomial": "total_count, probs=None, logits=None",
    "OneHotCategorical": "probs=None, logits=None",
    "OrderedLogistic": "predictor, cutpoints",
    "Poisson": "rate",
    "ZeroInflatedPoisson": "gate, rate=1.0",
    # built from others, and measures
    "Delta": "v=0.0, log_density=0.0, event_dim=0",
    "Flat": "support='real', shape=()",
    "FoldedDistribution": "base_dist",
    "FromFunctions": "noise, generate, log_prob, event_shape=(), support=None, both=None",
    "ImproperUniform": "support, batch_shape, event_shape",
    "Independent": "base_dist, reinterpreted_batch_ndims",
    "LogDensity": "log_density, event_shape=(), support=None, normalised=False",
    "MixtureSameFamily": "mixing_distribution, component_distribution",
    "Ordered": "base, size",
    "TransformedDistribution": "base_distribution, transforms",
    "Unit": "log_factor",
    "ZeroInflatedDistribution": "base_dist, *, gate=None, gate_logits=None",
}

# Parameters that are not arrays: shapes, sizes and other distributions pass through as they are.
STATIC = frozenset(
    _words(
        """
        dimension event_dim num_steps support shape base base_dist base_distribution batch_shape event_shape size
        reinterpreted_batch_ndims mixing_distribution component_distribution transforms noise generate log_prob both
        normalised
        """
    )
)

CONSTRAINTS: tuple[str, ...] = _words(
    """
    boolean corr_cholesky corr_matrix greater_than independent integer_interval interval less_than
    lower_cholesky nonnegative nonnegative_integer ordered_vector positive positive_definite positive_integer
    positive_ordered_vector real real_vector simplex sphere unit_interval
    """
)

# The supports that `Flat` takes by name.
FLAT_SUPPORTS: dict[str, str] = {
    "real": "real",
    "positive": "positive",
    "unit_interval": "unit_interval",
    "simplex": "simplex",
    "ordered": "ordered_vector",
    "positive_ordered": "positive_ordered_vector",
    "lower_cholesky": "lower_cholesky",
    "corr_cholesky": "corr_cholesky",
    "corr_matrix": "corr_matrix",
    "positive_definite": "positive_definite",
}

TRANSFORMS: tuple[str, ...] = _words(
    """
    AffineTransform ComposeTransform CorrCholeskyTransform ExpTransform IndependentTransform
    LowerCholeskyAffine OrderedTransform PowerTransform SigmoidTransform SoftplusTransform
    StickBreakingTransform
    """
)

ARRAY_FUNCTIONS: tuple[str, ...] = _words(
    """
    pi inf nan float32 float64 int32 int64 bool_
    abs exp exp2 log log1p expm1 log2 log10 sqrt square reciprocal negative
    sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh
    floor ceil round sign isnan isfinite isinf logical_not
    arctan2 power maximum minimum mod logaddexp logical_and logical_or
    sum prod mean var std max min any all argmax argmin cumsum cumprod sort argsort
    where clip take take_along_axis searchsorted
    array asarray astype zeros ones full zeros_like ones_like full_like arange linspace eye
    shape ndim reshape ravel transpose swapaxes moveaxis expand_dims squeeze broadcast_to broadcast_shapes
    broadcast_arrays stack concatenate flip roll tile repeat diag diagonal tril triu
    matmul dot outer tensordot einsum
    sigmoid softplus relu log_sigmoid softmax log_softmax one_hot
    expit logit logsumexp gammaln digamma betaln erf erfc erfinv xlogy ndtr ndtri log_ndtr i0e i1e
    scan jit routine linalg
    """
)
LINALG_FUNCTIONS: tuple[str, ...] = _words(
    "cholesky solve inv det slogdet eigh svd qr norm solve_triangular cholesky_solve"
)

NUMPYRO_ONLY: frozenset[str] = frozenset(
    _words(
        """
        AsymmetricLaplaceQuantile BernoulliLogits BernoulliProbs BetaNegativeBinomial BetaProportion
        BinomialLogits BinomialProbs CAR CategoricalLogits CategoricalProbs CirculantNormal Dagum
        DoublyTruncatedPowerLaw EulerMaruyama GaussianCopula GaussianCopulaBeta GaussianRandomWalk
        GaussianStateSpace GeometricLogits GeometricProbs Gompertz HurdleDistribution HurdleGamma
        HurdleLogNormal HurdleLogits HurdleNegativeBinomial2 HurdlePoisson HurdleProbs
        IntervalCensoredDistribution InverseWishart InverseWishartCholesky LeftCensoredDistribution
        LeftTruncatedDistribution LeftTruncatedGamma Levy LogUniform LowerTruncatedPowerLaw MatrixNormal
        Mixture MixtureGeneral MultinomialLogits MultinomialProbs NegativeBinomial2
        NegativeBinomialLogits NegativeBinomialProbs RelaxedBernoulliLogits RightCensoredDistribution
        RightTruncatedDistribution RightTruncatedGamma TruncatedCauchy TruncatedDistribution
        TruncatedGamma TwoSidedTruncatedDistribution TwoSidedTruncatedGamma WishartCholesky
        ZeroInflatedLogits ZeroInflatedNegativeBinomial2 ZeroInflatedProbs ZeroSumNormal
        """
    )
)
PYRO_ONLY: frozenset[str] = frozenset(
    _words(
        """
        AVFMultivariateNormal AffineBeta CoalescentRateLikelihood CoalescentTimes
        CoalescentTimesWithRate ConditionalDistribution ConditionalTransformedDistribution
        ContinuousBernoulli DiscreteHMM Empirical ExtendedBetaBinomial ExtendedBinomial FisherSnedecor
        GammaGaussianHMM GaussianHMM GaussianMRF GaussianScaleMixture GeneralizedPareto
        GroupedNormalNormal IndependentHMM LKJCorrCholesky LinearHMM LogNormalNegativeBinomial
        LogisticNormal MaskedMixture MixtureOfDiagNormals MixtureOfDiagNormalsSharedCovariance
        NanMaskedMultivariateNormal NanMaskedNormal OMTMultivariateNormal
        OneHotCategoricalStraightThrough OneOneMatching OneTwoMatching Rejector
        RelaxedBernoulliStraightThrough RelaxedOneHotCategorical RelaxedOneHotCategoricalStraightThrough
        SkewLogistic SoftAsymmetricLaplace SpanningTree Stable StableWithLogProb VonMises3D
        ZeroInflatedNegativeBinomial
        """
    )
)


@functools.cache
def signature(name: str) -> inspect.Signature:
    """The portable signature of the distribution `name`."""
    return inspect.signature(eval(f"lambda {DISTRIBUTIONS[name]}: None"))


class Constructor:
    """A distribution of the portable namespace: its portable signature in front of a library's constructor.

    `make` is called with the portable parameters by keyword; `types` serves `isinstance(d, dist.Normal)`.
    """

    def __init__(self, name: str, make: Callable[..., Any], types: Any = None):
        self.__name__ = self.__qualname__ = name
        self.__signature__ = signature(name)
        self.__doc__ = f"{name}({DISTRIBUTIONS[name]}), the same on every backend.\n\n{make.__doc__ or ''}"
        self._make, self._types = make, types or make

    def __call__(self, *args: Any, validate_args: bool | None = None, **kwargs: Any) -> Any:
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self!r}: {error}") from None
        bound.apply_defaults()
        return self._make(**bound.arguments, validate_args=validate_args)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._types)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"dist.{self.__name__}({DISTRIBUTIONS[self.__name__]})"


def flat_support(name: str) -> str:
    """The constraint behind a support that `Flat` is given by name."""
    if name not in FLAT_SUPPORTS:
        known = ", ".join(map(repr, FLAT_SUPPORTS))
        raise ValueError(f"Flat: unknown support {name!r}; expected one of {known}, or a constraint object")
    return FLAT_SUPPORTS[name]


def no_bijection(constraint: Any) -> str:
    """What to say of a support that has no unconstrained coordinates."""
    return (
        f"no map from the reals onto the support {constraint} is known, so that nothing can move there by "
        "gradients and "
        "dist.Flat cannot start: expected a continuous support, e.g. real, positive, interval, simplex, ordered_vector"
    )


def no_draws() -> str:
    """What to say where a density that is only known as a number is to be drawn from."""
    return (
        "dist.LogDensity is known by the log density of what was observed, and cannot be drawn from: chains of "
        "run.sample draw from an energy, engine='nuts' from pg.factor on a dist.Flat"
    )


def no_flat(site: str, constraint: Any) -> str:
    """What to say of a flat prior on a support that has no unconstrained coordinates."""
    return (
        f"dist.Flat of {site!r} lives on the support {constraint}, onto which no map from the reals is known: expected "
        f"one of {', '.join(FLAT_SUPPORTS)}, or an interval"
    )


def check_ordered(base: Any, known_support: bool) -> None:
    """`Ordered` needs a univariate base on the reals or on the positive reals."""
    if tuple(base.event_shape):
        raise ValueError(f"Ordered: the base must be univariate, but its event_shape is {base.event_shape}")
    if not known_support:
        found = base.support
        raise ValueError(f"Ordered: the base must live on the reals or the positive reals, not {found}")


def check_chain(initial: tuple[int, ...], transition: tuple[int, ...], num_steps: Any) -> None:
    """`MarkovChain` takes shapes (..., K) and (..., K, K), and at least one step."""
    k = initial[-1] if initial else 0
    if not k or tuple(transition[-2:]) != (k, k):
        raise ValueError(
            "MarkovChain: expected initial_probs of shape (..., K) and transition_probs of shape (..., K, K), got "
            f"{tuple(initial)} and {tuple(transition)}"
        )
    if isinstance(num_steps, bool) or num_steps != int(num_steps) or num_steps < 1:
        raise ValueError(f"MarkovChain: num_steps must be a whole number of at least 1, got {num_steps!r}")


def missing(name: str, kind: str = "dist") -> AttributeError:
    """The error for a name that the portable namespace lacks: who has it, what to do, what was meant."""
    text = f"{kind}.{name} is not portable"
    owners = [("NumPyro", "numpyro", NUMPYRO_ONLY), ("Pyro", "pyro", PYRO_ONLY)]
    for library, backend, only in owners if kind == "dist" else ():
        if name in only:
            text += (
                f": only {library} has it. Write the program natively, importing it from "
                f'{backend}.distributions, and declare it with backend="{backend}"'
            )
    close = difflib.get_close_matches(name, DISTRIBUTIONS if kind == "dist" else ARRAY_FUNCTIONS, n=1)
    return AttributeError(text + (f". Did you mean {kind}.{close[0]}?" if close else "."))
