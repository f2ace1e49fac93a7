// What scoring/device_softmax.h, calibration/device_*.h, moments/device_feedback.h,
// core/device_products.h and core/device_upload.h promise, in a build without CUDA. Nothing lies in
// a GPU's memory there, so none of it is asked for.
#include "calibration/device_moments.h"
#include "calibration/device_squares.h"
#include "core/device_memory.h"
#include "core/device_products.h"
#include "core/device_upload.h"
#include "core/error.h"
#include "moments/device_feedback.h"
#include "scoring/device_softmax.h"

namespace apex {
namespace {

[[noreturn]] void fail_without_cuda() {
    fail<DeviceError>(
        "this build of apex-native has no CUDA; build it with `pip install . "
        "-Ccmake.define.APEX_CUDA=ON`, or compute on the CPU");
}

}  // namespace

int device_of(const void*) {
    return -1;
}

void copy_to_host(void*, const void*, size_t) {
    fail_without_cuda();
}

std::shared_ptr<void> make_pinned(size_t) {
    fail_without_cuda();
}

std::unique_ptr<DeviceRowBuffer> make_device_rows(int, size_t) {
    fail_without_cuda();
}

std::unique_ptr<DeviceSoftmax> make_device_softmax(int) {
    fail_without_cuda();
}

std::unique_ptr<DeviceProducts> make_device_products(int) {
    fail_without_cuda();
}

std::unique_ptr<DeviceUpload> make_device_upload(int, size_t) {
    fail_without_cuda();
}

std::unique_ptr<DeviceSquares> make_device_squares(int, size_t) {
    fail_without_cuda();
}

bool device_has_feedback(ggml_type, int64_t) {
    return false;
}

std::shared_ptr<FeedbackDevices> make_feedback_devices(const std::vector<int>&, int, int64_t) {
    fail_without_cuda();
}

std::unique_ptr<DeviceMoments> make_device_moments(int) {
    fail_without_cuda();
}

}  // namespace apex
