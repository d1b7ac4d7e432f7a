"""Both backends' `dist` are one namespace: equal log densities, supports, coordinates and error messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pyro.distributions
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import ppl_gen as pg
from ppl_gen.backends import names
from ppl_gen.backends.numpyro import distributions as nd
from ppl_gen.backends.pyro import distributions as pd


@pytest.fixture(autouse=True)
def _double():
    """Both libraries in double precision, without validation, as in a run; restored afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with jax.enable_x64(True), pyro.distributions.validation_enabled(False):
            yield
    finally:
        torch.set_default_dtype(before)


V = np.array([0.3, -1.2, 2.5])  # three reals
P = np.array([0.3, 1.2, 2.5])  # three positive numbers
U = np.array([0.1, 0.5, 0.8])  # three numbers in (0, 1)
K = np.array([0, 1, 3])  # three counts
B = np.array([0, 1, 1])  # three bits
S = np.array([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]])  # two points of the simplex
M = np.array([[2.0, 0.3, -0.4], [0.3, 1.5, 0.2], [-0.4, 0.2, 1.1]])  # a covariance
L = np.linalg.cholesky(M)
R = M / np.sqrt(np.outer(np.diag(M), np.diag(M)))  # a correlation matrix
Z = np.array([[0.5, -1.0, 2.0], [1.5, 0.2, -0.3]])  # two vectors
C = np.array([[0.6, 0.8], [0.28, -0.96]])  # two points of the circle
HOT = np.eye(3)[[2, 0]]

