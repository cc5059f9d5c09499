// A design that was not taken, kept for comparison: order statistics by bisection, without histograms and shared memory.
//
//   ring      (count, pitch) uint8   `values` samples a row; pitch a multiple of 128, ring aligned to 128 bytes
//   ranks     (rank_count,) uint32   each below count
//   variance  (values,) float32
//   order     (rank_count, order_pitch) uint8   row r: the samples that sorting over count puts at ranks[r]
//
//   thread    4 neighbouring values, all their samples; sums, squares and counts in registers. Warps share nothing.
//   pass      counts the samples below a pivot; 8 passes settle the 8 bits of a sample. Two ranks share their passes.
//
// Limits: count <= 65535. Launch: blocks = ceil(values / 1024), 256 threads, 0 bytes of dynamic shared memory.
// Reads each byte 1 + 8 * ceil(rank_count / 2) times. Needs 4 * 256 values for each block to fill a device.
// Reference: `variance` and `ranks` in gpu_bgstat/backends/cpu.py.
#include "variance.cuh"

#ifndef UNROLL
#define UNROLL 8
#endif

constexpr int THREADS = 256;
constexpr unsigned GROUP = 255 / UNROLL * UNROLL;  // samples that counters of 8 bits hold

__device__ __forceinline__ unsigned read(const unsigned char* column, long long pitch, unsigned row)
{
    return __ldcs(reinterpret_cast<const unsigned*>(column + row * pitch));
}

// Samples below the pivot, one byte for each of the 4 values; rows first .. last - 1, at most 255.
template <int RANKS>
__device__ __forceinline__ void count_below(const unsigned char* column, long long pitch, unsigned first, unsigned last,
                                            const unsigned (&pivots)[RANKS], unsigned (&below)[RANKS])
{
    unsigned row = first;
    for (; row + UNROLL <= last; row += UNROLL) {
        unsigned quads[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) quads[u] = read(column, pitch, row + u);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
            for (int r = 0; r < RANKS; ++r) below[r] += __vsetltu4(quads[u], pivots[r]);
    }
    for (; row < last; ++row) {
        const unsigned quad = read(column, pitch, row);
#pragma unroll
        for (int r = 0; r < RANKS; ++r) below[r] += __vsetltu4(quad, pivots[r]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    bisection_u8(const unsigned char* __restrict__ ring, long long pitch, unsigned count, long long values,
                 const unsigned* __restrict__ ranks, unsigned rank_count, float* __restrict__ variance,
                 unsigned char* __restrict__ order, long long order_pitch)
{
    const long long first = 4 * ((long long)blockIdx.x * THREADS + threadIdx.x);
    if (first >= values) return;
    const unsigned char* column = ring + first;
    const int owned = values - first < 4 ? values - first : 4;

    unsigned sum[4] = {}, square[4] = {};  // count * 255**2 < 2**32
#pragma unroll UNROLL
    for (unsigned row = 0; row < count; ++row) {
        const unsigned quad = read(column, pitch, row);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const unsigned x = quad >> 8 * j & 0xff;
            sum[j] += x, square[j] += x * x;
        }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
        if (j < owned) variance[first + j] = exact_variance(count, sum[j], square[j]);

    for (unsigned r = 0; r < rank_count; r += 2) {
        const unsigned pair[2] = {r, r + 1 < rank_count ? r + 1 : r};
        unsigned found[2] = {0, 0};  // 4 values, one a byte
#pragma unroll 1
        for (unsigned bit = 0x80808080; bit & 0xff; bit = bit >> 1 & 0x7f7f7f7f) {
            const unsigned pivots[2] = {found[0] | bit, found[1] | bit};
            unsigned even[2] = {0, 0}, odd[2] = {0, 0};  // counts of 2 values each, 16 bits hold count
            for (unsigned row = 0; row < count; row += GROUP) {
                unsigned below[2] = {0, 0};
                count_below(column, pitch, row, count - row < GROUP ? count : row + GROUP, pivots, below);
#pragma unroll
                for (int k = 0; k < 2; ++k) even[k] += below[k] & 0x00ff00ff, odd[k] += below[k] >> 8 & 0x00ff00ff;
            }
#pragma unroll
            for (int k = 0; k < 2; ++k)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const unsigned below = (j & 1 ? odd[k] : even[k]) >> 16 * (j >> 1) & 0xffff;
                    if (below <= ranks[pair[k]]) found[k] |= bit & 0xffu << 8 * j;
                }
        }
#pragma unroll
        for (int k = 0; k < 2; ++k)
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (j < owned) order[pair[k] * order_pitch + first + j] = found[k] >> 8 * j & 0xff;
    }
}
