"""Pyro's own algorithms, each as a state and a way to advance it, on compiled potentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.infer.autoguide as autoguide
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide.initialization import init_to_uniform, init_to_value
from pyro.infer.mcmc import HMC, NUTS
from torch.distributions import transform_to

from ppl_gen.backends.protocol import Request
from ppl_gen.backends.pyro.compiling import compile
from ppl_gen.backends.pyro.kernel_state import Remembered, held_of_kernel, restore_kernel
from ppl_gen.backends.pyro.optimisers import optimiser as make_optimiser
from ppl_gen.backends.pyro.tracing import Assign

_GUIDES = {
    "normal": autoguide.AutoNormal,
    "diagonal": autoguide.AutoDiagonalNormal,
    "multivariate_normal": autoguide.AutoMultivariateNormal,
    "low_rank": autoguide.AutoLowRankMultivariateNormal,
    "delta": autoguide.AutoDelta,
}


class _Potential(torch.autograd.Function):
    """A compiled value and gradient, in a form that Pyro's integrator can differentiate."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, evaluate: Callable[..., Any]) -> torch.Tensor:
        value, gradient = evaluate(z.detach())
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> Any:
        return outputs[0] * ctx.saved_tensors[0], None


class _Recorded:
    """Keeps the energy at the start of a transition and counts gradients, which Pyro's kernels do not report."""

    start_kinetic: torch.Tensor | None = None
    gradients = 0

    def _kinetic_energy(self, r: Any) -> torch.Tensor:
        energy = super()._kinetic_energy(r)  # type: ignore[misc]
        if self.start_kinetic is None:
            self.start_kinetic = energy
        return energy

    def held(self) -> dict[str, Any]:
        """All that changes from transition to transition, but for the scope's generator."""
        return held_of_kernel(self)

    def restore(self, held: dict[str, Any]) -> None:
        """Go on from what :meth:`held` has returned."""
        restore_kernel(self, held)


class _HMC(_Recorded, HMC):
    pass


class _NUTS(_Recorded, NUTS):
    pass


