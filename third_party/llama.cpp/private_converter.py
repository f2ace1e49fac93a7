"""Lay out upstream's checkpoint converter as a private package; CMake calls this when it configures.

Upstream's converter is two top-level packages, `conversion` and a `gguf` newer than the one of the
package index. Under those names they would take the place of a user's modules, so they become
`apex_native._upstream.conversion` and `apex_native._upstream.gguf`: their imports of each other are
rewritten, nothing else but the switch for remote code. Every edit says how often it must apply; a
version of upstream that it does not fit stops the build.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "apex_native._upstream"
SWITCHES = '''"""What a checkpoint may do; set by apex_native.conversion."""

trust_remote_code = False
folder_metadata = True


def before_read(place):
    """Called with a file's name, offset and size before a tensor's bytes are mapped."""
'''
METHOD_CALL = '''

# What a tensor without data knows; to ask a lazy one for it must not read the file.
META_METHODS = {"dim", "ndimension", "size", "numel", "element_size", "is_floating_point"}


class MethodCall:
    """A tensor's method by its name, so that who evaluates lazily can tell what is called."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, s, *args, **kwargs):
        return getattr(s, self.name)(*args, **kwargs)


class LazyMeta(ABCMeta):
'''


@dataclass(frozen=True)
class Edit:
    """A replacement in files that match; at_least: how often in all, fewer is an error."""

    files: str
    pattern: str
    replacement: str
    at_least: int = 1


EDITS = (
    Edit("*/*.py", r"^( *)import gguf\b$", rf"\1from {PACKAGE} import gguf", 4),
    Edit("*/*.py", r"^( *)from gguf\.", rf"\1from {PACKAGE}.gguf.", 2),
    Edit("conversion/*.py", r"^( *)from conversion import ", r"\1from . import "),
    Edit("conversion/*.py", r'__import__\(f"conversion\.', r'__import__(f"{__name__}.', 3),
    Edit(
        "conversion/base.py",
        r"^if 'NO_LOCAL_GGUF' not in os\.environ:\n    sys\.path\.insert\(.*\n",
        "",
    ),
    Edit("gguf/gguf_reader.py", r"^    # Allow running .*\n    sys\.path\.insert\(.*\n", ""),
    Edit(
        "conversion/*.py",
        r"\btrust_remote_code=True\)",
        "trust_remote_code=_switches.trust_remote_code)",
        14,
    ),
    Edit("gguf/lazy.py", r"\n\nclass LazyMeta\(ABCMeta\):\n", METHOD_CALL),
    Edit(
        "gguf/lazy.py",
        r"\(lambda s, \*args, \*\*kwargs: getattr\(s, name\)\(\*args, \*\*kwargs\)\)",
        "MethodCall(name)",
    ),
    Edit(
        "gguf/lazy.py",
        r"^            if callable\(meta_attr\):\n",
        "            if name in META_METHODS:\n"
        "                return meta_attr\n"
        "            if callable(meta_attr):\n",
    ),
    Edit(
        "gguf/utility.py",
        r"^( *)return np\.memmap\(self\.data_range\.filename,",
        r"\1_switches.before_read(self.data_range)\n\1return np.memmap(self.data_range.filename,",
    ),
    # What the folder is called and what its README says is written where that is asked for.
    Edit(
        "conversion/base.py",
        r"self\.metadata\.name = self\.dir_model\.name$",
        "self.metadata.name = self.dir_model.name if _switches.folder_metadata else ''",
    ),
    Edit(
        "gguf/metadata.py",
        r"^( *)model_card = Metadata\.load_model_card\(model_path\)$",
        r"\1model_card = Metadata.load_model_card(model_path) if _switches.folder_metadata else {}",
    ),
    Edit(
        "gguf/metadata.py",
        r"apply_metadata_heuristic\(metadata, model_card, hf_params, model_path, total_params\)$",
        "apply_metadata_heuristic(metadata, model_card, hf_params, "
        "model_path if _switches.folder_metadata else None, total_params)",
    ),
)
LEFT_OVER = re.compile(
    r"^\s*(import gguf\b|from gguf\b|import conversion\b|from conversion\b|sys\.path\.insert)"
    r"|[\"']conversion\.\{|trust_remote_code=True\)",
    re.MULTILINE,
)


def copy(source: Path, target: Path) -> None:
    """Upstream's files, without what only its own command line needs."""
    shutil.rmtree(target, ignore_errors=True)
    skip = shutil.ignore_patterns("scripts", "__pycache__", "gguf.py")
    shutil.copytree(source / "gguf-py" / "gguf", target / "gguf", ignore=skip)
    shutil.copytree(source / "conversion", target / "conversion", ignore=skip)
    shutil.copy(source / "LICENSE", target / "LICENSE")
    (target / "__init__.py").write_text('"""llama.cpp\'s converter, MIT licence: see LICENSE."""\n')
    (target / "switches.py").write_text(SWITCHES)


def apply(target: Path, edit: Edit) -> None:
    """Edit the files in place; RuntimeError where it does not apply often enough."""
    pattern = re.compile(edit.pattern, re.MULTILINE)
    n_total = 0
    for path in sorted(target.glob(edit.files)):
        text, n = pattern.subn(edit.replacement, path.read_text("utf-8"))
        if not n:
            continue
        if "_switches." in edit.replacement:
            imports = "from __future__ import annotations\n"
            if imports not in text:
                raise RuntimeError(f"{path}: no line for an import")
            switches = f"from {PACKAGE} import switches as _switches\n"
            if switches not in text:
                text = text.replace(imports, imports + switches, 1)
        path.write_text(text, "utf-8")
        n_total += n
    if n_total < edit.at_least:
        raise RuntimeError(
            f"{edit.pattern!r} was expected {edit.at_least} times in {edit.files} of upstream's "
            f"converter, found {n_total}: fit the edits in {Path(__file__).name} to this version"
        )


def check(target: Path) -> None:
    """RuntimeError where a file would still reach outside the private package."""
    for path in sorted(target.rglob("*.py")):
        found = LEFT_OVER.search(path.read_text("utf-8"))
        if found is not None:
            raise RuntimeError(f"{path}: {found.group(0).strip()!r} was not rewritten")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="llama.cpp's folder")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    try:
        copy(arguments.source, arguments.target)
        for edit in EDITS:
            apply(arguments.target, edit)
        check(arguments.target)
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
