"""The primitives in Pyro, and running a program once to see its sites."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch.utils import _pytree as pytree

from ppl_gen.backends import names
from ppl_gen.backends.protocol import Plate, Request, Site, UnsupportedError, check_fit, check_new
from ppl_gen.backends.pyro import distributions
from ppl_gen.backends.pyro.compiling import asarray
from ppl_gen.backends.pyro.markov_chain import MarkovChain
from ppl_gen.backends.pyro.randomness import key as set_seed

constraints = distributions.constraints


def factor(name: str, log_factor: Any) -> None:
    """Add ``log_factor`` to the log density."""
    pyro.factor(name, torch.as_tensor(log_factor), has_rsample=False)


def deterministic(name: str, value: Any) -> torch.Tensor:
    """Record a value that its parents determine."""
    return pyro.deterministic(name, torch.as_tensor(value))


def mask(mask: Any) -> Any:
    """Leave sites out of the density where ``mask`` is False."""
    return poutine.mask(mask=mask)


def scale(scale: Any) -> Any:
    """Multiply the log density of sites."""
    return poutine.scale(scale=scale)


def sample(name: str, fn: Any, obs: Any = None, **options: Any) -> torch.Tensor:
    """A random variable, or an observation where ``obs`` is given."""
    return pyro.sample(name, fn, obs=obs, **options)


def param(name: str, init: Any = None, constraint: Any = None, event_dim: int | None = None) -> torch.Tensor:
    """A learnable parameter, constrained."""
    start = (lambda: _own(init())) if callable(init) else _own(init)
    return pyro.param(name, start, constraints.real if constraint is None else constraint, event_dim=event_dim)


def _own(x: Any) -> torch.Tensor:
    """A tensor that shares no memory with the user's, since optimisers write in place."""
    return torch.as_tensor(x).clone()


def plate(name: str, size: int, subsample_size: int | None = None, dim: int | None = None) -> Any:
    """Conditionally independent rows."""
    return pyro.plate(name, size, subsample_size=subsample_size, dim=dim)


def module(name: str, net: torch.nn.Module, dtype: str | None = None) -> Callable[..., Any]:
    """A torch.nn module whose parameters become params called ``{name}.{path}``; it computes in ``dtype``, if any.

    ``net`` itself is not touched.

    Raises:
        TypeError: it is no torch.nn module.
    """
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"module {name!r} got a {type(net).__name__}: on Pyro a network is a torch.nn module")
    learned = {path: param(f"{name}.{path}", functools.partial(asarray, p)) for path, p in net.named_parameters()}
    held = {**{path: asarray(b).clone() for path, b in net.named_buffers()}, **learned}
    if dtype is None:
        return lambda *args, **kwargs: torch.func.functional_call(net, held, args, kwargs)
    narrow = getattr(torch, dtype)

    def call(*args: Any, **kwargs: Any) -> Any:
        found = torch.func.functional_call(net, *_cast((held, args, kwargs), narrow))
        return _cast(found, torch.get_default_dtype())

    return call


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    """The tensors of a tree that are floating point in another such dtype."""

    def one(x: Any) -> Any:
        return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    return pytree.tree_map(one, tree)


