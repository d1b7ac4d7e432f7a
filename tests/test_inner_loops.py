"""``xp.scan`` in a graph of PyTorch: the numbers of a plain loop, to the bit, by a graph that does not grow with it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import ppl_gen as pg
from ppl_gen.backends.pyro import looping
from ppl_gen.backends.pyro.compiling import CALLS, compile, traced
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


T = TIMES[:20]
STACK = lambda *ys: torch.stack(ys)
EYE = torch.eye(3, dtype=X.dtype)


def over(step, init, rows=T):
    return scan(step, init, rows, STACK)


def in_a_loop(x, w):
    """Of the innermost loop's tensors some belong to the outermost graph."""
    seen = torch.tanh(w)
    inner = lambda c: over(lambda d, u: (torch.tanh(d @ seen) + u + w[0], d.sum()), c)[0]
    return over(lambda c, t: (inner(c) * 0.5, c.sum()), x)


def in_loops(x, w):
    deepest = lambda c: over(lambda d, u: (0.9 * d + u * w.sum(), ()), c)[0]
    inner = lambda c: over(lambda d, u: (deepest(d) @ w, ()), c)[0]
    return over(lambda c, t: (torch.tanh(inner(c)), c.sum()), x)


def positive(x, w):
    return over(lambda c, t: (0.009 * c @ c.T + w.T @ w + t * EYE, c), x.T @ x + EYE)


def factored(x, w):
    return torch.linalg.cholesky(positive(x, w)[0])


def one_after_the_other(x, w):
    """As a smoother, whose rows are what the filter gave."""
    last, all_of_them = positive(x, w)
    return over(lambda c, row: (c + torch.linalg.solve(row, c), torch.logdet(row)), last, all_of_them.flip(0))


def captured_view(x, w):
    view = w.t()
    return over(lambda c, t: (c * 0.5 + t + view.t().reshape(-1)[:3], c.sum()), x)


def carried_view(x, w):
    return over(lambda c, t: ((c * t).t().sin(), c.t().reshape(-1)), w.t())


def result_view(x, w):
    last, ys = over(lambda c, t: ((c * t).sin().t(), c.t()), w)
    return last.reshape(-1), ys.reshape(-1)


def rows_that_are_views(x, w):
    rows = (w * T[:, None, None]).transpose(1, 2)
    return over(lambda c, row: (c * 0.5 + row.t().reshape(-1)[:3], c), x, rows)


def other_order(x, w):
    """Names of what is carried change their places."""
    step = lambda c, t: ({n: v * t + (n == "a") for n, v in reversed(c.items())}, c["b"])
    return over(step, {"a": w + 0.0, "b": w * 2.0})


def forward_mode(x, w):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(w, torch.ones_like(w))
        return forward_ad.unpack_dual(over(lambda c, t: (torch.tanh(c) + t, ()), dual)[0]).tangent


SEEN = (in_a_loop, in_loops, positive, factored, one_after_the_other, captured_view, carried_view, result_view,
        rows_that_are_views, other_order, forward_mode)  # fmt: skip


@pytest.mark.parametrize("f", SEEN)
def test_what_steps_see_and_what_is_made_of_them(f):
    """At other numbers than the graph was made with, too."""
    run = compile(f)
    for scale in (1.0, 0.5, -1.5):
        args = scale * X, EYE + 0.3 * scale * X[:3]
        torch.testing.assert_close(run(*args), f(*args), rtol=1e-13, atol=1e-13)


def test_a_graph_that_cannot_be_made_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError):
        compile(lambda x: x * (1 / 0), calls=77)(X)
    assert CALLS.get() == 1


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
