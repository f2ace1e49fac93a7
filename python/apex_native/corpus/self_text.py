"""Text that the model writes itself, and a journal of it, since generating takes hours."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from apex_native.corpus.builtin import builtin_documents
from apex_native.corpus.builtin.rounds import rounds
from apex_native.corpus.chat import ChatRenderer
from apex_native.corpus.document import Document, Message
from apex_native.corpus.protocols import GeneratingModel, Tokens
from apex_native.corpus.source_specs import SelfSpec
from apex_native.errors import CorpusError

__all__ = ["GenerationJournal", "SelfSource"]


class GenerationJournal:
    """Answers on disk, one JSON object a line, found again by everything that decides them."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Read what is there to go on, or begin anew; a torn last line is dropped."""
        self._path = path
        self._known: dict[str, list[int]] = {}
        if resume and path.exists():
            self._read()
        else:
            path.write_bytes(b"")

    def find(self, key: str) -> Tokens | None:
        """An answer given before."""
        known = self._known.get(key)
        return None if known is None else np.array(known, dtype=np.int32)

    def add(self, key: str, tokens: Tokens) -> None:
        """Append an answer."""
        self._known[key] = [int(token) for token in tokens]
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "tokens": self._known[key]}) + "\n")

    def _read(self) -> None:
        whole = 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line)
                self._known[str(entry["key"])] = [int(token) for token in entry["tokens"]]
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
        with self._path.open("r+b") as file:
            file.truncate(whole)


class SelfSource:
    """Answers of the model to seed prompts, as it would be read: prompt, answer, end of turn.

    Or texts that it begins itself, after the token that begins a text, or ends one where none does.
    """

    def __init__(
        self,
        spec: SelfSpec,
        model: GeneratingModel,
        renderer: ChatRenderer,
        journal: GenerationJournal | None = None,
    ) -> None:
        """Generate with the model; answers in the journal are not generated again."""
        self._spec = spec
        self._model = model
        self._renderer = renderer
        self._journal = journal
        self.skipped: Counter[str] = Counter()
        self.inputs: list[dict[str, Any]] = []

    def documents(self, rng: random.Random) -> Iterator[Document]:
        """Documents without end, the same for the same generator state and model."""
        return self._free_texts(rng) if self._spec.free else self._answers(rng)

    def _free_texts(self, rng: random.Random) -> Iterator[Document]:
        model = self._model
        begin = model.bos_token if model.bos_token >= 0 else model.eos_token
        if begin < 0:
            raise CorpusError(
                f"{self._spec.label}: the model has no token that begins or ends a text; give it "
                "prompts or a topic"
            )
        start = np.array([begin], dtype=np.int32)
        while True:
            written = self._written(start, seed=rng.getrandbits(31))
            text = model.detokenize(written[: len(written) - self._has_ended(written)])
            if not text.strip():
                self.skipped["the model wrote nothing"] += 1
            yield Document(text=text, can_be_cut=True)

    def _has_ended(self, written: Tokens) -> bool:
        return bool(len(written)) and int(written[-1]) in self._model.eos_tokens

    def _answers(self, rng: random.Random) -> Iterator[Document]:
        for messages in self._prompts(rng):
            prompt = self._renderer.prompt(messages)
            answer = self._answer(prompt, seed=rng.getrandbits(31))
            if len(answer) <= self._has_ended(answer):
                self.skipped["the model answered nothing"] += 1
                # Something for the caller to count, so that it can give up.
                yield Document()
                continue
            text = prompt + self._model.detokenize(answer)
            yield Document(text=text if text.endswith("\n") else text + "\n")

    def _prompts(self, rng: random.Random) -> Iterator[list[Message]]:
        system: list[Message] = []
        if self._spec.system:
            system = [{"role": "system", "content": self._spec.system}]
        if self._spec.prompts:
            for prompt in rounds(self._spec.prompts, rng):
                yield [*system, {"role": "user", "content": prompt}]
        for document in builtin_documents(self._spec.topic, rng):
            questions = [m for m in document.messages if m["role"] == "user"]
            if questions:
                yield [*system, questions[0]]

    def _answer(self, prompt: str, *, seed: int) -> Tokens:
        model = self._model
        # A template that writes BOS itself would otherwise give two.
        bos = model.token_text(model.bos_token) if model.bos_token >= 0 else ""
        add_special = not (bos and prompt.startswith(bos))
        tokens = model.tokenize(prompt, add_special=add_special, parse_special=True)
        return self._written(tokens, seed=seed)

    def _written(self, tokens: Tokens, *, seed: int) -> Tokens:
        """How the model goes on, from the journal if it is there."""
        spec, model = self._spec, self._model
        settings = {
            "n_predict": spec.n_predict,
            "temperature": spec.temperature,
            "top_k": spec.top_k,
            "top_p": spec.top_p,
            "seed": seed,
        }
        key = ""
        if self._journal is not None:
            key = self._key(tokens, settings)
            known = self._journal.find(key)
            if known is not None:
                return known
        try:
            answer = model.generate(
                tokens,
                n_predict=spec.n_predict,
                temperature=spec.temperature,
                top_k=spec.top_k,
                top_p=spec.top_p,
                seed=seed,
            )
        except ValueError as error:
            raise CorpusError(f"{spec.label}: the model cannot answer: {error}") from error
        if self._journal is not None:
            self._journal.add(key, answer)
        return answer

    def _key(self, tokens: Tokens, settings: dict[str, Any]) -> str:
        status = Path(self._model.path).stat()
        model = [self._model.fingerprint, status.st_size, status.st_mtime_ns]
        decides = json.dumps([model, [int(token) for token in tokens], settings], sort_keys=True)
        return hashlib.sha256(decides.encode()).hexdigest()
