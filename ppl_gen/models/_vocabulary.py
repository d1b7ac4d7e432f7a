"""Text as whole numbers, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ppl_gen.program import DataError


class Vocabulary(Protocol):
    """Text to tokens (T,) from 0 to ``num_tokens`` - 1; ``encode`` raises DataError where there are none for it."""

    @property
    def num_tokens(self) -> int: ...
    def encode(self, text: str) -> np.ndarray: ...
    def decode(self, tokens: np.ndarray) -> str: ...


@dataclass(frozen=True)
class Characters:
    """Every character of the ``alphabet`` is a token, in its order."""

    alphabet: str

    def __post_init__(self) -> None:
        twice = sorted({c for c in self.alphabet if self.alphabet.count(c) > 1})
        if not self.alphabet or twice:
            came = f"has {', '.join(map(repr, twice))} more than once" if twice else "is empty"
            raise ValueError(f"alphabet must name every character once, and it {came}: ''.join(sorted(set(text)))")

    @property
    def num_tokens(self) -> int:
        return len(self.alphabet)

    def encode(self, text: str) -> np.ndarray:
        places = {c: i for i, c in enumerate(self.alphabet)}
        lost = sorted(set(text) - places.keys())
        if lost:
            raise DataError(
                f"the text has {', '.join(map(repr, lost[:5]))}{', ...' if lost[5:] else ''}, which the alphabet of "
                f"{self.num_tokens} characters lacks: make the alphabet of all text, or leave these characters out"
            )
        return np.array([places[c] for c in text], dtype=int)

    def decode(self, tokens: np.ndarray) -> str:
        return "".join(self.alphabet[i] for i in tokens)


@dataclass(frozen=True)
class Bytes:
    """The bytes of the text in UTF-8."""

    num_tokens: int = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(int)

    def decode(self, tokens: np.ndarray) -> str:
        return bytes(int(i) for i in tokens).decode(errors="replace")


def vocabulary(num_tokens: int | None, alphabet: str | None) -> Any:
    """Characters of an alphabet; bytes where neither is given; None for tokens without text."""
    if alphabet is not None and num_tokens is not None:
        raise ValueError("an alphabet says how many tokens there are: leave out num_tokens")
    return Characters(alphabet) if alphabet is not None else Bytes() if num_tokens is None else None
