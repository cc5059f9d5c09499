// A design that was not taken, kept for comparison: histograms of 16 bins, a pass by high nibbles, then one by low nibbles.
//
//   ring      (count, pitch) uint8   `values` samples a row; pitch a multiple of 128, ring aligned to 128 bytes
//   ranks     (rank_count,) uint32   each below count; rank_count <= MAX_RANKS
//   variance  (values,) float32
//   order     (rank_count, order_pitch) uint8   row r: the samples that sorting over count puts at ranks[r]
//
//   block     128 neighbouring values: one 128-byte line of each row; their histograms fill 4 KB of shared memory.
//   warp      every 8th row; each lane reads 4 values in one word, UNROLL rows in flight.
//   word      column (j & 1) * 32 + lane, half j >> 1 for value 4 * lane + j: the 32 lanes always hit 32 banks.
//   thread    adds up its samples in registers. The first 128 threads then own a value each and walk its 16 bins.
//   passes    1: high nibbles, and sums. 2: low nibbles of the samples whose high nibble is the rank's. Ranks that agree
//             in the high nibble of all 128 values share their second pass.
//
// Limits: count <= 65535. Launch: blocks = ceil(values / 128), 256 threads, 4096 bytes of dynamic shared memory.
// Reads each byte twice, and once more for each rank that lies elsewhere.
// Reference: `variance` and `ranks` in gpu_bgstat/backends/cpu.py.
#include "variance.cuh"

#ifndef UNROLL
#define UNROLL 8
#endif
#ifndef MAX_RANKS
#define MAX_RANKS 8
#endif

constexpr int THREADS = 256, WARPS = THREADS / 32, VALUES = 128, COLUMNS = 64, BINS = 16;

// visit(quad) for each word of this lane in the rows of this warp.
template <typename Visit>
__device__ __forceinline__ void each_quad(const unsigned char* column, long long pitch, unsigned count, Visit visit)
{
    unsigned row = threadIdx.x / 32;
    for (; row + (UNROLL - 1) * WARPS < count; row += UNROLL * WARPS) {
        unsigned quads[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            quads[u] = *reinterpret_cast<const unsigned*>(column + (row + u * WARPS) * pitch);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) visit(quads[u]);
    }
    for (; row < count; row += WARPS) visit(*reinterpret_cast<const unsigned*>(column + row * pitch));
}

// The bin that holds this rank of the value in this half of a column, and the rank's place within the bin.
__device__ __forceinline__ unsigned find(const unsigned* bins, int column, int half, unsigned rank, unsigned& place)
{
    unsigned bin = 0, before = 0, seen = 0;
    for (int k = 0; k < BINS; ++k) {
        seen += bins[k * COLUMNS + column] >> 16 * half & 0xffff;
        if (seen <= rank) before = seen, ++bin;
    }
    place = rank - before;
    return bin;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    nibbles_u8(const unsigned char* __restrict__ ring, long long pitch, unsigned count, long long values,
               const unsigned* __restrict__ ranks, unsigned rank_count, float* __restrict__ variance,
               unsigned char* __restrict__ order, long long order_pitch)
{
    extern __shared__ uint4 shared[];
    unsigned* bins = reinterpret_cast<unsigned*>(shared);
    __shared__ unsigned sums[VALUES], squares[VALUES];  // count * 255**2 < 2**32
    __shared__ unsigned char high[MAX_RANKS][VALUES];    // the high nibble of each rank, and the rank's place
    __shared__ unsigned short rest[MAX_RANKS][VALUES];   // among the samples with this high nibble
    const int thread = threadIdx.x, lane = thread % 32;
    const long long first = (long long)blockIdx.x * VALUES;
    const unsigned char* column = ring + first + 4 * lane;
    unsigned* mine = bins + lane;
    // Of the value that this thread owns, if it is below VALUES.
    const int own_column = (thread & 1) * 32 + thread / 4, own_half = thread >> 1 & 1;

    for (int k = thread; k < BINS * COLUMNS; k += THREADS) bins[k] = 0;
    if (thread < VALUES) sums[thread] = squares[thread] = 0;
    __syncthreads();
    unsigned sum[4] = {}, square[4] = {};
    each_quad(column, pitch, count, [&](unsigned quad) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const unsigned x = quad >> 8 * j & 0xff;
            sum[j] += x, square[j] += x * x;
            atomicAdd(mine + (x >> 4) * COLUMNS + (j & 1) * 32, 1u << 16 * (j >> 1));
        }
    });
#pragma unroll
    for (int j = 0; j < 4; ++j) atomicAdd(sums + 4 * lane + j, sum[j]), atomicAdd(squares + 4 * lane + j, square[j]);
    __syncthreads();
    if (thread < VALUES) {
        if (first + thread < values) variance[first + thread] = exact_variance(count, sums[thread], squares[thread]);
        for (unsigned r = 0; r < rank_count; ++r) {
            unsigned place;
            high[r][thread] = find(bins, own_column, own_half, ranks[r], place);
            rest[r][thread] = place;
        }
    }
    __syncthreads();

    unsigned done = 0;  // one bit a rank, the same in all threads
    for (unsigned r = 0; r < rank_count; ++r) {
        if (done >> r & 1) continue;
        unsigned aims[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) aims[j] = high[r][4 * lane + j];
        for (int k = thread; k < BINS * COLUMNS; k += THREADS) bins[k] = 0;
        __syncthreads();
        each_quad(column, pitch, count, [&](unsigned quad) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const unsigned x = quad >> 8 * j & 0xff;
                if (x >> 4 == aims[j]) atomicAdd(mine + (x & 15) * COLUMNS + (j & 1) * 32, 1u << 16 * (j >> 1));
            }
        });
        __syncthreads();
        for (unsigned other = r; other < rank_count; ++other) {
            const bool same = thread >= VALUES || high[other][thread] == high[r][thread];
            if (!__syncthreads_and(same)) continue;
            done |= 1u << other;
            if (thread >= VALUES || first + thread >= values) continue;
            unsigned place;
            const unsigned low = find(bins, own_column, own_half, rest[other][thread], place);
            order[other * order_pitch + first + thread] = high[r][thread] << 4 | low;
        }
        __syncthreads();
    }
}
