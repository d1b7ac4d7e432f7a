"""Every example runs, and its assertions against known answers hold; quick settings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))
#: NumPyro runs them all; Pyro, whose chains take turns, those that are quick there.
BOTH = ("gaussian_mixture", "native_programs", "river_level")
SLOW_ON_PYRO = ("gaussian_mixture", "river_level")
LONG = (
    "counts_between_people", "counts_with_hidden_states", "characters", "classify_digits", "density_flows",
    "digits_vae", "discrete_latents",
)  # fmt: skip


def _long(name, backend):
    return name in LONG or (backend == "pyro" and name in SLOW_ON_PYRO)


CASES = [(path, "numpyro") for path in EXAMPLES] + [(path, "pyro") for path in EXAMPLES if path.stem in BOTH]
PARAMS = [
    pytest.param(path, b, id=f"{path.stem}-{b}", marks=[pytest.mark.slow] if _long(path.stem, b) else [])
    for path, b in CASES
]


@pytest.mark.parametrize(("path", "backend"), PARAMS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a short run may warn that it is short
def test_example(path, backend, monkeypatch, tmp_path):
    monkeypatch.setenv("PPL_GEN_EXAMPLE_SAMPLES", "300")
    monkeypatch.setenv("PPL_GEN_EXAMPLE_STEPS", "800")
    monkeypatch.setenv("PPL_GEN_EXAMPLE_OUT", str(tmp_path))
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(backend)


def test_there_are_examples():
    assert len(EXAMPLES) >= 5
