// Weights on their way to GPUs while llama.cpp loads a model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "core/mapping_watch.h"
#include "core/parallel_upload.h"

namespace apex {

// Once per process, before anything is allocated on a GPU: its buffers of weights become able to
// ask the WeightUpload of their thread.
void install_weight_upload();

// While one lives, large weights that llama.cpp loads on its thread are copied to GPUs by several
// threads; they read what was mapped from the file itself, so that a file cut meanwhile is an error
// and not SIGBUS, and llama.cpp's mapping of it is not filled beforehand. Caches, small weights and
// all that others load meanwhile go llama.cpp's way, and so does everything where no host memory
// can be pinned. At most 4 MiB a thread are pinned.
class WeightUpload {
  public:
    // name: the file's, for errors; n_threads: 0 leaves all to llama.cpp.
    WeightUpload(std::string name, int n_threads);
    ~WeightUpload();
    WeightUpload(const WeightUpload&) = delete;
    WeightUpload& operator=(const WeightUpload&) = delete;

    // The first error; llama.cpp's loader hears of it where it asks whether to go on, since nothing
    // may be thrown through it. All weights that come later stay unset.
    bool has_failed() const { return error_ != nullptr; }
    void rethrow_failure() const;

    uint64_t n_bytes() const { return n_bytes_; }  // copied so

    // For the buffers. False: it is left to llama.cpp.
    bool copy(const void* from, size_t n_bytes, void* to) noexcept;
    static WeightUpload* of_this_thread();

  private:
    bool prepare(int device);
    void copy_pieces(const void* from, size_t n_bytes, void* to);

    std::string name_;
    int n_threads_;
    std::optional<MappingWatch> mappings_;
    std::unique_ptr<ParallelUpload> upload_;
    int device_ = -1;  // that it copies to
    std::exception_ptr error_;
    uint64_t n_bytes_ = 0;
    WeightUpload* before_;
};

}  // namespace apex
