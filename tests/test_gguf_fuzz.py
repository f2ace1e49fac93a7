"""Random mutations of a small GGUF file: each is read, or refused with a GgufError."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import gguf_builder as build
from apex_native.errors import GgufError
from gguf_builder import ValueType as V
from hostile_files import ARCHITECTURE, parse
from isolation import Isolation


def fuzz_seed_file() -> bytes:
    """Small, so that a random byte hits structure; all kinds of values and three tensors."""
    pairs = [
        ARCHITECTURE,
        build.pair("general.alignment", V.U32, 32),
        build.pair("a.u16", V.U16, 3),
        build.pair("a.f32", V.F32, 0.5),
        build.pair("a.bools", V.BOOL, [True, False]),
        build.pair("a.words", V.STRING, ["ab", "", "c"]),
        build.pair("split.count", V.U16, 1),
    ]
    tensors = [
        build.f32_tensor("a.weight", np.ones((2, 32))),
        build.f16_tensor("b.weight", np.ones((2, 2, 32))),
        build.quantized_tensor("c.weight", build.Q8_0, (2, 64), bytes(range(136))),
    ]
    return build.model_bytes(pairs, tensors)


def mutate(source: bytes, header_bytes: int, random_source: random.Random) -> bytes:
    """One to four edits of the header: a byte, a bit, an extreme number, a gap, an echo, a cut."""
    content = bytearray(source)
    for _ in range(random_source.randint(1, 4)):
        at = random_source.randrange(min(header_bytes, len(content)))
        kind = random_source.randrange(6)
        if kind == 0:
            content[at] = random_source.randrange(256)
        elif kind == 1:
            content[at] ^= 1 << random_source.randrange(8)
        elif kind == 2:
            extreme = random_source.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 2**64 - 32])
            content[at : at + 8] = extreme.to_bytes(8, "little")
        elif kind == 3:
            del content[at : at + random_source.randint(1, 16)]
        elif kind == 4:
            piece = content[at : at + random_source.randint(1, 32)]
            content[at:at] = piece
        else:
            del content[max(25, random_source.randrange(len(content))) :]
    return bytes(content)


def fuzz(path: str, seed: int, n_mutations: int) -> dict[str, int]:
    """Counts of (accepted, refused); any other exception goes up with the seed file's bytes."""
    source = fuzz_seed_file()
    header_bytes = len(source) - 256 - 256 - 160
    counts = {"accepted": 0, "refused": 0}
    random_source = random.Random(seed)
    for number in range(n_mutations):
        content = mutate(source, header_bytes, random_source)
        Path(path).write_bytes(content)
        try:
            parse(path)
            counts["accepted"] += 1
        except GgufError as error:
            if path not in str(error):
                raise
            counts["refused"] += 1
        except BaseException as error:
            error.add_note(f"mutation {number}: {content.hex()}")
            raise
    return counts


FUZZ_RUNS = [
    pytest.param(1, 2000, id="2000 mutations"),
    pytest.param(2, 30000, id="30000 mutations", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("seed", "n_mutations"), FUZZ_RUNS)
def test_mutated_files_are_read_or_refused(
    isolation: Isolation, tmp_path: Path, seed: int, n_mutations: int
) -> None:
    outcome = isolation.run(fuzz, str(tmp_path / "fuzz.gguf"), seed, n_mutations)
    assert outcome.error == (), outcome.message
    # Both ways are taken: the mutations are neither harmless nor all fatal at the first byte.
    assert outcome.value["accepted"] > n_mutations // 50
    assert outcome.value["refused"] > n_mutations // 4
