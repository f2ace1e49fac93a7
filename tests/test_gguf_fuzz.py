"""Random mutations of a small GGUF file: each is read, or refused with a GgufError."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from apex_native.errors import GgufError
from hostile_files import fuzz_seed_file, mutate, parse
from isolation import Isolation


def fuzz(path: str, seed: int, n_mutations: int) -> dict[str, int]:
    """Counts of (accepted, refused); any other exception goes up with the seed file's bytes."""
    source, header_bytes = fuzz_seed_file()
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
