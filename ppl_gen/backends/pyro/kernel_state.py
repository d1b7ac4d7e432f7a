"""What Pyro's kernels and PyTorch's optimisers remember, as trees of arrays and numbers that a file can keep."""

from __future__ import annotations

import copy
from typing import Any

import torch

_COUNTED = ("_t", "_accept_cnt", "_mean_accept_prob")
_AVERAGED = ("prox_center", "_x_avg", "_g_avg", "_t")


def held_of_kernel(kernel: Any) -> dict[str, Any]:
    """All that changes from transition to transition in a kernel of Pyro's HMC or NUTS, but for the generator."""
    adapter = kernel._adapter
    mass, scheme = adapter.mass_matrix_adapter, adapter._step_size_adapt_scheme
    z, energy, gradients = kernel._fetch_from_cache()
    like = next(iter(mass.inverse_mass_matrix.values()))
    welford = next(iter(mass._adapt_scheme.values()))
    return {
        "z": {n: x.detach() for n, x in z.items()},
        "energy": energy.detach(),
        "gradients": {n: x.detach() for n, x in gradients.items()},
        "counted": {n: float(getattr(kernel, n)) for n in _COUNTED},
        "divergences": float(len(kernel._divergences)),
        "step_size": float(adapter.step_size),
        "window": int(adapter._current_window),
        "averaged": {n: float(getattr(scheme, n)) for n in _AVERAGED},
        "inverse_mass": like,
        "welford": {
            "count": int(welford.n_samples),
            "mean": _tensor(welford._mean, like if like.dim() == 1 else like[0]),
            "m2": _tensor(welford._m2, like),
        },
    }


def _tensor(x: Any, like: torch.Tensor) -> torch.Tensor:
    """A sum that is the number zero before its first term, in its later shape."""
    return x if isinstance(x, torch.Tensor) else torch.zeros_like(like)


def restore_kernel(kernel: Any, held: dict[str, Any]) -> None:
    """Bring a kernel that has been set up to where another was."""
    adapter = kernel._adapter
    mass, scheme = adapter.mass_matrix_adapter, adapter._step_size_adapt_scheme
    kernel._cache(held["z"], held["energy"], held["gradients"])
    for name in _COUNTED:
        number = held["counted"][name]
        setattr(kernel, name, number if name == "_mean_accept_prob" else int(number))
    kernel._divergences = [0] * int(held["divergences"])  # Pyro keeps when; how many is all that is asked
    # The setter works out the square roots as it did before; it also forgets the draws seen, which follow.
    block = next(iter(mass.inverse_mass_matrix))
    mass.inverse_mass_matrix = {block: held["inverse_mass"]}
    welford = mass._adapt_scheme[block]
    if held["welford"]["count"]:
        welford.n_samples = held["welford"]["count"]
        welford._mean, welford._m2 = held["welford"]["mean"], held["welford"]["m2"]
    adapter.step_size, adapter._current_window = held["step_size"], held["window"]
    for name in _AVERAGED:
        setattr(scheme, name, int(held["averaged"][name]) if name == "_t" else held["averaged"][name])


class Remembered:
    """The memory of an optimiser, whose entries come into being with its first step."""

    def __init__(self, state: dict[str, Any]):
        self._state = copy.deepcopy(state)

    def of_solver(self) -> dict[str, Any]:
        """What ``load_state_dict`` takes; a copy, which the optimiser may write to."""
        return copy.deepcopy(self._state)

    def open_held(self) -> dict[str, Any]:
        """Parameter and name -> tensor or number, of what is remembered of each parameter."""
        return {f"{i}.{n}": x for i, own in self._state["state"].items() for n, x in own.items() if x is not None}

    def opened(self, held: dict[str, Any]) -> Remembered:
        """The same with the entries ``held``, whichever there are."""
        state: dict[int, dict[str, Any]] = {}
        for place, x in held.items():
            i, _, name = place.partition(".")
            state.setdefault(int(i), {})[name] = x
        return Remembered({**self._state, "state": state})
