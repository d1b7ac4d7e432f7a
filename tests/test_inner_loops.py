"""``xp.scan`` in a graph of PyTorch: the numbers of a plain loop, to the bit, by a graph that does not grow with it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import ppl_gen as pg
from ppl_gen.backends.pyro import looping
from ppl_gen.backends.pyro.compiling import compile, traced
from ppl_gen.backends.pyro.inner_loops import scan
from ppl_gen.backends.pyro.simplifying import is_loop
from tests.test_looping import CASES, DATA, NOISE, ROWS, TIMES, X, by_hand, growing, reporting


def folded(step, state, rows, data):
    """The scan, what is done before and after it being part of the graph."""
    seen = data * 1.5
    return scan(lambda carry, row: step(carry, row, seen), state, rows, lambda *ys: torch.stack(ys))


def loops(f, *args):
    return sum(map(is_loop, traced(f, args)[0].graph.nodes))


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_of_a_plain_loop(name):
    step, state = CASES[name]
    run = compile(functools.partial(folded, step))
    for data in (DATA, DATA + 0.3):
        with torch.random.fork_rng():
            expected = by_hand(step, state, ROWS, data * 1.5)
            after = torch.get_rng_state()
        with torch.random.fork_rng():
            torch.testing.assert_close(run(state, ROWS, data), expected, rtol=0, atol=0)
            assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize("name", ["a path", "reports", "two types", "a state that grows"])
def test_many_steps_are_one_node(name):
    step, state = CASES[name]
    assert loops(functools.partial(folded, step), state, ROWS, DATA) == 1
    few = {n: x[:16] for n, x in ROWS.items()}
    assert loops(functools.partial(folded, step), state, few, DATA) == 0


@pytest.mark.parametrize("name", ["randomness", "draws for nobody", "a state of two shapes", "writing", "slopes"])
def test_steps_that_draw_write_or_change_their_shape_are_copied(name):
    step, state = CASES[name]
    assert loops(functools.partial(folded, step), state, ROWS, DATA) == 0


def test_the_graph_does_not_grow_with_the_steps():
    size = {}
    for count in (20, 200):
        rows = {"t": torch.linspace(0.05, 0.95, count, dtype=X.dtype), "noise": NOISE[:1].repeat(count, 1, 1)}
        graph, *_ = traced(functools.partial(folded, reporting), (CASES["reports"][1], rows, DATA))
        size[count] = len(graph.graph.nodes)
    assert size[20] == size[200]


def test_slopes_of_a_scan_and_maps_over_it():
    def ends(x):
        return folded(growing, x.sum() * 0.0, {"t": TIMES, "noise": x * NOISE}, DATA)[0].square().sum()

    x = X * 0.1
    slope = lambda x: torch.func.grad(ends)(x)
    torch.testing.assert_close(compile(slope)(x), slope(x), rtol=1e-12, atol=0)

    def by_autograd(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(ends(x), x)[0]

    torch.testing.assert_close(compile(by_autograd)(x), slope(x), rtol=1e-12, atol=0)
    mapped = lambda x: torch.func.vmap(ends)(x)
    many = torch.stack([x, 2.0 * x])
    torch.testing.assert_close(compile(mapped)(many), torch.stack([ends(x), ends(2.0 * x)]), rtol=1e-12, atol=0)
    assert loops(slope, x) == loops(by_autograd, x) == loops(mapped, many) == 0 and loops(ends, x) == 1


def test_a_scan_in_a_scan_and_in_a_loop_of_steps():
    inner = lambda s, row: (0.9 * s + row["t"].sin(), s.sum())
    outer = lambda s, row, data: folded(lambda s, r, d: inner(s + row["t"] * d.mean(), r), s, ROWS, data)
    expected = by_hand(outer, X, ROWS, DATA * 1.5)
    torch.testing.assert_close(compile(functools.partial(folded, outer))(X, ROWS, DATA), expected, rtol=0, atol=0)
    torch.testing.assert_close(looping.scan(outer)(X, ROWS, DATA * 1.5), expected, rtol=0, atol=0)


def test_machine_code_of_a_step_that_is_called_often():
    """Its own compiler does not see into the loop, which is compiled by itself."""
    step, state = CASES["a path"]
    run = compile(functools.partial(folded, step), calls=10**6)
    expected = by_hand(step, state, ROWS, DATA * 1.5)
    for _ in range(2):
        torch.testing.assert_close(run(state, ROWS, DATA), expected, rtol=1e-12, atol=1e-12)


def test_weights_of_a_module_are_those_of_the_call():
    net = torch.nn.Linear(3, 3, dtype=torch.float64)
    step = lambda s, row: (torch.tanh(net(s)) + row, s.sum())
    run = compile(lambda x: scan(step, x, TIMES, lambda *ys: torch.stack(ys))[0])
    with torch.no_grad():
        for _ in range(2):
            plain = X
            for t in TIMES:
                plain = step(plain, t)[0]
            assert torch.equal(run(X), plain)
            net.weight.mul_(0.5)


def test_a_density_by_a_solver_of_many_steps():
    """The one of a program, as by the solver that goes on step by step."""
    x = np.random.default_rng(0).normal(size=(50, 2))
    model = pg.models.Diffusion((2,), hidden=(8,), num_steps=40)
    run = pg.infer(model, x, "score_matching", "pyro", num_steps=2, batch_size=10, progress=False)
    stepped, _ = run.flow_log_prob(x[:5], num_steps=40, progress=False)
    np.testing.assert_allclose(run.log_prob(x[:5]), stepped, rtol=1e-10)
