"""The eight posteriors of posteriordb that have reference answers, as portable programs.

Sites carry the names of the reference: entry 0 of ``beta`` is its "beta[1]". What each of them says in symbols
stands in the README beside the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ppl_gen as pg
from ppl_gen import dist, xp


@pg.program
def eight_schools(sigma, y):
    mu = pg.sample("mu", dist.Normal(0.0, 5.0))
    tau = pg.sample("tau", dist.HalfCauchy(5.0))
    with pg.plate("school", len(sigma)):
        z = pg.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = pg.deterministic("theta", mu + tau * z)
        pg.sample("y", dist.Normal(theta, sigma), obs=y)


@pg.program
def kidiq(mom_hs, mom_iq, kid_score):
    beta = pg.sample("beta", dist.Flat(shape=(3,)))
    sigma = pg.sample("sigma", dist.HalfCauchy(2.5))
    with pg.plate("child", len(mom_iq)):
        pg.sample("score", dist.Normal(beta[0] + beta[1] * mom_hs + beta[2] * mom_iq, sigma), obs=kid_score)


@pg.program
def autoregression(y, order):
    alpha = pg.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pg.sample("beta", dist.Normal(0.0, 10.0).expand([order]).to_event(1))
    sigma = pg.sample("sigma", dist.HalfCauchy(2.5))
    n = len(y) - order
    past = xp.stack([y[order - k : order - k + n] for k in range(1, order + 1)], axis=1)
    with pg.plate("time", n):
        pg.sample("y", dist.Normal(alpha + past @ beta, sigma), obs=y[order:])


@pg.program
def regression(x, y):
    beta = pg.sample("beta", dist.Normal(0.0, 10.0).expand([x.shape[1]]).to_event(1))
    sigma = pg.sample("sigma", dist.HalfNormal(10.0))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(x @ beta, sigma), obs=y)


@pg.program
def gaussian_process(x, y):
    rho = pg.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pg.sample("alpha", dist.HalfNormal(2.0))
    sigma = pg.sample("sigma", dist.HalfNormal(1.0))  # a variance
    kernel = alpha**2 * xp.exp(-((x[:, None] - x) ** 2) / (2 * rho**2))
    pg.sample("y", dist.MultivariateNormal(xp.zeros_like(x), kernel + sigma * xp.eye(len(x))), obs=y)


@pg.program
def mixture(y):
    mu = pg.sample("mu", dist.Ordered(dist.Normal(0.0, 2.0), 2))
    sigma = pg.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = pg.sample("theta", dist.Beta(5.0, 5.0))
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Categorical(probs=xp.stack([theta, 1 - theta])))
        pg.sample("y", dist.Normal(mu[z], sigma[z]), obs=y)


@pg.program
def dogs(y):
    beta = pg.sample("beta", dist.Normal(0.0, 100.0).expand([3]).to_event(1))
    shocks = xp.cumsum(y, axis=1) - y  # before each trial
    avoided = xp.arange(y.shape[1]) - shocks
    with pg.plate("dog", y.shape[0], dim=-2), pg.plate("trial", y.shape[1], dim=-1):
        pg.sample("y", dist.Bernoulli(logits=beta[0] + beta[1] * avoided + beta[2] * shocks), obs=y)


@pg.program
def hidden_markov(y):
    rows = [pg.sample(name, dist.Flat("simplex", (2,))) for name in ("theta1", "theta2")]
    mu = pg.sample("mu", dist.Flat("positive_ordered", (2,)))
    pg.factor("mu_prior", xp.sum(dist.Normal(xp.array([3.0, 10.0]), 1.0).log_prob(mu)))
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])

    def forward(weight, term):  # weight_k = log p(y_1 .. y_t, state_t = k)
        weight = xp.logsumexp(weight[:, None] + xp.log(xp.stack(rows)), axis=0) + term
        return weight, weight

    last, _ = xp.scan(forward, emission[0], emission[1:])
    pg.factor("y", xp.logsumexp(last))


@dataclass(frozen=True)
class Posterior:
    """A program, the folder of its reference answers, and how data.json becomes its data."""

    program: pg.Program
    folder: str
    to_data: Callable[[Mapping[str, Any]], dict[str, Any]]

    def data(self, data_dir: Path) -> dict[str, Any]:
        return self.to_data(self._read(data_dir, "data.json"))

    def reference(self, data_dir: Path) -> tuple[dict[str, dict[str, float]], set[str]]:
        """Mean, sd, ... by the name of the parameter; and the names of those with heavy tails."""
        summary = self._read(data_dir, "summary.json")
        return summary["parameters"], set(summary["heavy_tailed"])

    def _read(self, data_dir: Path, name: str) -> dict[str, Any]:
        return json.loads((data_dir / "posteriordb" / self.folder / name).read_text())


def by_reference_name(posterior: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draws (chain, draw) of each scalar, under its name in the reference."""
    scalars = {n: x for n, x in posterior.items() if x.ndim == 2}
    entries = {f"{n}[{i + 1}]": x[..., i] for n, x in posterior.items() if x.ndim == 3 for i in range(x.shape[2])}
    return scalars | entries


def _floats(*names: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda data: {name.lower(): np.asarray(data[name], float) for name in names}


POSTERIORS = {
    "eight_schools": Posterior(
        eight_schools, "eight_schools-eight_schools_noncentered", _floats("sigma", "y")
    ),
    "kidiq": Posterior(kidiq, "kidiq-kidscore_momhsiq", _floats("mom_hs", "mom_iq", "kid_score")),
    "arK": Posterior(autoregression, "arK-arK", lambda d: {**_floats("y")(d), "order": d["K"]}),
    "sblrc": Posterior(regression, "sblrc-blr", _floats("X", "y")),
    "gp": Posterior(gaussian_process, "gp_pois_regr-gp_regr", _floats("x", "y")),
    "mixture": Posterior(mixture, "low_dim_gauss_mix-low_dim_gauss_mix", _floats("y")),
    "dogs": Posterior(dogs, "dogs_2020-dogs", _floats("y")),
    "hmm": Posterior(hidden_markov, "hmm_example-hmm_example", _floats("y")),
}
