// CUDA's runtime with errors as exceptions and resources that free themselves.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

#include "core/error.h"

namespace apex::cuda {

// Throws DeviceError naming the call unless it succeeded.
void check(cudaError_t result, const char* call);

// check() with the call's own text as its name.
#define APEX_CUDA_CALL(call) ::apex::cuda::check((call), #call)

// Makes a device current for this thread.
void use_device(int device);

// Memory of the device that is current when it is made; freed with it.
class DeviceBuffer {
  public:
    DeviceBuffer() = default;
    explicit DeviceBuffer(size_t bytes);
    ~DeviceBuffer() { cudaFree(data_); }
    DeviceBuffer(DeviceBuffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }

    template <typename T = void>
    T* as() const {
        return static_cast<T*>(data_);
    }
    size_t size() const { return size_; }

  private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

// The buffer, or a larger one in its place where it is too small; what it held is gone then.
DeviceBuffer at_least(DeviceBuffer buffer, size_t bytes);

// Host memory that a device reads and writes directly.
class PinnedBuffer {
  public:
    PinnedBuffer() = default;
    explicit PinnedBuffer(size_t bytes);
    ~PinnedBuffer() { cudaFreeHost(data_); }
    PinnedBuffer(PinnedBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
    PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
        std::swap(data_, other.data_);
        return *this;
    }

    template <typename T = void>
    T* as() const {
        return static_cast<T*>(data_);
    }

  private:
    void* data_ = nullptr;
};

class Stream {
  public:
    Stream() { APEX_CUDA_CALL(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    cudaStream_t get() const { return stream_; }
    void wait() const { APEX_CUDA_CALL(cudaStreamSynchronize(stream_)); }
    // From wherever one lies to wherever the other does; returns at once.
    void copy(void* to, const void* from, size_t bytes) const {
        APEX_CUDA_CALL(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_));
    }

  private:
    cudaStream_t stream_ = nullptr;
};

// flags: cudaEventDefault takes times, cudaEventBlockingSync | cudaEventDisableTiming lets a
// waiting thread sleep.
class Event {
  public:
    explicit Event(unsigned flags = cudaEventDefault) {
        APEX_CUDA_CALL(cudaEventCreateWithFlags(&event_, flags));
    }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    cudaEvent_t get() const { return event_; }
    void record(const Stream& stream) const {
        APEX_CUDA_CALL(cudaEventRecord(event_, stream.get()));
    }
    void wait() const { APEX_CUDA_CALL(cudaEventSynchronize(event_)); }

  private:
    cudaEvent_t event_ = nullptr;
};

}  // namespace apex::cuda