class Assign(Messenger):
    """Gives latents, params and plate indices the values that a request holds.

    ``once`` refuses a name that comes twice; a guide and then its model do have the same names.
    """

    def __init__(self, request: Request, once: bool = True):
        super().__init__()
        self.request, self.once = request, once
        self.log_dets: dict[str, Any] = {}
        self.hidden: set[str] = set()
        self.seen: set[str] = set()
        self.spans: dict[Any, Any] | None = None

    def _pyro_sample(self, msg: Any) -> None:
        name, fn, request = msg["name"], msg["fn"], self.request
        if self.once and not site_is_subsample(msg):
            check_new(name, self.seen)
        if msg["is_observed"]:
            if request.hide_observed and not _is_factor(msg) and not _is_deterministic(msg):
                msg["is_observed"], msg["value"] = False, None
                self.hidden.add(name)
        elif name in request.values:
            msg["value"], msg["done"] = request.values[name], True
        elif name in request.unconstrained:
            self._transform(msg, fn.support)
        elif name in request.enumerated:
            msg["value"], msg["done"] = _lay_out(fn, request.enumerated[name], msg["cond_indep_stack"]), True
        elif not site_is_subsample(msg) and _is_improper(fn):
            msg["value"], msg["done"] = _middle(name, fn), True

    def _pyro_param(self, msg: Any) -> None:
        name, request = msg["name"], self.request
        if name in request.values:
            msg["value"], msg["done"] = request.values[name], True
        elif name in request.unconstrained:
            self._transform(msg, msg["kwargs"].get("constraint", constraints.real))

    def _transform(self, msg: Any, constraint: Any) -> None:
        bijection, u = distributions.bijection(constraint), self.request.unconstrained[msg["name"]]
        msg["value"], msg["done"] = bijection.forward(u), True
        self.log_dets[msg["name"]] = bijection.log_abs_det(u, msg["value"])


class Observing(Messenger):
    """Other values at observed sites, in the place of those that the program was given."""

    def __init__(self, values: Mapping[str, Any]):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


def _middle(name: str, fn: Any) -> torch.Tensor:
    """A value in the middle of the support of a distribution that cannot be sampled."""
    try:
        bijection = distributions.bijection(fn.support)
    except NotImplementedError:
        raise UnsupportedError(names.no_flat(name, fn.support)) from None
    return bijection.forward(torch.zeros(bijection.inverse_shape(tuple(fn.batch_shape + fn.event_shape))))


def _lay_out(fn: Any, dim: int, frames: Any) -> torch.Tensor:
    """All values of a discrete distribution along batch dimension ``dim``; of a chain, each state at every step.

    The steps of a chain become a batch dimension of what depends on it: its last axis as it is or, where the chain's
    plates leave dimension -1 to the plate of the steps, once that is squeezed out.
    """
    if isinstance(fn, MarkovChain):
        dims = [f.dim for f in frames if f.dim is not None]
        ones = -dim - 1 if dims and -1 not in dims else -dim - 2
        states = torch.arange(fn.num_states).reshape((-1, *(1 for _ in range(ones)), 1))
        return states.expand((*states.shape[:-1], fn.num_steps))
    values = fn.enumerate_support(expand=False)
    return values.reshape(values.shape[:1] + (1,) * (-1 - dim) + tuple(fn.event_shape))


def _first_of_chain(fn: MarkovChain, dim: int) -> torch.Tensor:
    """Log probabilities of the first state along batch dimension ``dim``."""
    first = torch.movedim(torch.log(fn.initial_probs), -1, 0)
    return first.reshape((fn.num_states, *(1 for _ in range(-dim - first.ndim)), *first.shape[1:]))


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _is_factor(node: Any) -> bool:
    return isinstance(_base(node["fn"]), pyro.distributions.Unit)


def _is_deterministic(node: Any) -> bool:
    return bool((node["infer"] or {}).get("_deterministic"))


def _is_improper(fn: Any) -> bool:
    return getattr(_base(fn), "is_improper", False) or isinstance(
        _base(fn), pyro.distributions.ImproperUniform
    )


def trace(
    call: Callable[[], Any], request: Request, spans: dict[Any, torch.Size] | None = None
) -> dict[str, Site]:
    """Run a program once and return its sites, in order; the parameter store is left as it was.

    With ``spans``, shapes of log probabilities that are known, the sites have those in the place of the numbers.
    """
    assign = Assign(request)
    assign.spans = spans
    with pyro.get_param_store().scope(), assign:
        nodes = poutine.trace(call).get_trace().nodes
    return {name: _site(node, request, assign) for name, node in nodes.items() if _is_seen(node)}


