// core/device.h on CUDA: slots whose copies and kernels of different units overlap.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "core/device.h"
#include "cuda/device_grids.h"
#include "cuda/row_errors.h"

namespace apex {
namespace cuda {
namespace {

// One GPU of a pool.
struct Device {
    int number;
    DeviceGrids grids;
};

Source source_of(ggml_type type) {
    return type == GGML_TYPE_F32 ? Source::f32 : type == GGML_TYPE_F16 ? Source::f16 : Source::bf16;
}

// Bytes of a slot, the same on the host (pinned) and on the device.
struct SlotParts {
    size_t stored, imatrix, result, flags, errors;

    explicit SlotParts(const DeviceSlotSize& size)
        : stored(aligned(size.stored_bytes)),
          imatrix(aligned(static_cast<size_t>(size.n_per_row) * sizeof(float))),
          result(aligned(size.result_bytes)),
          flags(aligned(static_cast<size_t>(size.n_rows))),
          errors(aligned(static_cast<size_t>(size.n_rows) * sizeof(RowError))) {}

    size_t total() const { return stored + imatrix + result + flags + errors; }

    static size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
};

struct SlotMemory {
    uint8_t *stored, *imatrix, *result, *flags, *errors;

    SlotMemory(uint8_t* base, const SlotParts& parts)
        : stored(base),
          imatrix(stored + parts.stored),
          result(imatrix + parts.imatrix),
          flags(result + parts.result),
          errors(flags + parts.flags) {}
};

class Slot final : public DeviceSlot {
  public:
    Slot(const Device& device, const DeviceSlotSize& size)
        : grids_(device.grids),
          parts_(size),
          pinned_((use_device(device.number), parts_.total())),
          memory_(parts_.total()),
          host_(pinned_.as<uint8_t>(), parts_),
          device_(memory_.as<uint8_t>(), parts_),
          done_(cudaEventBlockingSync | cudaEventDisableTiming) {}

    // Nothing may be freed while the device still reads and writes it.
    ~Slot() override { cudaStreamSynchronize(stream_.get()); }

    uint8_t* stored() override { return host_.stored; }
    uint8_t* result() override { return host_.result; }
    const uint8_t* handed_back() const override { return host_.flags; }
    const RowError* errors() const override {
        return reinterpret_cast<const RowError*>(host_.errors);
    }

    void start(const DeviceRows& rows) override {
        const int64_t n = rows.n_rows * rows.n_per_row;
        const auto n_rows = static_cast<size_t>(rows.n_rows);
        to_device(host_.stored, device_.stored, n_rows * row_size(rows.source_type, rows));
        if (rows.imatrix != nullptr) {
            const auto bytes = static_cast<size_t>(rows.n_per_row) * sizeof(float);
            std::memcpy(host_.imatrix, rows.imatrix, bytes);
            to_device(host_.imatrix, device_.imatrix, bytes);
        }
        APEX_CUDA_CALL(cudaMemsetAsync(device_.flags, 0, n_rows, stream_.get()));
        RowsJob job;
        job.src = device_.stored;
        job.source = source_of(rows.source_type);
        job.imatrix = reinterpret_cast<const float*>(device_.imatrix);
        job.dst = device_.result;
        job.n_blocks = n / ggml_blck_size(rows.target_type);
        job.blocks_per_row = rows.n_per_row / ggml_blck_size(rows.target_type);
        job.overflowed = device_.flags;
        job.grid = grids_.of(rows.target_type);
        check(launch_rows(rows.target_type, rows.imatrix != nullptr, job, stream_.get()),
              "cudaLaunchKernel(quantize)");
        check(launch_row_errors(rows.target_type, job, reinterpret_cast<RowError*>(device_.errors),
                                stream_.get()),
              "cudaLaunchKernel(row errors)");
        to_host(device_.result, host_.result, n_rows * row_size(rows.target_type, rows));
        to_host(device_.flags, host_.flags, n_rows);
        to_host(device_.errors, host_.errors, n_rows * sizeof(RowError));
        done_.record(stream_);
    }

    void finish() override { done_.wait(); }

  private:
    static size_t row_size(ggml_type type, const DeviceRows& rows) {
        return ggml_row_size(type, rows.n_per_row);
    }

