"""One program, two backends: the same sites, densities, gradients and coordinates, the same chain from one noise."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from ppl_gen import backends
from ppl_gen.backends import names
from ppl_gen.inference.mala import MALA
from ppl_gen.target import Target
from tests.programs import ENUMERATED, PINNED, PROGRAMS

POINTS = 4
# Both sides compute the same formulas in double precision: they differ by rounding, some 1e-15, times the condition
# of matrices and differences in a program. A formula that differs shows at 1e-7 or more.
RTOL = 1e-9


def bind(name: str, backend: str) -> Target:
    """A program of the table on a backend; inside its scope."""
    program, data = PROGRAMS[name]
    return Target(program.bind(data, backends.get(backend)))


def look(target: Target, pins: dict, u):
    """What a program is at unconstrained u: densities, values, coordinates recovered from them."""
    xp = target.backend.xp
    pins = {k: target.backend.asarray(v) for k, v in pins.items()}
    parts = target.everything.split(u)
    sites = target.trace(target.arrays, unconstrained=parts, values=pins, enumerated=target.enumerated)
    log_joint = target._total(sites, lambda s: True)
    own = {"continuous": log_joint * 0.0}
    for s in sites.values():
        if s.kind == "factor" or (s.kind == "latent" and not s.discrete):
            own["continuous"] = own["continuous"] + xp.sum(s.log_prob)
    observed = target.terms(sites, lambda s: s.kind == "observed" or s.discrete)
    values = {n: sites[n].value for n in target.everything.names}
    back = {n: target.backend.bijection(sites[n].constraint).inverse(values[n]) for n in values}
    return {
        "log_joint": log_joint,
        "log_density": log_joint + sum(xp.sum(sites[n].log_det) for n in target.layout.names),
        "prior": own["continuous"],
        "likelihood": sum(xp.sum(f.tensor) for f in observed),
        "values": values,
        "back": target.everything.join(xp, back),
        "log_probs": {n: s.log_prob for n, s in sites.items() if s.log_prob is not None},
    }


@functools.cache
def looked(name: str, backend: str, seed: int = 0):
    """Sites, and what `look` says at random points with the gradient of the log density; NumPy."""
    room = backends.get(backend)
    with room.scope():
        target = bind(name, backend)
        pins = PINNED.get(name, {})
        points = np.random.default_rng(seed).uniform(-2.0, 2.0, (POINTS, target.everything.dim))

        def at(u):
            found = look(target, pins, u)
            gradient = room.grad(lambda v: look(target, pins, v)["log_density"])(u)
            return {**found, "gradient": gradient}

        evaluate = room.compile(at)
        found = [room.to_numpy(evaluate(room.asarray(u))) for u in points]
        sites = [
            (s.name, s.kind, tuple(s.value.shape), s.discrete, s.cardinality, s.event_dim, s.improper, s.plates)
            for s in target.sites.values()
        ]
        return sites, points, found


def assert_close(a, b, what):
    """Equal to RTOL, relative to the largest entry (at least 1)."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, what
    assert np.abs(a - b).max(initial=0.0) <= RTOL * max(1.0, np.abs(a).max(initial=0.0)), what


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_sites(name):
    """Names, kinds, shapes, discreteness, cardinality, event dims and plates, in order."""
    both = [looked(name, b)[0] for b in backends.NAMES]
    kinds = [[s for s in sites if s[1] != "deterministic"] for sites in both]  # Pyro alone gives these plates
    assert kinds[0] == kinds[1]
    assert [s[:3] for s in both[0]] == [s[:3] for s in both[1]]


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_density_and_gradient(name):
    """Log joint, log density of u with its Jacobian, its gradient, and each site's own log probability."""
    for one, other in zip(looked(name, "numpyro")[2], looked(name, "pyro")[2], strict=True):
        assert np.isfinite(one["log_density"])
        for what in ("log_joint", "log_density", "gradient"):
            assert_close(one[what], other[what], f"{name}: {what}")
        for site, log_prob in one["log_probs"].items():
            assert_close(log_prob, other["log_probs"][site], f"{name}: {site}")
        for site, value in one["values"].items():
            assert_close(value, other["values"][site], f"{name}: value of {site}")


