"""A transformer over sequences of tokens: bytes, characters, or any others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.categories import category
from ppl_gen.models._checks import check_codes
from ppl_gen.models._options import count
from ppl_gen.models._vocabulary import Vocabulary, vocabulary
from ppl_gen.nets import transformer
from ppl_gen.primitives import dist, module, plate, sample, xp
from ppl_gen.program import DataError

_MOST_NUMBERS = 2**25  # that a layer holds, outside of training


@dataclass(frozen=True)
class CausalTransformer:
    """p(x) = prod_t p(x_t | tokens before t), said by a causal transformer: log p(x) of a sequence is exact.

    Vaswani et al. (2017); Radford et al. (2019). Sites: ``tokens`` (N, T), sequences that begin afresh, of any length
    T; params: the weights of ``net``. Train it by ``engine="svi"`` with a ``batch_size``, on :meth:`rows` of a text.
    ``run.generate`` goes on with a text, each token at the same cost.

    Attributes:
        num_tokens: whole numbers from 0 to one less; for text leave it out.
        alphabet: the characters that are tokens, ``"".join(sorted(set(text)))``. Where both are left out, tokens are
            the bytes of UTF-8.
        context: places that a layer looks back on, its own among them, whatever the length.
        num_layers, num_heads, width: of the network.
    """

    num_tokens: int | None = None
    alphabet: str | None = None
    context: int = 64
    num_layers: int = 4
    num_heads: int = 4
    width: int = 128

    outputs: ClassVar[tuple[str, ...]] = ("tokens",)
    em_rows: ClassVar[tuple[str, ...]] = ("tokens",)

    def __post_init__(self) -> None:
        if self.num_tokens is not None:
            count("num_tokens", self.num_tokens)
        self._net()

    def __call__(self, tokens: Any = None, num_data: int | None = None) -> None:
        """The program; ``tokens`` has shape (N, T)."""
        n, length = (num_data or 1, self.context) if tokens is None else tokens.shape
        net = module("net", self._net())
        with plate("text", n):
            sample("tokens", self._sequences(net, n, length), obs=tokens)

    def _sequences(self, net: Callable[..., Any], n: int, length: int) -> Any:
        """The distribution of sequences of this length; batch shape (n,)."""

        def log_prob(tokens: Any) -> Any:
            tokens = xp.astype(tokens, int)
            before = xp.concatenate([xp.full_like(tokens[..., :1], self._size), tokens[..., :-1]], axis=-1)
            of_next = xp.log_softmax(net(before)[..., :-1], axis=-1)
            return xp.sum(xp.take_along_axis(of_next, tokens[..., None], axis=-1), axis=(-2, -1))

        def generate(u: Any) -> Any:
            state = self.begin(u.reshape((-1, length)).shape[0])
            _, tokens = xp.scan(functools.partial(self._step, net), state, xp.moveaxis(u.reshape((-1, length)), -1, 0))
            return xp.moveaxis(tokens, 0, -1).reshape(u.shape)

        support = dist.constraints.integer_interval(0, self._size - 1)
        noise = dist.Uniform(0.0, 1.0).expand([n, length]).to_event(1)
        return dist.FromFunctions(noise, generate, log_prob, (length,), support)

    def _step(self, net: Callable[..., Any], state: Any, u: Any) -> tuple[Any, Any]:
        logits, cache = self._next(net, *state)
        token = category(xp, xp.softmax(logits, axis=-1), u)
        return (token, cache), token

    def _next(self, net: Callable[..., Any], token: Any, cache: Any) -> tuple[Any, Any]:
        logits, cache = net(token[..., None], cache)
        return logits[..., 0, :-1], cache

    def begin(self, rows: int) -> tuple[Any, Any]:
        """The token before the first one, (rows,), and an empty cache."""
        return xp.full((rows,), self._size), self._net().start_cache(xp, rows)

    def following(self, token: Any, cache: Any) -> tuple[Any, Any]:
        """Logits (rows, tokens) of what follows ``token`` (rows,), and the cache with it; in the words of programs."""
        return self._next(module("net", self._net()), token, cache)

    # Text ---------------------------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What makes tokens of text; None where there are tokens alone."""
        return vocabulary(self.num_tokens, self.alphabet)

    def encode(self, text: Any) -> np.ndarray:
        """Tokens (T,) of a text, or tokens themselves, looked at.

        Raises:
            DataError: it is empty, has other characters or tokens, or is text where there are tokens alone.
        """
        if isinstance(text, str):
            if self.vocabulary is None:
                raise DataError("the model is of tokens without text: pass whole numbers, or make it with an alphabet")
            text = self.vocabulary.encode(text)
        tokens = np.asarray(text)
        if tokens.ndim != 1 or not len(tokens):
            raise DataError(f"expected a text, or tokens (T,), of at least one token, got shape {tokens.shape}")
        check_codes("the sequence", tokens, self._size)
        return tokens.astype(int)

    def decode(self, tokens: np.ndarray) -> Any:
        """The text of tokens (T,); the tokens where they have none."""
        return tokens if self.vocabulary is None else self.vocabulary.decode(tokens)

    def rows(self, text: Any, length: int | None = None) -> np.ndarray:
        """A text, or tokens (T,), cut into rows (N, length) to train on; what is left over at the end is left out.

        Args:
            length: the ``context`` where None.

        Raises:
            DataError: the text is shorter than a row, or as of :meth:`encode`.
        """
        tokens, length = self.encode(text), self.context if length is None else length
        count("length", length)
        if len(tokens) < length:
            raise DataError(f"a text of {len(tokens)} tokens has no row of {length}: pass a smaller length")
        held = tokens.astype(np.uint8 if self._size <= 256 else np.int32)
        return held[: len(held) // length * length].reshape(-1, length)

    @property
    def _size(self) -> int:
        """Number of tokens; it stands for the one before the first, too."""
        held = self.vocabulary
        return held.num_tokens if held is not None else int(self.num_tokens or 0)

    def _net(self) -> transformer.CausalTransformer:
        return transformer.CausalTransformer(
            self._size + 1, self.context, self.num_layers, self.num_heads, self.width
        )

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: no rows of tokens, or others than there are."""
        tokens = data.get("tokens")
        if tokens is None:
            return
        if tokens.ndim != 2:
            hint = ": one sequence is tokens[None]" if tokens.ndim == 1 else ""
            raise DataError(f"CausalTransformer expects tokens of shape (N, T), got {tokens.shape}{hint}")
        check_codes("tokens", tokens, self._size)

    def most_rows(self, data: Mapping[str, np.ndarray]) -> int:
        """Sequences that go through the network together."""
        length = data["tokens"].shape[1] if "tokens" in data else self.context
        return max(_MOST_NUMBERS // (4 * self.width * length), 1)

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new sequences of the ``context``'s length."""
        return {"num_data": n}
