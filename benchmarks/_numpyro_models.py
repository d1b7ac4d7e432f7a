"""The posteriors of posterior_speed as a user of NumPyro writes them; name -> model(**data)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import factor, plate, sample


def eight_schools(sigma, y):
    mu, tau = sample("mu", dist.Normal(0.0, 5.0)), sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(sigma)):
        z = sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * z)
        sample("y", dist.Normal(theta, sigma), obs=y)


def kidiq(mom_hs, mom_iq, kid_score):
    beta = sample("beta", dist.ImproperUniform(dist.constraints.real_vector, (), (3,)))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    sample("score", dist.Normal(beta[0] + beta[1] * mom_hs + beta[2] * mom_iq, sigma), obs=kid_score)


def arK(y, order):
    alpha = sample("alpha", dist.Normal(0.0, 10.0))
    beta = sample("beta", dist.Normal(0.0, 10.0).expand([order]).to_event(1))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    n = len(y) - order
    past = jnp.stack([y[order - k : order - k + n] for k in range(1, order + 1)], axis=1)
    sample("y", dist.Normal(alpha + past @ beta, sigma), obs=y[order:])


def sblrc(x, y):
    beta = sample("beta", dist.Normal(0.0, 10.0).expand([x.shape[1]]).to_event(1))
    sigma = sample("sigma", dist.HalfNormal(10.0))
    sample("y", dist.Normal(x @ beta, sigma), obs=y)


def gp(x, y):
    rho, alpha = sample("rho", dist.Gamma(25.0, 4.0)), sample("alpha", dist.HalfNormal(2.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    kernel = alpha**2 * jnp.exp(-((x[:, None] - x) ** 2) / (2 * rho**2))
    sample("y", dist.MultivariateNormal(jnp.zeros_like(x), kernel + sigma * jnp.eye(len(x))), obs=y)


def mixture(y):
    ordered = dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,))
    mu = sample("mu", ordered)
    factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = sample("theta", dist.Beta(5.0, 5.0))
    terms = dist.Normal(mu, sigma).log_prob(y[:, None]) + jnp.log(jnp.stack([theta, 1 - theta]))
    factor("y", jax.nn.logsumexp(terms, axis=1).sum())


def dogs(y):
    beta = sample("beta", dist.Normal(0.0, 100.0).expand([3]).to_event(1))
    shocks = jnp.cumsum(y, axis=1) - y
    avoided = jnp.arange(y.shape[1]) - shocks
    sample("y", dist.Bernoulli(logits=beta[0] + beta[1] * avoided + beta[2] * shocks), obs=y)


def hmm(y):
    simplex = dist.Dirichlet(jnp.ones(2))
    rows = jnp.stack([sample("theta1", simplex), sample("theta2", simplex)])
    mu = sample("mu", dist.ImproperUniform(dist.constraints.positive_ordered_vector, (), (2,)))
    factor("mu_prior", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu).sum())
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])

    def forward(weight, term):
        return jax.nn.logsumexp(weight[:, None] + jnp.log(rows), axis=0) + term, None

    factor("y", jax.nn.logsumexp(jax.lax.scan(forward, emission[0], emission[1:])[0]))


def logistic(x, y):
    beta = sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def groups(y, sigma):
    mu, tau = sample("mu", dist.Normal(0.0, 5.0)), sample("tau", dist.HalfNormal(2.0))
    with plate("group", len(y)):
        z = sample("z", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def gaussian(precision_factor):
    x = sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (len(precision_factor),)))
    factor("density", -0.5 * jnp.sum((precision_factor @ x) ** 2))
