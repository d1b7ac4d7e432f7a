"""Both backends have the same unconstrained coordinates and log-Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from tests.test_dist_parity import _double, abstract, close, each_case, jit, nd, pd, tensor  # noqa: F401


def _low(a):
    return a([-1.0, 0.5, 2.0])


CONSTRAINTS = {
    "real": (lambda c, a: c.real, (2, 3)),
    "real_vector": (lambda c, a: c.real_vector, (2, 3)),
    "positive": (lambda c, a: c.positive, (2, 3)),
    "nonnegative": (lambda c, a: c.nonnegative, (2, 3)),
    "unit_interval": (lambda c, a: c.unit_interval, (2, 3)),
    "interval": (lambda c, a: c.interval(-1.5, 4.0), (2, 3)),
    "interval of arrays": (lambda c, a: c.interval(_low(a), 4.0), (2, 3)),
    "greater_than": (lambda c, a: c.greater_than(_low(a)), (2, 3)),
    "less_than": (lambda c, a: c.less_than(0.7), (2, 3)),
    "independent": (lambda c, a: c.independent(c.positive, 1), (2, 3)),
    "independent interval": (lambda c, a: c.independent(c.interval(_low(a), 4.0), 2), (4, 2, 3)),
    "simplex": (lambda c, a: c.simplex, (2, 4)),
    "independent simplex": (lambda c, a: c.independent(c.simplex, 1), (3, 2, 4)),
    "ordered_vector": (lambda c, a: c.ordered_vector, (2, 4)),
    "positive_ordered_vector": (lambda c, a: c.positive_ordered_vector, (2, 4)),
    "lower_cholesky": (lambda c, a: c.lower_cholesky, (2, 3, 3)),
    "corr_cholesky": (lambda c, a: c.corr_cholesky, (2, 4, 4)),
    "corr_matrix": (lambda c, a: c.corr_matrix, (2, 4, 4)),
    "positive_definite": (lambda c, a: c.positive_definite, (2, 3, 3)),
    "lower_cholesky of one": (lambda c, a: c.lower_cholesky, (2, 1, 1)),
}
each_constraint = pytest.mark.parametrize("make, shape", CONSTRAINTS.values(), ids=CONSTRAINTS)


def compare_bijections(make, shape):
    """`make(d, a)` is the constraint in the namespace `d`, `a` what turns numbers into its arrays."""
    theirs = pd.bijection(make(pd, tensor))
    u_shape = theirs.inverse_shape(shape)
    u = np.random.default_rng(0).normal(size=(5, *u_shape))

    def there_and_back(u):
        ours = nd.bijection(make(nd, jnp.asarray))
        assert ours.inverse_shape(shape) == u_shape
        assert ours.forward_shape(u_shape) == theirs.forward_shape(u_shape) == tuple(shape)
        x = ours.forward(u)
        return x, ours.log_abs_det(u, x), ours.inverse(x)

    x, log_det, back = jit(there_and_back)(jnp.asarray(u))
    y = theirs.forward(tensor(u))
    close(x, y)
    close(log_det, theirs.log_abs_det(tensor(u), y))
    close(back, u, 1e-8)
    close(theirs.inverse(y), u, 1e-8)
    return x, log_det


@each_constraint
def test_bijections_agree_and_invert(make, shape):
    x, log_det = compare_bijections(lambda d, a: make(d.constraints, a), shape)
    constraint = make(nd.constraints, jnp.asarray)
    assert log_det.shape == x.shape[: x.ndim - constraint.event_dim]
    assert np.all(jit(lambda x: constraint(x))(x))


def free_entries(constraint_name, x):
    """Coordinates of the manifold that a constrained event moves in."""
    x = jnp.atleast_1d(x)
    n = x.shape[-1]
    if constraint_name == "simplex":
        return x[:-1]
    if constraint_name in ("lower_cholesky", "positive_definite"):
        return x[jnp.tril_indices(n)]
    if constraint_name in ("corr_cholesky", "corr_matrix"):
        return x[jnp.tril_indices(n, -1)]
    return x.ravel()


@pytest.mark.parametrize(
    "name", "positive unit_interval simplex ordered_vector positive_ordered_vector lower_cholesky "
    "corr_cholesky corr_matrix positive_definite".split()
)
def test_log_det_is_that_of_the_jacobian(name):
    constraint = getattr(nd.constraints, name)
    bijection = nd.bijection(constraint)
    shape = (4,) * max(constraint.event_dim, 0)
    u = jnp.asarray(np.random.default_rng(1).normal(size=bijection.inverse_shape(shape)))
    jacobian = jit(jax.jacobian(lambda u: free_entries(name, bijection.forward(u))))(u)
    expected = jnp.linalg.slogdet(jnp.atleast_2d(jacobian))[1]
    close(bijection.log_abs_det(u, bijection.forward(u)), expected)


@each_constraint
def test_bijections_are_traceable_under_vmap_and_make_fx(make, shape):
    bijection = pd.bijection(make(pd.constraints, tensor))
    u = torch.randn((2, *bijection.inverse_shape(shape)), generator=torch.Generator().manual_seed(0))

    def density(u):
        x = bijection.forward(u)
        return x.sum() + bijection.log_abs_det(u, x).sum()

    graph = make_fx(torch.func.vmap(torch.func.grad(density)))(u)
    close(graph(u)[1], torch.func.grad(density)(u[1]))


@each_case
def test_supports_have_the_same_coordinates(make, value):
    ours, theirs = abstract(make), make(pd, tensor)
    assert bool(ours.support.is_discrete) == bool(theirs.support.is_discrete)
    if isinstance(theirs, pd.Unit):  # of factors; never latent
        return
    assert ours.support.event_dim == theirs.support.event_dim == len(ours.event_shape)
    try:
        pd.bijection(theirs.support)
    except NotImplementedError:  # discrete, a sphere or a single point
        with pytest.raises(NotImplementedError):
            nd.bijection(ours.support)
        return
    assert not ours.support.is_discrete
    shape = ours.batch_shape + ours.event_shape
    compare_bijections(lambda d, a: make(d, a).support, shape)
