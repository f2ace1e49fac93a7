// The threads of a block as an algorithm sees them, on a GPU and (one after the other) on a CPU.
//
// An algorithm is written against a Block: phases that every thread runs, with everything a phase
// wrote to shared memory seen by the next. On a CPU a phase is a loop over the threads, so the test
// programs run the very code of a kernel, indices and order of operations included.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define APEX_BLOCK __device__ __forceinline__
#else
#include <vector>
#define APEX_BLOCK inline
#endif

namespace apex::cuda {

// The same number, of which the compiler knows nothing: what is worked out from it is not kept in
// registers from one turn of a loop to the next.
APEX_BLOCK int64_t opaque(int64_t number) {
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+l"(number));
#endif
    return number;
}

// Some T of the memory that a block shares. On a GPU it is known by its place there, not by an
// address, so that the compiler knows where it looks.
template <typename T>
struct Shared {
#if defined(__CUDACC__)
    int place;

    __device__ __forceinline__ T* get() const {
        extern __shared__ float4 of_block[];
        return reinterpret_cast<T*>(reinterpret_cast<float*>(of_block) + place);
    }
    static __host__ __device__ Shared at(void*, int place) { return {place}; }
#else
    T* start;

    T* get() const { return start; }
    static Shared at(void* of_block, int place) {
        return {reinterpret_cast<T*>(static_cast<float*>(of_block) + place)};
    }
#endif
    APEX_BLOCK T& operator[](int i) const { return get()[i]; }
};

#if defined(__CUDACC__)

struct Block {
    // phase(thread) for every thread; what it wrote is seen afterwards.
    template <typename Phase>
    APEX_BLOCK void run(const Phase& phase) const {
        phase(static_cast<int>(threadIdx.x));
        __syncthreads();
    }
    APEX_BLOCK int size() const { return static_cast<int>(blockDim.x); }

    // A value of each thread, from one phase to the next.
    template <typename T>
    struct PerThread {
        T value;
        APEX_BLOCK explicit PerThread(const Block&) {}
        APEX_BLOCK T& operator[](int) { return value; }
    };
};

#else

struct Block {
    int n_threads;

    template <typename Phase>
    void run(const Phase& phase) const {
        for (int thread = 0; thread < n_threads; ++thread) phase(thread);
    }
    int size() const { return n_threads; }

    template <typename T>
    struct PerThread {
        std::vector<T> values;
        explicit PerThread(const Block& block) : values(static_cast<size_t>(block.n_threads)) {}
        T& operator[](int thread) { return values[static_cast<size_t>(thread)]; }
    };
};

#endif

}  // namespace apex::cuda
