"""Entry point of the ``apex-native`` command."""

from __future__ import annotations

import sys

from apex_native.cli.streams import open_standard_streams
from apex_native.cli.termination import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated

__all__ = ["main"]


def main() -> None:
    """Run the command line with the process's arguments and exit with its code."""
    try:
        open_standard_streams()
        from apex_native.cli.app import app  # which asks whether stdout is a terminal

        app(prog_name="apex-native")
    except Terminated:
        sys.exit(EXIT_TERMINATED)
    except KeyboardInterrupt:  # half a second of imports and of options, before a verb listens
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
