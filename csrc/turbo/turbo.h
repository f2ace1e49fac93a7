/* KV cache types of this build: blocks of 64 rotated values, a codebook of signed bytes, one scale.
 *
 * They are for values that an orthonormal rotation has made Gaussian (llama.cpp rotates keys and
 * values of every quantized cache); the codebooks are Lloyd and Max's for N(0, 1), rounded to
 * bytes. C, C++ and CUDA include this file; the edits of third_party/llama.cpp/turbo_edits.py bring
 * it into ggml. Formats: csrc/turbo/README.md. */
#pragma once

#include <stdint.h>

#include "ggml.h"

/* Numbers that no ggml uses and that lie beyond GGML_TYPE_COUNT: ggml's reader of GGUF files
 * refuses them like any unknown type. An enum of ggml's range holds 0 to 63. */
#define GGML_TYPE_TURBO2 ((enum ggml_type)60)
#define GGML_TYPE_TURBO3 ((enum ggml_type)61)
#define GGML_TYPE_TURBO4 ((enum ggml_type)62)
#define APEX_TYPE_END 63

#define QK_TURBO 64 /* values of a block: llama.cpp rotates values by 64 */

/* A value's index counts levels from the lowest. Four values that follow each other share a
 * little-endian word of 16 bits, a nibble for each, for that is what one instruction of a GPU looks
 * up: value 4 g + k has its four bits at 4 k of word g, its two at 4 k + 2 (g % 2) of word g / 2 of
 * qs, its third bit at 4 k + g % 4 of word g / 4 of qh. */
typedef struct {
    uint16_t d; /* binary16 */
    uint8_t qs[QK_TURBO / 4];
} block_turbo2;
typedef struct {
    uint16_t d;
    uint8_t qs[QK_TURBO / 4];
    uint8_t qh[QK_TURBO / 8];
} block_turbo3;
typedef struct {
    uint16_t d;
    uint8_t qs[QK_TURBO / 2];
} block_turbo4;

/* The positive half of each codebook, where one level ends and the next begins, and how many of
 * these units are one standard deviation. */
#define TURBO2_LEVELS 21, 70
#define TURBO3_LEVELS 10, 31, 55, 88
#define TURBO4_LEVELS 5, 15, 25, 36, 48, 62, 79, 104
#define TURBO2_ENDS 45.5f
#define TURBO3_ENDS 20.5f, 43.0f, 71.5f
#define TURBO4_ENDS 10.0f, 20.0f, 30.5f, 42.0f, 55.0f, 70.5f, 91.5f
#define TURBO2_SIGMA 46.35f
#define TURBO3_SIGMA 40.91f
#define TURBO4_SIGMA 38.14f

/* The search of the scale tries so many multiples of 1 / (0.80, 0.85 ... 1.20). */
#define TURBO_N_STEPS 9
#define TURBO_STEPS                                                                           \
    1.0f / 0.80f, 1.0f / 0.85f, 1.0f / 0.90f, 1.0f / 0.95f, 1.0f, 1.0f / 1.05f, 1.0f / 1.10f, \
        1.0f / 1.15f, 1.0f / 1.20f

#ifdef __cplusplus
extern "C" {
#endif

/* k values, a multiple of 64, to k / 64 blocks and back. A block with a NaN or an infinity decodes
 * to such: a broken model is seen, as with a 16-bit cache. */
void turbo2_encode(const float* x, void* y, int64_t k);
void turbo3_encode(const float* x, void* y, int64_t k);
void turbo4_encode(const float* x, void* y, int64_t k);
void turbo2_decode(const void* x, float* y, int64_t k);
void turbo3_decode(const void* x, float* y, int64_t k);
void turbo4_decode(const void* x, float* y, int64_t k);

/* ggml_vec_dot_t of n values and n of Q8_0, one row of each. */
void turbo2_dot_q8_0(int n, float* s, size_t bs, const void* x, size_t bx, const void* y, size_t by,
                     int nrc);
void turbo3_dot_q8_0(int n, float* s, size_t bs, const void* x, size_t bx, const void* y, size_t by,
                     int nrc);
void turbo4_dot_q8_0(int n, float* s, size_t bs, const void* x, size_t bx, const void* y, size_t by,
                     int nrc);

#ifdef __cplusplus
}
#endif
