"""A small transformer over the characters of Shakespeare: 2,000 steps, and what a sampled character costs.

4 layers, 4 heads, width 128, context 64, batch 12: the setting that nanoGPT gives for a CPU, with 1.88 nats a character
as its result there (on windows of 64 characters whose first is given). Here it is the whole validation part, the last
tenth of the text, in rows of 64 that begin afresh, so that each first character is paid for too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import _data

TITLE = "A transformer over characters"
PEER = None
ONCE = True
CASES = {name: f"2,000 steps on tinyshakespeare, {name}" for name in ("numpyro", "pyro")}
_TRAINING: dict[str, Any] = {
    "batch_size": 12, "num_steps": 2000, "learning_rate": 1e-3, "schedule": "cosine", "num_rising": 100,
    "clip_norm": 1.0, "precision": "float32",
}  # fmt: skip
_SHORT, _LONG = 512, 3584  # characters of which the cost is compared


def _text() -> str:
    return _data.at("text/tinyshakespeare.txt").read_text()


def ours(case: str) -> Callable[[], dict[str, float]]:
    import warnings

    import ppl_gen as pg

    warnings.simplefilter("ignore")
    text = _text()
    cut = len(text) * 9 // 10
    model = pg.models.CausalTransformer(alphabet="".join(sorted(set(text))))
    rows, rest = model.rows(text[cut:]), model.encode(text[cut:])[len(text[cut:]) // 64 * 64 :]

    def run() -> dict[str, float]:
        fitted = pg.infer(model, model.rows(text[:cut]), "svi", case, progress=False, **_TRAINING)
        total = fitted.log_prob(rows).sum() + fitted.log_prob(rest[None]).sum()
        short, long = (_seconds(fitted, n) for n in (_SHORT, _LONG))
        return {
            "nats per character": float(-total / len(text[cut:])),
            f"ms a sampled character, first {_SHORT}": 1e3 * short / _SHORT,
            f"ms a sampled character, {_SHORT} to {_LONG}": 1e3 * (long - short) / (_LONG - _SHORT),
        }

    return run


def _seconds(run: Any, num_tokens: int) -> float:
    """Of sampling so many characters, compiled already."""
    run.generate(num_tokens=num_tokens)
    began = time.perf_counter()
    run.generate(num_tokens=num_tokens, seed=1)
    return time.perf_counter() - began
