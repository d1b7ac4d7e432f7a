"""Declare a generative model once; infer it on Pyro or NumPyro by any engine; look at it with ArviZ."""

import importlib
from typing import TYPE_CHECKING, Any

from ppl_gen import inference, models, nets
from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.checks import ProgramError
from ppl_gen.infer import check, engines, infer, load, resume
from ppl_gen.primitives import deterministic, dist, factor, mask, module, on, param, plate, sample, scale, xp
from ppl_gen.program import DataError, Program, program
from ppl_gen.results.comparison import compare
from ppl_gen.sbc import sbc

if TYPE_CHECKING:
    from ppl_gen import diffusion, flows

__version__ = "0.1.0"

_LATER = ("diffusion", "flows")  # most programs do without, and the import is quicker for it
_HIDDEN = ("Any", "TYPE_CHECKING", "importlib")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({n for n in globals() if n not in _HIDDEN} | {*_LATER})
