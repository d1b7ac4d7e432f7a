"""The noise of a chunk of steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from ppl_gen.backends import host_noise
from ppl_gen.backends.host_noise import Spec
from ppl_gen.backends.pyro.compiling import on_host


def key(seed: int) -> None:
    """PyTorch draws from the scope's generator, which ``seed`` sets."""
    torch.manual_seed(seed)


@contextmanager
def apart(seed: int) -> Iterator[None]:
    """What runs here is computed at once, outside of a graph that is being traced; it draws by this seed alone, and
    leaves the scope's generator where it was."""
    with disable_proxy_modes_tracing(), torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def keys(seed: int, start: int, count: int) -> dict[str, torch.Tensor]:
    """None: PyTorch draws from the scope's generator."""
    return {}


def noise(seed: int, index: int, spec: Spec, num_steps: int) -> dict[str, torch.Tensor]:
    """Of ``num_steps`` steps from step ``index`` on: name -> array (num_steps, *shape) of normals or uniforms.

    On a CPU it is NumPy's, so that chains of both backends see the same in one precision.
    """
    if on_host():
        dtype = str(torch.get_default_dtype()).removeprefix("torch.")
        return {name: torch.from_numpy(x) for name, x in host_noise.noise(seed, index, spec, num_steps, dtype).items()}
    device = torch.get_default_device()
    generator = torch.Generator(device).manual_seed(hash((seed, index)) % 2**63)
    draw = {"normal": torch.randn, "uniform": torch.rand}
    return {
        name: draw[kind](num_steps, *shape, generator=generator, device=device)
        for name, (kind, shape) in spec.items()
    }


def signs(key: None, index: int, shape: tuple[int, ...]) -> torch.Tensor:
    """1 or -1, each as likely, from the scope's generator."""
    return 2.0 * torch.rand(shape).round() - 1.0