# Name -> (builder, values) pairs; `d` is a backend's namespace, `a` turns numbers into its arrays.
CASES = {
    "AsymmetricLaplace": [(lambda d, a: d.AsymmetricLaplace(a(V), 2.0, a(1.7)), V[::-1])],
    "Bernoulli": [
        (lambda d, a: d.Bernoulli(a(U)), B),
        (lambda d, a: d.Bernoulli(logits=a(V)), B),
        (lambda d, a: d.Bernoulli(0.3), B),
    ],
    "Beta": [(lambda d, a: d.Beta(a(P), 2), U)],
    "BetaBinomial": [(lambda d, a: d.BetaBinomial(a(P), 2.0, 5), K)],
    "Binomial": [
        (lambda d, a: d.Binomial(5, a(U)), K),
        (lambda d, a: d.Binomial(np.array([3, 4, 5]), logits=a(V)), K),
    ],
    "Categorical": [
        (lambda d, a: d.Categorical(a(S)), np.array([2, 0])),
        (lambda d, a: d.Categorical(logits=a(Z)), np.array([1, 0])),
        (lambda d, a: d.Categorical([2, 3, 5]), K[:2]),
    ],
    "Cauchy": [(lambda d, a: d.Cauchy(a(V), 2.0), V[::-1]), (lambda d, a: d.Cauchy(), V)],
    "Chi2": [(lambda d, a: d.Chi2(a(P)), P[::-1])],
    "Delta": [
        (lambda d, a: d.Delta(a(V)), np.array([0.3, 1.2, 2.5])),
        (lambda d, a: d.Delta(a(Z), 0.7, event_dim=1), Z),
    ],
    "Dirichlet": [
        (lambda d, a: d.Dirichlet(a(P)), S),
        (lambda d, a: d.Dirichlet([1.0, 2.0, 3.0]), S),
    ],
    "DirichletMultinomial": [
        (lambda d, a: d.DirichletMultinomial(a(P), 4), np.array([[1, 0, 3], [2, 2, 0]])),
    ],
    "DiscreteUniform": [
        (lambda d, a: d.DiscreteUniform(0, 4), K),
        (lambda d, a: d.DiscreteUniform(np.array([0, 1, 2]), 7), K + 2),
    ],
    "Exponential": [(lambda d, a: d.Exponential(a(P)), P[::-1]), (lambda d, a: d.Exponential(), P)],
    "Flat": [
        (lambda d, a: d.Flat(), V),
        (lambda d, a: d.Flat("positive"), P),
        (lambda d, a: d.Flat("real", (3,)), Z),
        (lambda d, a: d.Flat("simplex", (3,)), S),
        (lambda d, a: d.Flat("ordered", (3,)), np.sort(V)),
        (lambda d, a: d.Flat("positive_ordered", (3,)), P),
        (lambda d, a: d.Flat("unit_interval", (2, 2)), np.full((3, 2, 2), 0.4)),
        (lambda d, a: d.Flat("corr_matrix", (3, 3)), R),
        (lambda d, a: d.Flat("lower_cholesky", (3, 3)), L),
        (lambda d, a: d.Flat("positive_definite", (2, 3, 3)), np.stack([M, R])),
        (lambda d, a: d.Flat(d.constraints.interval(-1.0, 3.0), (3,)), V / 2),
    ],
    "FoldedDistribution": [(lambda d, a: d.FoldedDistribution(d.Normal(a(V), 2.0)), P)],
    "FromFunctions": [
        (
            lambda d, a: d.FromFunctions(  # pairs (e, e + 1): a density along a line
                d.Normal(a(V), 2.0),
                lambda e: a(np.array([0.0, 1.0])) + e[..., None],
                lambda x: d.Normal(a(V), 2.0).log_prob(x[..., 0]),
                (2,),
            ),
            np.stack([V, V + 1], -1),
        ),
        (
            lambda d, a: d.FromFunctions(
                d.Gamma(a(P), 0.7), lambda e: e, d.Gamma(a(P), 0.7).log_prob, support=d.constraints.positive
            ),
            P[::-1],
        ),
    ],
    "Gamma": [(lambda d, a: d.Gamma(a(P), 0.7), P[::-1]), (lambda d, a: d.Gamma(2), P)],
    "GammaPoisson": [(lambda d, a: d.GammaPoisson(a(P), 0.7), K), (lambda d, a: d.GammaPoisson(2), K)],
    "Geometric": [(lambda d, a: d.Geometric(a(U)), K), (lambda d, a: d.Geometric(logits=a(V)), K)],
    "Gumbel": [(lambda d, a: d.Gumbel(a(V), 2.0), V[::-1])],
    "HalfCauchy": [(lambda d, a: d.HalfCauchy(a(P)), P[::-1]), (lambda d, a: d.HalfCauchy(), P)],
    "HalfNormal": [(lambda d, a: d.HalfNormal(a(P)), P[::-1]), (lambda d, a: d.HalfNormal(), P)],
    "ImproperUniform": [
        (lambda d, a: d.ImproperUniform(d.constraints.positive, (), (3,)), P),
        (lambda d, a: d.ImproperUniform(d.constraints.greater_than(-2.0), (3,), ()), V),
    ],
    "Independent": [(lambda d, a: d.Independent(d.Normal(a(Z), 2.0), 1), Z[::-1])],
    "InverseGamma": [(lambda d, a: d.InverseGamma(a(P), 0.7), P[::-1])],
    "Kumaraswamy": [(lambda d, a: d.Kumaraswamy(a(P), 2.0), U)],
    "LKJ": [(lambda d, a: d.LKJ(3, a(2.5)), R), (lambda d, a: d.LKJ(3), R)],
    "LKJCholesky": [
        (lambda d, a: d.LKJCholesky(3, a(2.5)), np.linalg.cholesky(R)),
        (lambda d, a: d.LKJCholesky(3, a(P)), np.linalg.cholesky(R)),
    ],
    "Laplace": [(lambda d, a: d.Laplace(a(V), 2.0), V[::-1])],
    "LogDensity": [
        (lambda d, a: d.LogDensity(a(V)), V[::-1]),
        (lambda d, a: d.LogDensity(a(V), (2,), normalised=True), np.stack([V, V + 1], -1)),
        (lambda d, a: d.LogDensity(a(V), support=d.constraints.boolean), np.array([0.0, 1.0, 1.0])),
    ],
    "LogNormal": [(lambda d, a: d.LogNormal(a(V), 2.0), P), (lambda d, a: d.LogNormal(), P)],
    "Logistic": [(lambda d, a: d.Logistic(a(V), 2.0), V[::-1])],
    "LowRankMultivariateNormal": [
        (lambda d, a: d.LowRankMultivariateNormal(a(V), a(Z.T), a(P)), Z),
    ],
    "MarkovChain": [
        (lambda d, a: d.MarkovChain(a(S[0]), a(R + 1.0), 4), np.array([[0, 2, 1, 1], [2, 2, 0, 0]])),
        (lambda d, a: d.MarkovChain(a(S), a(np.triu(M + 1.0)), 2), np.array([[1, 1], [2, 2]])),
        (lambda d, a: d.MarkovChain(a(S), a(R + 1.0), 1), np.array([[2], [1]])),
    ],
    "MixtureSameFamily": [
        (lambda d, a: d.MixtureSameFamily(d.Categorical(a(P) / 4.0), d.Normal(a(V), 0.5)), V + 0.2),
        (lambda d, a: d.MixtureSameFamily(d.Categorical(logits=a(V)), d.Gamma(a(P), 0.5)), P),
        (
            lambda d, a: d.MixtureSameFamily(
                d.Categorical(probs=[0.4, 0.6]), d.MultivariateNormal(a(Z), a(M))
            ),
            Z + 0.3,
        ),
    ],
    "Multinomial": [
        (lambda d, a: d.Multinomial(4, a(S)), np.array([[1, 0, 3], [2, 2, 0]])),
        (lambda d, a: d.Multinomial(4, logits=a(Z)), np.array([[1, 0, 3], [2, 2, 0]])),
    ],
    "MultivariateNormal": [
        (lambda d, a: d.MultivariateNormal(a(V), a(M)), Z),
        (lambda d, a: d.MultivariateNormal(0.0, precision_matrix=a(M)), Z),
        (lambda d, a: d.MultivariateNormal(a(Z), scale_tril=a(L)), Z[::-1]),
    ],
    "MultivariateStudentT": [
        (lambda d, a: d.MultivariateStudentT(3.5, a(Z), a(L)), Z[::-1]),
        (lambda d, a: d.MultivariateStudentT(a(3.5), scale_tril=a(L)), Z),
    ],
    "NegativeBinomial": [
        (lambda d, a: d.NegativeBinomial(4, a(U)), K),
        (lambda d, a: d.NegativeBinomial(a(2.5), logits=a(V)), K),
    ],
    "Normal": [(lambda d, a: d.Normal(a(V), 2), V[::-1]), (lambda d, a: d.Normal(), V)],
    "OneHotCategorical": [
        (lambda d, a: d.OneHotCategorical(a(S)), HOT),
        (lambda d, a: d.OneHotCategorical(logits=a(Z)), HOT),
    ],
    "Ordered": [
        (lambda d, a: d.Ordered(d.Normal(a(V), 2.0), 3), np.stack([np.sort(V), V, np.sort(V) - 1])),
        (lambda d, a: d.Ordered(d.Gamma(a(2.0), 0.7), 3), np.sort(P)),
        (lambda d, a: d.Ordered(d.HalfNormal(2.0), 3), np.sort(P)),
    ],
    "OrderedLogistic": [
        (lambda d, a: d.OrderedLogistic(a(V), a(np.sort(V))), K),
        (lambda d, a: d.OrderedLogistic(0.3, a(np.sort(V))), K),
        (lambda d, a: d.OrderedLogistic(a(np.array([60.0, -60.0, 60.0])), a([-1.0, 0.5, 2.0])), K),
    ],
    "Pareto": [(lambda d, a: d.Pareto(a(0.2), a(P)), P)],
    "Poisson": [(lambda d, a: d.Poisson(a(P)), K), (lambda d, a: d.Poisson(2), K)],
    "ProjectedNormal": [
        (lambda d, a: d.ProjectedNormal(a(np.array([1.0, -0.4]))), C),
        (lambda d, a: d.ProjectedNormal(a(V)), Z / np.linalg.norm(Z, axis=-1, keepdims=True)),
    ],
    "RelaxedBernoulli": [
        (lambda d, a: d.RelaxedBernoulli(0.7, a(U)), U[::-1]),
        (lambda d, a: d.RelaxedBernoulli(a(0.7), logits=a(V)), U),
    ],
    "SineBivariateVonMises": [
        (lambda d, a: d.SineBivariateVonMises(a(V), 0.3, 2.0, a(P), 0.7), V[:, None] * np.array([1.0, -0.5])),
        (lambda d, a: d.SineBivariateVonMises(0.1, 0.3, a(2.0), 3.0, weighted_correlation=0.4), Z[:, :2]),
    ],
    "SineSkewed": [
        (lambda d, a: d.SineSkewed(d.VonMises(a(V), 2.0).to_event(1), a(np.array([0.2, -0.3, 0.1]))), Z),
    ],
    "SoftLaplace": [(lambda d, a: d.SoftLaplace(a(V), 2.0), V[::-1])],
    "StudentT": [(lambda d, a: d.StudentT(a(P), a(V), 2.0), V[::-1]), (lambda d, a: d.StudentT(3), V)],
    "TransformedDistribution": [
        (
            lambda d, a: d.TransformedDistribution(
                d.Normal(a(V), 2.0), [d.transforms.AffineTransform(0.5, 2.0), d.transforms.ExpTransform()]
            ),
            P,
        ),
        (lambda d, a: d.TransformedDistribution(d.Gamma(a(P)), d.transforms.PowerTransform(0.5)), P),
        (lambda d, a: d.TransformedDistribution(d.Normal(a(V), 1.0), d.transforms.SigmoidTransform()), U),
    ],
    "TruncatedNormal": [
        (lambda d, a: d.TruncatedNormal(a(V), 2.0, -3.0, a(4.0)), V[::-1]),
        (lambda d, a: d.TruncatedNormal(a(V), 2.0, low=-2.0), V[::-1]),
        (lambda d, a: d.TruncatedNormal(a(V), 2.0, high=3.0), V[::-1]),
        (lambda d, a: d.TruncatedNormal(a(V), 2.0), V[::-1]),
        (lambda d, a: d.TruncatedNormal(0.0, 1.0, a(40.0), 41.0), 40 + U),
    ],
    "TruncatedPolyaGamma": [(lambda d, a: d.TruncatedPolyaGamma((3,)), U)],
    "Uniform": [(lambda d, a: d.Uniform(a(V - 1), 4.0), V), (lambda d, a: d.Uniform(), U)],
    "Unit": [(lambda d, a: d.Unit(a(V)), np.zeros((3, 0)))],
    "VonMises": [(lambda d, a: d.VonMises(a(V), a(P)), V[::-1]), (lambda d, a: d.VonMises(0.2, 20), V)],
    "Weibull": [(lambda d, a: d.Weibull(a(P), 1.7), P[::-1])],
    "Wishart": [
        (lambda d, a: d.Wishart(a(4.5), a(M)), R),
        (lambda d, a: d.Wishart(a(np.array([3.5, 6.0])), rate_matrix=a(M)), R),
        (lambda d, a: d.Wishart(5, scale_tril=a(L)), np.stack([R, M])),
    ],
    "ZeroInflatedDistribution": [
        (lambda d, a: d.ZeroInflatedDistribution(d.Poisson(a(P)), gate=a(U)), K),
        (lambda d, a: d.ZeroInflatedDistribution(d.Poisson(2.0), gate_logits=a(V)), K),
        (lambda d, a: d.ZeroInflatedDistribution(d.Poisson(a(P)), gate=0.3), K),
    ],
    "ZeroInflatedPoisson": [(lambda d, a: d.ZeroInflatedPoisson(a(U), 2.0), K)],
}
FLAT = [pytest.param(*case, id=f"{name}{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]
each_case = pytest.mark.parametrize("make, value", FLAT)
each_name = pytest.mark.parametrize("make, value", [cases[0] for cases in CASES.values()], ids=CASES)


def tensor(x):
    return torch.as_tensor(np.array(x))


def both(make):
    return make(nd, jnp.asarray), make(pd, tensor)


def abstract(make):
    """NumPyro's distribution, with shapes and no numbers: nothing is computed or compiled."""
    return jax.eval_shape(lambda: make(nd, jnp.asarray))


def jit(function):
    """Compiled at once, which is faster than op by op, and without the optimisations that take their time."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=options)


def close(ours, theirs, tolerance=1e-10):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=tolerance, atol=tolerance)


def test_every_portable_name_is_tried_and_nothing_else():
    assert set(CASES) == set(names.DISTRIBUTIONS)


@each_case
def test_log_prob(make, value):
    ours, theirs = abstract(make), make(pd, tensor)
    assert tuple(ours.batch_shape) == tuple(theirs.batch_shape)
    assert tuple(ours.event_shape) == tuple(theirs.event_shape)
    batch = value.shape[: value.ndim - len(ours.event_shape)]
    shape = (4, *np.broadcast_shapes(batch, ours.batch_shape))

    wide = np.broadcast_to(value, shape + tuple(ours.event_shape))

    def log_probs(d, a, plain, wide):
        """As it is, and expanded with its last batch axis made part of the event."""
        fn = make(d, a)
        return fn.log_prob(plain), fn.expand(shape).to_event(1).log_prob(wide)

    ours = jit(lambda *x: log_probs(nd, jnp.asarray, *x))(jnp.asarray(value), jnp.asarray(wide))
    theirs = log_probs(pd, tensor, tensor(value), tensor(wide))
    assert not np.isnan(ours[0]).any()
    for x, y in zip(ours, theirs, strict=True):
        close(x, y)
    close(ours[1], np.broadcast_to(ours[0], shape).sum(-1))


@each_case
def test_log_prob_and_gradient_under_vmap_and_make_fx(make, value):
    """Parameters and values are traced and mapped over, as in a sampler: no Python may look at a number.

    The derivative is that along lines through the origin, of parameters and value at once.
    """

    def scaled(d, array, one):
        x = array(value)
        x = x * one if value.dtype.kind == "f" else x
        return make(d, lambda x: array(x) * one).log_prob(x).sum()

    def both_of(one):
        slope, log_prob = torch.func.grad_and_value(lambda one: scaled(pd, tensor, one))(one)
        return log_prob, slope

    ones = torch.ones(2)
    log_prob, slope = make_fx(torch.func.vmap(both_of))(ones)(ones)
    expected = jit(jax.value_and_grad(lambda one: scaled(nd, jnp.asarray, one)))(1.0)
    close(log_prob[1], expected[0])
    close(slope[1], expected[1], 1e-9)


@each_name
def test_samples_lie_in_the_support(make, value):
    """NumPyro's are drawn in the abstract, for their shapes; compiling its samplers takes seconds each."""
    ours, theirs = abstract(make), make(pd, tensor)
    if getattr(theirs, "is_improper", False):
        assert ours.is_improper
        for sample in (theirs.sample, lambda: ours.sample(jax.random.key(0))):
            with pytest.raises(NotImplementedError):
                sample()
        return
    draws = jax.eval_shape(lambda key: make(nd, jnp.asarray).sample(key, (5,)), jax.random.key(0))
    torch.manual_seed(0)
    others = theirs.sample((5,))
    assert draws.shape == tuple(others.shape) == (5, *ours.batch_shape, *ours.event_shape)
    assert theirs.support.check(others).all()


OWN = ["FromFunctions", "MarkovChain", "Ordered", "OneHotCategorical", "TruncatedNormal", "TruncatedPolyaGamma"]


@pytest.mark.parametrize("name", OWN)
def test_samples_of_our_own_on_numpyro_lie_in_the_support(name):
    def inside(key):
        ours = CASES[name][0][0](nd, jnp.asarray)
        return ours.support(ours.sample(key, (5,)))

    assert np.all(jit(inside)(jax.random.key(0)))


def test_masked_sites_count_for_nothing():
    mask = np.array([True, False, True])
    ours, theirs = both(lambda d, a: d.Normal(a(V), 2.0).mask(a(mask)))
    close(ours.log_prob(jnp.asarray(V)), theirs.log_prob(tensor(V)))
    assert ours.log_prob(jnp.asarray(V))[1] == 0


@pytest.mark.parametrize("value", [K, K.astype(float)])
@pytest.mark.parametrize("name", ["Poisson", "Binomial", "Geometric", "NegativeBinomial", "BetaBinomial"])
def test_counts_may_be_integers_or_floats(name, value):
    make, _ = CASES[name][0]
    ours, theirs = both(make)
    close(ours.log_prob(jnp.asarray(value)), theirs.log_prob(tensor(value)))


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
@pytest.mark.parametrize(
    ("name", "arguments", "inside", "outside"),
    [
        ("Uniform", (0.0, 2.0), 1.0, 3.0),
        ("Pareto", (2.0, 3.0), 2.5, 1.0),
        ("DiscreteUniform", (1, 4), 2, 6),
        ("BetaBinomial", (2.0, 3.0, 3), 2.0, 7.0),
    ],
)
def test_nothing_outside_of_bounds_that_may_be_latent(backend, name, arguments, inside, outside):
    with pg.on(backend) as active:
        value = active.asarray(np.array([inside, outside]))
        log_prob = active.to_numpy(getattr(pg.dist, name)(*arguments).log_prob(value))
    assert np.isfinite(log_prob[0]) and log_prob[1] == -np.inf
