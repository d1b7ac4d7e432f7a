"""Fields that lean towards something: a label, what a classifier says, entries that were observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_gen import backends
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.predictions import coefficients

LogProb = Callable[[Any, Any], Any]


def classifier_free(conditional: Field, free: Field, weight: Any) -> Field:
    """(1 + w) of what is said given a label less w of what is said without (Ho & Salimans 2022, equation 6).

    Two evaluations of the network. All kinds of prediction are guided alike, since each is linear in the score.
    """
    says = lambda x, t: (1.0 + weight) * conditional.says(x, t) - weight * free.says(x, t)
    return conditional.saying(says, one_time=conditional.one_time and free.one_time)


def classified(field: Field, log_prob: LogProb, weight: Any = 1.0) -> Field:
    """The score plus w times the gradient of log p(y | x_t, t) (Dhariwal & Nichol 2021, algorithm 1; Song et al. 2021).

    Args:
        log_prob: ``(x (rows, *event), t (rows,)) -> (rows,)``, in the words of programs.
    """

    def says(x: Any, t: Any) -> Any:
        backend = backends.active()
        xp = backend.xp
        _, gradient = backend.value_and_grad(lambda x: xp.sum(log_prob(x, t)))(x)
        _, by_score = coefficients(xp, field.at(xp, t), "score", field.kind, field.sigma_data)
        return field.says(x, t) + by_score * weight * gradient

    return field.saying(says)


def observing(field: Field, observed: Any, known: Any) -> Field:
    """Given some entries of the datum: guided by how far the expected datum is from them.

    p(observed | x_t) is about Gaussian around the expected datum, of variance r^2 = sigma^2 s^2 / (sigma^2 +
    alpha^2 s^2) with s the standard deviation of the data: exact for data whose entries are independent Gaussians of
    that variance, else an approximation (Song, Vahdat, Mardani & Kautz 2023, equation 7): of two unit Gaussians of
    correlation 0.8, one observed at 1, draws of the other have mean 0.76 and deviation 0.63, exact are 0.8 and 0.6. The
    gradient goes through the network: one that says the noise or the score has its errors multiplied by sigma / alpha
    here, and may lead far away; let it say "v", "data" or "edm".

    Args:
        observed: like rows, any finite numbers where ``known`` (like it, 1 or 0) is 0.
    """

    def log_prob(x: Any, t: Any) -> Any:
        xp = backends.active().xp
        at = field.at(xp, t)
        noise, signal = xp.square(at.sigma), xp.square(at.alpha * field.sigma_data)
        variance = field.sigma_data**2 * noise / (noise + signal)
        square = known * xp.square(observed - field(xp, "data", x, t)) / variance
        return -0.5 * xp.sum(square.reshape((*t.shape, -1)), axis=-1)

    return classified(field, log_prob)
