"""The posteriors of posterior_speed as a user of PyMC writes them; name -> function of data that gives a model."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt


def eight_schools(sigma, y):
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0.0, 5.0), pm.HalfCauchy("tau", 5.0)
        z = pm.Normal("theta_trans", 0.0, 1.0, shape=len(sigma))
        theta = pm.Deterministic("theta", mu + tau * z)
        pm.Normal("y", theta, sigma, observed=y)
    return model


def kidiq(mom_hs, mom_iq, kid_score):
    with pm.Model() as model:
        beta, sigma = pm.Flat("beta", shape=3), pm.HalfCauchy("sigma", 2.5)
        pm.Normal("score", beta[0] + beta[1] * mom_hs + beta[2] * mom_iq, sigma, observed=kid_score)
    return model


def arK(y, order):
    n = len(y) - order
    past = np.stack([y[order - k : order - k + n] for k in range(1, order + 1)], axis=1)
    with pm.Model() as model:
        alpha, beta = pm.Normal("alpha", 0.0, 10.0), pm.Normal("beta", 0.0, 10.0, shape=order)
        sigma = pm.HalfCauchy("sigma", 2.5)
        pm.Normal("y", alpha + pt.dot(past, beta), sigma, observed=y[order:])
    return model


def sblrc(x, y):
    with pm.Model() as model:
        beta, sigma = pm.Normal("beta", 0.0, 10.0, shape=x.shape[1]), pm.HalfNormal("sigma", 10.0)
        pm.Normal("y", pt.dot(x, beta), sigma, observed=y)
    return model


def gp(x, y):
    with pm.Model() as model:
        rho, alpha = pm.Gamma("rho", 25.0, 4.0), pm.HalfNormal("alpha", 2.0)
        sigma = pm.HalfNormal("sigma", 1.0)
        kernel = alpha**2 * pt.exp(-((x[:, None] - x) ** 2) / (2 * rho**2)) + sigma * pt.eye(len(x))
        pm.MvNormal("y", np.zeros(len(x)), cov=kernel, observed=y)
    return model


def mixture(y):
    with pm.Model() as model:
        ordered = pm.distributions.transforms.ordered
        mu = pm.Normal("mu", 0.0, 2.0, shape=2, transform=ordered, initval=np.array([-1.0, 1.0]))
        sigma = pm.HalfNormal("sigma", 2.0, shape=2)
        theta = pm.Beta("theta", 5.0, 5.0)
        pm.NormalMixture("y", w=pt.stack([theta, 1 - theta]), mu=mu, sigma=sigma, observed=y)
    return model


def dogs(y):
    shocks = np.cumsum(y, axis=1) - y
    avoided = np.arange(y.shape[1]) - shocks
    with pm.Model() as model:
        beta = pm.Normal("beta", 0.0, 100.0, shape=3)
        pm.Bernoulli("y", logit_p=beta[0] + beta[1] * avoided + beta[2] * shocks, observed=y)
    return model


def hmm(y):
    with pm.Model() as model:
        rows = pt.stack([pm.Dirichlet(name, np.ones(2)) for name in ("theta1", "theta2")])
        positive_ordered = pm.distributions.transforms.Chain(
            [pm.distributions.transforms.log, pm.distributions.transforms.ordered]
        )
        mu = pm.Flat("mu", shape=2, transform=positive_ordered, initval=np.array([3.0, 9.0]))
        pm.Potential("mu_prior", pm.logp(pm.Normal.dist(np.array([3.0, 10.0]), 1.0), mu).sum())
        emission = pm.logp(pm.Normal.dist(mu, 1.0), y[:, None])

        def forward(term, weight, rows):
            return pt.logsumexp(weight[:, None] + pt.log(rows), axis=0) + term

        weights = pytensor.scan(forward, emission[1:], emission[0], [rows], return_updates=False)
        pm.Potential("y", pt.logsumexp(weights[-1]))
    return model


def logistic(x, y):
    with pm.Model() as model:
        beta = pm.Normal("beta", 0.0, 1.0, shape=x.shape[1])
        pm.Bernoulli("y", logit_p=pt.dot(x, beta), observed=y)
    return model


def groups(y, sigma):
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0.0, 5.0), pm.HalfNormal("tau", 2.0)
        z = pm.Normal("z", 0.0, 1.0, shape=len(y))
        pm.Normal("y", mu + tau * z, sigma, observed=y)
    return model


def gaussian(precision_factor):
    with pm.Model() as model:
        x = pm.Flat("x", shape=len(precision_factor))
        pm.Potential("density", -0.5 * pt.sum(pt.dot(precision_factor, x) ** 2))
    return model
