// Histograms in shared memory: 256 bins of 16 bits for each value, two values a word.
//
//     bins[256][COLUMNS]   word (bin, column); its low half counts for one value, its high half for another
//
// While samples are counted, any thread adds to any word. Afterwards each thread takes BINS bins of one column into
// registers and owns them, and the shared memory is free for other uses.
#pragma once

template <int COLUMNS, int THREADS>
__device__ __forceinline__ void clear_bins(unsigned* bins)
{
    for (int k = threadIdx.x; k < 256 * COLUMNS / 4; k += THREADS) reinterpret_cast<uint4*>(bins)[k] = uint4{0, 0, 0, 0};
}

template <int COLUMNS, int THREADS>
struct OwnedBins {
    static constexpr int GROUPS = THREADS / COLUMNS;  // threads that share a column
    static constexpr int BINS = 256 / GROUPS;

    unsigned words[BINS];
    unsigned own;    // samples in these bins, both values; at most 65535 each, so that halves never carry
    unsigned below;  // samples in the bins of the groups below

    static __device__ __forceinline__ int column() { return threadIdx.x % COLUMNS; }
    static __device__ __forceinline__ int group() { return threadIdx.x / COLUMNS; }

    // Called by all threads after a barrier. Overwrites the first GROUPS * COLUMNS words of bins; nobody may write to
    // these before the next barrier.
    __device__ __forceinline__ void load(unsigned* bins)
    {
        own = 0;
#pragma unroll
        for (int k = 0; k < BINS; ++k) {
            words[k] = bins[(group() * BINS + k) * COLUMNS + column()];
            own += words[k];
        }
        __syncthreads();
        bins[threadIdx.x] = own;
        __syncthreads();
        below = 0;
        for (int g = 0; g < group(); ++g) below += bins[g * COLUMNS + column()];
    }

    // The bin that holds this rank of the value in this half, and the rank's place within the bin; -1 in all threads
    // of the column but one.
    __device__ __forceinline__ int find(int half, unsigned rank, unsigned& place) const
    {
        const int shift = 16 * half;
        place = rank - (below >> shift & 0xffff);  // wraps around where the rank lies below
        if (place >= (own >> shift & 0xffff)) return -1;
        int bin = group() * BINS;
        unsigned seen = 0, before = 0;
#pragma unroll
        for (int k = 0; k < BINS; ++k) {
            seen += words[k] >> shift & 0xffff;
            if (seen <= place) before = seen, ++bin;
        }
        place -= before;
        return bin;
    }
};
