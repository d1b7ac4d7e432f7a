"""The distributions that we wrote, against SciPy and their laws; and how the namespace `dist` answers."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pyro
import pyro.infer.autoguide
import pytest
import torch
from scipy import integrate, special, stats

import ppl_gen as pg
from tests.test_dist_parity import M, S, U, _double, both, close, jit, names, nd, pd, tensor  # noqa: F401

BOUNDS = [(-1.0, 2.0), (2.0, 3.0), (-30.0, -29.0), (None, -1.0), (30.0, None), (8.0, 8.1), (-4.0, 50.0)]


@pytest.mark.parametrize("low, high", BOUNDS)
def test_truncated_normal_is_scipys_and_samples_itself(low, high):
    a, b = -math.inf if low is None else low, math.inf if high is None else high
    reference = stats.truncnorm(a, b, loc=1.0, scale=2.0)
    bounds = [None if x is None else 1.0 + 2.0 * x for x in (low, high)]

    def make(d, _):
        return d.TruncatedNormal(1.0, 2.0, *bounds)

    ours, theirs = both(make)
    x = reference.ppf(U)
    close(jit(lambda x: make(nd, None).log_prob(x))(jnp.asarray(x)), reference.logpdf(x), 1e-7)
    torch.manual_seed(0)
    drawn = jit(lambda key: make(nd, None).sample(key, (2000,)))(jax.random.key(0))
    for draws in (drawn, theirs.sample((2000,))):
        assert stats.kstest(np.asarray(draws), reference.cdf).pvalue > 1e-3
    for outside in (bounds[0] and bounds[0] - 1, bounds[1] and bounds[1] + 1):
        if outside is not None:
            assert ours.log_prob(outside) == -np.inf
            assert theirs.log_prob(tensor(outside)) == -np.inf


def test_truncated_normal_samples_carry_gradients():
    def mean_jax(loc):
        return nd.TruncatedNormal(loc, 2.0, 0.0, 3.0).sample(jax.random.key(0), (20_000,)).mean()

    loc = torch.tensor(0.4, requires_grad=True)
    torch.manual_seed(0)
    pd.TruncatedNormal(loc, 2.0, 0.0, 3.0).rsample((20_000,)).mean().backward()
    step, mean = 1e-4, lambda m: stats.truncnorm(-m / 2, (3 - m) / 2, loc=m, scale=2.0).mean()
    expected = (mean(0.4 + step) - mean(0.4 - step)) / (2 * step)
    close(jit(jax.grad(mean_jax))(0.4), expected, 0.02)
    close(loc.grad, expected, 0.02)


def test_ordered_integrates_to_one_and_samples_order_statistics():
    d = nd.Ordered(nd.Normal(0.5, 1.5), 2)
    grid = np.linspace(-10, 11, 701)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    density = np.exp(d.log_prob(jnp.asarray(np.stack([x, y], -1))))
    density = np.where(x == y, 0.5 * 2 * stats.norm(0.5, 1.5).pdf(x) ** 2, density)  # half of the diagonal
    close(integrate.trapezoid(integrate.trapezoid(density, grid), grid), 1.0, 1e-4)
    ours, theirs = both(lambda d, _: d.Ordered(d.Exponential(1.0), 3))
    torch.manual_seed(0)
    expected = [1 / 3, 1 / 3 + 1 / 2, 1 / 3 + 1 / 2 + 1]  # Renyi's representation
    for draws in (ours.sample(jax.random.key(0), (20_000,)), theirs.sample((20_000,))):
        close(np.asarray(draws).mean(0), expected, 0.02)


def test_ordered_logistic_is_exact_in_both_tails():
    a, b = -61.0, -59.5
    middle = special.log_expit(b) + math.log1p(-math.exp(special.log_expit(a) - special.log_expit(b)))
    for d in both(lambda d, a: d.OrderedLogistic(a([60.0, -60.0]), a([-1.0, 0.5]))):
        logits = np.asarray(d.logits)
        close(logits[0, :2], [special.log_expit(a), middle])
        close(logits[1, 1:], [special.log_expit(-59.0) + math.log1p(-math.exp(-1.5)), special.log_expit(-60.5)])


@pytest.mark.parametrize("name, length", [("positive_definite", 6), ("lower_cholesky", 6), ("corr_matrix", 3)])
def test_pyros_own_algorithms_find_every_support(name, length):
    constraint, u = getattr(pd.constraints, name), torch.randn(length)
    close(torch.distributions.biject_to(constraint)(u), pd.bijection(constraint).forward(u))


def test_pyros_autoguides_take_our_supports():
    def model():
        pyro.sample("x", pd.Ordered(pd.HalfNormal(1.0), 3))
        pyro.sample("s", pd.Wishart(5.0, torch.eye(2)))

    with pyro.get_param_store().scope():
        guide = pyro.infer.autoguide.AutoNormal(model)
        assert np.isfinite(pyro.infer.Trace_ELBO().loss(model, guide))


def test_ordered_refuses_bases_it_cannot_order():
    for d in (nd, pd):
        with pytest.raises(ValueError, match="reals or the positive reals"):
            d.Ordered(d.Beta(1.0, 2.0), 3)
        with pytest.raises(ValueError, match="univariate"):
            d.Ordered(d.Dirichlet([1.0, 2.0]), 3)


def test_discrete_values_can_be_enumerated():
    for make in (
        lambda d, a: d.DiscreteUniform(2, 4),
        lambda d, a: d.OneHotCategorical(a(S)),
        lambda d, a: d.DiscreteUniform(2, 4).expand([2]),
    ):
        for expand in (True, False):
            ours, theirs = (d.enumerate_support(expand=expand) for d in both(make))
            close(ours, theirs)


def test_wishart_and_discrete_uniform_have_the_moments_of_their_laws():
    torch.manual_seed(0)
    close(pd.Wishart(5.0, tensor(M)).sample((20_000,)).mean(0), 5 * M, 0.15)
    draws = pd.DiscreteUniform(2, 4).sample((20_000,))
    close(np.bincount(draws.numpy(), minlength=5) / 20_000, [0, 0, 1 / 3, 1 / 3, 1 / 3], 0.02)


def _correlated_pair(d, loc, covariance):
    """N(loc, covariance) by functions: in a plate of a program it must be what the library's own is."""
    root = np.linalg.cholesky(covariance)
    return d.FromFunctions(
        d.Normal(0.0, 1.0).expand([2]).to_event(1),
        lambda e: loc + e @ pg.xp.asarray(root.T),
        d.MultivariateNormal(loc, covariance).log_prob,
        (2,),
    )


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_from_functions_is_the_distribution_that_its_functions_say(backend):
    """The posterior mean of a Gaussian location in closed form by MAP, and new rows with the given covariance."""
    covariance = np.array([[1.0, 0.6], [0.6, 2.0]])
    x = np.random.default_rng(0).multivariate_normal([1.0, -2.0], covariance, 4000)

    def model(x):
        loc = pg.sample("loc", pg.dist.Normal(0.0, 0.1).expand([2]).to_event(1))
        with pg.plate("row", len(x)):
            pg.sample("x", _correlated_pair(pg.dist, loc, covariance), obs=x)

    run = pg.infer(model, x, "map", backend, progress=False)
    precision = len(x) * np.linalg.inv(covariance)
    close(run.params["loc"], np.linalg.solve(precision + 100 * np.eye(2), precision @ x.mean(0)), 1e-6)
    close(run.log_prob(x), stats.multivariate_normal(run.params["loc"], covariance).logpdf(x), 1e-9)
    drawn = run.sample(1, seed=1)[0]
    assert drawn.shape == x.shape
    # 5 standard errors: sd of a sample (co)variance is at most var sqrt(2 / n), of a mean sqrt(var / n)
    close(np.cov(drawn.T), covariance, 5 * 2 * math.sqrt(2 / 4000))
    close(drawn.mean(0), run.params["loc"], 5 * math.sqrt(2 / 4000))