@pytest.mark.parametrize("backend", backends.NAMES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_round_trip(name, backend):
    """Coordinates come back from constrained values: to 1e-7, what tanh and softmax lose within (-2, 2)."""
    _, points, found = looked(name, backend)
    for u, at in zip(points, found, strict=True):
        np.testing.assert_allclose(at["back"], u, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("backend", backends.NAMES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_joint_is_prior_and_likelihood(name, backend):
    """The pointwise terms, discrete latents summed out, and what stands outside them make up the log joint.

    Not where a factor reads a discrete latent: no term of the likelihood holds it.
    """
    if name == "chained_latents":
        pytest.skip("a factor reads a discrete latent")
    for at in looked(name, backend)[2]:
        assert_close(at["log_joint"], at["prior"] + at["likelihood"], name)


@pytest.mark.parametrize("backend", backends.NAMES)
@pytest.mark.parametrize("name", ["eight_schools", "dynamic_supports", "flat_matrices", "two_in_a_plate"])
def test_target_says_the_same(name, backend):
    """The public methods of Target, compiled and batched, agree with a program run by hand."""
    _, points, found = looked(name, backend)
    room = backends.get(backend)
    with room.scope():
        target = bind(name, backend)
        u = room.asarray(points)
        value, gradient = room.to_numpy(target.value_and_grad()(u, target.arrays))
        assert_close(value, [f["log_density"] for f in found], "log density")
        assert_close(gradient, [f["gradient"] for f in found], "gradient")
        values, log_joint = target.describe(
            {n: room.asarray(v) for n, v in found[0]["values"].items()}, target.arrays
        )
        assert_close(room.to_numpy(log_joint), found[0]["log_joint"], "describe")
        back = target.unconstrain({n: values[n] for n in target.layout.names}, target.layout, target.arrays)
        np.testing.assert_allclose(room.to_numpy(back), points[0], rtol=1e-7, atol=1e-7)
        terms = room.to_numpy(target.pointwise({n: values[n] for n in target.everything.names}, target.arrays))
        assert_close(sum(np.sum(t) for t in terms.values()), found[0]["likelihood"], "pointwise")


def chain(name: str, backend: str, seed: int, step_size: float, num_steps: int = 1000):
    """Positions of two MALA chains driven by NumPy's noise, and how often they moved."""
    rng = np.random.default_rng(seed)
    room, engine = backends.get(backend), MALA(num_chains=2, num_samples=num_steps, step_size=step_size)
    with room.scope():
        target = bind(name, backend)
        shape = (2, target.layout.dim)
        start = 0.3 * rng.standard_normal(shape)
        noise = {"normal": rng.standard_normal((num_steps, *shape)), "uniform": rng.uniform(size=(num_steps, 2))}
        state = engine.init_state(target, room.asarray(start))
        noise = {n: room.asarray(x) for n, x in noise.items()}
        _, report = engine.advance(target)(state, noise, target.arrays)
        return room.to_numpy(report)


@pytest.mark.parametrize(
    ("name", "step_size"), [("eight_schools_non_centred", 0.3), ("linear_regression", 0.15), ("two_in_a_plate", 0.6)]
)
def test_same_noise_same_chain(name, step_size):
    """1,000 steps from the same noise: the same draws to 1e-8.

    The steps are below 2 / curvature on these programs: two chains with the same noise draw together, and rounding
    (1e-15) does not grow. A different decision to accept needs log u within some 1e-14 of the log ratio.
    """
    one, other = (chain(name, b, 3, step_size) for b in backends.NAMES)
    moved = np.any(np.diff(one["position"], axis=0) != 0, axis=-1).mean()
    assert 0.1 < moved < 0.999, "the chain must both accept and reject"
    np.testing.assert_allclose(one["position"], other["position"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(one["lp"], other["lp"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(one["acceptance_rate"], other["acceptance_rate"], rtol=1e-6, atol=1e-6)


def test_same_noise_same_steps_in_a_funnel():
    """The centred eight schools: each of 1,000 draws from the one before it, the same to 1e-8.

    In the neck of the funnel the curvature has no bound, and the chain as a whole multiplies rounding without bound,
    whatever computes it: from one state to the next is what can be asked of the backends there.
    """
    path = chain("eight_schools", "numpyro", 3, 0.3)["position"][:, 0]
    rng = np.random.default_rng(4)
    noise = {"normal": rng.standard_normal((1, *path.shape)), "uniform": rng.uniform(size=(1, len(path)))}
    found = []
    for name in backends.NAMES:
        room, engine = backends.get(name), MALA(num_chains=len(path), num_samples=1, thinning=1, step_size=0.3)
        with room.scope():
            target = bind("eight_schools", name)
            state = engine.init_state(target, room.asarray(path))
            given = {n: room.asarray(x) for n, x in noise.items()}
            found.append(room.to_numpy(engine.advance(target)(state, given, target.arrays)[1]))
    for what in ("position", "lp", "energy_error"):
        np.testing.assert_allclose(found[0][what], found[1][what], rtol=1e-8, atol=1e-8)


def test_the_table_is_complete():
    """Every distribution and every primitive stands in some program."""
    import inspect

    from tests import programs

    text = inspect.getsource(programs)
    elsewhere = {"MarkovChain", "FromFunctions", "LogDensity"}  # test_chains.py, test_state_space.py, test_energy.py
    assert not [n for n in names.DISTRIBUTIONS if f"dist.{n}(" not in text and n not in elsewhere]
    primitives = "sample param plate factor deterministic module mask scale".split()
    assert not [n for n in primitives if f"pg.{n}(" not in text]
    assert len(PROGRAMS) >= 28
    assert len(ENUMERATED) >= 6
