// Variance and order statistics of a ring of 8-bit samples. Every sample byte is read once.
//
//   ring      (count, pitch) uint8   `values` samples a row; pitch a multiple of 128, ring aligned to 128 bytes
//   ranks     (rank_count,) uint32   each below count
//   variance  (values,) float32
//   order     (rank_count, order_pitch) uint8   row r: the samples that sorting over count puts at ranks[r]
//
//   block     128 neighbouring values: one 128-byte line of each row. Their histograms fill 64 KB of shared memory.
//   warp      every 32nd row; each lane reads 4 values in one word, UNROLL rows in flight, and counts them.
//   word      column (j & 1) * 32 + lane, half j >> 1 for value 4 * lane + j: the 32 lanes always hit 32 banks.
//   thread    then owns 16 bins of 2 values: sums, squares and ranks come from the bins, not from the samples.
//
// Limits: count <= 65535. Launch: blocks = ceil(values / 128), 1024 threads, 65536 bytes of dynamic shared memory.
// Reference: `variance` and `ranks` in gpu_bgstat/backends/cpu.py.
#include "bins.cuh"
#include "variance.cuh"

#ifndef UNROLL
#define UNROLL 4
#endif

constexpr int THREADS = 1024, WARPS = THREADS / 32, VALUES = 128, COLUMNS = 64;

__device__ __forceinline__ void count_in(unsigned* mine, unsigned quad)
{
#pragma unroll
    for (int j = 0; j < 4; ++j)
        atomicAdd(mine + (quad >> 8 * j & 0xff) * COLUMNS + (j & 1) * 32, 1u << 16 * (j >> 1));
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    statistics_u8(const unsigned char* __restrict__ ring, long long pitch, unsigned count, long long values,
                  const unsigned* __restrict__ ranks, unsigned rank_count, float* __restrict__ variance,
                  unsigned char* __restrict__ order, long long order_pitch)
{
    extern __shared__ uint4 shared[];
    unsigned* bins = reinterpret_cast<unsigned*>(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long long first = (long long)blockIdx.x * VALUES;

    clear_bins<COLUMNS, THREADS>(bins);
    __syncthreads();
    const unsigned char* column = ring + first + 4 * lane;
    unsigned row = warp;
    for (; row + (UNROLL - 1) * WARPS < count; row += UNROLL * WARPS) {
        unsigned quads[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            quads[u] = __ldcs(reinterpret_cast<const unsigned*>(column + (row + u * WARPS) * pitch));
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) count_in(bins + lane, quads[u]);
    }
    if (row < count) {  // the rest in one batch, too: one wait for memory instead of UNROLL - 1
        unsigned quads[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            if (row + u * WARPS < count)
                quads[u] = __ldcs(reinterpret_cast<const unsigned*>(column + (row + u * WARPS) * pitch));
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            if (row + u * WARPS < count) count_in(bins + lane, quads[u]);
    }
    __syncthreads();

    using Bins = OwnedBins<COLUMNS, THREADS>;
    Bins mine;
    mine.load(bins);
    const int offset = 4 * (Bins::column() % 32) + Bins::column() / 32;  // of the value in the low half; + 2 in the high
    for (unsigned r = 0; r < rank_count; ++r) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            unsigned place;
            const int found = mine.find(half, ranks[r], place);
            const long long value = first + offset + 2 * half;
            if (found >= 0 && value < values) order[r * order_pitch + value] = found;
        }
    }

    // count * 255**2 < 2**32: 32 bits hold the squares. The sums lie behind the words that `load` has used.
    unsigned* sums = bins + THREADS;            // [half][group][column]
    unsigned* squares = sums + 2 * THREADS;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        unsigned sum = 0, square = 0;
#pragma unroll
        for (int k = 0; k < Bins::BINS; ++k) {
            const unsigned x = Bins::group() * Bins::BINS + k, times = mine.words[k] >> 16 * half & 0xffff;
            sum += x * times;
            square += x * x * times;
        }
        sums[half * THREADS + threadIdx.x] = sum;
        squares[half * THREADS + threadIdx.x] = square;
    }
    __syncthreads();
    if (threadIdx.x >= VALUES) return;
    const int half = threadIdx.x / COLUMNS;
    unsigned sum = 0, square = 0;
    for (int g = 0; g < Bins::GROUPS; ++g) {
        sum += sums[half * THREADS + g * COLUMNS + Bins::column()];
        square += squares[half * THREADS + g * COLUMNS + Bins::column()];
    }
    const long long value = first + offset + 2 * half;
    if (value < values) variance[value] = exact_variance(count, sum, square);
}
