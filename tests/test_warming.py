"""What PyTorch makes faster after many calls gives what it gave before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ppl_gen as pg
from ppl_gen.backends.pyro import compiling, warming
from ppl_gen.backends.pyro.warming import _CALLS_AS_IT_IS

MANY = _CALLS_AS_IT_IS + 3


def rows(i):
    return torch.linspace(-1.0, 1.0, 7) + 0.3 * i


def test_a_graph_gives_what_the_function_gives():
    calls = []

    def f(x, held):
        calls.append(0)
        return {"y": torch.exp(x) * held["scale"], "count": (x > 0).sum()}

    run = warming.warming(f)
    for i in range(MANY):
        found = run(rows(i), {"scale": torch.tensor(2.0)})
        torch.testing.assert_close(found["y"], 2.0 * torch.exp(rows(i)))
        assert found["count"] == (rows(i) > 0).sum()
    assert len(calls) == _CALLS_AS_IT_IS + 1  # as it is but for the last ones; once for the graph, once to compare


@pytest.mark.parametrize("branch", [lambda x: float(x.sum()), lambda x: float(x.numpy().sum())])
def test_what_branches_on_values_stays_as_it_is(branch):
    run = warming.warming(lambda x: x if branch(x) > 0 else -x)
    for i in range(2 * MANY):
        x = (-1) ** i * torch.ones(3)
        assert torch.equal(run(x), torch.ones(3))


def test_constants_read_from_data_are_found_out():
    """PyTorch does not see what NumPy does, and the graph would keep the numbers that it was made at."""
    run = warming.warming(lambda x: x * float(x.numpy()[0]))
    for i in range(1, MANY):
        x = torch.full((3,), float(i))
        assert torch.equal(run(x), x * i)


def test_random_numbers_are_those_of_the_generator():
    run = warming.warming(lambda x: x + torch.randn(4))
    for i in range(MANY):
        torch.manual_seed(i)
        found = run(torch.zeros(4)), torch.randn(2)
        torch.manual_seed(i)
        assert torch.equal(found[0], torch.randn(4)) and torch.equal(found[1], torch.randn(2))


def test_shapes_do_not_mix():
    run = warming.warming(lambda x: x.sum() * torch.ones(len(x)))
    for i in range(MANY):
        for n in (2, 5):
            x = torch.full((n,), float(i))
            assert torch.equal(run(x), x.sum() * torch.ones(n))


def test_machine_code_follows(monkeypatch):
    monkeypatch.setattr(compiling, "_SECONDS_TO_COMPILE", 0.0)
    monkeypatch.setattr(compiling, "_SECONDS_TO_COMPILE_NODE", 0.0)
    made = []
    monkeypatch.setattr(compiling, "machine_code", lambda graph, tensors: made.append(0) or graph)
    run = warming.warming(lambda x: torch.sin(x) ** 2 + torch.cos(x) ** 2)
    for i in range(MANY):
        torch.testing.assert_close(run(rows(i)), torch.ones(7))
    assert made == [0]


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_densities_follow_the_data_however_often_they_are_asked_for(backend):
    """Of a normal distribution whose mean and scale are params."""

    def normal(x):
        loc, scale = pg.param("loc", 1.0), pg.param("scale", 2.0, constraint=pg.dist.constraints.positive)
        with pg.plate("row", len(x)):
            pg.sample("x", pg.dist.Normal(loc, scale), obs=x)

    run = pg.infer(normal, np.arange(5.0), "svi", backend, batch_size=5, num_steps=1, progress=False)
    rng = np.random.default_rng(0)
    for i in range(MANY):
        if i == MANY - 2:
            run.params = {"loc": np.array(-1.0), "scale": np.array(0.5)}
        x, (m, s) = rng.normal(size=5), (run.params[n] for n in ("loc", "scale"))
        expected = -0.5 * ((x - m) / s) ** 2 - np.log(s) - 0.5 * np.log(2.0 * np.pi)
        np.testing.assert_allclose(run.log_prob(x), expected, rtol=1e-6)
    with pytest.raises(pg.DataError):
        run.log_prob(np.full(5, np.inf))
