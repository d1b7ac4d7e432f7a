"""The posteriors of posterior_speed as a user of Pyro writes them; name -> model(**data) on tensors.

``STARTS`` are values of flat sites, which Pyro cannot draw: chains start there, give or take ``SPREAD``.
"""

from __future__ import annotations

import pyro
import torch
from pyro import distributions as dist
from pyro import factor, plate, sample
from pyro.distributions import constraints

STARTS = {
    "kidiq": {"beta": [0.0, 0.0, 0.0]},
    "mixture": {"mu": [-1.0, 1.0]},
    "hmm": {"mu": [3.0, 9.0]},
}
SPREAD = 0.5


def eight_schools(sigma, y):
    mu, tau = sample("mu", dist.Normal(0.0, 5.0)), sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(sigma)):
        z = sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * z)
        sample("y", dist.Normal(theta, sigma), obs=y)


def kidiq(mom_hs, mom_iq, kid_score):
    beta = sample("beta", dist.ImproperUniform(constraints.real_vector, (), (3,)))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    with plate("child", len(kid_score)):
        sample("score", dist.Normal(beta[0] + beta[1] * mom_hs + beta[2] * mom_iq, sigma), obs=kid_score)


def arK(y, order):
    alpha = sample("alpha", dist.Normal(0.0, 10.0))
    beta = sample("beta", dist.Normal(0.0, 10.0).expand([order]).to_event(1))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    n = len(y) - order
    past = torch.stack([y[order - k : order - k + n] for k in range(1, order + 1)], dim=1)
    with plate("time", n):
        sample("y", dist.Normal(alpha + past @ beta, sigma), obs=y[order:])


def sblrc(x, y):
    beta = sample("beta", dist.Normal(0.0, 10.0).expand([x.shape[1]]).to_event(1))
    sigma = sample("sigma", dist.HalfNormal(10.0))
    with plate("row", len(y)):
        sample("y", dist.Normal(x @ beta, sigma), obs=y)


def gp(x, y):
    rho, alpha = sample("rho", dist.Gamma(25.0, 4.0)), sample("alpha", dist.HalfNormal(2.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    kernel = alpha**2 * torch.exp(-((x[:, None] - x) ** 2) / (2 * rho**2))
    sample("y", dist.MultivariateNormal(torch.zeros_like(x), kernel + sigma * torch.eye(len(x))), obs=y)


def mixture(y):
    mu = sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = sample("theta", dist.Beta(5.0, 5.0))
    parts = dist.Categorical(probs=torch.stack([theta, 1 - theta])), dist.Normal(mu, sigma)
    with plate("row", len(y)):
        sample("y", dist.MixtureSameFamily(*parts), obs=y)


def dogs(y):
    beta = sample("beta", dist.Normal(0.0, 100.0).expand([3]).to_event(1))
    shocks = torch.cumsum(y, dim=1) - y
    avoided = torch.arange(y.shape[1]) - shocks
    with plate("dog", y.shape[0], dim=-2), plate("trial", y.shape[1], dim=-1):
        sample("y", dist.Bernoulli(logits=beta[0] + beta[1] * avoided + beta[2] * shocks), obs=y)


def hmm(y):
    rows = torch.stack([sample(name, dist.Dirichlet(torch.ones(2))) for name in ("theta1", "theta2")])
    mu = sample("mu", dist.ImproperUniform(constraints.positive_ordered_vector, (), (2,)))
    factor("mu_prior", dist.Normal(torch.tensor([3.0, 10.0]), 1.0).log_prob(mu).sum())
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])
    weight, log_rows = emission[0], torch.log(rows)
    for term in emission[1:].unbind():
        weight = torch.logsumexp(weight[:, None] + log_rows, dim=0) + term
    factor("y", torch.logsumexp(weight, dim=0))
