// Takes super-blocks of ggml's types apart: codes, scales and minima as whole numbers.
//
// Layouts are those of ggml/src/ggml-common.h and of the dequantize_row_* functions.
#pragma once

#include "panel_products.h"

namespace apex::kernels {

void unpack_q2_k(const void* row, PanelRow* blocks, int64_t n_blocks);
void unpack_q3_k(const void* row, PanelRow* blocks, int64_t n_blocks);
void unpack_q5_k(const void* row, PanelRow* blocks, int64_t n_blocks);
void unpack_q6_k(const void* row, PanelRow* blocks, int64_t n_blocks);
void unpack_iq4_xs(const void* row, PanelRow* blocks, int64_t n_blocks);
void unpack_iq3_s(const void* row, PanelRow* blocks, int64_t n_blocks);
void unpack_iq3_xxs(const void* row, PanelRow* blocks, int64_t n_blocks);
void unpack_iq2_s(const void* row, PanelRow* blocks, int64_t n_blocks);
void unpack_iq2_xs(const void* row, PanelRow* blocks, int64_t n_blocks);
void unpack_iq2_xxs(const void* row, PanelRow* blocks, int64_t n_blocks);

void take_panel_columns(const void* const* columns, int n_columns, PanelColumns* panel,
                        int64_t n_blocks);

}  // namespace apex::kernels
