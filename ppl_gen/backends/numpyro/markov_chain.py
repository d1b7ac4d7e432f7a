"""A finite Markov chain as one random variable. Mirror: `pyro/markov_chain.py`."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as native
from numpyro.distributions import constraints

from ppl_gen.backends import names


class MarkovChain(native.Distribution):
    """z_1 ~ Categorical(initial_probs), z_t ~ Categorical(transition_probs[z_{t-1}]) for t = 2, ..., num_steps.

    Shapes (..., K) and (..., K, K), both normalised along the last axis here; values are integers of event shape
    (num_steps,). Rabiner (1989), section II.
    """

    arg_constraints: ClassVar = {
        "initial_probs": constraints.simplex,
        "transition_probs": constraints.independent(constraints.simplex, 1),
    }
    pytree_data_fields = ("initial_probs", "transition_probs")
    pytree_aux_fields = ("num_steps",)

    def __init__(self, initial_probs, transition_probs, num_steps, *, validate_args=None):
        initial, transition = jnp.asarray(initial_probs), jnp.asarray(transition_probs)
        names.check_chain(initial.shape, transition.shape, num_steps)
        self.initial_probs = initial / initial.sum(-1, keepdims=True)
        self.transition_probs = transition / transition.sum(-1, keepdims=True)
        self.num_steps = int(num_steps)
        batch_shape = jnp.broadcast_shapes(initial.shape[:-1], transition.shape[:-2])
        super().__init__(batch_shape, (self.num_steps,), validate_args=validate_args)

    @property
    def num_states(self):
        return self.initial_probs.shape[-1]

    def expand(self, batch_shape):
        k = self.num_states
        initial = jnp.broadcast_to(self.initial_probs, (*batch_shape, k))
        return MarkovChain(initial, jnp.broadcast_to(self.transition_probs, (*batch_shape, k, k)), self.num_steps)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self):
        return constraints.independent(constraints.integer_interval(0, self.num_states - 1), 1)

    def log_prob(self, value):
        k = self.num_states
        inside = jnp.all((value >= 0) & (value < k), axis=-1)
        z = jnp.clip(value, 0, k - 1).astype(int)
        shape = jnp.broadcast_shapes(z.shape[:-1], self.batch_shape)
        z = jnp.broadcast_to(z, (*shape, self.num_steps))
        initial = jnp.broadcast_to(self.initial_probs, (*shape, k))
        table = self.transition_probs.reshape((*self.transition_probs.shape[:-2], k * k))
        first = jnp.take_along_axis(initial, z[..., :1], axis=-1)
        steps = jnp.take_along_axis(
            jnp.broadcast_to(table, (*shape, k * k)), z[..., :-1] * k + z[..., 1:], axis=-1
        )
        return jnp.where(inside, jnp.log(first[..., 0]) + jnp.log(steps).sum(-1), -jnp.inf)

    def sample(self, key, sample_shape=()):
        shape = (*sample_shape, *self.batch_shape)
        u = jax.random.uniform(key, (self.num_steps, *shape))
        initial = jnp.broadcast_to(jnp.cumsum(self.initial_probs, -1), (*shape, self.num_states))
        rows = jnp.broadcast_to(jnp.cumsum(self.transition_probs, -1), (*shape, self.num_states, self.num_states))

        def step(z, u):
            row = jnp.take_along_axis(rows, z[..., None, None], axis=-2)[..., 0, :]
            z = _inverse_cdf(row, u)
            return z, z

        first = _inverse_cdf(initial, u[0])
        rest = jax.lax.scan(step, first, u[1:])[1]
        return jnp.moveaxis(jnp.concatenate([first[None], rest]), 0, -1)


def _inverse_cdf(cumulative, u):
    """The first state whose cumulative probability exceeds u, of those that have any."""
    return jnp.sum(u[..., None] * cumulative[..., -1:] >= cumulative[..., :-1], axis=-1)
