"""`import ppl_gen` is quick and loads no library that the user did not ask for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.test_arrows import PACKAGE, imports, parse, within

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "pyro", "jax", "jaxlib", "numpyro", "flax", "optax", "funsor", "arviz", "xarray",
         "matplotlib", "scipy", "pandas", "sklearn")  # fmt: skip
LIMIT = 0.3  # seconds; nearly half of it NumPy's own import
TIMES_NUMPY = 4.5  # as much, where the machine is so busy that NumPy alone takes a good part of that

PROBE = """
import json, sys, time
start = time.perf_counter()
import numpy
numpys = time.perf_counter() - start
import ppl_gen
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "numpy": numpys, "loaded": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def _probe() -> dict:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PROBE], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_is_quick():
    # The best of several: a busy machine makes one run slow, only the package makes all of them slow.
    best = limit = float("inf")
    for _ in range(20):
        found = _probe()
        best, limit = min(best, found["seconds"]), min(limit, max(LIMIT, TIMES_NUMPY * found["numpy"]))
        if best < limit:
            break
    assert best < limit, f"import ppl_gen took {best:.2f} s; see python -X importtime -c 'import ppl_gen'"


def test_import_loads_no_heavy_library():
    loaded = set(_probe()["loaded"]).intersection(HEAVY)
    assert not loaded, f"import ppl_gen loads {sorted(loaded)}"


FACE = f"{PACKAGE}.sklearn"  # stands on the package and needs scikit-learn, which is an extra

WITHOUT = """
import sys
sys.modules["sklearn"] = None  # as where it is not installed
import ppl_gen as pg
dir(pg.models), dir(pg.inference)
try:
    import ppl_gen.sklearn
except ImportError as error:
    print(error)
"""


def test_nothing_of_ours_imports_the_scikit_learn_face():
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    sources = {s.module: s for s in (parse(f.read_text("utf-8"), f.relative_to(ROOT).as_posix()) for f in files)}
    others = [s for s in sources.values() if not within(s.module, FACE)]
    assert len(others) < len(sources)
    assert not [i for s in others for i in imports(s, sources) if within(i.target, FACE)]


def test_without_scikit_learn_only_the_face_is_missing():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install 'ppl_gen[sklearn]'" in done.stdout


LAZY = """
import sys
import ppl_gen as pg
early = [m for m in sys.modules if m.startswith(("ppl_gen.diffusion", "ppl_gen.flows"))]
assert not early, early
assert {"diffusion", "flows", "infer"} <= set(dir(pg))
from ppl_gen import diffusion
assert pg.diffusion is diffusion and pg.flows.FlowGuide() is not None
try:
    pg.flow
except AttributeError as error:
    print(error)
"""


def test_diffusion_and_flows_come_when_they_are_asked_for():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LAZY], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "module 'ppl_gen' has no attribute 'flow'" in done.stdout
