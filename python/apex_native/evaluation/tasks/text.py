"""Bytes of a task file as text, with the place of what is wrong."""

from __future__ import annotations

from apex_native.errors import DataError

__all__ = ["decode_text", "split_lines"]


def decode_text(data: bytes, source: str) -> str:
    """UTF-8 text, a byte order mark left out; DataError with the line of the first bad byte."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source}, line {line}: byte 0x{data[error.start]:02x} at offset {error.start} is no "
            "UTF-8; convert the file to UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{source}, line {line}: holds a zero byte; this is no text file")
    return text


def split_lines(text: str) -> list[str]:
    """Lines without their ends, LF or CRLF; an end at the end of the text begins no line."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
