// Variance and order statistics of a ring of 16-bit samples: a pass by high bytes, then one by low bytes.
//
//   ring      (count, pitch bytes) uint16   `values` samples a row; pitch a multiple of 128, ring aligned to 128 bytes
//   ranks     (rank_count,) uint32   each below count; rank_count <= MAX_RANKS
//   variance  (values,) float32
//   order     (rank_count, order_pitch values) uint16   row r: the samples that sorting over count puts at ranks[r]
//
//   block     64 neighbouring values: one 128-byte line of each row; histograms of one byte in 32 KB of shared memory.
//   warp      every 16th row; each lane reads 2 values in one word, UNROLL rows in flight.
//   word      column = lane, half j for value 2 * lane + j: the 32 lanes always hit 32 banks.
//   passes    1: high bytes, and sums in registers. 2: low bytes of the samples whose high byte is the rank's. Ranks that
//             agree in the high byte of all 64 values, as the two middles nearly always do, share their second pass.
//
// Variants, of variants.cuh: -DCHOSEN=1 writes no variance, but order (2, order_pitch): the two middle samples of those that
// count; 0 where none does. What does not count is not read.
//
// Limits: count <= 65535. Launch: blocks = ceil(values / 64), 512 threads, 32768 bytes of dynamic shared memory.
// Reads each byte twice (the second time mostly from the L2 cache), and once more for each rank that lies elsewhere.
// Reference: `variance`, `ranks` and `middles` in gpu_bgstat/backends/cpu.py.
#include "bins.cuh"
#include "variance.cuh"
#include "variants.cuh"

#ifndef UNROLL
#define UNROLL (CHOSEN ? 4 : LIGHT ? 2 : 8)
#endif
#ifndef BLOCKS  // resident on an SM; a third would not fit into the shared memory of 12.x, nor the variants' registers
#if __CUDA_ARCH__ >= 1200 || LIGHT || CHOSEN
#define BLOCKS 2
#else
#define BLOCKS 3
#endif
#endif
#ifndef MAX_RANKS
#define MAX_RANKS 8
#endif

constexpr int THREADS = 512, WARPS = THREADS / 32, VALUES = 64, COLUMNS = 32;
using Bins = OwnedBins<COLUMNS, THREADS>;

// visit(pair, counts) for each word of this lane in the rows of this warp.
template <typename Visit>
__device__ __forceinline__ void each_pair(const unsigned char* column, long long pitch, unsigned count,
                                          const Reading& reading, const Light<2, long long>& light,
                                          const unsigned (&patches)[2], Visit visit)
{
    const auto load = [&](unsigned row) {
        return *reinterpret_cast<const unsigned*>(column + row_of(reading, row) * pitch);
    };
#if CHOSEN
    each_chosen<2, WARPS, UNROLL>(reading, patches, count, load,
                                  [&](unsigned pair, unsigned row, const bool (&counts)[2]) {
                                      visit(light.on(pair, row), counts);
                                  });
#else
    constexpr bool both[2] = {true, true};
    unsigned row = threadIdx.x / 32;
    for (; row + (UNROLL - 1) * WARPS < count; row += UNROLL * WARPS) {
        unsigned pairs[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) pairs[u] = load(row + u * WARPS);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) visit(light.on(pairs[u], row + u * WARPS), both);
    }
    for (; row < count; row += WARPS) visit(light.on(load(row), row), both);
#endif
}

