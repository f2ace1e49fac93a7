#include "bench/row_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/checks.h"
#include "core/convert_rows.h"
#include "core/error.h"
#include "core/quantize_rows.h"
#include "core/simd_clones.h"
#include "ggml-cpu.h"

namespace apex {
namespace {

using Bytes = std::vector<uint8_t>;

// Dot products agree with double arithmetic to this share of the norms. Rounding 4096 activations
// to 8 bits moves it by some 1e-4, summing F16 in halves (ARM) by 1e-3. A wrong scale moves the sum
// of n random products by about 1 / sqrt(n), 1.6e-2.
constexpr double kDotTolerance = 2e-3;

APEX_SIMD_CLONES
uint64_t sum_words(const uint8_t* data, size_t n_words) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n_words; ++i) {
        uint64_t word;
        std::memcpy(&word, data + i * sizeof(word), sizeof(word));
        sum += word;
    }
    return sum;
}

Bytes tile_floats(const KernelTile& tile) {
    const auto* begin = reinterpret_cast<const uint8_t*>(tile.weights);
    return {begin, begin + static_cast<size_t>(tile.n_rows * tile.n_per_row) * sizeof(float)};
}

std::vector<float> to_floats(ggml_type type, const Bytes& stored, int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    convert_to_float(type, stored.data(), values.data(), n);
    return values;
}

// ||found - wanted|| / ||wanted||, in double.
double relative_rmse(const float* found, const float* wanted, int64_t n) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double difference = static_cast<double>(found[i]) - wanted[i];
        error += difference * difference;
        size += static_cast<double>(wanted[i]) * wanted[i];
    }
    return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

class TileKernels {
  public:
    TileKernels(ggml_type type, const KernelTile& tile) : type_(type), tile_(tile) {
        float_row_ = static_cast<size_t>(tile.n_per_row) * sizeof(float);
        stored_row_ = static_cast<size_t>(row_bytes(type, tile.n_per_row));
    }

    RowKernel make(KernelOperation operation) const {
        switch (operation) {
            case KernelOperation::copy:
                return copy();
            case KernelOperation::read:
                return read();
            case KernelOperation::vec_dot:
                return vec_dot();
            case KernelOperation::quantize:
                return quantize();
            default:
                return dequantize(operation == KernelOperation::widen);
        }
    }

  private:
    int64_t n_weights() const { return tile_.n_rows * tile_.n_per_row; }

    Bytes stored_tile() const {
        Bytes stored(stored_row_ * static_cast<size_t>(tile_.n_rows));
        quantize_rows(type_, tile_.weights, stored.data(), tile_.n_rows, tile_.n_per_row,
                      tile_.imatrix);
        return stored;
    }

    RowKernel copy() const {
        RowKernel kernel;
        kernel.in_row = kernel.out_row = float_row_;
        kernel.compute = [row = float_row_](const uint8_t* in, uint8_t* out, int64_t n) {
            std::memcpy(out, in, row * static_cast<size_t>(n));
        };
        kernel.input = kernel.expected = tile_floats(tile_);
        return kernel;
    }

    RowKernel read() const {
        RowKernel kernel;
        kernel.in_row = float_row_;
        kernel.out_row = sizeof(uint64_t);
        kernel.compute = [row = float_row_](const uint8_t* in, uint8_t* out, int64_t n) {
            for (int64_t i = 0; i < n; ++i) {
                const uint64_t sum = sum_words(in + static_cast<size_t>(i) * row, row / 8);
                std::memcpy(out + static_cast<size_t>(i) * sizeof(sum), &sum, sizeof(sum));
            }
        };
        kernel.input = tile_floats(tile_);
        for (int64_t i = 0; i < tile_.n_rows; ++i) {
            uint64_t sum = 0, word = 0;
            for (size_t at = 0; at + sizeof(word) <= float_row_; at += sizeof(word)) {
                std::memcpy(&word, &kernel.input[static_cast<size_t>(i) * float_row_ + at],
                            sizeof(word));
                sum += word;
            }
            const auto* bytes = reinterpret_cast<const uint8_t*>(&sum);
            kernel.expected.insert(kernel.expected.end(), bytes, bytes + sizeof(sum));
        }
        return kernel;
    }

