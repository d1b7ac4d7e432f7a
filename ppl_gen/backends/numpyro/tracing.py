"""The primitives in NumPyro, and running a program once to see its sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro import handlers
from numpyro.primitives import Messenger

from ppl_gen.backends import names
from ppl_gen.backends.numpyro import distributions
from ppl_gen.backends.numpyro.markov_chain import MarkovChain
from ppl_gen.backends.protocol import Plate, Request, Site, SiteError, UnsupportedError, check_fit, check_new

factor = numpyro.factor
deterministic = numpyro.deterministic
mask = handlers.mask
scale = handlers.scale
constraints = distributions.constraints


def sample(name: str, fn: Any, obs: Any = None, **options: Any) -> jax.Array:
    """A random variable, or an observation where ``obs`` is given."""
    try:
        return numpyro.sample(name, fn, obs=obs, **options)
    except SiteError:
        raise
    except ValueError as error:  # NumPyro does not say at which site
        raise SiteError(f"site {name!r}: {error}") from error


def param(name: str, init: Any = None, constraint: Any = None, event_dim: int | None = None) -> jax.Array:
    """A learnable parameter, constrained."""
    init = (lambda _key, make=init: jnp.asarray(make())) if callable(init) else jnp.asarray(init)
    options = {} if event_dim is None else {"event_dim": event_dim}
    return numpyro.param(name, init, constraint=constraints.real if constraint is None else constraint, **options)


def plate(name: str, size: int, subsample_size: int | None = None, dim: int | None = None) -> Any:
    """Conditionally independent rows."""
    return numpyro.plate(name, size, subsample_size=subsample_size, dim=dim)


def module(name: str, net: Any, dtype: str | None = None) -> Callable[..., Any]:
    """A network whose weights become params called ``{name}.{path}``; it computes in ``dtype``, if any.

    A flax.nnx module; or a callable pytree, as modules of Equinox are, whose floating-point arrays are the weights.

    Raises:
        TypeError: it is neither.
    """
    state, rebuilt = _of_tree(net) if _is_tree(net) else _of_flax(name, net)
    leaves, tree = jax.tree.flatten_with_path(state)
    learned = [param(f"{name}.{_path(path)}", _in_precision(leaf)) for path, leaf in leaves]
    if dtype is None:
        return rebuilt(jax.tree.unflatten(tree, learned))
    narrow = rebuilt(jax.tree.unflatten(tree, _cast(learned, dtype)))
    return lambda *args, **kwargs: _cast(narrow(*_cast(args, dtype), **_cast(kwargs, dtype)), float)


def _of_flax(name: str, net: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The weights of a flax.nnx module, and what makes the module of others."""
    from flax import nnx

    if not isinstance(net, nnx.Module):
        raise TypeError(
            f"module {name!r} got a {type(net).__name__}: on NumPyro a network is a flax.nnx module, or a callable "
            "pytree such as a module of Equinox"
        )
    graph, state, rest = nnx.split(net, nnx.Param, ...)
    return state, lambda held: nnx.merge(graph, held, rest)


def _is_tree(net: Any) -> bool:
    """Whether JAX knows of a type what it is made of; modules of flax.nnx hold more than a tree of arrays."""
    known = not jax.tree_util.all_leaves([net])
    return known and callable(net) and not any(kind.__module__.startswith("flax.") for kind in type(net).__mro__)


