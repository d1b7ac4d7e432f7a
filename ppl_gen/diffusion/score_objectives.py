"""What a score is trained on at one level of noise, or none: objectives that differ by a number no score changes.

Each is ``(..., score, x, ...) -> (rows,)`` of a function ``score`` that takes rows x (rows, *event), each by itself, to
its estimate of grad log p, like x. On average it is half of the squared error of the score, Fisher's divergence, up to
a number of the data alone. ``f`` are the functions of the library, ``ppl_gen.nets.net.home(library).Functions``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_gen.checks import ProgramError

Score = Callable[[Any], Any]


def explicit(xp: Any, score: Score, x: Any, truth: Score) -> Any:
    """|s(x) - truth(x)|^2 / 2, where the true score is known (Hyvarinen 2005, equation 2): no number is left out.

    Raises:
        ProgramError: a score of another shape than x, as of all of these.
    """
    return 0.5 * _squares(xp, score_of(score, x) - score_of(truth, x))


def implicit(f: Any, score: Score, x: Any) -> Any:
    """tr ds/dx + |s|^2 / 2 (Hyvarinen 2005, theorem 1): E |truth|^2 / 2 less than :func:`explicit`.

    The trace is exact, at the price of as many derivatives as a row has numbers.
    """
    said, trace = f.trace(_flat(score, x), x.reshape((x.shape[0], -1)))
    return trace + 0.5 * _squares(f.xp, said)


def sliced(f: Any, score: Score, x: Any, directions: Any, reduced: bool = True) -> Any:
    """v^T (ds/dx) v + |s|^2 / 2, mean over directions v (slices, *x.shape) of identity covariance (Song et al. 2019).

    That is Hutchinson's estimate of the trace, one derivative for each slice, and their SSM-VR; unless ``reduced``, the
    norm is sliced, too, (v^T s)^2 / 2, their equation 8.
    """
    rows, flat = x.shape[0], _flat(score, x)
    u, found = x.reshape((rows, -1)), []
    for v in (directions[i].reshape((rows, -1)) for i in range(directions.shape[0])):
        said, pushed = f.jvp(flat, u, v)
        norm = _squares(f.xp, said) if reduced else f.xp.sum(v * said, axis=-1) ** 2
        found.append(f.xp.sum(v * pushed, axis=-1) + 0.5 * norm)
    return sum(found) / len(found)


def denoising(xp: Any, score: Score, x: Any, noise: Any, sigma: Any) -> Any:
    """|s(x + sigma e) + e / sigma|^2 / 2 for standard normal e (Vincent 2011, equation 11).

    Its minimum is the score of data with that noise on them; ``sigma`` is a number, or one for each entry of a row.
    """
    return 0.5 * _squares(xp, score_of(score, x + sigma * noise) + noise / sigma)


def score_of(score: Score, x: Any) -> Any:
    """The score of rows.

    Raises:
        ProgramError: it is not like them.
    """
    said = score(x)
    if tuple(getattr(said, "shape", ())) != tuple(x.shape):
        raise ProgramError(
            f"a score must be like the rows that it is asked of, shape {tuple(x.shape)}, and it came in shape "
            f"{tuple(getattr(said, 'shape', ()))}: it is the gradient of log p in each entry"
        )
    return said


def _flat(score: Score, x: Any) -> Score:
    """The same score of rows (rows, numbers)."""
    return lambda u: score_of(score, u.reshape(tuple(x.shape))).reshape((x.shape[0], -1))


def _squares(xp: Any, y: Any) -> Any:
    """Their sum in each row."""
    return xp.sum((y * y).reshape((y.shape[0], -1)), axis=-1)
