"""Kinetic energy of a transport, and how far it is from the least."""

from typing import NamedTuple

import numpy as np

from ._samples import checked
from .wasserstein_exact import wasserstein_exact


class PathEnergy(NamedTuple):
    """What :func:`path_energy` found.

    Attributes:
        value: E of the integral of |dx / dt|^2 over the time from 0 to 1, in the squared unit of the data.
        standard_error: of the value, from the paths.
        normalised: |value - W_2^2| / W_2^2, 0 where the transport is optimal; None where the distance is 0.
    """

    value: float
    standard_error: float
    normalised: float | None


def path_energy(trajectory: np.ndarray, times: np.ndarray | None = None, w2: float | None = None) -> PathEnergy:
    """Path energy of a transport, and its excess over the least one, of dynamic optimal transport.

    Tong et al. (2024), "Improving and generalizing flow-based generative models with minibatch optimal transport",
    TMLR: PE(v) = E of the integral of |v(t, x_t)|^2, NPE(v) = |PE(v) - W_2^2(q_0, q_1)| / W_2^2(q_0, q_1). By Benamou
    and Brenier (2000) no transport of q_0 into q_1 has less than W_2^2.

    Args:
        trajectory: (times, n, d), the places of n points along their paths. Between two times the velocity is taken
            as constant: exact for the steps of Euler's method, and less than the energy of a path that bends there.
        times: (times,), from 0 to 1, to 0.05 at either end, rising or, of a backward transport, falling; evenly
            spread where None.
        w2: W_2(q_0, q_1), where known. None: the exact distance between the first and the last points, of
            which there may be 5,000 then; it holds what was transported against its own ends, not against the target.

    Returns:
        :class:`PathEnergy`.

    Raises:
        ValueError: trajectory is not (times, n, d) of at least 2 times and 2 points, or not real and finite; times
            of another length, that do not rise or fall, or do not go between 0 and 1; w2 not above 0.
    """
    path, shape = np.asarray(trajectory), np.shape(trajectory)
    if len(shape) != 3 or shape[0] < 2:
        raise ValueError(f"trajectory must have shape (times, n, d), at least 2 times, got {shape}")
    if shape[1] < 2:
        raise ValueError(f"trajectory must hold at least 2 points for a standard error, got shape {shape}")
    path = checked(path.reshape(-1, shape[2]), "trajectory").reshape(shape)
    lengths = _checked_lengths(times, len(path))
    energies = ((np.diff(path, axis=0) ** 2).sum(axis=2) / lengths[:, None]).sum(axis=0)
    value, error = float(energies.mean()), float(energies.std(ddof=1) / np.sqrt(len(energies)))
    if w2 is None:
        w2 = wasserstein_exact(path[0], path[-1])
    elif not 0.0 < w2 < np.inf:
        raise ValueError(f"w2 must be above 0, got {w2!r}; None takes it between the first and the last points")
    return PathEnergy(value, error, abs(value - w2**2) / w2**2 if w2 > 0.0 else None)


def _checked_lengths(times: np.ndarray | None, count: int) -> np.ndarray:
    """Of the steps, each above 0."""
    if times is None:
        return np.full(count - 1, 1.0 / (count - 1))
    times = np.asarray(times, dtype=np.float64)
    if times.shape != (count,):
        raise ValueError(f"times must have shape ({count},), one for each row of trajectory, got {times.shape}")
    steps = np.diff(times) * np.sign(times[-1] - times[0])
    if not (steps > 0.0).all() or not np.allclose(sorted(times[[0, -1]]), [0.0, 1.0], rtol=0.0, atol=0.05):
        raise ValueError(
            f"times must rise from 0 to 1, or fall from 1 to 0, got {times[0]:g} to {times[-1]:g}"
            + ("" if (steps > 0.0).all() else ", not in order")
        )
    return steps
