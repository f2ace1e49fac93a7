#!/usr/bin/env bash
# expected: an option with parser= gives the command what the parser returned
# happens: typer 0.26.0 gives it None where the annotation is an Enum, default or not; 0.29 does not
# matters: a choice made by a parser (here: a cache type) is lost without a word; annotate it as str
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install --quiet typer==0.26.0 click==8.5.1
cat > program.py <<'PY'
from enum import Enum
from typing import Annotated
import typer


class Kind(Enum):
    SMALL = (1, "s")
    LARGE = (2, "l")


def parsed(text: str | Kind) -> Kind:
    return text if isinstance(text, Kind) else Kind[text.upper()]


def main(kind: Annotated[Kind, typer.Option(parser=parsed)] = Kind.SMALL) -> None:
    print(kind)


typer.run(main)
PY
venv/bin/pip list 2> /dev/null | grep -E '^(typer|click) '
given=$(venv/bin/python program.py --kind large)
default=$(venv/bin/python program.py)
echo "--kind large: $given; default: $default"
[ "$given" = None ] && [ "$default" = None ]
