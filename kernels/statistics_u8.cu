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
// Variants, of variants.cuh and one more; those two write no variance:
//   -DCHOSEN=1  order (2, order_pitch): the two middle samples of those that count; 0 where none does. What does not count
//               is not read
//   -DMODE=1    order (1, order_pitch): the lower middle one of the samples in the densest interval of `reading.span`
//               levels; of equally dense ones, the lowest that begins with a sample
//
// Limits: count <= 65535. Launch: blocks = ceil(values / 128), 1024 threads, 65536 bytes of dynamic shared memory.
// Reference: `variance`, `ranks`, `middles` and `modes` in gpu_bgstat/backends/cpu.py.
#include "bins.cuh"
#include "variance.cuh"
#include "variants.cuh"

#ifndef UNROLL
#define UNROLL 4
#endif
#ifndef BLOCKS  // resident on an SM; 32 registers do not do for masks, nor for both tables
#define BLOCKS (CHOSEN || (ROWS && LIGHT) ? 1 : 2)
#endif
#ifndef MODE
#define MODE 0
#endif

constexpr int THREADS = 1024, WARPS = THREADS / 32, VALUES = 128, COLUMNS = 64;
using Bins = OwnedBins<COLUMNS, THREADS>;

__device__ __forceinline__ void count_one(unsigned* mine, unsigned quad, int j)
{
    atomicAdd(mine + (quad >> 8 * j & 0xff) * COLUMNS + (j & 1) * 32, 1u << 16 * (j >> 1));
}

__device__ __forceinline__ void count_in(unsigned* mine, unsigned quad)
{
#pragma unroll
    for (int j = 0; j < 4; ++j) count_one(mine, quad, j);
}

#if MODE
// Writes the lower middle one of the samples in the densest interval, for this column's value in each half.
__device__ __forceinline__ void write_modes(unsigned* bins, const Bins& mine, unsigned span, unsigned count,
                                            long long value, long long values, unsigned char* __restrict__ order)
{
    constexpr int LAST = 255 * COLUMNS;
    const int column = Bins::column(), start = Bins::group() * Bins::BINS;
    __syncthreads();
    unsigned seen = mine.below;
#pragma unroll
    for (int k = 0; k < Bins::BINS; ++k) bins[(start + k) * COLUMNS + column] = seen += mine.words[k];  // up to this bin
#pragma unroll 1  // 32 registers do for one half
    for (int half = 0; half < 2; ++half) {
        const int shift = 16 * half;
        __syncthreads();
        if (threadIdx.x < COLUMNS) bins[LAST + threadIdx.x] = 0;  // known: all samples. Here the densest one is found
        __syncthreads();
        const auto up_to = [&](unsigned bin) {
            return bin >= 255 ? count : bins[bin * COLUMNS + column] >> shift & 0xffff;
        };
        unsigned best = 0, rank = 0, before = mine.below >> shift & 0xffff;
#pragma unroll
        for (int k = 0; k < Bins::BINS; ++k) {
            const unsigned times = mine.words[k] >> shift & 0xffff, inside = up_to(start + k + span - 1) - before;
            const unsigned bid = inside << 8 | (255 - start - k);  // of equally dense ones the lowest is the greatest
            if (times && bid > best) best = bid, rank = before + (inside - 1) / 2;
            before += times;
        }
        if (best) atomicMax(bins + LAST + column, best);
        __syncthreads();
        if (best == bins[LAST + column] && value + 2 * half < values) {  // in one thread, as no two begin alike
            unsigned bin = 255 - (best & 0xff);
            while (up_to(bin) <= rank) ++bin;
            order[value + 2 * half] = bin;
        }
    }
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    statistics_u8(const unsigned char* __restrict__ ring, long long pitch, unsigned count, long long values,
                  const unsigned* __restrict__ ranks, unsigned rank_count, float* __restrict__ variance,
                  unsigned char* __restrict__ order, long long order_pitch, const Reading reading)
{
    extern __shared__ uint4 shared[];
    unsigned* bins = reinterpret_cast<unsigned*>(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long long first = (long long)blockIdx.x * VALUES;

#if CHOSEN
    // A division for each value, not for each lane and sample; the bins are not in use yet.
    unsigned number = 0;  // samples that count for value first + threadIdx.x
    if (threadIdx.x < VALUES) {
        const unsigned patch = patch_of(reading, min(first + threadIdx.x, values - 1));
        bins[threadIdx.x] = patch;
        number = reading.counts[patch];
        if (number == 0 && first + threadIdx.x < values)
            for (int r = 0; r < 2; ++r) order[r * order_pitch + first + threadIdx.x] = 0;
    }
    if (!__syncthreads_or(number)) return;
    unsigned patches[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) patches[j] = bins[4 * lane + j];
    __syncthreads();
#endif
    clear_bins<COLUMNS, THREADS>(bins);
    __syncthreads();
    const unsigned char* column = ring + first + 4 * lane;
    const Light<4, int> light(reading, first + 4 * lane);
    const auto load = [&](unsigned row) {
        return __ldcs(reinterpret_cast<const unsigned*>(column + row_of(reading, row) * pitch));
    };
#if CHOSEN
    each_chosen<4, WARPS, UNROLL>(reading, patches, count, load, [&](unsigned quad, unsigned row, const bool (&counts)[4]) {
        quad = light.on(quad, row);
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (counts[j]) count_one(bins + lane, quad, j);
    });
#else
    unsigned row = warp;
    for (; row + (UNROLL - 1) * WARPS < count; row += UNROLL * WARPS) {
        unsigned quads[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) quads[u] = load(row + u * WARPS);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) count_in(bins + lane, light.on(quads[u], row + u * WARPS));
    }
    if (row < count) {  // the rest in one batch, too: one wait for memory instead of UNROLL - 1
        unsigned quads[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            if (row + u * WARPS < count) quads[u] = load(row + u * WARPS);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
            if (row + u * WARPS < count) count_in(bins + lane, light.on(quads[u], row + u * WARPS));
    }
#endif
    __syncthreads();

    Bins mine;
    mine.load(bins);
    const int offset = 4 * (Bins::column() % 32) + Bins::column() / 32;  // of the value in the low half; + 2 in the high
#if MODE
    write_modes(bins, mine, reading.span, count, first + offset, values, order);
#else
#if CHOSEN
    unsigned* numbers = bins + THREADS;  // behind the words that `load` has used
    if (threadIdx.x < VALUES) numbers[threadIdx.x] = number;
    __syncthreads();
#endif
    for (unsigned r = 0; r < rank_count; ++r) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#if CHOSEN
            const unsigned rank = middle(numbers[offset + 2 * half], r);
#else
            const unsigned rank = ranks[r];
#endif
            unsigned place;
            const int found = mine.find(half, rank, place);
            const long long value = first + offset + 2 * half;
            if (found >= 0 && value < values) order[r * order_pitch + value] = found;
        }
    }
#endif

#if !CHOSEN && !MODE
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
#endif
}
