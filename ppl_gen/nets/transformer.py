"""A causal transformer over tokens, with what it has computed kept for the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.nets.layers import Embedding, LayerNorm, Linear, check_counts
from ppl_gen.nets.net import Net

_BASE = 10_000.0  # of the wavelengths of positions


@dataclass(frozen=True)
class _Block(Net):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Xiong et al. 2020)."""

    width: int
    num_heads: int
    context: int
    depth: int

    def parts(self) -> Mapping[str, Any]:
        small = (2.0 * self.depth) ** -0.5  # of what every block adds (Radford et al. 2019, section 2.3)
        return {
            "norm": LayerNorm(self.width),
            "qkv": Linear(self.width, 3 * self.width),
            "attended": Linear(self.width, self.width, gain=small),
            "second_norm": LayerNorm(self.width),
            "wide": Linear(self.width, 4 * self.width),
            "narrow": Linear(4 * self.width, self.width, gain=small),
        }

    def forward(self, f: Any, p: Any, x: Any, at: Any, cache: Any = None) -> Any:
        """x (..., time, width) at places ``at`` (time,); with a cache also what it is afterwards."""
        q, k, v = self._heads(f, p.qkv(p.norm(x)), at)
        if cache is None:
            found = _in_window(f, q, k, v, at, self.context)
        else:
            held, seen = _added(f.xp, cache, (k, v, at), self.context)
            found = f.attention(q, *held, seen)
        x = x + p.attended(found.reshape(x.shape))
        x = x + p.narrow(f.activation("gelu", p.wide(p.second_norm(x))))
        return x if cache is None else (x, held)

    def _heads(self, f: Any, qkv: Any, at: Any) -> tuple[Any, Any, Any]:
        """Queries, keys and values (..., time, heads, features), the first two turned by their places."""
        split = qkv.reshape((*qkv.shape[:-1], 3, self.num_heads, self.width // self.num_heads))
        q, k, v = (split[..., i, :, :] for i in range(3))
        return rotated(f.xp, q, at), rotated(f.xp, k, at), v


@dataclass(frozen=True)
class CausalTransformer(Net):
    """Tokens (..., time) -> logits of the next one (..., time, num_tokens).

    A token attends to itself and the ``context`` - 1 before it in every layer (a sliding window), and places are told
    apart by rotation (Su et al. 2021): a text may be of any length, and each new token costs as much as the last.
    """

    num_tokens: int
    context: int = 64
    num_layers: int = 4
    num_heads: int = 4
    width: int = 128

    def __post_init__(self) -> None:
        check_counts(
            num_tokens=self.num_tokens, context=self.context, num_layers=self.num_layers, num_heads=self.num_heads,
            width=self.width,
        )  # fmt: skip
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width} must be a multiple of 2 x num_heads, 2 x {self.num_heads}")

    def parts(self) -> Mapping[str, Any]:
        block = _Block(self.width, self.num_heads, self.context, self.num_layers)
        return {
            "tokens": Embedding(self.num_tokens, self.width, gain=0.02),
            "blocks": (block,) * self.num_layers,
            "norm": LayerNorm(self.width),
            "out": Linear(self.width, self.num_tokens, bias=False, gain=0.1),
        }

    def forward(self, f: Any, p: Any, tokens: Any, cache: Any = None) -> Any:
        """Logits; with a ``cache``, of :meth:`start_cache`, of one token (..., 1) more, and the next cache."""
        x = p.tokens(tokens)
        if cache is None:
            at = f.xp.arange(tokens.shape[-1])
            for block in p.blocks:
                x = block(x, at)
            return p.out(p.norm(x))
        at, held = cache["length"], []
        for i, block in enumerate(p.blocks):
            x, kept = block(x, at, {"keys": cache["keys"][i], "values": cache["values"][i]})
            held.append(kept)
        keys, values = (f.xp.stack(list(parts)) for parts in zip(*held, strict=True))
        return p.out(p.norm(x)), {"keys": keys, "values": values, "length": at + 1}

    def start_cache(self, xp: Any, rows: int) -> dict[str, Any]:
        """What is kept of the last ``context`` tokens of ``rows`` texts: nothing yet."""
        none = xp.zeros((self.num_layers, rows, self.context, self.num_heads, self.width // self.num_heads))
        return {"keys": none, "values": none, "length": xp.zeros((1,), dtype=int)}


def rotated(xp: Any, x: Any, at: Any) -> Any:
    """x (..., time, heads, features), pairs of features turned by angles that grow with the place ``at`` (time,)."""
    half = x.shape[-1] // 2
    rates = xp.asarray(_BASE ** (-np.arange(half) / half))
    angle = xp.astype(at, x.dtype)[:, None] * xp.astype(rates, x.dtype)
    cos, sin = xp.cos(angle)[:, None, :], xp.sin(angle)[:, None, :]
    one, other = x[..., :half], x[..., half:]
    return xp.concatenate([one * cos - other * sin, one * sin + other * cos], axis=-1)


def _in_window(f: Any, q: Any, k: Any, v: Any, at: Any, context: int) -> Any:
    """Attention of each place (..., time, heads, features) to itself and the context - 1 before it.

    Of texts longer than the context block by block, each with the keys of the block before: at a cost linear in time.
    """
    time = q.shape[-3]
    if time <= context:
        return f.attention(q, k, v, _window(at, at, context))
    blocks = -(-time // context)
    lead, spare = q.shape[:-3], blocks * context - time

    def cut(x: Any) -> Any:
        """(..., blocks, context, heads, features), zeros at the end."""
        fill = f.xp.zeros((*lead, spare, *x.shape[-2:]), dtype=x.dtype)
        return f.xp.concatenate([x, fill], axis=-3).reshape((*lead, blocks, context, *x.shape[-2:]))

    def with_before(x: Any) -> Any:
        """The same with the block before in front, as rows."""
        own = cut(x)
        before = f.xp.concatenate([f.xp.zeros_like(own[..., :1, :, :, :]), own[..., :-1, :, :, :]], axis=-4)
        return f.xp.concatenate([before, own], axis=-3).reshape((-1, 2 * context, *x.shape[-2:]))

    places = f.xp.arange(blocks * context).reshape((blocks, context))
    keys = f.xp.concatenate([places - context, places], axis=-1)
    mask = f.xp.logical_and(_window(places, keys, context), keys[:, None, :] >= 0)
    rows = q.reshape((-1, *q.shape[-3:])).shape[0]
    found = f.attention(
        cut(q).reshape((-1, context, *q.shape[-2:])), with_before(k), with_before(v), f.xp.tile(mask, (rows, 1, 1))
    )
    return found.reshape((*lead, blocks * context, *q.shape[-2:]))[..., :time, :, :]


def _window(at: Any, keys_at: Any, context: int) -> Any:
    """(..., time, key): whether a place sees a key, itself or one of the context - 1 before."""
    back = at[..., :, None] - keys_at[..., None, :]
    return (back >= 0) & (back < context)


def _added(xp: Any, cache: Mapping[str, Any], new: tuple[Any, Any, Any], context: int) -> tuple[tuple[Any, Any], Any]:
    """Keys and values with those of one place more, in a ring of length ``context``; which of them it sees."""
    k, v, at = new
    slots = xp.arange(context)
    here = (slots == at % context)[:, None, None]
    held = xp.where(here, k, cache["keys"]), xp.where(here, v, cache["values"])
    return held, (slots <= at)[None, :]
