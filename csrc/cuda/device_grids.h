// The code books in a GPU's memory, uploaded once per pool and type.
#pragma once

#include <map>
#include <vector>

#include "cuda/grid_data.h"
#include "cuda/runtime.h"

namespace apex::cuda {

class DeviceGrid {
  public:
    explicit DeviceGrid(const GridData& data);
    Grid get() const {
        return {by_rank_.as<uint32_t>(), lists_.as<Candidates>(), index_of_code_.as<uint16_t>()};
    }

  private:
    DeviceBuffer by_rank_, lists_, index_of_code_;
};

// The grids of all types asked for that have one, on the device that is current.
class DeviceGrids {
  public:
    explicit DeviceGrids(const std::vector<ggml_type>& types);

    // Null pointers for a type without a code book.
    Grid of(ggml_type type) const;

  private:
    std::map<const GridData*, DeviceGrid> grids_;
};

}  // namespace apex::cuda
