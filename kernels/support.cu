// How many samples are near an image: within `tolerance` levels of it.
//
//   ring     (count, pitch bytes) uint8, or uint16 with -DWIDE=1   `values` samples a row; pitch a multiple of 128, ring
//            aligned to 128 bytes
//   image    (values,) of the samples' type, aligned to 4 bytes, readable up to the next multiple of 4 bytes
//   support  (values,) uint16
//
//   block    one 128-byte line of each row: 128 or 64 neighbouring values.
//   warp     every 16th row; each lane reads one word, UNROLL rows in flight, and counts for its 4 or 2 values.
//
// Limits: count <= 65535. Launch: blocks = ceil(values / 128) or ceil(values / 64), 512 threads, 0 bytes of dynamic shared
// memory. Reads each byte once. Variants as in variants.cuh, but CHOSEN. Reference: `support` in
// gpu_bgstat/backends/cpu.py.
#include "variants.cuh"

#ifndef WIDE
#define WIDE 0
#endif
#ifndef UNROLL
#define UNROLL (LIGHT ? 4 : 8)
#endif

constexpr int BITS = WIDE ? 16 : 8, THREADS = 512, WARPS = THREADS / 32, N = 32 / BITS, VALUES = 32 * N;
constexpr unsigned TOP = (1u << BITS) - 1;
#if WIDE
using Sum = long long;
#else
using Sum = int;
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    support(const unsigned char* __restrict__ ring, long long pitch, unsigned count, long long values,
            const unsigned char* __restrict__ image, unsigned tolerance, unsigned short* __restrict__ support_of,
            const Reading reading)
{
    __shared__ unsigned short counts[WARPS][VALUES];  // of at most 4096 rows each
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long long first = static_cast<long long>(blockIdx.x) * VALUES, own = first + N * lane;
    const unsigned char* column = ring + own * (BITS / 8);
    const Light<N, Sum> light(reading, own);

    const unsigned center = own < values ? *reinterpret_cast<const unsigned*>(image + own * (BITS / 8)) : 0;
    unsigned low[N], near[N];
#pragma unroll
    for (int j = 0; j < N; ++j) low[j] = (center >> BITS * j & TOP) - tolerance, near[j] = 0;
    const auto compare = [&](unsigned word) {
#pragma unroll
        for (int j = 0; j < N; ++j) near[j] += (word >> BITS * j & TOP) - low[j] <= 2 * tolerance;  // lower ones wrap
    };
    unsigned row = warp;
    for (; row + (UNROLL - 1) * WARPS < count; row += UNROLL * WARPS) {
        unsigned words[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            words[u] = __ldcs(reinterpret_cast<const unsigned*>(column + row_of(reading, row + u * WARPS) * pitch));
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) compare(light.on(words[u], row + u * WARPS));
    }
    for (; row < count; row += WARPS)
        compare(light.on(__ldcs(reinterpret_cast<const unsigned*>(column + row_of(reading, row) * pitch)), row));
#pragma unroll
    for (int j = 0; j < N; ++j) counts[warp][N * lane + j] = near[j];
    __syncthreads();
    if (threadIdx.x >= VALUES || first + threadIdx.x >= values) return;
    unsigned total = 0;
    for (int w = 0; w < WARPS; ++w) total += counts[w][threadIdx.x];
    support_of[first + threadIdx.x] = total;
}
