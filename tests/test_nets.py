"""Networks: the same numbers on both libraries, and what each promises of what it sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import ppl_gen as pg
from ppl_gen import dist, nets

IMAGE = (7, 6, 2)
RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype("f4")


CASES = {
    "mlp": (nets.MLP(5, 3, (16, 8), "gelu"), (floats(4, 2, 5),)),
    "residual": (nets.ResidualMLP(5, 3, 16), (floats(4, 5),)),
    "set of numbers": (nets.DeepSet(None, 3, (8,), 6), (floats(4, 7),)),
    "set of rows": (nets.DeepSet(2, 3, (8,), 6), (floats(4, 7, 2),)),
    "masked": (nets.MaskedMLP(5, 2, (16, 16), order=(3, 0, 4, 1, 2)), (floats(4, 5),)),
    "masked with context": (nets.MaskedMLP(5, 2, (16,), "tanh", num_context=3), (floats(4, 5), floats(4, 3))),
    "encoder": (nets.ConvEncoder(IMAGE, 4, (8, 16)), (floats(3, *IMAGE),)),
    "decoder": (nets.ConvDecoder(4, IMAGE, (16, 8), "silu"), (floats(3, 4),)),
    "unet": (nets.UNet(IMAGE, 3, (8, 16)), (floats(3, *IMAGE), np.linspace(0, 1, 3, dtype="f4"))),
    "unet of classes": (
        nets.UNet(IMAGE, 2, (12, 16, 24), num_blocks=2, attention=False, num_classes=4),
        (floats(3, *IMAGE), np.linspace(0, 1, 3, dtype="f4"), np.array([0, 3, 4])),
    ),
    "perceptron told the time": (nets.TimeMLP(3, (16, 8)), (floats(4, 3), np.linspace(0, 1, 4, dtype="f4"))),
    "residual told the time": (
        nets.TimeResidual(3, 16, 2, num_classes=2, num_context=2),
        (floats(4, 3), np.linspace(0, 1, 4, dtype="f4"), np.array([0, 2, 1, 0]), floats(4, 2)),
    ),
    "pixels": (nets.PixelCNN(IMAGE, 5, 8, 3), (floats(3, *IMAGE),)),
    "pixels of classes": (nets.PixelCNN(IMAGE, 5, 8, 2, 3, num_classes=4), (floats(3, *IMAGE), np.array([0, 3, 1]))),
    "transformer": (nets.CausalTransformer(11, 6, 2, 2, 16), (RNG.integers(11, size=(3, 14)),)),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def both(net, seed=0):
    """The network in both homes, with weights that are nowhere zero."""
    made = {name: net.build(name, seed) for name in ("jax", "torch")}
    rng = np.random.default_rng(1)
    held = {n: x + 0.1 * rng.normal(size=x.shape).astype("f4") for n, x in nets.weights(made["jax"]).items()}
    nets.load(made["jax"], held)
    nets.load(made["torch"], nets.weights(made["jax"]))
    return made["jax"], made["torch"]


def outputs(net, inputs):
    one, other = both(net)
    with torch.no_grad():
        return np.asarray(one(*map(jnp.asarray, inputs))), other(*map(torch.as_tensor, inputs)).numpy()


def test_they_are_what_the_libraries_know_and_give_the_same(case):
    net, inputs = case
    one, other = both(net)
    assert isinstance(one, nnx.Module) and isinstance(other, torch.nn.Module)
    held, copied = nets.weights(one), nets.weights(other)
    assert list(held) and held.keys() == copied.keys() and all(np.array_equal(held[n], copied[n]) for n in held)
    assert net.num_weights == sum(p.numel() for p in other.parameters()) == sum(x.size for x in held.values())
    on_jax, on_torch = outputs(net, inputs)
    assert on_jax.std() > 1e-3
    np.testing.assert_allclose(on_jax, on_torch, rtol=1e-5, atol=1e-5)


def test_they_start_alike_on_both_and_otherwise_with_another_seed(case):
    net, _ = case
    one, other, third = (nets.weights(net.build(*args)) for args in (("jax", 3), ("torch", 3), ("jax", 4)))
    assert all(np.array_equal(one[n], other[n]) for n in one)
    assert any(not np.array_equal(one[n], third[n]) for n in one)


def test_sets_have_no_order_and_any_size():
    net, x = nets.DeepSet(2, 3, (8,), 6).build("torch"), torch.as_tensor(floats(4, 7, 2))
    torch.testing.assert_close(net(x[:, torch.randperm(7)]), net(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net(torch.cat([x, x], dim=1)), net(x), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(net(x), net(x.flip(-1)), atol=1e-3)


def jacobian(net, x, *rest):
    """(outputs, inputs) of single rows."""
    made, _ = both(net)
    found = jax.jacobian(lambda x: made(x[None], *rest)[0])(jnp.asarray(x))
    return np.asarray(found).reshape(-1, x.size)


@pytest.mark.parametrize("order", [None, (3, 0, 4, 1, 2)])
def test_masked_outputs_see_the_inputs_before_them_and_all_of_those(order):
    net = nets.MaskedMLP(5, 2, (32, 32), "tanh", order=order)
    found = np.abs(jacobian(net, floats(5))).reshape(5, 2, 5).sum(1)
    place = np.arange(5) if order is None else np.array(order)
    assert ((found > 0) == (place[None, :] < place[:, None])).all()


@pytest.mark.parametrize("classes", [0, 3])
def test_a_pixel_sees_what_is_above_and_to_the_left_and_all_of_it(classes):
    net = nets.PixelCNN((6, 5, 1), 2, 8, 6, 3, num_classes=classes)
    rest = (jnp.array([1]),) if classes else ()
    found = np.abs(jacobian(net, floats(6, 5, 1), *rest)).reshape(30, 2, 30).sum(1)
    assert ((found > 0) == np.tril(np.ones((30, 30), bool), -1)).all()


def test_tokens_see_the_window_before_them():
    net = nets.CausalTransformer(11, 4, 1, 2, 16)
    made, _ = both(net)
    tokens = RNG.integers(11, size=12)
    whole = np.asarray(made(jnp.asarray(tokens)))
    for at in (0, 3, 7, 11):
        changed = tokens.copy()
        changed[at] = (changed[at] + 1) % 11
        moved = np.abs(np.asarray(made(jnp.asarray(changed))) - whole).max(-1) > 1e-6
        assert moved.tolist() == [at <= i < at + 4 for i in range(12)]


@pytest.mark.parametrize("library", ["jax", "torch"])
def test_with_a_cache_tokens_one_by_one_give_what_they_give_together(library):
    net = nets.CausalTransformer(11, 4, 3, 2, 16)
    made = dict(zip(("jax", "torch"), both(net), strict=True))[library]
    array, backend = (jnp.asarray, "numpyro") if library == "jax" else (torch.as_tensor, "pyro")
    tokens = RNG.integers(11, size=(2, 13))
    with torch.no_grad(), pg.on(backend, precision="float32") as active:
        together = active.to_numpy(made(array(tokens)))
        cache, found = net.start_cache(active.xp, 2), []
        for at in range(13):
            logits, cache = made(array(tokens[:, at : at + 1]), cache)
            found.append(active.to_numpy(logits)[:, 0])
    np.testing.assert_allclose(np.stack(found, axis=1), together, rtol=1e-4, atol=1e-5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class OfArrays:
    """A network as Equinox makes them: a callable pytree, whose leaves are not all weights."""

    kernel: jax.Array
    bias: jax.Array
    times_seen: jax.Array
    final: Callable = dataclasses.field(metadata={"static": True})

    def __call__(self, x):
        return self.final(x @ self.kernel + self.bias)


def of_arrays():
    return OfArrays(jnp.zeros((2, 1)), jnp.zeros(1), jnp.array(7), lambda y: y)


def affine(w, x):
    return x @ w[:2] + w[2:]


NETWORKS = [
    ("numpyro", nets.MLP(2, 1, ())),
    ("pyro", nets.MLP(2, 1, ())),
    ("numpyro", {"jax": of_arrays}),
    ("numpyro", jax.tree_util.Partial(affine, jnp.zeros((3, 1)))),
]


@pytest.mark.parametrize(("backend", "net"), NETWORKS, ids=["numpyro", "pyro", "pytree", "partial"])
def test_a_program_learns_a_network(backend, net):
    """Least squares by a linear network: its weights are those of the normal equations."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 2))
    y = x @ [1.5, -0.7] + 0.3 + 0.1 * rng.normal(size=60)

    @pg.program
    def regression(x, y):
        mean = pg.module("net", net)(x)[:, 0]
        with pg.plate("row", len(y)):
            pg.sample("y", dist.Normal(mean, 1.0), obs=y)

    run = pg.infer(regression, {"x": x, "y": y}, "map", backend, objective="likelihood", num_steps=2000, progress=False)
    best = np.linalg.lstsq(np.column_stack([x, np.ones(60)]), y, rcond=None)[0]
    found = np.concatenate([np.ravel(v) for _, v in sorted(run.params.items(), reverse=True)])
    np.testing.assert_allclose(found, best, atol=1e-4)


