"""The command line: a verb is parse, one library call, output.

stdout carries data and nothing else (with ``--json`` exactly one JSON document), stderr progress,
warnings and errors. Exit codes: 0 done, 1 a failure with a reason, 2 wrong usage, 130 interrupted.
Library modules are imported inside the verbs: ``--help`` needs neither numpy nor the native core.
"""

from __future__ import annotations
