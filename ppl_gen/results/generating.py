"""What a run of a model of sequences goes on with: text after a prompt, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.protocol import Backend, Request, UnsupportedError
from ppl_gen.capabilities import Continues
from ppl_gen.categories import category, sharpened
from ppl_gen.inference.driver import Driver
from ppl_gen.options import count

_CHUNK, _MANY = 64, 4096  # tokens in a compiled call; how many are worth more effort of a compiler


class Generating:
    """A part of :class:`~ppl_gen.results.run.Run`."""

    params: dict[str, np.ndarray]
    setting: Any
    _scope: Callable[[], Any]
    _program: Callable[[], Any]

    def generate(
        self,
        prompt: Any = None,
        num_tokens: int = 200,
        num_texts: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[Any]:
        """Texts that go on from a prompt, each token drawn given all before it.

        Args:
            prompt: text, or tokens (T,); None to begin from nothing.
            num_tokens: how many are added.
            num_texts: how many texts, side by side.
            temperature: what logits are divided by: below 1 for the more probable tokens, above 1 for more variety.
            top_k: draw from so many of the most probable tokens; from all where None. 1 takes the most probable.

        Returns:
            the texts, prompt and all; tokens (T + num_tokens,) of each where the model knows no text.

        Raises:
            UnsupportedError: the model does not say how sequences go on.
            DataError: a prompt that is empty, or has what the model has no tokens for.
        """
        model = self._program().model
        if not isinstance(model, Continues):
            raise UnsupportedError(
                f"generate goes on with sequences, and {self._program().name} does not say how they go on (following): "
                "use run.sample"
            )
        count("num_tokens", num_tokens)
        count("num_texts", num_texts)
        if top_k is not None:
            count("top_k", top_k)
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature must be a number above 0, got {temperature!r}; top_k=1 takes no chances")
        given = np.zeros(0, int) if prompt is None else model.encode(prompt)
        with self._scope() as backend:
            drawn = self._drawn(backend, model, given, num_tokens, num_texts, float(temperature), top_k, seed)
        return [model.decode(tokens) for tokens in drawn]

    def _drawn(
        self, backend: Backend, model: Any, given: np.ndarray, count: int, rows: int, temperature: float,
        top_k: int | None, seed: int,
    ) -> np.ndarray:  # fmt: skip
        """Tokens (rows, len(given) + count)."""
        total = len(given) + count
        whole = -(-total // _CHUNK) * _CHUNK  # so that one compiled length serves
        forced = np.full(whole, -1)
        forced[: len(given)] = given
        advance = self._compiled(backend, model, rows, top_k, _MANY if whole >= _MANY else _CHUNK)
        params = {n: backend.asarray(x) for n, x in self.params.items()}
        heat = backend.asarray(np.array(temperature))

        def run(state: Any, start: int, steps: int) -> tuple[Any, Any]:
            noise = backend.noise(seed, start, {"u": ("uniform", (rows,))}, steps)
            inputs = {**noise, "given": backend.asarray(forced[start : start + steps])}
            return advance(state, inputs, params, heat)

        driver = Driver(backend.to_numpy, progress=False)
        _, report, _ = driver.run(run, model.begin(rows), whole, label="generate", chunk=_CHUNK)
        return np.asarray(report["token"]).T[:, :total]

    def _compiled(self, backend: Backend, model: Any, rows: int, top_k: int | None, calls: int) -> Callable[..., Any]:
        """Steps of one token each, ``calls`` of them or more; made once for all texts that are alike in these."""
        table, s, xp = self._program().compiled, self.setting, backend.xp
        networks: dict[tuple[str, int], Any] = {}

        def following(state: Any, params: Any) -> Any:
            found = []
            with backends.keeping(networks):
                backend.trace(lambda: found.append(model.following(*state)), Request(values=params))
            return found[0]

        def step(state: Any, row: Any, params: Any, temperature: Any) -> tuple[Any, Any]:
            logits, cache = following(state, params)
            drawn = category(xp, sharpened(xp, logits, temperature, top_k), row["u"])
            token = xp.where(row["given"] >= 0, row["given"], drawn)
            return (token, cache), {"token": token}

        key = ("generate", s.backend, s.precision, s.device, rows, top_k, calls)
        return table.setdefault(key, backend.scan(step, calls=calls))
