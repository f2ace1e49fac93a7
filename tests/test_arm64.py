"""The kernels for 64-bit ARM, cross-compiled and run under qemu, against bytes recorded on x86.

Needs Debian's g++-aarch64-linux-gnu and qemu-user-static; skipped without them. Emulated arithmetic
is exact; timings under emulation mean nothing and are not taken.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cpp_programs import build_program

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
SYSROOT = Path("/usr/aarch64-linux-gnu")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        platform.machine() != "x86_64"
        or QEMU is None
        or shutil.which("aarch64-linux-gnu-g++") is None,
        reason="wants an x86-64 machine with g++-aarch64-linux-gnu and qemu-user-static",
    ),
]

ROWS = 60
"""Rows per type and matrix setting; a few dozen of each kind of awkward data among them."""

TYPES = 15
NEEDING_IMATRIX = 3  # IQ2_XXS, IQ2_XS and IQ1_S have no setting without a matrix


def emulate(*command: str | Path) -> subprocess.CompletedProcess[str]:
    assert QEMU is not None
    return subprocess.run(
        [QEMU, "-L", str(SYSROOT), *map(str, command)], capture_output=True, text=True, check=False
    )


LINE = re.compile(r"^(\S+) +(matrix|no matrix) +rows +(\d+) +left to ggml (\d+) +differ (\d+)")


def test_neon_writes_the_bytes_recorded_on_x86(tmp_path: Path) -> None:
    recorded = tmp_path / "rows"
    native = build_program("recorded_rows")
    subprocess.run([native, "record", recorded, str(ROWS)], check=True)
    replayed = emulate(build_program("recorded_rows", arm64=True), "replay", recorded)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    found = [match.groups() for line in replayed.stdout.splitlines() if (match := LINE.match(line))]
    assert len(found) == 2 * TYPES - NEEDING_IMATRIX, replayed.stdout
    for _type, _matrix, rows, left_to_ggml, differ in found:
        assert int(rows) >= ROWS
        assert (left_to_ggml, differ) == ("0", "0")


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    # The comparison itself: the last recorded byte is one of a row's.
    recorded = tmp_path / "rows"
    subprocess.run([build_program("recorded_rows"), "record", recorded, "1"], check=True)
    data = bytearray(recorded.read_bytes())
    data[-1] ^= 1
    recorded.write_bytes(data)
    replayed = emulate(build_program("recorded_rows", arm64=True), "replay", recorded)
    assert replayed.returncode == 1, replayed.stdout
    assert "differ 1" in replayed.stdout


@pytest.mark.parametrize(
    "program", ["twin_vs_softmax", "twin_vs_squares", "twin_vs_bf16", "twin_vs_turbo"]
)
def test_sums_agree_with_their_twins(program: str) -> None:
    done = emulate(build_program(program, arm64=True))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_cache_rows_are_x86s_bytes() -> None:
    here = subprocess.run([build_program("twin_vs_turbo")], capture_output=True, text=True)
    assert here.stdout.count("encoded") == 3
    assert emulate(build_program("twin_vs_turbo", arm64=True)).stdout == here.stdout


FUSED = re.compile(r"\t(f(?:n?madd|n?msub|mla|mls))\b")


def test_no_product_is_fused_with_a_sum() -> None:
    """Where bytes matter no instruction rounds a product and a sum as one.

    Products of BF16 rows are x86's with such instructions, and have them.
    """
    build_program("recorded_rows", arm64=True)
    library = (
        build_program("recorded_rows", arm64=True).parents[2] / "csrc/kernels/libapex_kernels.a"
    )
    listing = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", library],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    objects = re.split(r"^(\S+):\s+file format .*$", listing, flags=re.MULTILINE)
    code_of = dict(zip(objects[1::2], objects[2::2], strict=True))
    found = {name: FUSED.findall(code) for name, code in code_of.items()}
    products = next(name for name in found if name.startswith("bf16_products"))
    assert set(found.pop(products)) == {"fmla"}
    assert "\tfmul\t" in listing
    assert {name: fused for name, fused in found.items() if fused} == {}