    // Either path is compared with ggml's function, which is compared with the weights themselves.
    RowKernel dequantize(bool widen) const {
        RowKernel kernel;
        kernel.in_row = stored_row_;
        kernel.out_row = float_row_;
        const ggml_to_float_t by_ggml = ggml_get_type_traits(type_)->to_float;
        const int64_t n_per_row = tile_.n_per_row;
        if (widen) {
            kernel.compute = [type = type_, n_per_row](const uint8_t* in, uint8_t* out, int64_t n) {
                convert_to_float(type, in, reinterpret_cast<float*>(out), n * n_per_row);
            };
        } else {
            kernel.compute = [by_ggml, n_per_row](const uint8_t* in, uint8_t* out, int64_t n) {
                by_ggml(in, reinterpret_cast<float*>(out), n * n_per_row);
            };
        }
        kernel.input = stored_tile();
        std::vector<float> values(static_cast<size_t>(n_weights()));
        by_ggml(kernel.input.data(), values.data(), n_weights());
        const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
        kernel.expected.assign(bytes, bytes + values.size() * sizeof(float));
        kernel.relative_error = relative_rmse(values.data(), tile_.weights, n_weights());
        return kernel;
    }

    RowKernel quantize() const {
        RowKernel kernel;
        kernel.in_row = float_row_;
        kernel.out_row = stored_row_;
        kernel.compute = [type = type_, tile = tile_](const uint8_t* in, uint8_t* out, int64_t n) {
            quantize_rows(type, reinterpret_cast<const float*>(in), out, n, tile.n_per_row,
                          tile.imatrix);
        };
        kernel.input = tile_floats(tile_);
        kernel.expected = stored_tile();
        const std::vector<float> values = to_floats(type_, kernel.expected, n_weights());
        kernel.relative_error = relative_rmse(values.data(), tile_.weights, n_weights());
        return kernel;
    }

    // The activations are the tile's first row, in the type the dot product wants them in.
    RowKernel vec_dot() const {
        const ggml_type_traits_cpu* traits = ggml_get_type_traits_cpu(type_);
        const ggml_type activation_type = traits->vec_dot_type;
        Bytes activations(row_bytes(activation_type, tile_.n_per_row));
        ggml_get_type_traits_cpu(activation_type)
            ->from_float(tile_.weights, activations.data(), tile_.n_per_row);
        RowKernel kernel;
        kernel.in_row = stored_row_;
        kernel.out_row = sizeof(float);
        kernel.compute = [dot = traits->vec_dot, activations, row = stored_row_,
                          n_per_row = static_cast<int>(tile_.n_per_row)](const uint8_t* in,
                                                                         uint8_t* out, int64_t n) {
            for (int64_t i = 0; i < n; ++i) {
                dot(n_per_row, reinterpret_cast<float*>(out) + i, 0,
                    in + static_cast<size_t>(i) * row, 0, activations.data(), 0, 1);
            }
        };
        kernel.input = stored_tile();
        kernel.expected.resize(sizeof(float) * static_cast<size_t>(tile_.n_rows));
        kernel.compute(kernel.input.data(), kernel.expected.data(), tile_.n_rows);
        kernel.relative_error = dot_error(kernel);
        if (!(kernel.relative_error <= kDotTolerance)) {
            fail<Error>(ggml_type_name(type_), ": a dot product is off by ", kernel.relative_error,
                        " of the norms, expected at most ", kDotTolerance);
        }
        return kernel;
    }

    // The largest |found - wanted| / (|weights| |activations|) of all rows. The activations are
    // taken as they were before they were stored.
    double dot_error(const RowKernel& kernel) const {
        const int64_t n = tile_.n_per_row;
        const std::vector<float> w = to_floats(type_, kernel.input, n_weights());
        double worst = 0;
        for (int64_t row = 0; row < tile_.n_rows; ++row) {
            double wanted = 0, w_size = 0, a_size = 0;
            for (int64_t i = 0; i < n; ++i) {
                const double x = w[static_cast<size_t>(row * n + i)], y = tile_.weights[i];
                wanted += x * y;
                w_size += x * x;
                a_size += y * y;
            }
            float found;
            std::memcpy(&found, &kernel.expected[static_cast<size_t>(row) * sizeof(found)],
                        sizeof(found));
            const double norms = std::sqrt(w_size * a_size);
            const double error = std::abs(found - wanted) / (norms > 0 ? norms : 1.0);
            worst = std::isnan(error) ? error : std::max(worst, error);
            if (std::isnan(worst)) break;
        }
        return worst;
    }

    ggml_type type_;
    KernelTile tile_;
    size_t float_row_, stored_row_;
};

}  // namespace

RowKernel make_row_kernel(KernelOperation operation, ggml_type type, const KernelTile& tile) {
    return TileKernels(type, tile).make(operation);
}

}  // namespace apex
