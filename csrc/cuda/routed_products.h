// The launches behind core/device_products.h.
#pragma once

#include <cuda_runtime_api.h>

#include "core/device_products.h"
#include "cuda/routed_rows.h"

namespace apex::cuda {

inline constexpr int kProductRows = 64;      // of the input, one block's
inline constexpr int kProductOutputs = 128;  // of the matrix, one block's
inline constexpr int kProductColumns = 64;   // loaded at once

// One block's rows: of one expert, `row` counted from its first.
struct ProductTile {
    int32_t expert;
    int32_t row;
};

// The most tiles that the rows can be cut into.
int64_t max_product_tiles(const DeviceInput& rows);

// Each input row, contiguous and in the weights' type: ne[0] x ne[1] x ne[2].
cudaError_t launch_round_rows(const DeviceRoutedProduct& product, void* rounded,
                              cudaStream_t stream);

// tiles: max_product_tiles() of them, those that are not needed with expert -1.
cudaError_t launch_list_tiles(const DeviceInput& rows, const RoutedRows& sorted, ProductTile* tiles,
                              cudaStream_t stream);

cudaError_t launch_products(const DeviceRoutedProduct& product, const void* rounded,
                            const RoutedRows& sorted, const ProductTile* tiles,
                            cudaStream_t stream);

}  // namespace apex::cuda
