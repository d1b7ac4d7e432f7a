"""Flows: the laws of invertible maps, far outside of the box of splines too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ppl_gen as pg
from ppl_gen import nets
from ppl_gen.backends import estimating
from ppl_gen.flows.autoregressive import Autoregressive
from ppl_gen.flows.bijector import Inverse
from ppl_gen.flows.continuous import Continuous, runge_kutta
from ppl_gen.flows.coupling import Coupling
from ppl_gen.flows.kinds import KINDS, flow
from ppl_gen.flows.linear import Linear
from ppl_gen.flows.maps import Affine, Spline
from ppl_gen.flows.planar import Planar
from ppl_gen.flows.radial import Radial

D = 4
LAYERS = {
    "affine coupling": Coupling(D, Affine(), (8,)),
    "swapped affine coupling": Coupling(D + 1, Affine(), (8,), swapped=True),
    "spline coupling": Coupling(D, Spline(5, 3.0), (8,)),
    "spline coupling with context": Coupling(D, Spline(), (8,), num_context=2),
    "autoregressive": Autoregressive(D, Affine(), (8,)),
    "autoregressive spline": Autoregressive(D, Spline(), (8,), order=(2, 0, 3, 1)),
    "autoregressive with context": Autoregressive(D, Affine(), (8,), num_context=2),
    "inverse": Inverse(Autoregressive(D, Spline(), (8,))),
    "linear": Linear(D),
    "planar": Planar(D),
    "radial": Radial(D),
    "continuous": Continuous(D, (8,)),
    "continuous with context": Continuous(D, (8,), num_context=2),
    "continuous of one feature": Continuous(1, (8,)),
    "spline of one feature": Autoregressive(1, Spline(), (8,)),
    "planar of one feature": Planar(1),
    "radial of one feature": Radial(1),
    **{kind: flow(kind, D, 3, **({} if kind in ("planar", "radial") else {"hidden": (8,)})) for kind in KINDS},
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]


def built(layer, library):
    """The bijector with weights that are nowhere zero, in float64, and what it is conditional on."""
    net = layer.build(library)
    rng = np.random.default_rng(1)
    held = sorted(nets.weights(net).items())
    held = {n: x.astype("f4") + 0.1 * rng.normal(size=x.shape).astype("f4") for n, x in held}
    nets.load(net, held)
    num_context = getattr(layer, "num_context", 0)
    return net, (np.array([0.3, -1.0]),) if num_context else ()


def points(layer):
    """Most of them near, some far outside of the box, and some very far."""
    x = np.random.default_rng(2).normal(size=(40, getattr(layer, "features", D))) * 2.0
    x[::5] *= 20.0
    x[::10] *= 50.0
    return x


def on_jax(layer):
    from flax import nnx

    net, context = built(layer, "jax")
    wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), nnx.state(net, nnx.Param))
    nnx.update(net, wide)
    return net, tuple(map(jnp.asarray, context))


def test_the_way_back_leads_back(layer):
    with pg.on("numpyro"):
        net, context = on_jax(layer)
        x = jnp.asarray(points(layer))
        y, there = net(x, *context)
        again, back = net(y, *context, inverse=True)
    assert float(jnp.abs(y - x).max()) > 1e-4
    np.testing.assert_allclose(again, x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(there + back, 0.0, atol=1e-6)


def test_the_log_determinant_is_that_of_the_jacobian(layer):
    with pg.on("numpyro"):
        net, context = on_jax(layer)
        for inverse in (False, True):
            x = jnp.asarray(points(layer))
            _, log_det = net(x, *context, inverse=inverse)
            jacobian = jax.vmap(jax.jacfwd(lambda row, way=inverse: net(row, *context, inverse=way)[0]))(x)
            np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jacobian)[1], rtol=1e-6, atol=1e-6)


def test_both_libraries_map_alike(layer):
    x, found = points(layer), []
    with pg.on("numpyro"):
        net, context = on_jax(layer)
        found.append([np.asarray(v) for way in (False, True) for v in net(jnp.asarray(x), *context, inverse=way)])
    with pg.on("pyro"), torch.no_grad():
        net, context = built(layer, "torch")
        net, context = net.double(), tuple(map(torch.as_tensor, context))
        found.append([v.numpy() for way in (False, True) for v in net(torch.as_tensor(x), *context, inverse=way)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_flows_start_near_the_identity(kind):
    net = flow(kind, D).build("jax")
    x = jnp.asarray(points(LAYERS["linear"])[1:5], jnp.float32)
    y, _ = net(x)
    assert float(jnp.abs(y - x).max()) < (1e-4 if kind not in ("planar", "radial") else 3.0)


def test_runge_kutta_is_of_order_4():
    """Against the closed form of x'' = -x, halving the step divides the error by 16."""

    def error(num_steps):
        state, h = (np.array([1.0]), np.array([0.0])), 1.0 / num_steps
        for i in range(num_steps):
            state = runge_kutta(lambda s, t: (s[1], -s[0]), state, i * h, h)
        return abs(state[0][0] - np.cos(1.0))

    assert 15.0 < error(20) / error(40) < 17.0


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_random_signs_estimate_the_trace(backend):
    """Their mean is within 4 standard errors of the exact log determinant; the way there is the same."""
    exact, estimate = (Continuous(D, (8,), trace=trace) for trace in ("exact", "hutchinson"))
    x = np.random.default_rng(5).normal(size=(1, D))
    with pg.on(backend) as active:
        (net, _), (other, _) = (on_jax(n) if backend == "numpyro" else built(n, "torch") for n in (exact, estimate))
        net, other = (net, other) if backend == "numpyro" else (net.double(), other.double())
        y, log_det = active.to_numpy(net(active.asarray(x)))
        _, alike = active.to_numpy(other(active.asarray(x)))
        assert np.array_equal(alike, log_det)  # exact, for nothing is being trained
        with estimating(active.key(0)):
            z, found = active.to_numpy(other(active.asarray(np.repeat(x, 4000, axis=0))))
    np.testing.assert_allclose(z, np.repeat(y, 4000, axis=0), atol=1e-12)
    assert found.std() > 1e-3
    assert abs(found.mean() - log_det[0]) < 4.0 * found.std() / np.sqrt(len(found))


@pytest.mark.parametrize("declared", [pg.flows.FlowGuide, lambda kind, **own: pg.models.Flow(kind, 2, **own)])
@pytest.mark.parametrize("kind, option, message", [
    ("iaf", {"hidden": (0,)}, "hidden must be a whole number of at least 1"),
    ("ffjord", {"activation": "tan"}, "activation must be one of relu"),
    ("nsf", {"num_bins": 0}, "num_bins must be a whole number of at least 1"),
    ("nsf_coupling", {"bound": -1.0}, "bound must be a finite number above 0"),
])  # fmt: skip
def test_values_that_an_option_cannot_have_are_refused_where_they_are_declared(declared, kind, option, message):
    with pytest.raises(ValueError, match=message):
        declared(kind, **option)


def test_options_that_a_kind_has_not():
    with pytest.raises(ValueError, match="unknown flow 'nfs': expected one of 'realnvp'"):
        flow("nfs", 2)
    with pytest.raises(ValueError, match="a flow 'maf' has no num_bins: it is an option of 'nsf', 'nsf_coupling'"):
        pg.models.Flow("maf", 2, num_bins=4)
    with pytest.raises(ValueError, match="no networks that a context"):
        flow("planar", 2, num_context=1)
    with pytest.raises(ValueError, match="trace must be one of 'exact', 'hutchinson', got 'approximate'"):
        pg.models.Flow("ffjord", 2, trace="approximate")
    with pytest.raises(ValueError, match="at least 2 features"):
        flow("realnvp", 1)
    with pytest.raises(pg.DataError, match=r"expects x of shape \(N, 2\), got \(5, 3\)"):
        pg.infer(pg.models.Flow("maf", 2), np.zeros((5, 3)), "svi", batch_size=2, progress=False)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_a_conditional_flow_draws_rows_of_contexts(backend):
    """x | c ~ N(2 c, 0.5^2) of c = -1 and 1, learned from 2000 rows: draws have that mean, each of its own context."""
    rng = np.random.default_rng(8)
    c = rng.choice([-1.0, 1.0], (2000, 1))
    told = {"batch_size": 200, "num_steps": 400, "learning_rate": 1e-2, "schedule": "cosine", "progress": False}
    model = pg.models.Flow("maf", 1, 1, (8,), num_context=1)
    data = {"x": 2.0 * c + 0.5 * rng.normal(size=(2000, 1)), "context": c}
    run = pg.infer(model, data, "svi", backend, **told)
    found = np.asarray(run.predict({"context": c})["posterior_predictive"]["x"])[0, 0]
    assert found.shape == (2000, 1)
    for value in (-1.0, 1.0):  # the learned mean and the drawn one each have an error of 0.5 / sqrt(1000)
        assert abs(found[c == value].mean() - 2.0 * value) < 4.0 * 0.5 * np.sqrt(2.0 / 1000)
    with pytest.raises(pg.DataError, match=r"num_context=1 takes a context: run.predict\(\{'context'"):
        run.sample(3)
    with pytest.raises(pg.DataError, match="num_context=0 takes no context"):
        pg.infer(pg.models.Flow("maf", 1), data, "svi", backend, batch_size=2, progress=False)
