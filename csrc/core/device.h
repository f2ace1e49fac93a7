// Rows quantized on GPUs, as the Quantizer sees it. Implemented by csrc/cuda; a build without CUDA
// has cuda/no_cuda.cpp, whose functions say so.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/row_error.h"
#include "ggml.h"

namespace apex {

struct DeviceInfo {
    int number = 0;  // as in cuda:0
    std::string name;
    int major = 0;  // compute capability
    int minor = 0;
    uint64_t total_bytes = 0;
    uint64_t free_bytes = 0;
};

// What CUDA reads from the environment when it starts; before anything else of it is called. A
// variable that is set stays.
void prepare_devices();

// All GPUs. Throws DeviceError in a build without CUDA and where there is no driver or no GPU.
std::vector<DeviceInfo> list_devices();

// There is a kernel from one type to the other; everything else is the CPU's.
bool device_can_convert(ggml_type source, ggml_type target, bool with_imatrix);

// Rows of one slice: all share an importance matrix.
struct DeviceRows {
    ggml_type source_type = GGML_TYPE_COUNT;
    ggml_type target_type = GGML_TYPE_COUNT;
    int64_t n_rows = 0;
    int64_t n_per_row = 0;
    const float* imatrix = nullptr;  // n_per_row values in ordinary memory, or null
};

// What a slot must have room for.
struct DeviceSlotSize {
    size_t stored_bytes = 0;
    size_t result_bytes = 0;
    int64_t n_per_row = 0;
    int64_t n_rows = 0;
};

// The place of one unit on its way through a GPU: pinned memory on the host, as much on the device,
// and a stream of its own. Used by one thread, the one that made it.
class DeviceSlot {
  public:
    virtual ~DeviceSlot() = default;

    // Where the caller puts the rows' stored bytes.
    virtual uint8_t* stored() = 0;

    // Copies them to the device, quantizes and copies back; returns at once.
    virtual void start(const DeviceRows& rows) = 0;

    // Waits for what was started.
    virtual void finish() = 0;

    // After finish(): the quantized rows; for each row whether the CPU must do it (sums went out of
    // the range where the kernel is exact); and what row_error() would give for it, not finite
    // where a weight or a scale is not.
    virtual uint8_t* result() = 0;
    virtual const uint8_t* handed_back() const = 0;
    virtual const RowError* errors() const = 0;

    // After finish(): the row is the CPU's to do, or to say what is wrong with it.
    bool leaves(int64_t row) const {
        const RowError& error = errors()[row];
        return handed_back()[row] != 0 || !std::isfinite(error.squared_error) ||
               !std::isfinite(error.squared_weights);
    }
};

// Slots on several GPUs. Holds what the slots of a GPU share.
class DevicePool {
  public:
    virtual ~DevicePool() = default;

    // A slot on the next GPU in turn. Thread-safe.
    virtual std::unique_ptr<DeviceSlot> make_slot() = 0;
};

// For n_slots slots, dealt out to the devices in turn. targets: the types that will be asked for.
// Throws DeviceError with the numbers where a GPU has not enough free memory.
std::unique_ptr<DevicePool> make_device_pool(const std::vector<int>& devices, int n_slots,
                                             const DeviceSlotSize& size,
                                             const std::vector<ggml_type>& targets);

}  // namespace apex
