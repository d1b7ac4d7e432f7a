"""The arrows that must never exist, read from the imports, and what else holds for every source file.

Every import counts: in functions and classes, under TYPE_CHECKING, relative or absolute, and those by
`importlib.import_module("name")` or `__import__("name")` where the name, or its beginning, is written there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "ppl_gen"
MAX_LINES = 400

JAX = {"jax", "jaxlib", "numpyro", "flax", "optax"}
TORCH = {"torch", "pyro", "functorch"}
ARVIZ = {"arviz", "arviz_base", "arviz_stats", "arviz_plots", "xarray", "xarray_einstats"}


@dataclass(frozen=True)
class Source:
    module: str  # "ppl_gen.inference.nuts"
    is_package: bool
    path: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.module if self.is_package else self.module.rpartition(".")[0]


@dataclass(frozen=True)
class Import:
    source: Source
    target: str
    line: int
    at_import_time: bool  # not in a function and not under TYPE_CHECKING


def parse(text: str, path: str) -> Source:
    """A source text at a path relative to the repository's root."""
    parts = Path(path).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    return Source(".".join(parts[:-1] if is_package else parts), is_package, path, ast.parse(text, path))


# --- Reading imports ---------------------------------------------------------------------------------


def _absolute(source: Source, level: int, name: str | None) -> str:
    """The absolute name of `from ...name import`; `level` is the number of dots."""
    if level == 0:
        return name or ""
    base = source.package.split(".")
    base = base[: len(base) - (level - 1)]
    return ".".join([*base, *([name] if name else [])])


def _names_of_root(sources: dict[str, Source]) -> set[str]:
    """What the package root binds or lists: `from ppl_gen import program` is then the root's program, not
    the submodule of that name."""
    root = sources.get(PACKAGE)
    if root is None:
        return set()
    docstring = ast.get_docstring(root.tree, clean=False)
    names: set[str] = set()
    for node in ast.walk(root.tree):
        if isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != docstring:
            names.update(node.value.split())
    return names


def _dynamic_target(source: Source, call: ast.Call) -> str | None:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    arguments = [*call.args, *(k.value for k in call.keywords if k.arg == "name")]
    if name not in ("import_module", "__import__") or not arguments:
        return None
    first = arguments[0]
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        text = first.value
    elif isinstance(first, ast.JoinedStr) and first.values and isinstance(first.values[0], ast.Constant):
        text = str(first.values[0].value).rpartition(".")[0]  # the packages written before the first hole
    else:
        return None
    dots = len(text) - len(text.lstrip("."))
    return _absolute(source, dots, text[dots:] or None) or None


def imports(source: Source, sources: dict[str, Source]) -> Iterator[Import]:
    root_names = _names_of_root(sources)

    def targets(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(source, node.level, node.module)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                # In the root's own __init__, `from . import program` is the submodule.
                of_root = base == PACKAGE != source.module and alias.name in root_names
                yield inner if inner in sources and not of_root else base
        elif isinstance(node, ast.Call) and (target := _dynamic_target(source, node)):
            yield target

    def walk(node: ast.AST, at_import_time: bool) -> Iterator[Import]:
        for target in targets(node):
            yield Import(source, target, getattr(node, "lineno", 0), at_import_time)
        only_read: set[ast.AST] = set()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_import_time = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            only_read = set(node.body)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_import_time and child not in only_read)

    yield from walk(source.tree, True)


# --- The rules ---------------------------------------------------------------------------------------


def within(module: str, *packages: str) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def _library(module: str) -> str:
    return module.partition(".")[0]


def part(module: str) -> str:
    """The part of the house: "inference" of "ppl_gen.inference.nuts"; "" for the root and for others'."""
    names = module.split(".")
    return names[1] if names[0] == PACKAGE and len(names) > 1 else ""


def knows(module: str, family: set[str]) -> bool:
    """Whether this module is a room that may know JAX (or PyTorch)."""
    backend, words = ("numpyro", ("jax", "flax", "numpyro")) if family is JAX else ("pyro", ("torch", "pyro"))
    if within(module, f"{PACKAGE}.backends.{backend}"):
        return True
    name = module.removeprefix(f"{PACKAGE}.nets.")
    if family is TORCH:
        name = name.replace("numpyro", "")  # which has "pyro" in it
    return part(module) == "nets" and any(word in name for word in words)


Rule = Callable[[str, str], bool]  # (importing module, imported module) -> forbidden?


