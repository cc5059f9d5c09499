// What the variants of the kernels read besides the ring. A file that is compiled without -D becomes the plain kernel.
//
//   -DROWS=1    only the rows of the ring that a table names
//   -DLIGHT=1   each sample x counts as (gain * x + offset) >> 16, clipped to its type
//   -DCHOSEN=1  in each patch of the frame only the samples whose bit is set in a mask
//
// Reference: `lit` and `middles` in gpu_bgstat/backends/cpu.py.
#pragma once

#ifndef ROWS
#define ROWS 0
#endif
#ifndef LIGHT
#define LIGHT 0
#endif
#ifndef CHOSEN
#define CHOSEN 0
#endif

// gpu_bgstat/backends/reading.py has the same fields in the same order.
struct Reading {
    const unsigned* rows;    // ROWS: (count,) where row k lies in the ring
    const void* light;       // LIGHT: (count, channels) Gain
    const unsigned* mask;    // CHOSEN: (words, patches); `each_chosen` says which bit is whose
    const unsigned* counts;  // CHOSEN: (patches,) how many samples count
    unsigned first;          // the number of the launch's first value in the frame
    unsigned channels;       // 1 or 3
    unsigned width;          // CHOSEN: pixels, of the frame
    unsigned patch;          // CHOSEN: pixels, the side of a patch
    unsigned columns;        // CHOSEN: patches in a row of them
    unsigned top;            // CHOSEN: the row of patches that the mask begins with
    unsigned patches;        // CHOSEN: in the mask
    unsigned span;           // MODE: levels
};

__device__ __forceinline__ long long row_of(const Reading& reading, unsigned row)
{
#if ROWS
    return reading.rows[row];
#else
    return row;
#endif
}

// Sum holds gain * x + offset: int for 8-bit samples (the host has clipped the offsets), long long for 16-bit ones.
template <typename Sum>
struct alignas(2 * sizeof(Sum)) Gain {
    Sum gain, offset;
};

// The light on a lane's word of N neighbouring samples of 32 / N bits.
template <int N, typename Sum>
struct Light {
    static constexpr int BITS = 32 / N, LOADS = N < 3 ? N : 3;  // of three channels the fourth is the first
    static constexpr unsigned TOP = (1u << BITS) - 1;

    const Gain<Sum>* gains[LOADS];
    unsigned channels;

    // value: the number of the lane's first one in the launch
    __device__ __forceinline__ Light(const Reading& reading, long long value)
    {
#if LIGHT
        channels = reading.channels;
#pragma unroll
        for (int j = 0; j < LOADS; ++j)
            gains[j] = static_cast<const Gain<Sum>*>(reading.light) + (reading.first + unsigned(value) + j) % channels;
#endif
    }

    __device__ __forceinline__ unsigned on(unsigned word, unsigned row) const
    {
#if LIGHT
        Gain<Sum> mine[LOADS];
#pragma unroll
        for (int j = 0; j < LOADS; ++j) mine[j] = gains[j][row * channels];
        unsigned lit = 0;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const Sum x = word >> BITS * j & TOP, sum = (mine[j % LOADS].gain * x + mine[j % LOADS].offset) >> 16;
            lit |= unsigned(min(max(sum, Sum(0)), Sum(TOP))) << BITS * j;
        }
        return lit;
#else
        return word;
#endif
    }
};

// The patch of a value of the launch, as the mask counts them.
__device__ __forceinline__ unsigned patch_of(const Reading& reading, long long value)
{
    const unsigned pixel = (reading.first + unsigned(value)) / reading.channels, line = pixel / reading.width;
    const unsigned column = pixel - line * reading.width;
    return (line / reading.patch - reading.top) * reading.columns + column / reading.patch;
}

// The lower and the upper middle rank of so many samples. Of none, no bins hold the result.
__device__ __forceinline__ unsigned middle(unsigned count, unsigned which)
{
    return which ? count / 2 : (count - 1) / 2;
}

// The row of bit k in word w of a mask for kernels of so many warps: they share the rows as they do without a mask.
template <int WARPS>
__device__ __forceinline__ unsigned masked_row(unsigned word, unsigned bit)
{
    return (word / WARPS * 32 + bit) * WARPS + word % WARPS;
}

// visit(word, row, counts) for each row of this warp in which a sample counts of the N that this lane owns; load(row)
// gives the word. What does not count in any of the lane's patches is not read.
template <int N, int WARPS, int UNROLL, typename Load, typename Visit>
__device__ __forceinline__ void each_chosen(const Reading& reading, const unsigned (&patches)[N], unsigned count,
                                            Load load, Visit visit)
{
    for (unsigned word = threadIdx.x / 32; masked_row<WARPS>(word, 0) < count; word += WARPS) {
        const unsigned* mask = reading.mask + static_cast<long long>(word) * reading.patches;
        unsigned masks[N], open = 0;
#pragma unroll
        for (int j = 0; j < N; ++j) open |= masks[j] = mask[patches[j]];
        while (open) {
            unsigned bits[UNROLL], words[UNROLL];
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) {
                bits[u] = open & (0 - open);
                open ^= bits[u];
                if (bits[u]) words[u] = load(masked_row<WARPS>(word, 31 - __clz(bits[u])));
            }
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) {
                bool counts[N];
#pragma unroll
                for (int j = 0; j < N; ++j) counts[j] = masks[j] & bits[u];
                if (bits[u]) visit(words[u], masked_row<WARPS>(word, 31 - __clz(bits[u])), counts);
            }
        }
    }
}
