"""Entry point of the ``apex-native`` command."""

from __future__ import annotations

from apex_native.cli.streams import open_standard_streams

__all__ = ["main"]


def main() -> None:
    """Run the command line with the process's arguments and exit with its code."""
    open_standard_streams()
    from apex_native.cli.app import app  # which asks whether stdout is a terminal

    app(prog_name="apex-native")


if __name__ == "__main__":
    main()