RULES: dict[str, Rule] = {
    "only backends/numpyro (and its file in nets/) may know JAX": lambda m, t: (
        _library(t) in JAX and not knows(m, JAX)
    ),
    "only backends/pyro (and its file in nets/) may know PyTorch": lambda m, t: (
        _library(t) in TORCH and not knows(m, TORCH)
    ),
    "only results/ may know ArviZ and xarray": lambda m, t: _library(t) in ARVIZ and part(m) != "results",
    "inference and models meet at target": lambda m, t: {part(m), part(t)} == {"inference", "models"},
    "backends know no other part": lambda m, t: (
        part(m) == "backends" and _library(t) == PACKAGE and part(t) != "backends"
    ),
    # Otherwise either library would load the other's.
    "the two backends do not know each other": lambda m, t: any(
        within(m, f"{PACKAGE}.backends.{a}") and within(t, f"{PACKAGE}.backends.{b}")
        for a, b in (("numpyro", "pyro"), ("pyro", "numpyro"))
    ),
    "program and target do not know inference": lambda m, t: (
        part(m) in ("program", "target") and part(t) == "inference"
    ),
    "evaluation knows nothing of ours": lambda m, t: (
        part(m) == "evaluation" and _library(t) == PACKAGE and part(t) != "evaluation"
    ),
    "no module knows the package root": lambda m, t: t == PACKAGE and m != PACKAGE,
}


def forbidden(sources: dict[str, Source]) -> list[str]:
    return [
        f"{i.source.path}:{i.line}: {i.source.module} -> {i.target}: {why}"
        for source in sources.values()
        for i in imports(source, sources)
        for why, is_forbidden in RULES.items()
        if is_forbidden(source.module, i.target)
    ]


def _runs(target: str, importer: str, modules: dict[str, Source]) -> Iterator[str]:
    """The modules an import runs: the target and its packages, save those the importer itself lies in."""
    names = target.split(".")
    for end in range(1, len(names) + 1):
        name = ".".join(names[:end])
        if name in modules and (name == target or not within(importer, name)):
            yield name


def cycles(sources: dict[str, Source]) -> list[list[str]]:
    """Groups of modules that import each other when loaded (Tarjan's strongly connected components)."""
    graph: dict[str, set[str]] = {name: set() for name in sources}
    for name, source in sources.items():
        for i in imports(source, sources):
            if i.at_import_time:
                graph[name].update(_runs(i.target, name, sources))
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(v: str) -> None:
        index[v] = low[v] = len(index)
        stack.append(v)
        for w in graph[v]:
            if w not in index:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in stack:
                low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            cut = stack.index(v)
            found.append(sorted(stack[cut:]))
            del stack[cut:]

    for v in graph:
        if v not in index:
            visit(v)
    return [component for component in found if len(component) > 1]


