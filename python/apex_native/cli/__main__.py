"""Entry point of the ``apex-native`` command."""

from __future__ import annotations

from apex_native.cli.app import app

__all__ = ["main"]


def main() -> None:
    """Run the command line with the process's arguments and exit with its code."""
    app(prog_name="apex-native")


if __name__ == "__main__":
    main()
