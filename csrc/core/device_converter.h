// One unit of rows through a GPU: what surrounds the kernel on a worker's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/quantize_task.h"
#include "core/row_error.h"
#include "core/row_units.h"

namespace apex {

// An expert of the usual size. A GPU is full with two or three of these under way.
inline constexpr int64_t kDeviceWeightsPerUnit = 1024 * 1024;

bool is_for_device(const QuantizeTask& task);

// Slots for all units of the tasks that are for a GPU; max_rows: in the largest unit of each task.
std::unique_ptr<DevicePool> make_pool_for(const std::vector<QuantizeTask>& tasks,
                                          const std::vector<int64_t>& max_rows,
                                          const std::vector<int>& devices, int n_slots);

class DeviceConverter {
  public:
    // verify_rate: share of the rows, drawn in the CPU's units, that the CPU does again.
    DeviceConverter(std::unique_ptr<DeviceSlot> slot, double verify_rate)
        : slot_(std::move(slot)), verify_rate_(verify_rate) {}

    // Reads the unit, quantizes it and writes one RowError per row to errors. Bytes and errors are
    // those of the CPU: rows that the kernel hands back, or that are not finite, are done there.
    // Throws DeviceError where the GPU fails; QuantizeError for weights that are not finite or too
    // large, and where a verified row differs.
    void convert(const QuantizeTask& task, const RowUnit& unit, RowError* errors);

    const uint8_t* result() const { return slot_->result(); }

    // Rows compared since the last call.
    int64_t take_verified_rows() { return std::exchange(verified_rows_, 0); }

  private:
    const float* load(const QuantizeTask& task, const RowUnit& unit, const RowUnit& rows);
    RowError do_on_cpu(const QuantizeTask& task, const RowUnit& unit, const RowUnit& row);
    void verify(const QuantizeTask& task, const RowUnit& unit, const RowUnit& rows,
                const RowError* errors);

    std::unique_ptr<DeviceSlot> slot_;
    double verify_rate_;
    int64_t verified_rows_ = 0;
    std::vector<float> weights_, restored_;
    std::vector<uint8_t> again_;
};

}  // namespace apex