def unsafe(source: Source) -> list[str]:
    """Ways of loading that can run what a file says: saved results must be plain data."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            bad = [n for n in names if n.partition(".")[0] in ("pickle", "cloudpickle", "dill", "joblib")]
            if isinstance(node, ast.ImportFrom) and node.module == "torch":
                bad += ["torch.load" for a in node.names if a.name == "load"]
        elif isinstance(node, ast.Call):
            bad = ["torch.load"] if ast.unparse(node.func) == "torch.load" else []
            flags = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
            bad += ["allow_pickle"] * len(flags)
        else:
            continue
        found += [f"{source.path}:{node.lineno}: {b}" for b in bad]
    return found


# --- The tests on the package ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package() -> dict[str, Source]:
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    read = [parse(f.read_text(encoding="utf-8"), f.relative_to(ROOT).as_posix()) for f in files]
    assert read, f"no source files under {ROOT / PACKAGE}"
    return {source.module: source for source in read}


def test_no_forbidden_arrow(package):
    found = forbidden(package)
    assert not found, "forbidden arrows:\n" + "\n".join(found)


def test_no_import_cycle(package):
    found = cycles(package)
    assert not found, "modules that import each other:\n" + "\n".join(" <-> ".join(c) for c in found)


def test_nothing_unpickles(package):
    found = [line for source in package.values() for line in unsafe(source)]
    assert not found, "loads that can run code:\n" + "\n".join(found)


def test_no_file_is_too_long():
    long = [
        f"{f.relative_to(ROOT)}: {n} lines"
        for folder in (PACKAGE, "tests", "examples", "benchmarks")
        for f in sorted((ROOT / folder).rglob("*.py"))
        if (n := len(f.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    ]
    assert not long, f"over {MAX_LINES} lines:\n" + "\n".join(long)


# --- The checker itself can fail ---------------------------------------------------------------------

ROOM = "ppl_gen/{}.py".format
HOUSE = {
    ROOM("__init__"): '"""Root."""\nEXPORTS = {"program": "ppl_gen.program", "infer": "ppl_gen.inference"}\n',
    **{ROOM(name): "" for name in ("program", "target", "primitives", "inference/nuts", "models/gmm")},
    **{ROOM(f"{name}/__init__"): "" for name in ("inference", "models", "evaluation", "results")},
    **{ROOM(f"backends/{name}__init__"): "" for name in ("", "numpyro/", "pyro/")},
}
IN_F = "def f(n):\n    from importlib import import_module\n    "


def house(**changed: str) -> dict[str, Source]:
    """A small synthetic package: path -> text."""
    read = [parse(text, path) for path, text in {**HOUSE, **changed}.items()]
    return {source.module: source for source in read}


FORBIDDEN = [
    ("inference/nuts.py", "import jax.numpy as jnp", "JAX"),
    ("inference/nuts.py", "def f():\n    import numpyro", "JAX"),
    ("results/__init__.py", "import optax", "JAX"),
    ("backends/protocol.py", "from flax import nnx", "JAX"),
    ("backends/pyro/__init__.py", "import jax", "JAX"),
    ("nets/torch_mlp.py", "import jax", "JAX"),
    ("models/gmm.py", "if TYPE_CHECKING:\n    from torch import Tensor", "PyTorch"),
    ("primitives.py", 'import importlib\npyro = importlib.import_module("pyro")', "PyTorch"),
    ("primitives.py", '__import__("torch")', "PyTorch"),
    ("backends/numpyro/__init__.py", "import pyro", "PyTorch"),
    ("nets/numpyro_mlp.py", "import torch", "PyTorch"),
    ("nets/__init__.py", "import torch", "PyTorch"),
    ("inference/nuts.py", "class A:\n    def f(self):\n        import arviz as az", "ArviZ"),
    ("evaluation/mmd.py", "from xarray import DataTree", "ArviZ"),
    ("inference/nuts.py", "from ..models.gmm import GaussianMixture", "meet at target"),
    ("inference/nuts.py", "from ppl_gen.models import gmm", "meet at target"),
    ("models/gmm.py", "from ..inference import nuts", "meet at target"),
    ("models/gmm.py", IN_F + "import_module('..inference.nuts', __package__)", "meet at target"),
    ("backends/numpyro/__init__.py", "from ...primitives import sample", "no other part"),
    ("backends/__init__.py", "import ppl_gen.target", "no other part"),
    ("backends/pyro/__init__.py", "from ..numpyro import arrays", "each other"),
    ("program.py", IN_F + "import_module(f'ppl_gen.inference.{n}')", "program and target"),
    ("target.py", "from .inference.nuts import NUTS", "program and target"),
    ("evaluation/mmd.py", "from ..results import Run", "evaluation"),
    ("inference/nuts.py", "import ppl_gen as pg", "root"),
    ("inference/nuts.py", "from ppl_gen import program", "root"),  # the root lists a `program` of its own
    ("models/gmm.py", "from .. import infer", "root"),
]

ALLOWED = [
    ("backends/numpyro/__init__.py", "import jax, numpyro, optax\nfrom ..protocol import Backend"),
    ("backends/pyro/arrays.py", "import torch\nfrom . import arrays"),
    ("nets/numpyro_mlp.py", "import jax\nfrom flax import nnx"),
    ("nets/torch_mlp.py", "from torch import nn"),
    ("results/arviz.py", "import arviz, xarray"),
    ("inference/nuts.py", "from ..target import LogDensity\nfrom .. import primitives"),
    ("program.py", IN_F + "import_module(f'.backends.{n}', __package__)"),
    ("evaluation/mmd.py", "from . import classifier\nimport numpy"),
    ("__init__.py", "from . import program\nfrom .models import gmm"),
    ("models/gmm.py", '"""import torch"""\nname = "jax"'),
]


@pytest.mark.parametrize(("path", "text", "why"), FORBIDDEN)
def test_checker_catches(path, text, why):
    found = forbidden(house(**{f"ppl_gen/{path}": text}))
    line = 1 + text[: max(text.rfind("import"), text.rfind("__import__"))].count("\n")
    assert any(why in f and f.startswith(f"ppl_gen/{path}:{line}:") for f in found), found


@pytest.mark.parametrize(("path", "text"), ALLOWED)
def test_checker_lets_pass(path, text):
    assert forbidden(house(**{f"ppl_gen/{path}": text})) == []


def test_every_rule_is_tried():
    untried = [rule for rule in RULES if not any(why in rule for _, _, why in FORBIDDEN)]
    assert not untried


LOOP = [["ppl_gen.program", "ppl_gen.target"]]


@pytest.mark.parametrize(
    ("program", "target", "expected"),
    [
        ("from . import target", "from .program import Program", LOOP),
        ("try:\n    import ppl_gen.target\nexcept ImportError: ...", "from .program import P", LOOP),
        ("from .target import T", "def f():\n    from .program import P", []),
        ("from .target import T", "if TYPE_CHECKING:\n    from .program import P", []),
    ],
)
def test_checker_sees_cycles(program, target, expected):
    assert cycles(house(**{"ppl_gen/program.py": program, "ppl_gen/target.py": target})) == expected


UNSAFE = ["import pickle", "from joblib import load", "torch.load(f)", "from torch import load"]


@pytest.mark.parametrize("text", [*UNSAFE, "np.load(f, allow_pickle=True)"])
def test_checker_sees_unsafe_loads(text):
    assert unsafe(parse(text, "ppl_gen/results/saving.py"))


def test_checker_lets_safe_loads_pass():
    assert not unsafe(parse('"""No pickle."""\nnp.load(f, allow_pickle=False)', "ppl_gen/results/saving.py"))
