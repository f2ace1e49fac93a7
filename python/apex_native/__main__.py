"""``python -m apex_native`` is the ``apex-native`` command."""

from __future__ import annotations

from apex_native.cli.__main__ import main

if __name__ == "__main__":
    main()
