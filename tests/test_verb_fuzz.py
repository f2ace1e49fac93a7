"""Every verb on mutated valid models: the process lives, and messages are for people.

`python tests/verb_fuzz.py --cases 10000` is the long form; its table is
bench/results/verb_fuzz.md.
"""

from __future__ import annotations

import random
from pathlib import Path

from gguf_builder import f32_tensor, write_gguf
from verb_fuzz import fuzz
from verb_mutations import MUTATIONS, Parts, read_parts
from verb_runs import VERBS, complaints

SEED = 20
N_CASES = 300


def test_no_mutation_kills_a_verb_or_shows_its_inside() -> None:
    tally = fuzz(SEED, 0, N_CASES)
    assert tally.wrong == []
    assert sum(tally.counts.values()) == N_CASES
    for verb in VERBS:
        assert sum(n for (v, _), n in tally.counts.items() if v == verb) == N_CASES // len(VERBS)
    # Both ways are taken: the mutations are neither harmless nor all fatal.
    for outcome in ("result", "sentence"):
        assert sum(n for (_, o), n in tally.counts.items() if o == outcome) > N_CASES // 10


def test_a_half_character_in_llama_cpps_log_is_no_error() -> None:
    # A shuffled vocabulary: the line that llama.cpp logs about a token ends within a character.
    tally = fuzz(7, 9063, 2)
    assert tally.wrong == []


def test_every_mutation_leaves_a_file_that_can_be_read(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf",
        [f32_tensor(f"blk.0.t{i}.weight", [[1.0] * 4] * 2) for i in range(3)],
        _settings(),
    )
    base = read_parts(path)
    changed = set()
    for mutation in MUTATIONS:
        for seed in range(20):
            parts = Parts(list(base.settings), list(base.tensors))
            mutation(random.Random(seed), parts)
            write_gguf(path, parts.tensors, [s.encoded() for s in parts.settings])
            if read_parts(path) != base:
                changed.add(mutation)
    assert changed == set(MUTATIONS)


def test_complaints_are_what_no_user_should_read() -> None:
    for text in (
        "/home/x/ggml/src/ggml.c:123: GGML_ASSERT(n > 0) failed",
        "internal error: KeyError: please report it",
        "model.cpp:12",
    ):
        assert complaints(text)
    assert not complaints("error: model.gguf: has no vocabulary; convert it again")


def _settings() -> list[bytes]:
    from gguf_builder import ValueType, pair

    return [
        pair("general.architecture", ValueType.STRING, "llama"),
        pair("general.name", ValueType.STRING, "name"),
        pair("llama.block_count", ValueType.U32, 1),
        pair("llama.context_length", ValueType.U32, 64),
        pair("llama.rope.freq_base", ValueType.F32, 1e4),
        pair("tokenizer.ggml.scores", ValueType.F32, [1.0, 2.0, 3.0]),
    ]
