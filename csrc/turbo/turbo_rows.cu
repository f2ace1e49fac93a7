// Rows of a cache are written, and read as halfs by the kernels that compute with matrices.
#include <algorithm>

#include "decode.cuh"
#include "encode.cuh"
#include "turbo_device.h"

namespace apex::turbo {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// --- writing ------------------------------------------------------------------------------------

// Strides in floats, numbers and bytes.
struct RowsJob {
    const char* source;
    const char* numbers;
    char* target;
    int64_t n_blocks;
    int64_t blocks_a_row, ne01, ne02, ne11, ne12;
    size_t nb01, nb02, nb03, nb10, nb11, nb12, nb1, nb2, nb3;
};

template <class Format, class Number>
__global__ void write_rows(const RowsJob job) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (i >= job.n_blocks) return;
    const int64_t block = i % job.blocks_a_row;
    int64_t row = i / job.blocks_a_row;
    const int64_t i01 = row % job.ne01;
    row /= job.ne01;
    const int64_t i02 = row % job.ne02, i03 = row / job.ne02;
    const int64_t number = *reinterpret_cast<const Number*>(
        job.numbers + i01 * job.nb10 + i02 % job.ne11 * job.nb11 + i03 % job.ne12 * job.nb12);
    const auto* source = reinterpret_cast<const float*>(job.source + i01 * job.nb01 +
                                                        i02 * job.nb02 + i03 * job.nb03);
    auto* target = reinterpret_cast<typename Format::Block*>(job.target + number * job.nb1 +
                                                             i02 * job.nb2 + i03 * job.nb3);
    encode_by_warp<Format>(source + block * QK_TURBO, target + block);
}

RowsJob rows_job(const ggml_tensor* op) {
    const ggml_tensor* source = op->src[0];
    const ggml_tensor* numbers = op->src[1];
    RowsJob job{};
    job.source = static_cast<const char*>(source->data);
    job.numbers = static_cast<const char*>(numbers->data);
    job.target = static_cast<char*>(op->data);
    job.n_blocks = ggml_nelements(source) / QK_TURBO;
    job.blocks_a_row = source->ne[0] / QK_TURBO;
    job.ne01 = source->ne[1], job.ne02 = source->ne[2];
    job.ne11 = numbers->ne[1], job.ne12 = numbers->ne[2];
    job.nb01 = source->nb[1], job.nb02 = source->nb[2], job.nb03 = source->nb[3];
    job.nb10 = numbers->nb[0], job.nb11 = numbers->nb[1], job.nb12 = numbers->nb[2];
    job.nb1 = op->nb[1], job.nb2 = op->nb[2], job.nb3 = op->nb[3];
    return job;
}

template <class Format>
void launch_write(const ggml_tensor* op, cudaStream_t stream) {
    const RowsJob job = rows_job(op);
    if (job.n_blocks == 0) return;
    const auto grid = static_cast<unsigned>((job.n_blocks + kWarps - 1) / kWarps);
    if (op->src[1]->type == GGML_TYPE_I64) {
        write_rows<Format, int64_t><<<grid, kThreads, 0, stream>>>(job);
    } else {
        write_rows<Format, int32_t><<<grid, kThreads, 0, stream>>>(job);
    }
}

// --- reading ------------------------------------------------------------------------------------

// Four values a thread, of rows that follow each other in y. Strides in blocks.
template <class Format>
__global__ void read_rows(const typename Format::Block* x, half* y, int64_t ne00, int64_t ne01,
                          int64_t ne02, int64_t n_planes, int64_t s01, int64_t s02, int64_t s03) {
    const int64_t i00 = 4 * (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
    if (i00 >= ne00) return;
    const auto group = static_cast<unsigned>(i00 % QK_TURBO) / 4;
    for (int64_t i01 = blockIdx.y; i01 < ne01; i01 += gridDim.y) {
        for (int64_t plane = blockIdx.z; plane < n_planes; plane += gridDim.z) {
            const auto& block =
                x[plane / ne02 * s03 + plane % ne02 * s02 + i01 * s01 + i00 / QK_TURBO];
            const int levels = four_levels<Format>(block, group);
            const auto* level = reinterpret_cast<const int8_t*>(&levels);
            const float scale = scale_of<Format>(block);
            half2 values[2];
            values[0] = __floats2half2_rn(scale * level[0], scale * level[1]);
            values[1] = __floats2half2_rn(scale * level[2], scale * level[3]);
            half* to = y + (plane * ne01 + i01) * ne00 + i00;
            *reinterpret_cast<float2*>(to) = *reinterpret_cast<const float2*>(values);
        }
    }
}

template <class Format>
void launch_read_strided(const void* x, half* y, int64_t ne00, int64_t ne01, int64_t ne02,
                         int64_t ne03, int64_t s01, int64_t s02, int64_t s03, cudaStream_t stream) {
    const int64_t n_planes = ne02 * ne03;
    const dim3 grid(static_cast<unsigned>((ne00 / 4 + kThreads - 1) / kThreads),
                    static_cast<unsigned>(std::min<int64_t>(ne01, 65535)),
                    static_cast<unsigned>(std::min<int64_t>(n_planes, 65535)));
    read_rows<Format><<<grid, kThreads, 0, stream>>>(static_cast<const typename Format::Block*>(x),
                                                     y, ne00, ne01, ne02, n_planes, s01, s02, s03);
}

template <class Format>
void launch_read(const void* x, half* y, int64_t n, cudaStream_t stream) {
    launch_read_strided<Format>(x, y, n, 1, 1, 1, 0, 0, 0, stream);
}

}  // namespace
}  // namespace apex::turbo

bool apex_turbo_can_set_rows(const ggml_tensor* op) {
    const ggml_type number = op->src[1]->type;
    return apex_is_turbo(op->type) && op->src[0]->type == GGML_TYPE_F32 &&
           op->src[0]->ne[0] % QK_TURBO == 0 && op->src[0]->nb[0] == sizeof(float) &&
           (number == GGML_TYPE_I64 || number == GGML_TYPE_I32);
}

bool apex_turbo_set_rows(ggml_tensor* op, cudaStream_t stream) {
    using namespace apex::turbo;
    if (op->type == GGML_TYPE_TURBO2) {
        launch_write<Turbo2>(op, stream);
    } else if (op->type == GGML_TYPE_TURBO3) {
        launch_write<Turbo3>(op, stream);
    } else if (op->type == GGML_TYPE_TURBO4) {
        launch_write<Turbo4>(op, stream);
    } else {
        return false;
    }
    return true;
}

ApexToHalf apex_turbo_to_half(ggml_type type) {
    using namespace apex::turbo;
    if (type == GGML_TYPE_TURBO2) return launch_read<Turbo2>;
    if (type == GGML_TYPE_TURBO3) return launch_read<Turbo3>;
    if (type == GGML_TYPE_TURBO4) return launch_read<Turbo4>;
    return nullptr;
}

ApexToHalfStrided apex_turbo_to_half_strided(ggml_type type) {
    using namespace apex::turbo;
    if (type == GGML_TYPE_TURBO2) return launch_read_strided<Turbo2>;
    if (type == GGML_TYPE_TURBO3) return launch_read_strided<Turbo3>;
    if (type == GGML_TYPE_TURBO4) return launch_read_strided<Turbo4>;
    return nullptr;
}
