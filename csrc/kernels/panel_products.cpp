// No std templates and everything in a namespace of its own: see simd.h.
#include "panel_products.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "panel_unpack.h"
#include "unroll.h"

namespace apex::kernels::panel_avx512_vnni {

namespace {

inline __m512i four_codes(const int8_t* codes) {
    int32_t word;
    __builtin_memcpy(&word, codes, sizeof(word));
    return _mm512_set1_epi32(word);
}

// The columns' sums times the rows' minima.
template <int R>
inline void sum_minima(const PanelRow* block, int64_t n_blocks, const PanelColumns& panel,
                       __m512i* sums) {
    APEX_UNROLL_FULLY
    for (int r = 0; r < R; ++r) sums[r] = _mm512_setzero_si512();
    for (int s = 0; s < 16; ++s) {
        const __m512i columns = _mm512_load_si512(panel.sums[s]);
        APEX_UNROLL_FULLY
        for (int r = 0; r < R; ++r) {
            const __m512i min = _mm512_set1_epi32(block[r * n_blocks].mins[s]);
            sums[r] = _mm512_add_epi32(sums[r], _mm512_mullo_epi32(columns, min));
        }
    }
}

template <bool kMins, int R>
void multiply_rows(const PanelRow* rows, int64_t n_blocks, const PanelColumns* panel,
                   float (*products)[kPanelColumns]) {
    __m512 totals[R];
    APEX_UNROLL_FULLY
    for (int r = 0; r < R; ++r) totals[r] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n_blocks; ++i) {
        const PanelRow* block = rows + i;
        __m512i sums[R];
        APEX_UNROLL_FULLY
        for (int r = 0; r < R; ++r) sums[r] = _mm512_set1_epi32(block[r * n_blocks].offset);
        for (int s = 0; s < 16; ++s) {
            __m512i parts[R];
            APEX_UNROLL_FULLY
            for (int r = 0; r < R; ++r) parts[r] = _mm512_setzero_si512();
            APEX_UNROLL_FULLY
            for (int g = 4 * s; g < 4 * s + 4; ++g) {
                const __m512i column = _mm512_load_si512(panel[i].codes[g]);
                APEX_UNROLL_FULLY
                for (int r = 0; r < R; ++r) {
                    const __m512i row = four_codes(block[r * n_blocks].codes + 4 * g);
                    parts[r] = _mm512_dpbusd_epi32(parts[r], column, row);
                }
            }
            APEX_UNROLL_FULLY
            for (int r = 0; r < R; ++r) {
                const __m512i scale = _mm512_set1_epi32(block[r * n_blocks].scales[s]);
                sums[r] = _mm512_add_epi32(sums[r], _mm512_mullo_epi32(parts[r], scale));
            }
        }
        __m512i minima[R];
        if constexpr (kMins) sum_minima<R>(block, n_blocks, panel[i], minima);
        const __m512 d = _mm512_load_ps(panel[i].d);
        APEX_UNROLL_FULLY
        for (int r = 0; r < R; ++r) {
            const PanelRow& row = block[r * n_blocks];
            __m512 scaled = _mm512_mul_ps(_mm512_set1_ps(row.d), _mm512_cvtepi32_ps(sums[r]));
            if constexpr (kMins) {
                const __m512 less = _mm512_cvtepi32_ps(minima[r]);
                scaled = _mm512_fnmadd_ps(_mm512_set1_ps(row.dmin), less, scaled);
            }
            totals[r] = _mm512_fmadd_ps(scaled, d, totals[r]);
        }
    }
    APEX_UNROLL_FULLY
    for (int r = 0; r < R; ++r) _mm512_storeu_ps(products[r], totals[r]);
}

template <bool kMins>
void multiply(const PanelRow* rows, int n_rows, int64_t n_blocks, const PanelColumns* panel,
              float (*products)[kPanelColumns]) {
    int r = 0;
    for (; r + 8 <= n_rows; r += 8) {
        multiply_rows<kMins, 8>(rows + r * n_blocks, n_blocks, panel, products + r);
    }
    for (; r < n_rows; ++r) {
        multiply_rows<kMins, 1>(rows + r * n_blocks, n_blocks, panel, products + r);
    }
}

}  // namespace

const PanelType* lookup(ggml_type type) {
    static constexpr auto kPlain = multiply<false>, kLess = multiply<true>;
    static constexpr PanelType kQ2K{unpack_q2_k, kLess, take_panel_columns},
        kQ3K{unpack_q3_k, kPlain, take_panel_columns};
    static constexpr PanelType kQ5K{unpack_q5_k, kLess, take_panel_columns},
        kQ6K{unpack_q6_k, kPlain, take_panel_columns};
    static constexpr PanelType kIq4Xs{unpack_iq4_xs, kPlain, take_panel_columns},
        kIq3S{unpack_iq3_s, kPlain, take_panel_columns};
    static constexpr PanelType kIq3Xxs{unpack_iq3_xxs, kPlain, take_panel_columns},
        kIq2S{unpack_iq2_s, kPlain, take_panel_columns};
    static constexpr PanelType kIq2Xs{unpack_iq2_xs, kPlain, take_panel_columns},
        kIq2Xxs{unpack_iq2_xxs, kPlain, take_panel_columns};
    switch (type) {
        case GGML_TYPE_Q2_K:
            return &kQ2K;
        case GGML_TYPE_Q3_K:
            return &kQ3K;
        case GGML_TYPE_Q5_K:
            return &kQ5K;
        case GGML_TYPE_Q6_K:
            return &kQ6K;
        case GGML_TYPE_IQ4_XS:
            return &kIq4Xs;
        case GGML_TYPE_IQ3_S:
            return &kIq3S;
        case GGML_TYPE_IQ3_XXS:
            return &kIq3Xxs;
        case GGML_TYPE_IQ2_S:
            return &kIq2S;
        case GGML_TYPE_IQ2_XS:
            return &kIq2Xs;
        case GGML_TYPE_IQ2_XXS:
            return &kIq2Xxs;
        default:
            return nullptr;
    }
}

}  // namespace apex::kernels::panel_avx512_vnni
