"""Metrics of samples and densities: NumPy in, numbers out.

Each public file here holds one metric, a function with the name of its file. A new metric is one new file:
nothing else is edited. Files whose name begins with ``_`` are helpers of the metrics.

    >>> from ppl_gen import evaluation
    >>> evaluation.rhat(draws)        # the function in rhat.py, imported at first use
    >>> evaluation.metrics()          # {name: what it measures}
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType


class _MetricsPackage(ModuleType):
    """Keeps ``evaluation.<name>`` the function.

    After importing a submodule Python binds it to its package, and ``evaluation.rhat`` would turn from the
    function into the file as soon as anybody wrote ``import ppl_gen.evaluation.rhat``. That binding is an
    ordinary ``setattr`` on the package, so it is answered here.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and value.__name__ == f"{self.__name__}.{name}" and name[0] != "_":
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _MetricsPackage


def _names() -> list[str]:
    """The metrics, read from the folder."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name[0] != "_")


def __getattr__(name: str) -> Callable:
    if name.startswith("_") or name not in _names():
        raise AttributeError(f"no metric {name!r} in {__name__}; there are: {', '.join(_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    if not hasattr(module, name):
        raise AttributeError(f"{module.__file__} must define a function {name!r}, named after its file")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_names()})


def metrics() -> dict[str, str]:
    """The metrics there are: {name: first line of its docstring}."""
    this = sys.modules[__name__]
    return {name: (getattr(this, name).__doc__ or "").strip().partition("\n")[0] for name in _names()}
