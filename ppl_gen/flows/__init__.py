"""Normalizing flows: invertible maps described once for both libraries, and chains of them by name."""

from ppl_gen.flows.guide import FlowGuide
from ppl_gen.flows.kinds import KINDS, flow