    void to_device(const uint8_t* from, uint8_t* to, size_t bytes) {
        APEX_CUDA_CALL(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_.get()));
    }

    void to_host(const uint8_t* from, uint8_t* to, size_t bytes) {
        APEX_CUDA_CALL(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_.get()));
    }

    const DeviceGrids& grids_;
    SlotParts parts_;
    PinnedBuffer pinned_;
    DeviceBuffer memory_;
    SlotMemory host_, device_;
    Stream stream_;
    Event done_;
};

// Memory must suffice before anything is started: a run that dies of it after an hour helps nobody.
void require_memory(int device, size_t needed) {
    size_t free_bytes = 0, total = 0;
    APEX_CUDA_CALL(cudaMemGetInfo(&free_bytes, &total));
    if (needed <= free_bytes) return;
    fail<DeviceError>("cuda:", device, " has ", free_bytes, " of ", total,
                      " bytes free, this run needs ", needed,
                      "; end what else uses the GPU, or lower `n_threads`");
}

size_t grid_bytes(const std::vector<ggml_type>& types) {
    size_t bytes = 0;
    for (const ggml_type type : types) {
        if (const GridData* data = grid_data(type)) bytes += data->bytes();
    }
    return bytes;
}

class Pool final : public DevicePool {
  public:
    Pool(const std::vector<int>& numbers, int n_slots, const DeviceSlotSize& size,
         const std::vector<ggml_type>& targets)
        : size_(size) {
        const auto n_devices = static_cast<int>(numbers.size());
        const auto slots_each = static_cast<size_t>((n_slots + n_devices - 1) / n_devices);
        for (const int number : numbers) {
            use_device(number);
            require_memory(number, slots_each * SlotParts(size).total() + grid_bytes(targets));
            devices_.push_back(std::make_unique<Device>(Device{number, DeviceGrids(targets)}));
        }
    }

    std::unique_ptr<DeviceSlot> make_slot() override {
        const size_t turn = next_.fetch_add(1) % devices_.size();
        return std::make_unique<Slot>(*devices_[turn], size_);
    }

  private:
    DeviceSlotSize size_;
    std::vector<std::unique_ptr<Device>> devices_;
    std::atomic<size_t> next_{0};
};

DeviceInfo describe_device(int number) {
    cudaDeviceProp properties;
    APEX_CUDA_CALL(cudaGetDeviceProperties(&properties, number));
    use_device(number);
    size_t free_bytes = 0, total = 0;
    APEX_CUDA_CALL(cudaMemGetInfo(&free_bytes, &total));
    return {number, properties.name, properties.major, properties.minor, total, free_bytes};
}

}  // namespace
}  // namespace cuda

// Streams share 8 queues unless told otherwise, and what is behind another stream's work waits for
// it. CUDA C++ Programming Guide, "Environment Variables": 1 to 32.
void prepare_devices() {
    ::setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
}

std::vector<DeviceInfo> list_devices() {
    int count = 0;
    const cudaError_t result = cudaGetDeviceCount(&count);
    if (result == cudaErrorNoDevice || result == cudaErrorInsufficientDriver || count == 0) {
        cudaGetLastError();
        fail<DeviceError>("no GPU can be used: ", cudaGetErrorString(result),
                          "; install NVIDIA's driver, or use the CPU");
    }
    APEX_CUDA_CALL(result);
    std::vector<DeviceInfo> devices;
    for (int i = 0; i < count; ++i) devices.push_back(cuda::describe_device(i));
    return devices;
}

bool device_can_convert(ggml_type source, ggml_type target, bool with_imatrix) {
    const bool is_float =
        source == GGML_TYPE_F32 || source == GGML_TYPE_F16 || source == GGML_TYPE_BF16;
    return is_float && cuda::has_kernel(target, with_imatrix);
}

std::unique_ptr<DevicePool> make_device_pool(const std::vector<int>& devices, int n_slots,
                                             const DeviceSlotSize& size,
                                             const std::vector<ggml_type>& targets) {
    return std::make_unique<cuda::Pool>(devices, n_slots, size, targets);
}

}  // namespace apex
