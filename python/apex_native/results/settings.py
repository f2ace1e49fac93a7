"""What numbers depend on: the program, the text, the settings, and how far they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Build", "NoiseFloor", "Settings", "TextData"]


@dataclass(frozen=True, slots=True)
class Build:
    """What computed the numbers: versions of this package and of llama.cpp, the compiler."""

    version: str
    llama_cpp_commit: str
    compiler: str


@dataclass(frozen=True, slots=True)
class TextData:
    """The text; two evaluations can be paired only where all of it is equal but the name.

    ctx is the length of a chunk in tokens, n_chunks how many were scored, sha256 that of the
    bytes, n_tokens the tokens of the whole text. tokens_sha256 is that of the scored chunks' tokens
    (int32): the witness that models were scored on the same ones.
    """

    name: str
    sha256: str
    n_tokens: int
    n_chunks: int
    ctx: int
    parse_special: bool
    add_bos: bool
    tokens_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How the models ran; scored says in words which positions of a chunk count.

    ctx is the context window, n_batch and n_ubatch llama.cpp's batch sizes in tokens, device what
    computed; flash_attn is what was asked for ("auto": on, unless the model or device cannot).
    Results do not depend on n_threads.
    """

    ctx: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    device: str
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: str = "auto"
    scored: str = "second half of each chunk"


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """The reference against itself, computed another way: no KLD below it means much."""

    description: str
    kld_mean: float | None = None
    kld_se: float | None = None
    kld_max: float | None = None
    kld_p999: float | None = None
    kld_median: float | None = None
    same_top: float | None = None
    n_positions: int | None = None