# ---- the namespace ---------------------------------------------------------------------------------------


def test_the_tables_name_what_the_libraries_have():
    def concrete(library):
        base = getattr(library, "Distribution", None)
        return {n for n, x in vars(library).items() if not n.startswith("_") and _is_distribution(x, base)}

    n, p = concrete(numpyro.distributions), concrete(pyro.distributions)
    abstract = {"Distribution", "ExpandedDistribution", "MaskedDistribution", "TorchDistribution"}
    abstract |= {"ExponentialFamily"}
    portable = set(names.DISTRIBUTIONS)
    assert (n & p) - abstract <= portable
    assert names.NUMPYRO_ONLY == n - p - portable
    assert names.PYRO_ONLY >= p - n - portable - abstract
    assert not names.PYRO_ONLY & n


def _is_distribution(x, base):
    if inspect.isclass(x):
        return issubclass(x, base | torch.distributions.Distribution)
    return inspect.isfunction(x) and x.__name__[0].isupper()


@pytest.mark.parametrize("d", [nd, pd])
def test_unknown_names_say_where_to_go(d):
    with pytest.raises(AttributeError, match="only NumPyro has it.*backend=\"numpyro\""):
        _ = d.CAR
    with pytest.raises(AttributeError, match="only Pyro has it.*backend=\"pyro\""):
        _ = d.Stable
    with pytest.raises(AttributeError, match="Did you mean dist.Normal"):
        _ = d.Nromal
    with pytest.raises(TypeError, match="scale"):
        d.Normal(0.0, sd=1.0)
    with pytest.raises(ValueError, match="'simplex'"):
        d.Flat("simplx", (3,))
    assert set(names.DISTRIBUTIONS) <= set(dir(d))


@pytest.mark.parametrize("d", [nd, pd])
def test_constructors_serve_isinstance(d):
    assert isinstance(d.Normal(0.0, 1.0), d.Normal)
    assert isinstance(d.Categorical(probs=[0.5, 0.5]), d.Categorical)
    assert not isinstance(d.Normal(0.0, 1.0), d.Gamma)


def test_multinomial_with_a_total_count_for_each_row():
    """SciPy's density; totals as asked for; means n p, of which 20,000 draws miss by less than 5 standard errors."""
    probs, total = np.array([0.2, 0.3, 0.5]), np.array([3, 7, 0])
    ours, theirs = both(lambda d, a: d.Multinomial(total, a(probs)))
    x = np.array([[1, 0, 2], [3, 3, 1], [0, 0, 0]])
    for log_prob in (ours.log_prob(jnp.asarray(x)), theirs.expand((3,)).log_prob(tensor(x))):
        close(log_prob, stats.multinomial(total, probs).logpmf(x))
    torch.manual_seed(0)
    compiled = jax.jit(lambda total, key: nd.Multinomial(total, jnp.asarray(probs)).sample(key, (20_000,)))
    of_key = jax.random.key(0)
    for draws in (ours.sample(of_key, (20_000,)), compiled(total, of_key), theirs.sample((20_000,))):
        draws = np.asarray(draws)
        np.testing.assert_array_equal(draws.sum(-1), np.broadcast_to(total, (20_000, 3)))
        error = np.sqrt(total[:, None] * probs * (1 - probs) / 20_000)
        assert (np.abs(draws.mean(0) - total[:, None] * probs) <= 5 * error).all()
