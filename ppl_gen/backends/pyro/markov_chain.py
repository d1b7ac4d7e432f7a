"""A finite Markov chain as one random variable. Mirror: `numpyro/markov_chain.py`."""

from __future__ import annotations

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints

from ppl_gen.backends import names


class MarkovChain(TorchDistribution):
    """z_1 ~ Categorical(initial_probs), z_t ~ Categorical(transition_probs[z_{t-1}]) for t = 2, ..., num_steps.

    Shapes (..., K) and (..., K, K), both normalised along the last axis here; values are integers of event shape
    (num_steps,). Rabiner (1989), section II.
    """

    arg_constraints: ClassVar = {
        "initial_probs": constraints.simplex,
        "transition_probs": constraints.independent(constraints.simplex, 1),
    }

    def __init__(self, initial_probs, transition_probs, num_steps, validate_args=None):
        initial, transition = torch.as_tensor(initial_probs), torch.as_tensor(transition_probs)
        names.check_chain(tuple(initial.shape), tuple(transition.shape), num_steps)
        self.initial_probs = initial / initial.sum(-1, keepdim=True)
        self.transition_probs = transition / transition.sum(-1, keepdim=True)
        self.num_steps = int(num_steps)
        batch_shape = torch.broadcast_shapes(initial.shape[:-1], transition.shape[:-2])
        super().__init__(batch_shape, torch.Size((self.num_steps,)), validate_args=validate_args)

    @property
    def num_states(self):
        return self.initial_probs.shape[-1]

    def expand(self, batch_shape, _instance=None):
        k = self.num_states
        initial = self.initial_probs.expand((*batch_shape, k))
        return MarkovChain(initial, self.transition_probs.expand((*batch_shape, k, k)), self.num_steps, False)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self):
        return constraints.independent(constraints.integer_interval(0, self.num_states - 1), 1)

    def log_prob(self, value):
        k = self.num_states
        inside = torch.all((value >= 0) & (value < k), dim=-1)
        z = torch.clamp(value, 0, k - 1).long()
        shape = torch.broadcast_shapes(z.shape[:-1], self.batch_shape)
        z = z.expand((*shape, self.num_steps))
        initial = self.initial_probs.expand((*shape, k))
        table = self.transition_probs.reshape((*self.transition_probs.shape[:-2], k * k))
        first = torch.gather(initial, -1, z[..., :1])
        steps = torch.gather(table.expand((*shape, k * k)), -1, z[..., :-1] * k + z[..., 1:])
        return torch.where(inside, torch.log(first[..., 0]) + torch.log(steps).sum(-1), -torch.inf)

    def sample(self, sample_shape=()):
        """Maps state -> next state, one for each step, composed by doubling: a loop over steps would be slow."""
        shape = self._extended_shape(sample_shape)[:-1]
        with torch.no_grad():
            u = torch.rand((*shape, self.num_steps), dtype=self.initial_probs.dtype)
            first = _inverse_cdf(self.initial_probs.cumsum(-1), u[..., 0])
            rows = self.transition_probs.cumsum(-1)[..., None, :, :]
            maps = _inverse_cdf(rows, u[..., 1:, None])
            d = 1
            while d < self.num_steps - 1:
                maps = torch.cat([maps[..., :d, :], torch.gather(maps[..., d:, :], -1, maps[..., :-d, :])], -2)
                d *= 2
            index = first[..., None, None].expand((*maps.shape[:-1], 1))
            return torch.cat([first[..., None], torch.gather(maps, -1, index)[..., 0]], -1)


def _inverse_cdf(cumulative, u):
    """The first state whose cumulative probability exceeds u, of those that have any."""
    return (u[..., None] * cumulative[..., -1:] >= cumulative[..., :-1]).sum(-1)
