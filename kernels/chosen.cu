// Which samples count in each patch: those with the least keys. Of equal keys, the one in the lower row comes first.
//
//   keys    (count, patches) uint32
//   counts  (patches,) uint32   how many samples count: 0 to count
//   mask    (words, patches) uint32   bit k of word w is set if the sample in row
//           (w / READERS * 32 + k) * READERS + w % READERS counts; words = READERS * ceil(count / (32 * READERS));
//           READERS are the warps of the kernel that will read it
//
//   block   32 neighbouring patches: a line of each row of keys; histograms of one byte in 32 KB of shared memory.
//   warp    every 16th row; each lane reads one patch's key, UNROLL rows in flight.
//   passes  key and row make one number of 48 bits, so that no two are equal. Six passes find the greatest one that
//           counts, a byte each, from the top; a last pass compares all with it. Later passes read from the L2 cache.
//
// Limits: count <= 65535. Launch: blocks = ceil(patches / 32), 512 threads, 32768 bytes of dynamic shared memory.
// Reads each key seven times; blocks without any sample that counts read none. Reference: `counted` in
// gpu_bgstat/backends/cpu.py.
#include "bins.cuh"
#include "variants.cuh"

#ifndef READERS
#define READERS 32
#endif
#ifndef UNROLL
#define UNROLL 8
#endif

constexpr int THREADS = 512, STEP = THREADS / 32, COLUMNS = 32, DIGITS = 6;
using Bins = OwnedBins<COLUMNS, THREADS>;

__device__ __forceinline__ unsigned long long numbered(unsigned key, unsigned row)
{
    return static_cast<unsigned long long>(key) << 16 | row;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    chosen(const unsigned* __restrict__ keys, unsigned count, unsigned patches, const unsigned* __restrict__ counts,
           unsigned* __restrict__ mask)
{
    extern __shared__ uint4 shared[];
    unsigned* bins = reinterpret_cast<unsigned*>(shared);
    __shared__ unsigned long long heads[COLUMNS];  // the bytes found, on top of zeros
    __shared__ unsigned places[COLUMNS];           // among the samples that begin with these
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned patch = blockIdx.x * COLUMNS + lane;
    const bool inside = patch < patches;
    const unsigned number = inside ? counts[patch] : 0;
    const unsigned* column = keys + (inside ? patch : 0);
    const long long pitch = patches;

    if (warp == 0) heads[lane] = 0, places[lane] = number - 1;
    const bool some = __syncthreads_or(number);
    for (int shift = 8 * (DIGITS - 1); some && shift >= 0; shift -= 8) {
        clear_bins<COLUMNS, THREADS>(bins);
        __syncthreads();
        const unsigned long long head = heads[lane] >> shift >> 8;
        const unsigned place = places[lane];
        const auto count_in = [&](unsigned key, unsigned row) {
            const unsigned long long whole = numbered(key, row) >> shift;
            if (whole >> 8 == head) atomicAdd(bins + (whole & 0xff) * COLUMNS + lane, 1u);
        };
        unsigned row = warp;
        for (; row + (UNROLL - 1) * STEP < count; row += UNROLL * STEP) {
            unsigned some_keys[UNROLL];
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) some_keys[u] = column[(row + u * STEP) * pitch];
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) count_in(some_keys[u], row + u * STEP);
        }
        for (; row < count; row += STEP) count_in(column[row * pitch], row);
        __syncthreads();
        Bins mine;
        mine.load(bins);
        unsigned next;
        const int found = mine.find(0, place, next);
        if (found >= 0) heads[lane] |= static_cast<unsigned long long>(found) << shift, places[lane] = next;
        __syncthreads();
    }
    if (!inside) return;
    const unsigned long long last = heads[lane];
    for (unsigned word = warp; masked_row<READERS>(word - word % READERS, 0) < count; word += STEP) {
        unsigned bits = 0;
#pragma unroll 8
        for (unsigned bit = 0; number && bit < 32; ++bit) {
            const unsigned row = masked_row<READERS>(word, bit);
            if (row < count && numbered(column[row * pitch], row) <= last) bits |= 1u << bit;
        }
        mask[word * pitch + patch] = bits;
    }
}
