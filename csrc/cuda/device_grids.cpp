#include "cuda/device_grids.h"

namespace apex::cuda {
namespace {

template <typename T>
DeviceBuffer uploaded(const std::vector<T>& data) {
    const size_t bytes = data.size() * sizeof(T);
    DeviceBuffer buffer(bytes);
    APEX_CUDA_CALL(cudaMemcpy(buffer.as<>(), data.data(), bytes, cudaMemcpyHostToDevice));
    return buffer;
}

}  // namespace

DeviceGrid::DeviceGrid(const GridData& data)
    : by_rank_(uploaded(data.by_rank)),
      lists_(uploaded(data.lists)),
      index_of_code_(uploaded(data.index_of_code)) {}

DeviceGrids::DeviceGrids(const std::vector<ggml_type>& types) {
    for (const ggml_type type : types) {
        if (const GridData* data = grid_data(type)) grids_.try_emplace(data, *data);
    }
}

Grid DeviceGrids::of(ggml_type type) const {
    const auto found = grids_.find(grid_data(type));
    return found == grids_.end() ? Grid{} : found->second.get();
}

}  // namespace apex::cuda