// The variance from this thread's sums of 2 values over its rows; uses the bins as scratch, between barriers.
__device__ __forceinline__ void write_variance(unsigned* bins, const unsigned long long (&sum)[2],
                                               const unsigned long long (&square)[2], unsigned count, long long first,
                                               long long values, float* __restrict__ variance)
{
    unsigned long long* scratch = reinterpret_cast<unsigned long long*>(bins);  // [sum, square][half][thread]
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        scratch[half * THREADS + threadIdx.x] = sum[half];
        scratch[(2 + half) * THREADS + threadIdx.x] = square[half];
    }
    __syncthreads();
    if (threadIdx.x < VALUES) {
        const int half = threadIdx.x % 2, lane = threadIdx.x / 2;
        unsigned long long total = 0, total_sq = 0;
        for (int w = 0; w < WARPS; ++w) {
            total += scratch[half * THREADS + w * 32 + lane];
            total_sq += scratch[(2 + half) * THREADS + w * 32 + lane];
        }
        if (first + threadIdx.x < values) variance[first + threadIdx.x] = exact_variance(count, total, total_sq);
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    statistics_u16(const unsigned char* __restrict__ ring, long long pitch, unsigned count, long long values,
                   const unsigned* __restrict__ ranks, unsigned rank_count, float* __restrict__ variance,
                   unsigned short* __restrict__ order, long long order_pitch, const Reading reading)
{
    extern __shared__ uint4 shared[];
    unsigned* bins = reinterpret_cast<unsigned*>(shared);
    __shared__ unsigned char high[MAX_RANKS][VALUES];    // the high byte of each rank, and the rank's place
    __shared__ unsigned short rest[MAX_RANKS][VALUES];   // among the samples with this high byte
#if CHOSEN
    __shared__ unsigned short numbers[VALUES];           // samples that count
#endif
    const int lane = threadIdx.x % 32;
    const long long first = (long long)blockIdx.x * VALUES;
    const unsigned char* column = ring + 2 * first + 4 * lane;

    const Light<2, long long> light(reading, first + 2 * lane);
    unsigned patches[2];
#if CHOSEN
    // A division for each value, not for each lane and sample; the bins are not in use yet.
    unsigned number = 0;  // samples that count for value first + threadIdx.x
    if (threadIdx.x < VALUES) {
        const unsigned patch = patch_of(reading, min(first + threadIdx.x, values - 1));
        bins[threadIdx.x] = patch;
        numbers[threadIdx.x] = number = reading.counts[patch];
        for (int r = 0; r < 2; ++r) {
            high[r][threadIdx.x] = rest[r][threadIdx.x] = 0;
            if (number == 0 && first + threadIdx.x < values) order[r * order_pitch + first + threadIdx.x] = 0;
        }
    }
    if (!__syncthreads_or(number)) return;
#pragma unroll
    for (int j = 0; j < 2; ++j) patches[j] = bins[2 * lane + j];
    __syncthreads();
#endif

    clear_bins<COLUMNS, THREADS>(bins);
    __syncthreads();
    unsigned long long sum[2] = {0, 0}, square[2] = {0, 0};
    each_pair(column, pitch, count, reading, light, patches, [&](unsigned pair, const bool (&counts)[2]) {
        const unsigned a = pair & 0xffff, b = pair >> 16;
        sum[0] += a, square[0] += a * a;
        sum[1] += b, square[1] += b * b;
        if (counts[0]) atomicAdd(bins + (a >> 8) * COLUMNS + lane, 1u);
        if (counts[1]) atomicAdd(bins + (b >> 8) * COLUMNS + lane, 1u << 16);
    });
    __syncthreads();
    Bins mine;
    mine.load(bins);
    for (unsigned r = 0; r < rank_count; ++r) {
#pragma unroll 1  // the bins stay as packed words: 20 registers less
        for (int half = 0; half < 2; ++half) {
#if CHOSEN
            const unsigned rank = middle(numbers[2 * lane + half], r);
#else
            const unsigned rank = ranks[r];
#endif
            unsigned place;
            const int found = mine.find(half, rank, place);
            if (found >= 0) high[r][2 * lane + half] = found, rest[r][2 * lane + half] = place;
        }
    }
    __syncthreads();
#if !CHOSEN
    write_variance(bins, sum, square, count, first, values, variance);
#endif

    unsigned done = 0;  // one bit a rank, the same in all threads
    for (unsigned r = 0; r < rank_count; ++r) {
        if (done >> r & 1) continue;
        const unsigned aims[2] = {high[r][2 * lane], high[r][2 * lane + 1]};
        clear_bins<COLUMNS, THREADS>(bins);
        __syncthreads();
        each_pair(column, pitch, count, reading, light, patches, [&](unsigned pair, const bool (&counts)[2]) {
            if (counts[0] && (pair >> 8 & 0xff) == aims[0]) atomicAdd(bins + (pair & 0xff) * COLUMNS + lane, 1u);
            if (counts[1] && pair >> 24 == aims[1]) atomicAdd(bins + (pair >> 16 & 0xff) * COLUMNS + lane, 1u << 16);
        });
        __syncthreads();
        mine.load(bins);
        for (unsigned other = r; other < rank_count; ++other) {
            const bool same = high[other][2 * lane] == aims[0] && high[other][2 * lane + 1] == aims[1];
            if (!__syncthreads_and(same)) continue;
            done |= 1u << other;
#pragma unroll 1
            for (int half = 0; half < 2; ++half) {
                unsigned place;
                const int found = mine.find(half, rest[other][2 * lane + half], place);
                const long long value = first + 2 * lane + half;
                if (found >= 0 && value < values) order[other * order_pitch + value] = aims[half] << 8 | found;
            }
        }
    }
}
