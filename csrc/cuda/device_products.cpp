// core/device_products.h on CUDA.
#include "core/device_products.h"

#include "cuda/routed_products.h"
#include "cuda/runtime.h"

namespace apex {
namespace cuda {
namespace {

class Products final : public DeviceProducts {
  public:
    explicit Products(int device) : device_(device) {
        use_device(device_);
        stream_ = std::make_unique<Stream>();
        failed_ = DeviceBuffer(sizeof(int));
        failed_on_host_ = PinnedBuffer(sizeof(int));
    }

    bool takes(const DeviceRoutedProduct& product) const override {
        const DeviceInput& rows = product.rows;
        const bool is_type = product.type == GGML_TYPE_F16 || product.type == GGML_TYPE_BF16;
        return is_type && rows.ne[0] % kProductColumns == 0 &&
               product.n_out % kProductOutputs == 0 && rows.ne[3] == 1 &&
               rows.n_all_matrices() <= kMaxRoutedExperts && product.matrix_bytes % 16 == 0 &&
               max_product_tiles(rows) <= kMaxTiles;
    }

    bool compute(const DeviceRoutedProduct& product) override {
        use_device(device_);
        const DeviceInput& rows = product.rows;
        const auto n_rounded = static_cast<size_t>(rows.ne[0] * rows.ne[1] * rows.ne[2]);
        const auto n_tiles = static_cast<size_t>(max_product_tiles(rows));
        rounded_ = at_least(std::move(rounded_), n_rounded * sizeof(uint16_t));
        sorted_ = at_least(std::move(sorted_), routed_rows_bytes(rows));
        tiles_ = at_least(std::move(tiles_), n_tiles * sizeof(ProductTile));
        const cudaStream_t stream = stream_->get();
        const RoutedRows sorted = routed_rows_at(sorted_.as(), rows);
        auto* tiles = tiles_.as<ProductTile>();
        APEX_CUDA_CALL(cudaMemsetAsync(failed_.as(), 0, sizeof(int), stream));
        APEX_CUDA_CALL(launch_sort_rows(rows, sorted, failed_.as<int>(), stream));
        APEX_CUDA_CALL(launch_list_tiles(rows, sorted, tiles, stream));
        APEX_CUDA_CALL(launch_round_rows(product, rounded_.as(), stream));
        APEX_CUDA_CALL(launch_products(product, rounded_.as(), sorted, tiles, stream));
        stream_->copy(failed_on_host_.as(), failed_.as(), sizeof(int));
        stream_->wait();
        return *failed_on_host_.as<int>() == 0;
    }

  private:
    static constexpr int64_t kMaxTiles = 65535;  // a grid's second dimension

    int device_;
    DeviceBuffer rounded_, sorted_, tiles_, failed_;
    PinnedBuffer failed_on_host_;
    std::unique_ptr<Stream> stream_;  // destroyed first: buffers are freed after it
};

}  // namespace
}  // namespace cuda

std::unique_ptr<DeviceProducts> make_device_products(int device) {
    int major = 0;
    APEX_CUDA_CALL(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    if (major < 8) return nullptr;  // no asynchronous copies, no BF16
    return std::make_unique<cuda::Products>(device);
}

}  // namespace apex
