"""From an exception to a sentence and an exit code: one table for all verbs."""

from __future__ import annotations

import difflib
import os
import traceback
from dataclasses import dataclass
from typing import Any

import typer

from apex_native.cli.option_names import in_options
from apex_native.cli.output import print_error
from apex_native.cli.termination import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from apex_native.errors import (
    ApexError,
    Cancelled,
    CheckpointError,
    CorpusError,
    DataError,
    DeviceError,
    GgufError,
    HubError,
    ImatrixError,
    ModelError,
    NativeModuleError,
    OutputError,
    PlanError,
    QuantizeError,
    ResultsError,
)

__all__ = ["EXIT_FAILURE", "EXIT_INTERRUPTED", "EXIT_USAGE", "CtrlCError", "UsageError",
           "is_debug", "report"]  # fmt: skip

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INVALID = 3
"""The work was done, and its result is that a model computes nothing valid."""

# The base class of typer's usage errors. It comes from click, which newer versions of typer have
# inside and older ones import; through a public subclass it is found in both.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class CtrlCError(Exception):
    """Ctrl-C or SIGTERM, kept from typer, which would drop the notes on how to go on."""

    def __init__(self, stop: KeyboardInterrupt) -> None:
        """Take over the notes that were added while the interrupt travelled up."""
        super().__init__("; ".join(dict.fromkeys(getattr(stop, "__notes__", ()))))
        self.was_terminated = isinstance(stop, Terminated)


@dataclass(frozen=True, slots=True)
class _Row:
    """What one class of errors means: exit code, and what to do if the message does not say."""

    kind: type[BaseException]
    exit_code: int
    advice: str


_TABLE = (
    _Row(Cancelled, EXIT_INTERRUPTED, "go on with --resume"),
    _Row(GgufError, EXIT_FAILURE, "check the path, or download or convert the file again"),
    _Row(CheckpointError, EXIT_FAILURE, "check the path, or download the checkpoint again"),
    _Row(HubError, EXIT_FAILURE, "check the address and the network"),
    _Row(CorpusError, EXIT_FAILURE, "`apex-native corpus --help` describes recipes and sources"),
    _Row(ImatrixError, EXIT_FAILURE, "collect the matrix again, from this very model"),
    _Row(PlanError, EXIT_FAILURE, "`apex-native plan --help` lists what can be asked for"),
    _Row(QuantizeError, EXIT_FAILURE, "convert or download the source file again"),
    _Row(ModelError, EXIT_FAILURE, "check that the file is a complete model, and the memory free"),
    _Row(DataError, EXIT_FAILURE, "give the text or file the command's --help describes"),
    _Row(ResultsError, EXIT_FAILURE, "evaluate again with `apex-native eval`"),
    _Row(DeviceError, EXIT_FAILURE, "leave out --device to work on the CPU"),
    _Row(OutputError, EXIT_FAILURE, "free the place or choose another with -o"),
    _Row(NativeModuleError, EXIT_FAILURE, "reinstall with `pip install .`"),
    _Row(ApexError, EXIT_FAILURE, "`apex-native doctor` checks the installation"),
    _Row(MemoryError, EXIT_FAILURE, "close other programs, or lower --max-memory and --threads"),
    _Row(OSError, EXIT_FAILURE, "check the path and its permissions"),
)
"""The first row whose class fits decides."""


def report(error: BaseException) -> int:
    """Print an error to stderr and return the exit code it means."""
    if is_debug():
        traceback.print_exception(error)
    if isinstance(error, CtrlCError | KeyboardInterrupt | typer.Abort):
        nothing = "nothing was left behind; run the command again to start over"
        left = in_options(str(error)) or nothing
        terminated = isinstance(error, Terminated) or getattr(error, "was_terminated", False)
        print_error(f"{'terminated' if terminated else 'interrupted'}: {left}")
        return EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    if isinstance(error, UsageError):
        print_error(_usage_sentence(error))
        return EXIT_USAGE
    row = next((row for row in _TABLE if isinstance(error, row.kind)), None)
    if row is None:
        print_error(
            f"internal error: {type(error).__name__}: {error}; "
            "please report it with the traceback that APEX_DEBUG=1 shows"
        )
        return EXIT_FAILURE
    hints = [in_options(note) for note in getattr(error, "__notes__", ())]
    print_error(_with_advice(_message(error), row.advice), *hints)
    return row.exit_code


def _message(error: BaseException) -> str:
    # An OSError's own text starts with "[Errno 2]", which helps nobody.
    if isinstance(error, OSError) and not isinstance(error, ApexError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}"
    return in_options(str(error)) or type(error).__name__


def _with_advice(message: str, advice: str) -> str:
    # The library puts what to do after a semicolon; what has none gets the table's.
    return message if "; " in message else f"{message}; {advice}"


def _usage_sentence(error: Exception) -> str:
    """One sentence from typer's (and click's) usage errors, with the nearest valid name."""
    format_message = getattr(error, "format_message", error.__str__)
    # "Value error, " is how newer versions of typer begin what an enum refuses.
    message = str(format_message()).strip().rstrip(".").replace("Value error, ", "")
    option = getattr(error, "option_name", None)
    if hasattr(error, "possibilities") or type(error).__name__ == "NoSuchOption":
        message = f"no such option: {option}"
        likely = _near_options(str(option), getattr(error, "ctx", None))
        if likely:
            message += f"; did you mean {' or '.join(likely)}?"
    if "unexpected extra argument" in message:
        message += "; what a verb writes is named with -o"
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "apex-native"
    joint = "" if message.endswith("?") else ";"
    return f"{message}{joint} see `{command} --help`"


_LIKELY = 0.72
"""Of the letters of two options without their dashes: below, --model becomes --help."""


def _near_options(option: str, context: Any) -> list[str]:
    """Options of a verb that are spelled nearly so; none rather than a far-fetched one."""
    parameters = context.command.params if context is not None else ()
    names = [name for parameter in parameters for name in parameter.opts if name[:2] == "--"]
    words = {name.lstrip("-"): name for name in names}
    near = difflib.get_close_matches(option.lstrip("-"), words, n=2, cutoff=_LIKELY)
    return [words[word] for word in near]


def is_debug() -> bool:
    """APEX_DEBUG asks for tracebacks and for llama.cpp's own messages."""
    return os.environ.get("APEX_DEBUG", "") not in ("", "0")