def _of_tree(net: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The floating-point arrays of a callable pytree, None in the place of all else, and what puts others there."""
    is_weight = lambda x: hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    weights = jax.tree.map(lambda x: x if is_weight(x) else None, net)
    put = lambda own, new: own if new is None else new
    return weights, lambda held: jax.tree.map(put, net, held, is_leaf=lambda x: x is None)


def _cast(tree: Any, dtype: Any) -> Any:
    """The arrays of a tree that are floating point in another such dtype."""

    def one(x: Any) -> Any:
        return x.astype(dtype) if hasattr(x, "astype") and jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, tree)


def _in_precision(x: Any) -> jax.Array:
    """Floating point in the active precision."""
    x = jnp.asarray(x)
    return x.astype(jnp.result_type(float)) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _path(path: Any) -> str:
    parts = (str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", "")))) for k in path)
    return ".".join(p for p in parts if p and p != "value")


class _Assign(Messenger):
    """Gives latents, params and plate indices the values that a request holds."""

    def __init__(self, fn: Callable[[], Any], request: Request):
        super().__init__(fn)
        self.request = request
        self.log_dets: dict[str, Any] = {}
        self.seen: set[str] = set()

    def process_message(self, msg: dict[str, Any]) -> None:
        kind = msg["type"]
        if kind == "sample":
            check_new(msg["name"], self.seen)
        if kind == "sample" and msg["is_observed"]:
            if self.request.hide_observed and not _is_factor(msg["fn"]):
                msg["is_observed"], msg["value"], msg["_hidden"] = False, None, True
        elif kind == "sample":
            self._assign(msg, msg["fn"])
        elif kind == "param":
            self._assign(msg, None)
        elif kind == "plate" and msg["name"] in self.request.values:
            msg["value"] = self.request.values[msg["name"]]

    def _assign(self, msg: dict[str, Any], fn: Any) -> None:
        name, request = msg["name"], self.request
        if name in request.values:
            msg["value"] = request.values[name]
        elif name in request.unconstrained:
            bijection = distributions.bijection(_constraint(msg))
            u = request.unconstrained[name]
            msg["value"] = bijection.forward(u)
            self.log_dets[name] = bijection.log_abs_det(u, msg["value"])
        elif name in request.enumerated:
            msg["value"] = _lay_out(fn, request.enumerated[name], msg["cond_indep_stack"])
        elif fn is not None and _is_improper(fn):
            msg["value"] = _middle(name, fn)


class Observing(Messenger):
    """Other values at observed sites, in the place of those that the program was given."""

    def __init__(self, values: Mapping[str, Any]):
        super().__init__(None)
        self.values = values

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


def _middle(name: str, fn: Any) -> jax.Array:
    """A value in the middle of the support of a distribution that cannot be sampled."""
    try:
        bijection = distributions.bijection(fn.support)
    except NotImplementedError:
        raise UnsupportedError(names.no_flat(name, fn.support)) from None
    return bijection.forward(jnp.zeros(bijection.inverse_shape(fn.batch_shape + fn.event_shape)))


def _lay_out(fn: Any, dim: int, frames: Any) -> jax.Array:
    """All values of a discrete distribution along batch dimension ``dim``; of a chain, each state at every step.

    The steps of a chain become a batch dimension of what depends on it: its last axis as it is or, where the chain's
    plates leave dimension -1 to the plate of the steps, once that is squeezed out.
    """
    if isinstance(fn, MarkovChain):
        dims = [f.dim for f in frames if f.dim is not None]
        ones = -dim - 1 if dims and -1 not in dims else -dim - 2
        states = jnp.arange(fn.num_states).reshape((-1, *(1 for _ in range(ones)), 1))
        return jnp.broadcast_to(states, (*states.shape[:-1], fn.num_steps))
    values = fn.enumerate_support(expand=False)
    return values.reshape(values.shape[:1] + (1,) * (-1 - dim) + fn.event_shape)


def _first_of_chain(fn: MarkovChain, dim: int) -> jax.Array:
    """Log probabilities of the first state along batch dimension ``dim``."""
    first = jnp.moveaxis(jnp.log(fn.initial_probs), -1, 0)
    return first.reshape((fn.num_states, *(1 for _ in range(-dim - first.ndim)), *first.shape[1:]))


def _constraint(msg: dict[str, Any]) -> Any:
    if msg["type"] == "param":
        return msg["kwargs"].get("constraint", constraints.real)
    return msg["fn"].support


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _is_factor(fn: Any) -> bool:
    return isinstance(_base(fn), numpyro.distributions.Unit)


def _is_improper(fn: Any) -> bool:
    return getattr(_base(fn), "is_improper", False) or isinstance(
        _base(fn), numpyro.distributions.ImproperUniform
    )


def trace(call: Callable[[], Any], request: Request) -> dict[str, Site]:
    """Run a program once and return its sites, in order."""
    assign = _Assign(call, request)
    key = jax.random.PRNGKey(0) if request.key is None else request.key
    messages = handlers.trace(handlers.seed(assign, key)).get_trace()
    full = {name: msg["args"][0] for name, msg in messages.items() if msg["type"] == "plate"}
    return {name: _site(msg, request, assign.log_dets, full) for name, msg in messages.items() if _is_seen(msg)}


def _is_seen(msg: dict[str, Any]) -> bool:
    return msg["type"] in ("sample", "param", "deterministic") or (
        msg["type"] == "plate" and len(msg["value"]) != msg["args"][0]
    )


def _site(msg: dict[str, Any], request: Request, log_dets: dict[str, Any], full: dict[str, int]) -> Site:
    name, kind, value = msg["name"], msg["type"], msg["value"]
    frames_seen = [Plate(f.name, f.dim, f.size, full[f.name]) for f in msg.get("cond_indep_stack", ())]
    plates = tuple(sorted(frames_seen, key=lambda p: p.dim))  # as in the batch shape, from left to right
    if kind == "plate":
        return Site(name, "plate", value)
    if kind == "deterministic":
        return Site(name, "deterministic", jnp.asarray(value), plates=plates)
    if kind == "param":
        value = jnp.asarray(value) if isinstance(value, int | float) else value
        if not hasattr(value, "shape"):
            raise UnsupportedError(
                f"param {name!r} holds a tree of arrays ({type(value).__name__}): expected one array; "
                "declare the network by pg.module, which makes one param for each of its arrays"
            )
        return Site(name, "param", value, constraint=_constraint(msg), log_det=log_dets.get(name), plates=plates)
    return _random_site(msg, plates, request, log_dets)


def _random_site(msg: dict[str, Any], plates: tuple, request: Request, log_dets: dict[str, Any]) -> Site:
    name, fn, value = msg["name"], msg["fn"], msg["value"]
    if request.check:
        check_fit(name, value, fn, plates)
    links = None
    if name in request.enumerated and isinstance(fn, MarkovChain):
        log_prob, links = _first_of_chain(fn, request.enumerated[name]), jnp.log(fn.transition_probs)
    else:
        known = {"intermediates": msg["intermediates"]} if msg["intermediates"] else {}
        log_prob = fn.log_prob(value, **known)
    if _is_factor(fn):
        return Site(name, "factor", value, log_prob, msg["scale"], plates=plates)
    observed = msg["is_observed"] or msg.get("_hidden", False)
    discrete = bool(getattr(fn.support, "is_discrete", False))
    return Site(
        name,
        "observed" if observed else "latent",
        value,
        log_prob,
        msg["scale"],
        log_det=log_dets.get(name),
        distribution=fn,
        plates=plates,
        event_dim=len(fn.event_shape),
        batch_shape=tuple(fn.batch_shape),
        constraint=fn.support,
        discrete=discrete,
        cardinality=_cardinality(fn) if discrete and not observed and name not in request.values else None,
        improper=_is_improper(fn),
        normalised=getattr(_base(fn), "normalised", True),
        in_support=_in_support(fn, value) if request.check and observed else None,
        num_steps=fn.num_steps if isinstance(fn, MarkovChain) else None,
        links=links,
    )


def _in_support(fn: Any, value: Any) -> Any:
    """Whether values can be; what is masked counts for nothing, and may be anything."""
    inside = fn.support(value)
    while isinstance(fn, numpyro.distributions.MaskedDistribution):
        inside, fn = inside | ~jnp.asarray(fn._mask), fn.base_dist
    return inside


def _cardinality(fn: Any) -> int | None:
    """Number of values of a discrete distribution, None where they cannot be listed."""
    if isinstance(fn, MarkovChain):
        return fn.num_states
    try:
        return len(fn.enumerate_support(expand=False)) if fn.has_enumerate_support else None
    except NotImplementedError:  # e.g. several in one event, counts that differ
        return None
