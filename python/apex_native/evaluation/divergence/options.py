"""What an evaluation of text may be asked for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TextOptions"]


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How a text is cut and computed, the same for all models; see `apex_native.evaluate`.

    Raises ValueError for a negative noise_chunks.
    """

    ctx: int = 512
    chunks: int | None = None
    parse_special: bool = False
    n_ubatch: int | None = None
    noise_chunks: int | None = None
    router: bool = True
    two_pass: bool = False
    check_memory: bool = True

    def __post_init__(self) -> None:
        """Check what no later step does."""
        if self.noise_chunks is not None and self.noise_chunks < 0:
            raise ValueError(f"noise_chunks: expected 0 or more, found {self.noise_chunks}")
