"""Steps of PyTorch in loops: the numbers of a plain loop, to the bit, and what need not be computed again is not."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_gen.backends.pyro.hoisting import CARRIED, FIXED, ROW, hoisted
from ppl_gen.backends.pyro.looping import scan, scan_loops
from ppl_gen.backends.pyro.simplifying import simplified

State = namedtuple("State", ["x", "clock"])
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(5, 3, dtype=torch.float64, generator=GENERATOR)
DATA = torch.rand(40, 3, dtype=torch.float64, generator=GENERATOR) + 0.1
TIMES = torch.linspace(0.05, 0.95, 23, dtype=torch.float64)
NOISE = torch.randn(23, 5, 3, dtype=torch.float64, generator=GENERATOR)


def diffusion(state, row, data):
    """A path at times, waves of them, something of the data alone, and rows of noise."""
    t = row["t"][None]
    alpha, sigma = torch.exp(-0.5 * (0.1 * t + 9.95 * t * t)), torch.sqrt(-torch.expm1(-0.1 * t - 9.95 * t * t))
    waves = torch.cat([torch.sin(7.0 * t[:, None]), torch.cos(9.0 * t[:, None]), t[:, None]], dim=-1)
    centre = (torch.lgamma(data) @ torch.ones(3, 3, dtype=data.dtype)).mean(0)
    x = state.x * (alpha / sigma)[:, None] + sigma[:, None] * row["noise"] + centre * waves.expand(5, 3)
    report = {"norm": x.square().sum(-1), "alpha": alpha, "t": row["t"], "fixed": centre}
    return State(x, state.clock + row["t"]), report


def growing(state, row, data):
    """What is carried gets another shape in the first step."""
    x = state + row["noise"] * data.sum()
    return x, {"mean": x.mean()}


def drawing(state, row, data):
    x = state.x + row["t"].exp() * torch.randn_like(state.x)
    return State(x, state.clock), x.sum(-1)


def out_of_the_loop(state, row, data):
    """What comes out is what goes in, a constant and a row of the inputs."""
    return (data, row["t"]), (state[0], data.exp(), row["t"].exp())


def writing(state, row, data):
    """Into what hangs on constants alone, and into what hangs on the row."""
    y, z = torch.exp(data), torch.zeros_like(state)
    y[0] += state[0]
    z[0], z[1] = row["t"].exp(), data.lgamma().sum()
    return state + z + 0.01 * y.sum(0), y.sum()


def sloped(state, row, data):
    """Autograd writes into tensors, too."""
    with torch.enable_grad():
        x = state.detach().requires_grad_()
        slope = torch.autograd.grad((torch.linalg.qr(x)[1] * data.exp()[:3]).sum(), x)[0]
    return state + row["t"], slope * row["t"].exp()


def drawing_for_nobody(state, row, data):
    torch.randn(3)
    return state + torch.randn_like(state), row["t"].exp() * state


def of_two_types(state, row, data):
    """A number yields to the type of what has axes; and functions that have other code for many entries."""
    single, t = row["noise"][0].float(), row["t"]
    mixed = torch.where(single > 0.0, single, t), single.clamp(t), torch.sigmoid(t), t**5, torch.cosh(t) * t
    return state * 0.9, {str(i): x * 1.0 + 0.0 * state[0, 0].to(x.dtype) for i, x in enumerate(mixed)}


def reporting(state, row, data):
    """Of its numbers: for the report alone, for both, and what comes from constants."""
    x = 0.9 * state.x + row["noise"]
    size = x.square().sum(-1)
    told = torch.where(size.isnan(), size, size.sqrt()).clamp(max=3.0)
    clock = state.clock + size.exp().mean()
    report = {"told": told, "again": told, "log": -size.log(), "fine": size < 2.0, "more": data.sum(0) * x[0]}
    return State(x, clock), {**report, "clock": clock, "late": torch.exp(row["t"]) * told}


def alternating(state, row, data):
    """It never stays of one shape."""
    return (state[0] if state.ndim == 2 else torch.stack([state, state + row["t"].exp().sin()])), row["t"].exp()


ROWS = {"t": TIMES, "noise": NOISE}
CASES = {
    "a path": (diffusion, State(X, torch.zeros((), dtype=X.dtype))),
    "a state that grows": (growing, torch.zeros((), dtype=X.dtype)),
    "randomness": (drawing, State(X, torch.zeros((), dtype=X.dtype))),
    "writing": (writing, X),
    "slopes": (sloped, X),
    "draws for nobody": (drawing_for_nobody, X),
    "reports": (reporting, State(X, torch.zeros((), dtype=X.dtype))),
    "two types": (of_two_types, X),
    "a state of two shapes": (alternating, X[0]),
    "nothing but what is given": (out_of_the_loop, (DATA + 1.0, torch.zeros((), dtype=X.dtype))),
}


def by_hand(step, state, rows, *constants):
    reports = []
    for i in range(len(rows["t"])):
        state, report = step(state, {n: x[i] for n, x in rows.items()}, *constants)
        reports.append(report)
    return state, torch.utils._pytree.tree_map(lambda *xs: torch.stack(xs), *reports)


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_of_a_plain_loop(name):
    step, state = CASES[name]
    with torch.random.fork_rng():
        expected = by_hand(step, state, ROWS, DATA)
        after = torch.get_rng_state()
    with torch.random.fork_rng():
        found = scan(step)(state, ROWS, DATA)
        assert torch.equal(after, torch.get_rng_state())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    advance = scan(step)
    with torch.random.fork_rng():
        parts = []
        for first, end in ((0, 1), (1, 18), (18, 23)):
            state, report = advance(state, {n: x[first:end] for n, x in ROWS.items()}, DATA)
            parts.append(report)
    joined = torch.utils._pytree.tree_map(lambda *xs: torch.cat(xs), *parts)
    torch.testing.assert_close((state, joined), expected, rtol=0, atol=0)


def test_rows_of_any_strides():
    rows = {"t": TIMES, "noise": NOISE.permute(2, 1, 0).contiguous().permute(2, 1, 0)}
    flat = lambda state, row, data: (state, (row["noise"].exp().view(-1)[:3] * state[0], row["noise"].sin().view(-1)))
    assert not rows["noise"].is_contiguous()
    torch.testing.assert_close(scan(flat)(X, rows, DATA), by_hand(flat, X, ROWS, DATA), rtol=0, atol=0)


def test_a_number_of_another_type_is_another_graph():
    advance = scan(lambda state, row, number: (state, state.sum() * number))
    whole = {"t": torch.arange(3)}
    for number in (1, 1.0, 2):
        _, report = advance(torch.arange(4), whole, number)
        assert report.dtype == (torch.arange(4) * number).dtype and float(report[0]) == 6.0 * number


def test_other_constants_are_other_constants():
    """Tensors of the same shape, later on, and written into between two calls."""
    advance, state, data = scan(diffusion), CASES["a path"][1], DATA.clone()
    for _ in range(2):
        data += 0.5
        torch.testing.assert_close(advance(state, ROWS, data), by_hand(diffusion, state, ROWS, data), rtol=0, atol=0)


def test_results_may_be_written_into():
    advance, state = scan(out_of_the_loop), CASES["nothing but what is given"][1]
    data = DATA.clone()
    _, report = advance(state, ROWS, data)
    report[1][0].zero_()
    torch.testing.assert_close(report[1][1], DATA.exp(), rtol=0, atol=0)
    torch.testing.assert_close(data, DATA, rtol=0, atol=0)


def test_loops_in_steps():
    """A step of as many inner ones as its row says, some of none."""
    begin = lambda state, row, data: ((state, row["t"]), (row["t"] * 4.0).long())
    repeat = lambda carry, data: (0.9 * carry[0] + carry[1] * torch.lgamma(data).sum(0), carry[1])
    end = lambda carry, row, data: (carry[0], {"x": carry[0].sum(), "t": row["t"]})

    def step(state, row, data):
        carry, count = begin(state, row, data)
        for _ in range(int(count)):
            carry = repeat(carry, data)
        return end(carry, row, data)

    found = scan_loops(begin, repeat, end)(X, ROWS, DATA)
    torch.testing.assert_close(found, by_hand(step, X, ROWS, DATA), rtol=0, atol=0)


def operations(graph):
    return {str(n.target) for n in graph.graph.nodes if n.op == "call_function"}


def test_reports_wait_for_the_end_of_the_loop():
    """What is made for them alone is not in the loop, their memory is their own, and no more is kept than they are."""
    flat = lambda x, t, noise, data: list(reporting(State(x, t), {"t": t, "noise": noise}, data)[1].values())
    carried = lambda x, t, noise, data: list(reporting(State(x, t), {"t": t, "noise": noise}, data)[0])
    both = lambda *args: carried(*args) + flat(*args)
    graph = simplified(make_fx(both)(X, TIMES[0], NOISE[0], DATA))
    left = operations(hoisted(graph, [CARRIED, ROW, ROW, FIXED], 2).step)
    assert any("exp" in n for n in left)
    assert not any(word in n for n in left for word in ("sqrt", "log", "clamp", "aten.lt"))
    _, report = scan(reporting)(State(X, torch.zeros((), dtype=X.dtype)), ROWS, DATA)
    report["told"].zero_()
    assert (report["again"] > 0.0).all() and (report["late"] > 0.0).all()
    _, first = scan(lambda state, row: (0.9 * state, {"first": (2.0 * state)[0] + 1.0}))(torch.ones(10_000, 3), ROWS)
    assert first["first"].untyped_storage().nbytes() == 23 * 3 * 4


def test_what_is_left_in_the_loop():
    norm = lambda x, t, noise, data: [diffusion(State(x, t), {"t": t, "noise": noise}, data)[1]["norm"]]
    graph = simplified(make_fx(norm)(X, TIMES[0], NOISE[0], DATA))
    parts = hoisted(graph, [CARRIED, ROW, ROW, FIXED], 0)
    left = operations(parts.step)
    assert parts.once and parts.each and not any("lgamma" in n or "sin" in n or "mm" in n for n in left)
    assert len(left) < len(graph.graph.nodes) / 2
    once, each = parts.once(DATA), parts.each(TIMES, NOISE)
    for i in range(len(TIMES)):
        args = X, TIMES[i], NOISE[i], DATA
        made = parts.step(*args, *once, *(x[i] for x in each))
        torch.testing.assert_close(parts.late(*(x[None] for x in made))[0][0], graph(*args)[0], rtol=0, atol=0)