BAD = [
    (lambda: nets.MLP(0, 1), "in_features must be a whole number of at least 1"),
    (lambda: nets.MLP(1, 1, (8.5,)), "hidden must be a whole number"),
    (lambda: nets.MLP(1, 1, activation="swish"), "activation must be one of relu"),
    (lambda: nets.MaskedMLP(3, 1, order=(0, 1, 1)), "order must be a permutation of 0 to 2"),
    (lambda: nets.PixelCNN(IMAGE, 1, kernel_size=4), "kernel_size must be odd"),
    (lambda: nets.CausalTransformer(5, width=20, num_heads=4), "must be a multiple of 2 x num_heads"),
    (lambda: nets.MLP(1, 1).build("tensorflow"), "expected one of 'jax', 'torch'"),
    (lambda: nets.load(nets.MLP(2, 1).build("torch"), {}), "weights are of another network: hidden.0.bias: expected"),
    (lambda: nets.MLP(2, 1).build("jax")(jnp.zeros((3, 4))), "layer of 2 features got 4"),
    (
        lambda: nets.ConvEncoder(IMAGE, 2).build("torch")(torch.zeros(1, 2, 7, 6)),
        "expected images .*7, 6, 2.*channels come last, so move axis -3",
    ),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_what_does_not_fit_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


def test_weights_of_what_is_no_network_of_ours():
    with pytest.raises(TypeError, match="was not made by a network of ppl_gen"):
        nets.weights(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("backend", "expected"), [("numpyro", "a network is a flax.nnx module, or"), ("pyro", "a torch.nn module")]
)
def test_what_is_no_network_is_refused(backend, expected):
    @pg.program
    def model(x):
        pg.sample("y", dist.Normal(pg.module("net", {"jax": "MLP", "torch": "MLP"})(x), 1.0))

    with pytest.raises(pg.ProgramError, match=f"module 'net' got a str: .*{expected}"):
        pg.infer(model, np.zeros(3), "map", backend, progress=False)