class PyroHMC:
    """Pyro's HMC and NUTS kernels on a flat compiled potential; chains take turns, in this process."""

    independent = False  # all draw from the scope's one generator

    def __init__(
        self,
        potential: Callable[..., Any],
        *,
        algorithm: str,
        num_warmup: int,
        calls: int,
        step_size: float,
        target_accept_prob: float,
        dense_mass: bool,
        max_tree_depth: int = 10,
        trajectory_length: float | None = None,
    ):
        both = torch.func.grad_and_value(potential)
        self._both = compile(lambda z, arrays: both(z, arrays)[::-1], calls=calls)
        self._num_warmup = num_warmup
        self._kernel = _NUTS if algorithm == "NUTS" else _HMC
        self._options: dict[str, Any] = {
            "step_size": step_size,
            "target_accept_prob": target_accept_prob,
            "full_mass": dense_mass,
        }
        if algorithm == "NUTS":
            self._options["max_tree_depth"] = max_tree_depth
        elif trajectory_length is not None:
            self._options["trajectory_length"] = trajectory_length

    def init(self, positions: torch.Tensor, seed: int, arrays: Any, rows: slice = slice(None)) -> Any:
        """The state of chains that start at ``positions`` (chains, dim)."""
        torch.manual_seed(seed)
        return [self._chain(position, arrays) for position in positions[rows]]

    def _chain(self, position: torch.Tensor, arrays: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        def potential(z: dict[str, torch.Tensor]) -> torch.Tensor:
            kernel.gradients += 1
            return _Potential.apply(z["position"], lambda u: self._both(u, arrays))

        kernel = self._kernel(potential_fn=potential, **self._options)
        kernel.initial_params = {"position": position.clone()}
        kernel.setup(self._num_warmup)
        return kernel, kernel.initial_params

    def advance(self, state: Any, num_steps: int, arrays: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        """``num_steps`` transitions; reports arrays (num_steps, chains, ...)."""
        del arrays  # each chain's kernel holds them since init
        moved, chains = [], []
        for kernel, z in state:
            steps = []
            for _ in range(num_steps):
                z, report = _transition(kernel, z)
                steps.append(report)
            moved.append((kernel, z))
            chains.append({name: torch.stack([s[name] for s in steps]) for name in steps[0]})
        return moved, {name: torch.stack([c[name] for c in chains], 1) for name in chains[0]}


def _transition(kernel: Any, z: dict[str, torch.Tensor]) -> tuple[Any, dict[str, torch.Tensor]]:
    potential_before, divergences = kernel._potential_energy_last, len(kernel._divergences)
    before = kernel._mean_accept_prob
    kernel.start_kinetic, kernel.gradients = None, 0
    z = kernel.sample(z)
    warm = kernel._t <= kernel._warmup_steps
    n = kernel._t if warm else kernel._t - kernel._warmup_steps
    accepted = n * kernel._mean_accept_prob - (n - 1) * (before if n > 1 else 0.0)
    return z, {
        "position": z["position"].detach(),
        "lp": -kernel._potential_energy_last.detach(),
        "energy": (kernel.start_kinetic + potential_before).detach(),
        "diverging": torch.tensor(len(kernel._divergences) > divergences),
        "n_steps": torch.tensor(kernel.gradients),
        "acceptance_rate": torch.tensor(float(accepted)).clamp(0.0, 1.0),
        "step_size": torch.tensor(float(kernel.step_size)),
    }


def _elbo(name: str, num_particles: int, alpha: float, max_plate_nesting: int) -> Any:
    # Particles one by one: vectorised they are a batch dimension that programs such as x @ beta do not expect.
    options = {"num_particles": num_particles, "max_plate_nesting": max_plate_nesting}
    if name == "renyi":
        return RenyiELBO(alpha=alpha, **options)
    known = {"trace": Trace_ELBO, "mean_field": TraceMeanField_ELBO, "enum": TraceEnum_ELBO}
    return known[name](**options)


class PyroSVI:
    """Pyro's SVI; the parameters live in the scope's parameter store."""

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any] | str,
        *,
        elbo: str,
        num_particles: int,
        alpha: float,
        optimizer: Any,
        learning_rate: float,
        discrete: tuple[str, ...],
        max_plate_nesting: int,
        calls: int,
        rank: int | None = None,
    ):
        self._model = config_enumerate(model) if discrete else model
        self._make_guide = lambda values: _guide(guide, model, discrete, rank, values)
        self._elbo = _elbo(elbo, num_particles, alpha, max_plate_nesting)
        self._optimiser = make_optimiser(optimizer, learning_rate)
        self._compiled = compile(self._differentiated, calls=calls)
        self._traceable = elbo != "renyi"  # Pyro's Renyi bound has no differentiable loss

    def init(self, seed: int, arrays: Any, values: Mapping[str, Any] | None = None) -> Any:
        """The initial state of a run.

        An autoguide starts at ``values`` (site -> constrained), elsewhere at random.
        """
        pyro.clear_param_store()
        pyro.set_rng_seed(seed % 2**32)
        self._guide = self._make_guide(values or {})
        self._elbo.loss(self._model, self._guide, arrays)
        store = pyro.get_param_store()
        self._tensors = {name: store._params[name] for name in store}
        self._constraints = dict(store._constraints)
        self._solver = self._optimiser(list(self._tensors.values()))
        self._now = self._state()
        return self._now

    def advance(self, state: Any, num_steps: int, arrays: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        """``num_steps`` updates; reports the loss (negative ELBO) of each."""
        self._load(state)
        losses = []
        for _ in range(num_steps):
            loss, gradients = self._loss_and_grads(arrays)
            for name, tensor in self._tensors.items():
                tensor.grad = gradients[name]
            self._solver.step()
            losses.append(loss)
        self._now = self._state()
        return self._now, {"loss": torch.stack(losses)}

    def _state(self) -> dict[str, Any]:
        """The parameters as the model sees them and as the optimiser does, and what the optimiser remembers of them."""
        tensors = {name: x.detach().clone() for name, x in self._tensors.items()}
        return {"params": self._snapshot(), "tensors": tensors, "solver": Remembered(self._solver.state_dict())}

    def _load(self, state: dict[str, Any]) -> None:
        """Go on from a state that may not be the one that the last steps led to."""
        if state is self._now:
            return
        self._now = state
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(state["tensors"][name])
        self._solver.load_state_dict(state["solver"].of_solver())

    def _loss_and_grads(self, arrays: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Of the current parameters: by a graph of the ELBO where it can be traced, else by Pyro itself."""
        if self._traceable:
            try:
                return self._compiled({n: t.detach() for n, t in self._tensors.items()}, arrays)
            except (RuntimeError, ValueError, TypeError, NotImplementedError):  # Pyro's own way is always right
                self._traceable = False
        for tensor in self._tensors.values():
            tensor.grad = None
        loss = self._elbo.loss_and_grads(self._model, self._guide, arrays)
        return torch.as_tensor(loss), {n: t.grad for n, t in self._tensors.items()}

    def _differentiated(self, tensors: dict[str, torch.Tensor], arrays: Any) -> tuple[Any, dict[str, Any]]:
        """Loss and gradient as a pure function of the unconstrained parameters.

        By autograd, not torch.func: Pyro's einsum has autograd functions that torch.func refuses.
        """
        with torch.enable_grad():
            leaves = {n: t.detach().requires_grad_() for n, t in tensors.items()}
            values = {n: transform_to(self._constraints[n])(t) for n, t in leaves.items()}
            with _swapped(self._guide, self._tensors, leaves), Assign(Request(values=values), once=False):
                loss = self._elbo.differentiable_loss(self._model, self._guide, arrays)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        gradients = (torch.zeros_like(t) if g is None else g for t, g in zip(leaves.values(), found, strict=True))
        return loss.detach(), dict(zip(leaves, gradients, strict=True))

    def _snapshot(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}

    def params(self, state: Any) -> dict[str, torch.Tensor]:
        """The parameters by name, constrained."""
        self._load(state)  # a guide may read them from its module, not by name
        return state["params"]

    def guide(self, arrays: Any) -> Any:
        """Run the guide; its params must be handed in by a request."""
        return self._guide(arrays)


@contextmanager
def _swapped(guide: Any, held: Mapping[str, torch.Tensor], leaves: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """``leaves`` in the place of a guide's plain parameters, which Pyro reads from the module, not from its store."""
    names = {id(tensor): name for name, tensor in held.items()}
    modules = guide.modules() if isinstance(guide, torch.nn.Module) else ()
    owners = [(m._parameters, n) for m in modules for n in m._parameters if not n.endswith("_unconstrained")]
    before = [(table, n, table[n]) for table, n in owners if id(table[n]) in names]
    try:
        for table, n, tensor in before:
            table[n] = leaves[names[id(tensor)]]
        yield
    finally:
        for table, n, tensor in before:
            table[n] = tensor


def _guide(
    guide: Any, model: Callable[..., Any], discrete: tuple[str, ...], rank: int | None, values: dict[str, Any]
) -> Any:
    if not isinstance(guide, str):
        return guide
    shown = poutine.block(model, hide=list(discrete)) if discrete else model
    options: dict[str, Any] = {"rank": rank} if guide == "low_rank" and rank else {}
    if values:
        options["init_loc_fn"] = init_to_value(values=values, fallback=init_to_uniform)
    return _GUIDES[guide](shown, **options)
