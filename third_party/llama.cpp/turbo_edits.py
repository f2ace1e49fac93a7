"""Write copies of llama.cpp's files that know the cache types of csrc/turbo; CMake calls this when it
configures.

Every edit is an insertion after an anchor that must stand in its file exactly once, so that a version
of llama.cpp that it does not fit stops the build instead of compiling into something else. No header is
edited: what includes ggml's headers compiles as it did, and the numbers of the types stay beyond
GGML_TYPE_COUNT everywhere but in the two tables that hold them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

BITS = (2, 3, 4)
TRAITS = """\
    [GGML_TYPE_TURBO{n}] = {{
        .type_name                = "turbo{n}",
        .blck_size                = QK_TURBO,
        .type_size                = sizeof(block_turbo{n}),
        .is_quantized             = true,
        .to_float                 = turbo{n}_decode,
        .from_float_ref           = turbo{n}_encode,
    }},
"""
CPU_TRAITS = """\
    [GGML_TYPE_TURBO{n}] = {{
        .from_float               = turbo{n}_encode,
        .vec_dot                  = turbo{n}_dot_q8_0,
        .vec_dot_type             = GGML_TYPE_Q8_0,
        .nrows                    = 1,
    }},
"""
WIDER_TABLE = '#include "turbo.h"\n#define GGML_TYPE_COUNT APEX_TYPE_END\n'


@dataclass(frozen=True)
class Insertion:
    """Text that goes behind an anchor of a file below ggml/src."""

    file: str
    anchor: str
    text: str


INSERTIONS = (
    Insertion("ggml.c", '#include "ggml-quants.h"\n', WIDER_TABLE),
    Insertion(
        "ggml.c",
        "static const struct ggml_type_traits type_traits[GGML_TYPE_COUNT] = {\n",
        "".join(TRAITS.format(n=n) for n in BITS),
    ),
    Insertion("ggml-cpu/ggml-cpu.c", '#include "tiled/tiled.h"\n', WIDER_TABLE),
    Insertion(
        "ggml-cpu/ggml-cpu.c",
        "static const struct ggml_type_traits_cpu type_traits_cpu[GGML_TYPE_COUNT] = {\n",
        "".join(CPU_TRAITS.format(n=n) for n in BITS),
    ),
    # CUDA: rows are written, converted to half for the kernels that compute with matrices, and
    # attended to by one query as they are.
    Insertion(
        "ggml-cuda/ggml-cuda.cu",
        '#include "ggml-cuda/set-rows.cuh"\n',
        '#include "turbo_device.h"\n',
    ),
    Insertion(
        "ggml-cuda/ggml-cuda.cu",
        "        case GGML_OP_SET_ROWS:\n            {\n",
        "                if (apex_turbo_can_set_rows(op)) {\n"
        "                    return true;\n"
        "                }\n",
    ),
    Insertion("ggml-cuda/set-rows.cu", '#include "set-rows.cuh"\n', '#include "turbo_device.h"\n'),
    Insertion(
        "ggml-cuda/set-rows.cu",
        "void ggml_cuda_op_set_rows(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {\n",
        "    if (apex_turbo_set_rows(dst, ctx.stream())) {\n        return;\n    }\n",
    ),
    Insertion("ggml-cuda/convert.cu", '#include "dequantize.cuh"\n', '#include "turbo_device.h"\n'),
    Insertion(
        "ggml-cuda/convert.cu",
        "to_fp16_cuda_t ggml_get_to_fp16_cuda(ggml_type type) {\n",
        "    if (to_fp16_cuda_t turbo = apex_turbo_to_half(type)) {\n        return turbo;\n    }\n",
    ),
    Insertion(
        "ggml-cuda/convert.cu",
        "to_fp16_nc_cuda_t ggml_get_to_fp16_nc_cuda(ggml_type type) {\n",
        "    if (to_fp16_nc_cuda_t turbo = apex_turbo_to_half_strided(type)) {\n"
        "        return turbo;\n    }\n",
    ),
    Insertion(
        "ggml-cuda/fattn.cu",
        '#include "fattn.cuh"\n',
        '#include "turbo_device.h"\n#include "vec_pairs.cuh"\n',
    ),
    Insertion(
        "ggml-cuda/fattn.cu",
        "static fattn_vec_case_t ggml_cuda_get_fattn_vec_case("
        "const int64_t head_size, const ggml_type type_K, const ggml_type type_V) {\n",
        "    APEX_TURBO_VEC_PAIRS(APEX_TURBO_VEC_CASES)\n",
    ),
    Insertion(
        "ggml-cuda/fattn.cu",
        "static bool ggml_cuda_fattn_kv_type_supported(const ggml_type type) {\n",
        "    if (apex_is_turbo(type)) {\n        return true;\n    }\n",
    ),
)


def edited(source: Path, file: str) -> str:
    """The file with its insertions; RuntimeError where an anchor does not stand there once."""
    text = (source / "ggml" / "src" / file).read_text("utf-8")
    for insertion in INSERTIONS:
        if insertion.file != file:
            continue
        n = text.count(insertion.anchor)
        if n != 1:
            raise RuntimeError(
                f"{insertion.anchor.strip()!r} was expected once in ggml/src/{file} of "
                f"{source}, found {n} times: fit {Path(__file__).name} to this version of "
                "llama.cpp, or build without the cache types turbo2 to turbo4: -DAPEX_TURBO=OFF"
            )
        text = text.replace(insertion.anchor, insertion.anchor + insertion.text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="llama.cpp's folder")
    parser.add_argument("target", type=Path, help="where the edited copies go")
    arguments = parser.parse_args()
    files = dict.fromkeys(insertion.file for insertion in INSERTIONS)
    try:
        texts = {file: edited(arguments.source, file) for file in files}
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for file, text in texts.items():
        path = arguments.target / Path(file).name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:  # else nothing compiles again
            path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
