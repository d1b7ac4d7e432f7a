"""Graphs of PyTorch made smaller give the same numbers, in trees, and their results belong to whoever called."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from ppl_gen.backends.pyro.compiling import like
from ppl_gen.backends.pyro.simplifying import _IN_PLACE, _OF_NETWORKS, _OF_TENSORS, _PLAIN, quick, simplified, writes

ROWS = torch.tensor([[0.5, -1.5, 2.0], [float("inf"), float("nan"), -0.25]], dtype=torch.float64)
FIXED = torch.tensor([[1.5, 0.0, -2.0], [1.0, 3.0, 0.25]], dtype=torch.float64)


def log_density(x):
    return -0.5 * ((x - FIXED.expand(2, 3)) / FIXED.exp()).square().sum(-1) - FIXED.exp().log().sum(-1)


CASES = {
    "products with ones": (lambda x: ((x * torch.ones(2, 3)) / torch.ones(()) + torch.zeros(3) - 0).exp(), 1),
    "powers of one": (lambda x: x.pow(1) + x.pow(1.0), 1),
    "what hangs on shapes": (lambda x: x * torch.ones_like(x).cumsum(0) + torch.full_like(x, 2.0).log(), 2),
    "constants": (lambda x: (FIXED @ FIXED.T).logdet().exp() * x, 1),
    "said twice": (lambda x: x.sin() * x.cos() + x.sin() / x.cos(), 5),
    "views of views": (lambda x: x[:, None].squeeze(1).reshape(2, 3).expand(2, 3).exp(), 1),
    "sums over one": (lambda x: x.sum(1, keepdim=True).sum(1) + x[:, :1].sum(1), None),
    "sums over one of what is repeated": (lambda x: x[:, :1].expand(2, 3)[:, None].sum(1).exp(), None),
    "sums of one number": (lambda x: x[0, 0].sum(-1).exp() + torch.ones(()).sum(0), None),
    "filled by a tensor": (lambda x: torch.empty(3, dtype=x.dtype).fill_(x[0, 0]) * torch.fill(x, x[0, 2]), None),
    "in place, in gaps": (lambda x: torch.empty_strided((3, 2), (7, 2)).fill_(1.0).mul_(2.0), None),
    "numbers": (lambda x: 2 * (x + 0.1) / 3 - 1e-3 + (3.0 - x), None),
    "whole numbers": (lambda x: x.isnan().long() * 3 + 1, None),
    "in place": (lambda x: torch.empty_like(x).fill_(1.0).sub_(x).mul_(x), 2),
    "in place, of another type": (lambda x: torch.empty(2, 3, dtype=torch.float32).fill_(0.1).sub_(x), None),
    "in place, seen elsewhere": (lambda x: (y := x.clone(), y.mul_(2.0), y + 1.0)[2], None),
    "in place, a part": (lambda x: (y := x * 1.0, y[0].mul_(2.0), y)[2], None),
    "slopes": (torch.func.grad(lambda x: torch.nn.functional.silu(log_density(x)).sum()), None),
    "rows": (torch.func.vmap(torch.func.grad_and_value(lambda x: (x * FIXED[0]).square().sum())), None),
    "a network": (lambda x: torch.nn.functional.gelu(torch.addmm(FIXED[:, :2], x, FIXED.T)), None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_by_fewer_operations(name):
    f, most = CASES[name]
    full, small = make_fx(f)(ROWS), simplified(make_fx(f)(ROWS))
    for x in (ROWS, ROWS.flip(0), torch.nan_to_num(ROWS, 0.1, 4.0)):
        expected = f(x)
        for graph in (small, quick(small)):
            torch.testing.assert_close(graph(x), expected, rtol=0, atol=0, equal_nan=True)
    count = lambda graph: sum(n.op == "call_function" for n in graph.graph.nodes)
    assert count(small) <= (count(full) if most is None else most)


def test_what_is_drawn_twice_stays_two_draws():
    f = lambda x: (x + torch.rand(3), x + torch.rand(3), torch.empty(0))
    small = simplified(make_fx(f)(FIXED))
    for run in (small, quick(small)):
        torch.manual_seed(0)
        expected = f(FIXED)
        torch.manual_seed(0)
        first, second, _ = run(FIXED)
        assert torch.equal(first, expected[0]) and torch.equal(second, expected[1])
        assert not torch.equal(first, second)


def test_results_may_be_written_into():
    """Neither the next call nor another result sees it."""
    run = quick(simplified(make_fx(lambda x: (x * 1.0, torch.zeros(3), torch.zeros(3), x.exp(), x.exp()))(FIXED)))
    given = FIXED.clone()
    for _ in range(2):
        for result in (results := run(given)):
            result.add_(7.0)
        assert torch.equal(results[1], torch.full((3,), 7.0, dtype=results[1].dtype))
        assert torch.equal(results[4], FIXED.exp() + 7.0)
        assert torch.equal(given, FIXED)


SEVERAL = {
    "views of an input": lambda x: ((x * 1.0).view(-1), (x + 0.0).t(), (x / 1.0).detach()),
    "views of a constant": lambda x: ((z := torch.zeros(2, 3)).view(-1), z + x, x - z.cos(), (torch.zeros(3) + 2)[1:]),
    "views of one thing": lambda x: (x.exp().view(-1), x.exp().view(-1), x.exp()),
    "parts of one thing": lambda x: (x.max(-1).values, x.max(-1).values, *x.exp().split(1), *x.exp().split(1)),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_results_share_no_memory(name):
    f = SEVERAL[name]
    run, given = quick(simplified(make_fx(f)(FIXED))), FIXED.clone()
    expected = [x.clone() for x in f(FIXED)]
    apart = len({x.untyped_storage().data_ptr() for x in f(FIXED)})
    for _ in range(2):
        results = run(given)
        for result, right in zip(results, expected, strict=True):
            assert torch.equal(result, right)
        assert len({x.untyped_storage().data_ptr() for x in results}) == apart
        for result in results:
            result.fill_(9.0)
        assert torch.equal(given, FIXED)


@pytest.mark.parametrize("frozen", [False, True])
def test_weights_are_read_in_every_call(frozen):
    """A parameter of a module may be trained between calls; it is no constant."""
    layer = torch.nn.Linear(3, 1, dtype=torch.float64).requires_grad_(not frozen)
    f = lambda x: layer(x).detach() * layer.weight.exp().sum().detach()
    run = quick(simplified(make_fx(f)(FIXED)))
    with torch.no_grad():
        layer.bias.add_(1.0)
        layer.weight.mul_(2.0)
    assert torch.equal(run(FIXED), f(FIXED))


@torch.library.custom_op("ppl_gen_tests::drawn", mutates_args=())
def drawn(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand_like(x)


@drawn.register_fake
def _(x):
    return torch.empty_like(x)


def test_operations_of_others_may_draw_and_not_say_so():
    first, second = quick(simplified(make_fx(lambda x: (drawn(x) * 1.0, drawn(x) * 1.0))(FIXED)))(FIXED)
    assert not torch.equal(first, second)


def test_large_constants_are_not_made_of_small_ones():
    graph = simplified(make_fx(lambda x: x.sum() * torch.arange(2**20).double().exp().sum())(FIXED))
    held = [x for name, x in vars(graph).items() if name.startswith("_folded")]
    assert sum(x.untyped_storage().nbytes() for x in held) < 2**21


def test_a_copy_into_a_new_tensor_is_a_clone():
    """Of memory of its own, laid out as the tensor was."""
    x = FIXED.t().contiguous().t()
    f = lambda x: torch.empty(x.shape, dtype=x.dtype).copy_(x).view(-1)
    graph = simplified(make_fx(f)(x))
    assert not any(map(writes, graph.graph.nodes))
    found = quick(graph)(x)
    assert torch.equal(found, f(x)) and found.data_ptr() != x.data_ptr()
    odd = lambda x: (torch.zeros(x.shape[::-1], dtype=x.dtype).t().copy_(x), torch.zeros(3, *x.shape).copy_(x), x.sum())
    for y, z in zip(quick(simplified(make_fx(odd)(x)))(x), odd(x), strict=True):
        assert torch.equal(y, z) and y.stride() == z.stride()


@pytest.mark.parametrize("name", sorted(_PLAIN | _OF_TENSORS | _OF_NETWORKS))
def test_there_is_a_plain_function_of_this_name(name):
    assert hasattr(torch.ops.aten, name)
    holder = torch.Tensor if name in _OF_TENSORS else torch._C._nn if name in _OF_NETWORKS else torch
    assert callable(getattr(holder, name))


@pytest.mark.parametrize("name", _IN_PLACE)
def test_what_writes_has_a_twin_that_does_not(name):
    packet, twin = getattr(torch.ops.aten, name), getattr(torch.ops.aten, name.rstrip("_"))
    for overload in packet.overloads():
        if overload != "t":  # of TorchScript's whole numbers
            assert "out" in overload or hasattr(twin, overload)


class Point(NamedTuple):
    x: torch.Tensor
    y: list[torch.Tensor]


TREES = [FIXED, (FIXED,), {"b": FIXED, "a": ()}, Point(FIXED, [FIXED + 1, FIXED + 2]), OrderedDict(z=(FIXED,), a=FIXED)]


@pytest.mark.parametrize("tree", [*TREES, TREES, {"all": TREES}], ids=lambda tree: type(tree).__name__)
def test_trees_are_put_together_as_pytree_does(tree):
    leaves, spec = pytree.tree_flatten(tree)
    numbers = list(range(len(leaves)))
    made, expected = like(tree)(numbers), pytree.tree_unflatten(numbers, spec)
    assert made == expected and type(made) is type(expected)
