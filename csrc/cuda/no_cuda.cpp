// What core/device.h promises, in a build without CUDA.
#include "core/device.h"
#include "core/error.h"

namespace apex {
namespace {

[[noreturn]] void fail_without_cuda() {
    fail<DeviceError>(
        "this build of apex-native has no CUDA; build it with `pip install . "
        "-Ccmake.define.APEX_CUDA=ON`, or use the CPU");
}

}  // namespace

void prepare_devices() {}

std::vector<DeviceInfo> list_devices() {
    fail_without_cuda();
}

bool device_can_convert(ggml_type, ggml_type, bool) {
    return false;
}

std::unique_ptr<DevicePool> make_device_pool(const std::vector<int>&, int, const DeviceSlotSize&,
                                             const std::vector<ggml_type>&) {
    fail_without_cuda();
}

}  // namespace apex
