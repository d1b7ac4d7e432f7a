"""Models known by a score or a velocity along a path from data to noise: parts that combine freely.

Paths say how much is left of a datum at a time, predictions what a network tells of it, objectives what it is trained
on, samplers how noise is taken back to data.
"""

from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.objectives import Denoising
from ppl_gen.diffusion.paths import EDM, PATHS, VE, VP, Cosine, OptimalTransport, Path, SubVP, Trigonometric
from ppl_gen.diffusion.predictions import PREDICTIONS
