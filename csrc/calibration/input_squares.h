// Sums of squares of the inputs of one computation, kept until the inputs are computed anew.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "calibration/matmul_node.h"
#include "model/thread_pool.h"

namespace apex {

// What one matrix multiplication adds to an importance matrix.
struct InputSquares {
    InputIdentity identity;
    uint64_t number = 0;  // of this computation among all
    std::string weight;   // that was seen to read it first
    int64_t n_per_row = 0;
    std::vector<double> sums;     // matrices x n_per_row; of those with a count only
    std::vector<int64_t> counts;  // rows each matrix was multiplied with

    int64_t n_matrices() const { return static_cast<int64_t>(counts.size()); }
};

// Pointers to an input's rows on the host, sorted by matrix: those of matrix i lie from first[i] to
// first[i + 1].
struct SortedRows {
    const float* const* data;
    const size_t* first;
};

// Throws ModelError naming the weight where its input has a layout that cannot be read.
void check_input_layout(const MatmulNode& node);

class InputSquaresCache {
  public:
    explicit InputSquaresCache(ThreadPool& pool) : pool_(pool) {}

    // The squares of this input, if it was seen since it was computed; valid until compute().
    const InputSquares* find(const InputIdentity& identity) const;

    // Squares and sums the input of a computed node, whose layout was checked. Throws ModelError
    // naming the weight where the input is not finite.
    const InputSquares& compute(const MatmulNode& node, uint64_t number);

    // The rows of the input computed last, as long as its graph runs.
    SortedRows rows() const { return {rows_.data(), first_row_.data()}; }

    // The values of this node are about to change.
    void forget(const ggml_tensor* node);

    void clear();

  private:
    void copy_to_host(const MatmulNode& node);
    void sort_rows(const MatmulNode& node, InputSquares& squares);
    void sort_routed_rows(const MatmulNode& node, InputSquares& squares);
    void sum_rows(const MatmulNode& node, InputSquares& squares);
    [[noreturn]] void fail_not_finite(const MatmulNode& node, const InputSquares& squares) const;

    // Inputs of one layer that several weights share, and the experts' in between: the attention's,
    // the feed-forward's as the router sees it and as the experts do, and those of the outputs.
    static constexpr size_t kKept = 8;

    ThreadPool& pool_;
    std::array<InputSquares, kKept> kept_;
    size_t next_ = 0;
    const char* data_ = nullptr;    // of the input, on the host
    std::vector<char> host_input_;  // where it lies on a device
    std::vector<char> host_experts_;
    std::vector<const float*> rows_;  // sorted by matrix
    std::vector<size_t> first_row_;   // of each matrix in rows_, and the end
};

}  // namespace apex