def draws(model: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any], int], dict[str, Site]]:
    """``drawn(arrays, seed)``: the sites of ``model(arrays)`` with latents from the prior, checked.

    Of log probabilities only the shape is kept, and found out once: nobody asks for the numbers, which would be half of
    the work of a density that is asked for once.
    """
    spans: dict[Any, torch.Size] = {}

    def drawn(arrays: Mapping[str, Any], seed: int) -> dict[str, Site]:
        set_seed(seed)
        return trace(lambda: model(arrays), Request(check=True), spans)

    return drawn


def _is_seen(node: Any) -> bool:
    if node["type"] == "sample" and site_is_subsample(node):
        return len(node["value"]) != node["fn"].size
    return node["type"] in ("sample", "param")


def _site(node: Any, request: Request, assign: Assign) -> Site:
    name, value, log_det = node["name"], node["value"], assign.log_dets.get(node["name"])
    frames = (f for f in node["cond_indep_stack"] if f.dim is not None)
    frames_seen = [Plate(f.name, f.dim, int(f.size), int(f.full_size or f.size)) for f in frames]
    plates = tuple(sorted(frames_seen, key=lambda p: p.dim))  # as in the batch shape, from left to right
    if node["type"] == "param":
        constraint = node["kwargs"].get("constraint", constraints.real)
        return Site(name, "param", value, constraint=constraint, log_det=log_det, plates=plates)
    if site_is_subsample(node):
        return Site(name, "plate", value)
    if _is_deterministic(node):
        return Site(name, "deterministic", value, plates=plates)
    return _random_site(node, plates, request, assign)


def _random_site(node: Any, plates: tuple, request: Request, assign: Assign) -> Site:
    name, fn, value = node["name"], node["fn"], node["value"]
    if request.check:
        check_fit(name, value, fn, plates)
    links = None
    if name in request.enumerated and isinstance(fn, MarkovChain):
        log_prob, links = _first_of_chain(fn, request.enumerated[name]), torch.log(fn.transition_probs)
    else:
        log_prob = _log_prob(node, assign.spans)
    scale = None if isinstance(node["scale"], float) and node["scale"] == 1.0 else node["scale"]
    if _is_factor(node):
        return Site(name, "factor", value, log_prob, scale, plates=plates)
    observed = node["is_observed"] or name in assign.hidden
    discrete = bool(getattr(fn.support, "is_discrete", False))
    return Site(
        name,
        "observed" if observed else "latent",
        value,
        log_prob,
        scale,
        log_det=assign.log_dets.get(name),
        distribution=fn,
        plates=plates,
        event_dim=len(fn.event_shape),
        batch_shape=tuple(fn.batch_shape),
        constraint=fn.support,
        discrete=discrete,
        cardinality=_cardinality(fn) if discrete and not observed and name not in request.values else None,
        improper=_is_improper(fn),
        normalised=getattr(_base(fn), "normalised", True),
        in_support=_in_support(node) if request.check and observed else None,
        num_steps=fn.num_steps if isinstance(fn, MarkovChain) else None,
        links=links,
    )


def _log_prob(node: Any, spans: dict[Any, torch.Size] | None) -> torch.Tensor:
    """Masked; with ``spans`` something of its shape."""
    fn, value = node["fn"], node["value"]
    key = node["name"], tuple(np.shape(value)), tuple(fn.batch_shape)
    if spans is None or key not in spans:
        log_prob = scale_and_mask(fn.log_prob(value), mask=node["mask"])
        if spans is None:
            return log_prob
        spans[key] = log_prob.shape
    return torch.full((), torch.nan).expand(spans[key])


def _in_support(node: Any) -> Any:
    """Whether values can be; what is masked counts for nothing, and may be anything."""
    inside, mask = node["fn"].support.check(node["value"]), node["mask"]
    return inside if mask is None or mask is True else inside | ~torch.as_tensor(mask)


def _cardinality(fn: Any) -> int | None:
    """Number of values of a discrete distribution, None where they cannot be listed."""
    if isinstance(fn, MarkovChain):
        return fn.num_states
    try:
        return len(fn.enumerate_support(expand=False)) if fn.has_enumerate_support else None
    except NotImplementedError:  # e.g. several in one event, counts that differ
        return None
