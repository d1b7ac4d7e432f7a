"""CONTRIBUTING.md is true: its model, engine and metric, each one new file, are found by name and work."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import ppl_gen as pg
import ppl_gen.evaluation
import ppl_gen.inference
import ppl_gen.models
from ppl_gen.inference import engine as engine_module

TEXT = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text("utf-8")
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", TEXT, re.DOTALL))
PACKAGES = {"models": ppl_gen.models, "inference": ppl_gen.inference, "evaluation": ppl_gen.evaluation}


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """The files of the page in folders that Python reads as parts of the three packages; all undone at the end."""
    engine_module._load_all()  # a file is loaded once, and tells of its engine then: not to the copy
    added = []
    for place, text in FILES.items():
        folder, _, name = place.partition("/")
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text, "utf-8")
        added.append((PACKAGES[folder], name.removesuffix(".py")))
    for name, package in PACKAGES.items():
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
    monkeypatch.setattr(engine_module, "_engines", dict(engine_module._engines))
    importlib.invalidate_caches()
    yield
    for package, name in added:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        package.__dict__.pop(name, None)


def test_the_page_has_one_file_of_each_kind():
    assert sorted(place.partition("/")[0] for place in FILES) == sorted(PACKAGES)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_a_model_an_engine_and_a_metric_are_one_file_each(extended, backend):
    assert "ToyNormal" in dir(pg.models) and "toy" in pg.engines() and "ToyAscent" in dir(pg.inference)
    assert "toy_metric" in ppl_gen.evaluation.metrics()
    x = np.random.default_rng(0).normal(3.0, 1.0, 50)
    run = pg.infer(pg.models.ToyNormal(spread=2.0), x, engine="toy", backend=backend, progress=False)
    mode = x.sum() / (len(x) + 1 / 2.0**2)
    np.testing.assert_allclose(run.params["mu"], mode, rtol=1e-6)
    assert run.history["log_density"].shape == (200,) and run.history["log_density"][-1] > run.history["log_density"][0]
    drawn = run.sample(2000)
    assert ppl_gen.evaluation.toy_metric(drawn.ravel(), x) < 0.5
    with pytest.raises(ValueError, match="no option 'steps'"):
        pg.infer(pg.models.ToyNormal(), x, engine="toy", backend=backend, steps=3)


def test_afterwards_nothing_is_left():
    assert "ToyNormal" not in dir(pg.models) and "toy" not in pg.engines()
    assert "toy_metric" not in ppl_gen.evaluation.metrics()
