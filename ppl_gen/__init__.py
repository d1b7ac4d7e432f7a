"""Declare a generative model once; infer it on Pyro or NumPyro by any engine; look at it with ArviZ."""

from ppl_gen import diffusion, flows, inference, models, nets
from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.checks import ProgramError
from ppl_gen.infer import check, engines, infer, load, resume
from ppl_gen.primitives import deterministic, dist, factor, mask, module, on, param, plate, sample, scale, xp
from ppl_gen.program import DataError, Program, program
from ppl_gen.results.comparison import compare
from ppl_gen.sbc import sbc

__version__ = "0.1.0"
